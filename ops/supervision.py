"""supervisord: its configuration, and its interface."""

from __future__ import annotations

import configparser
import http.client
import shlex
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor.xmlrpc import SupervisorTransport

from ops import database, places, processes
from ops.database import Database
from ops.layout import BIN, LOOPBACK, PROJECT, Stack


def interface(stack: Stack) -> Any:
    """supervisord's own interface."""
    transport = SupervisorTransport(None, None, f"unix://{socket_path(stack)}")
    return xmlrpc.client.ServerProxy("http://127.0.0.1", transport).supervisor


def stop_programs(stack: Stack, within: float) -> None:
    """Stop all at once but PostgreSQL, which the others need to end well. supervisord alone stops one after the other."""
    try:
        supervisor = interface(stack)
        others = [each["name"] for each in supervisor.getAllProcessInfo() if each["name"] != "postgres"]
        for name in others:
            with suppress(xmlrpc.client.Fault):  # it does not run
                supervisor.stopProcess(name, False)
        limit = time.monotonic() + within
        while any(supervisor.getProcessInfo(name)["pid"] for name in others) and time.monotonic() < limit:
            time.sleep(0.1)
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return  # it does not answer; its processes are stopped without it


def _programs(stack: Stack) -> Iterator[tuple[str, list[str]]]:
    airflow = str(BIN / "airflow")
    store = stack.home / "mlflow"
    # Task logs are read from disk here, so the log servers (which would listen on every address) are not started.
    yield "api-server", [airflow, "api-server", "--host", LOOPBACK, "--port", str(stack.web_port), "--workers", "1"]
    yield "scheduler", [airflow, "scheduler", "--skip-serve-logs"]
    yield "dag-processor", [airflow, "dag-processor"]
    yield "triggerer", [airflow, "triggerer", "--skip-serve-logs"]
    yield (
        "mlflow",
        [
            str(BIN / "mlflow"),
            "server",
            "--host",
            LOOPBACK,
            "--port",
            str(stack.mlflow_port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{store}/mlflow.db",
            "--default-artifact-root",
            (store / "artifacts").as_uri(),
            "--no-serve-artifacts",
        ],
    )
    yield (
        "mail-catcher",
        [
            sys.executable,
            "-m",
            "ops.mail_catcher",
            "--folder",
            str(stack.mails),
            "--port",
            str(stack.smtp_port),
        ],
    )


def write_config(stack: Stack, metadata: Database) -> None:
    """supervisord's configuration. The environment goes to it by inheritance: no secret is written here."""
    logs = stack.home / "logs"
    sock = socket_path(stack)
    config = configparser.RawConfigParser()
    config.read_dict(
        {
            "supervisord": {
                "logfile": _plain(logs / "supervisord.log"),
                "pidfile": _plain(stack.home / "supervisord.pid"),
                "directory": _plain(PROJECT),
                "childlogdir": _plain(logs),
                "umask": "077",
            },
            "unix_http_server": {"file": _plain(sock), "chmod": "0600"},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
            "supervisorctl": {"serverurl": f"unix://{_plain(sock)}"},
        }
    )
    for name, command in _programs(stack):
        # Airflow's programs wait for their database to be prepared.
        own = {"autostart": "false"} if name in processes.AIRFLOW else {}
        config[f"program:{name}"] = _program(stack, name, command) | own
    if metadata.program:
        config["program:postgres"] = _program(stack, "postgres", metadata.program) | _server(stack, metadata)
    with (stack.home / "supervisord.conf").open("w", encoding="utf-8") as file:
        config.write(file)


def socket_path(stack: Stack) -> Path:
    """supervisord's socket."""
    return places.socket_folder(stack.home, stack.home, "supervisor.sock") / "supervisor.sock"


def _program(stack: Stack, name: str, command: Sequence[str]) -> dict[str, str]:
    return {
        "command": " ".join(_quoted(part) for part in command),
        "autorestart": "true",
        "startretries": "3",
        "stopasgroup": "true",
        "killasgroup": "true",
        "stopwaitsecs": "15",
        "redirect_stderr": "true",
        "stdout_logfile": _plain(_plain(stack.home / "logs" / f"{name}.log")),  # which is read twice
        "stdout_logfile_maxbytes": "20MB",
    }


def _server(stack: Stack, metadata: Database) -> dict[str, str]:
    """What differs for PostgreSQL: it comes first and leaves last; at SIGTERM it would wait until every client has left."""
    own = {"priority": "1", "stopsignal": "INT", "directory": _plain(database.data(stack.home))}
    return own | ({"user": metadata.user} if metadata.user else {})


def _plain(path: Path | str) -> str:
    """A path in supervisord's configuration, where a % begins a variable."""
    return str(path).replace("%", "%%")


def _quoted(part: str) -> str:
    return shlex.quote(part).replace("%", "%%")
