"""The embedded set-up: Airflow's four processes, MLflow and a mail catcher on 127.0.0.1, held by supervisord.

`python -m local.stack up` starts them and waits until they answer; `down` stops exactly those and leaves nothing behind.
All that it writes is under ESTEIRA_HOME (.esteira in the project by default).
"""

from __future__ import annotations

import argparse
import base64
import configparser
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROJECT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"
READY_WITHIN = 180  # seconds


class StackError(RuntimeError):
    """The embedded set-up can't do what it was asked; the text says why and what to do."""


@dataclass(frozen=True)
class Stack:
    """Where the set-up lies and the ports it listens on."""

    home: Path
    web_port: int
    mlflow_port: int
    smtp_port: int

    @classmethod
    def from_environment(cls) -> Stack:
        """The set-up that the environment asks for: ESTEIRA_HOME, ESTEIRA_WEB_PORT, ESTEIRA_MLFLOW_PORT, ESTEIRA_SMTP_PORT."""
        home = Path(os.environ.get("ESTEIRA_HOME") or PROJECT / ".esteira").absolute()
        defaults = {"WEB": 8080, "MLFLOW": 5000, "SMTP": 2525}
        web, mlflow, smtp = (int(os.environ.get(f"ESTEIRA_{name}_PORT") or port) for name, port in defaults.items())
        return cls(home, web, mlflow, smtp)

    @property
    def web(self) -> str:
        """Airflow's address."""
        return f"http://{LOOPBACK}:{self.web_port}"

    @property
    def mlflow(self) -> str:
        """MLflow's address."""
        return f"http://{LOOPBACK}:{self.mlflow_port}"

    @property
    def password(self) -> Path:
        """The file with the password of the user admin."""
        return self.home / "admin-password"

    @property
    def mails(self) -> Path:
        """The folder of caught mails."""
        return self.home / "mail"


def up(stack: Stack) -> None:
    """Start everything and wait until it answers. Raises StackError that names a taken port or what did not start."""
    if _supervisor(stack, "pid").returncode == 0:
        raise StackError(f"it is up already: {stack.web}; stop it with `make down`")
    for name in ("WEB", "MLFLOW", "SMTP"):
        _check_port(name, getattr(stack, f"{name.lower()}_port"))
    environment = _environment(stack)
    _write_config(stack, environment)
    print("preparing Airflow's database", flush=True)
    migrated = subprocess.run([BIN / "airflow", "db", "migrate"], env=environment, capture_output=True, text=True)
    if migrated.returncode:
        raise StackError(f"airflow db migrate failed:\n{migrated.stdout[-2000:]}{migrated.stderr[-2000:]}")
    subprocess.run([BIN / "supervisord", "-c", stack.home / "supervisord.conf"], env=environment, check=True)
    _wait(stack)
    print(f"""
  Airflow   {stack.web}   user admin, password in {stack.password}
  MLflow    {stack.mlflow}
  mails     {stack.mails}
  tables    {os.environ.get("ESTEIRA_LAKE") or stack.home / "lake"}
  stop      make down
""")


def down(stack: Stack) -> None:
    """Stop what `up` started, every process of it."""
    known = _supervisor(stack, "pid").stdout.strip()
    asked = _supervisor(stack, "shutdown")
    if asked.returncode:
        print("nothing is up")
        return
    limit = time.monotonic() + 60
    while (stack.home / "supervisord.pid").exists() or (known.isdigit() and _runs(int(known))):
        if time.monotonic() > limit:
            raise StackError(f"it did not stop within a minute; see {stack.home / 'logs'}")
        time.sleep(0.2)
    print("stopped")


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _supervisor(stack: Stack, *command: str) -> subprocess.CompletedProcess[str]:
    config = stack.home / "supervisord.conf"
    if not config.exists():
        return subprocess.CompletedProcess([], 1, "", "")
    asked = subprocess.run([BIN / "supervisorctl", "-c", config, *command], capture_output=True, text=True)
    refused = "no such file" in asked.stdout or "refused connection" in asked.stdout
    return subprocess.CompletedProcess(asked.args, 1 if refused else asked.returncode, asked.stdout, asked.stderr)


def _check_port(name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise StackError(
                f"port {port} is taken ({error.strerror}); choose another: ESTEIRA_{name}_PORT=…"
            ) from None


def _secret_file(path: Path, make: str) -> str:
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(make)
    return path.read_text(encoding="utf-8")


def _environment(stack: Stack) -> dict[str, str]:
    """The environment of every process: config/airflow.env, and the places, ports and secrets of this set-up."""
    stack.home.mkdir(parents=True, exist_ok=True)
    stack.home.chmod(0o700)
    password = _secret_file(stack.password, secrets.token_urlsafe(16))
    users = stack.home / "airflow-users.json"
    users.unlink(missing_ok=True)
    _secret_file(users, json.dumps({"admin": password}))
    fresh = {
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(64),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
    }
    kept = json.loads(_secret_file(stack.home / "secrets.json", json.dumps(fresh)))
    # PYTHONDONTWRITEBYTECODE would double every start.
    own = {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith("AIRFLOW__")
    }
    return {
        **own,
        **shared_settings(),
        **kept,
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT / "config"),
        "AIRFLOW_HOME": str(stack.home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "4",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{stack.web}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(users),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{stack.home}/airflow/airflow.db",
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(stack.web_port),
        "AIRFLOW__API__BASE_URL": stack.web,
        "AIRFLOW_CONN_SMTP_DEFAULT": _smtp_connection(stack),
        "ESTEIRA_HOME": str(stack.home),
        "MLFLOW_TRACKING_URI": stack.mlflow,
    }


def _smtp_connection(stack: Stack) -> str:
    """Airflow's connection to the mail catcher."""
    extra = {
        "from_email": "esteira@localhost",
        "disable_ssl": True,
        "disable_tls": True,
        "timeout": 5,
        "retry_limit": 1,
    }
    return json.dumps({"conn_type": "smtp", "host": LOOPBACK, "port": stack.smtp_port, "extra": extra})


def shared_settings() -> dict[str, str]:
    """The settings of config/airflow.env."""
    lines = (PROJECT / "config" / "airflow.env").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def _programs(stack: Stack) -> Iterator[tuple[str, list[str]]]:
    airflow = str(BIN / "airflow")
    store = stack.home / "mlflow"
    store.mkdir(exist_ok=True)
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
            "local.mail_catcher",
            "--folder",
            str(stack.mails),
            "--port",
            str(stack.smtp_port),
        ],
    )


def _write_config(stack: Stack, environment: dict[str, str]) -> None:
    """supervisord's configuration. The environment goes to it by inheritance: no secret is written here."""
    logs = stack.home / "logs"
    logs.mkdir(exist_ok=True)
    (stack.home / "airflow").mkdir(exist_ok=True)
    sock = _socket(stack)
    config = configparser.RawConfigParser()
    config.read_dict(
        {
            "supervisord": {
                "logfile": logs / "supervisord.log",
                "pidfile": stack.home / "supervisord.pid",
                "directory": PROJECT,
                "childlogdir": logs,
                "umask": "077",
            },
            "unix_http_server": {"file": sock, "chmod": "0600"},
            "rpcinterface:supervisor": {
                "supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"
            },
            "supervisorctl": {"serverurl": f"unix://{sock}"},
        }
    )
    for name, command in _programs(stack):
        config[f"program:{name}"] = {
            "command": " ".join(_quoted(part) for part in command),
            "autorestart": "true",
            "startretries": "3",
            "stopasgroup": "true",
            "killasgroup": "true",
            "stopwaitsecs": "15",
            "redirect_stderr": "true",
            "stdout_logfile": str(logs / f"{name}.log").replace("%", "%%"),
            "stdout_logfile_maxbytes": "20MB",
        }
    with (stack.home / "supervisord.conf").open("w", encoding="utf-8") as file:
        config.write(file)


def _socket(stack: Stack) -> Path:
    """supervisord's socket: beside the rest, or in a private folder of /tmp where the path is too long for a socket."""
    place = stack.home / "supervisor.sock"
    if len(str(place)) < 100:
        return place
    import hashlib
    import tempfile

    folder = (
        Path(tempfile.gettempdir())
        / f"esteira-{os.getuid()}-{hashlib.sha256(str(stack.home).encode()).hexdigest()[:8]}"
    )
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "supervisor.sock"


def _quoted(part: str) -> str:
    return '"' + part.replace("%", "%%") + '"'


def _wait(stack: Stack) -> None:
    print("waiting until Airflow and MLflow answer", flush=True)
    limit = time.monotonic() + READY_WITHIN
    waited_for = {
        "Airflow": lambda: _airflow_is_well(stack),
        # The tasks' own API is built at its first request, which takes seconds: the first task should not wait for it.
        "Airflow's task API": lambda: _answers(f"{stack.web}/execution/health"),
        "MLflow": lambda: _answers(f"{stack.mlflow}/health"),
    }
    for name, ready in waited_for.items():
        while not ready():
            if time.monotonic() > limit:
                raise StackError(
                    f"{name} did not answer within {READY_WITHIN} s; see {stack.home / 'logs'}; `make down` stops the rest"
                )
            time.sleep(0.3)


def _airflow_is_well(stack: Stack) -> bool:
    health = _json(f"{stack.web}/api/v2/monitor/health")
    return all(
        (health.get(part) or {}).get("status") == "healthy"
        for part in ("metadatabase", "scheduler", "dag_processor", "triggerer")
    )


def _json(address: str) -> dict[str, dict[str, str]]:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            found: dict[str, dict[str, str]] = json.load(answer)
            return found
    except (OSError, urllib.error.URLError, ValueError):
        return {}


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=["up", "down"])
    try:
        {"up": up, "down": down}[parser.parse_args().command](Stack.from_environment())
    except StackError as error:
        sys.exit(f"esteira: {error}")
