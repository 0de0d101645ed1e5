"""The embedded set-up: Airflow's four processes, MLflow and a mail catcher on 127.0.0.1, held by supervisord.

`python -m ops.stack up` starts them and waits until they answer; `down` stops exactly those and leaves nothing behind.
All that it writes is under ESTEIRA_HOME (.esteira in the project by default).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import closing, suppress
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import psutil
from esteira.notebooks.hosts import without_passwords
from filelock import FileLock, Timeout

from ops import database, environment, places, processes, supervision
from ops.api import Airflow, RunTimeout
from ops.database import Database
from ops.layout import BIN, LOOPBACK, Stack, StackError
from ops.progress import heartbeat

READY_WITHIN = 180  # seconds
STOP_WITHIN = 60  # seconds
FREE_WITHIN = 10  # seconds
RUNNING = "running.json"  # in the state folder: where MLflow is, which ports, whose they are; esteira.store.mlflow_tracking reads it
# What is in a state folder. `make clean` removes nothing else from one that ESTEIRA_HOME names.
OWN = (
    *(
        "admin-password",
        "airflow-users.json",
        "secrets.json",
        f"{RUNNING}*",
        "airflow",
        "cache",
        "demo",
        "lake",
        "logs",
        "mail",
    ),
    *("mlflow", "notebooks", "notebooks.lock", "postgres", "replays", "check-*.lock", "train-*.lock"),
    *("supervisor.sock*", "supervisord.conf", "supervisord.pid", "up.lock"),
)
FAULTS = (StackError, places.PlaceError, database.UrlError)
INTERRUPTED = "interrupted; `make down` stops what was started"


def up(stack: Stack) -> None:
    """Start everything and wait until it answers. Raises StackError that names a taken port or what did not start."""
    _require_down(stack)
    _stop_what_was_left(stack)
    for name in ("WEB", "MLFLOW", "SMTP"):
        try:
            _check_port(name, getattr(stack, f"{name.lower()}_port"))
        except StackError as error:
            if is_up(replace(stack, home=stack.home / "demo")):
                raise StackError("the demo is still up and holds the ports; `make down` stops it") from None
            raise error
    _make_home(stack)
    try:
        with FileLock(stack.home / "up.lock", timeout=0):
            _bring_up(stack)
    except Timeout:
        raise StackError("it is being started already, by another call; wait for that one") from None
    print(f"""
  Airflow   {stack.web}   user admin, password in {stack.password}
  MLflow    {stack.mlflow}
  mails     {stack.mails}
  tables    {os.environ.get("ESTEIRA_LAKE") or stack.home / "lake"}
  stop      make down
""")


def _bring_up(stack: Stack) -> None:
    _require_down(stack)  # another call may have been a moment faster
    metadata = database.prepare(stack.home, say)
    settings = environment.of(stack, metadata)
    supervision.write_config(stack, metadata)
    try:
        _start(stack, metadata, settings)
        _wait(stack)
    except StackError:
        down(stack)  # half of it would be in the way of the next call
        raise
    _carry_over(stack, metadata)


def _require_down(stack: Stack) -> None:
    if not processes.supervisor(stack.home, database.data(stack.home)):
        return
    try:
        port = json.loads((stack.home / RUNNING).read_text(encoding="utf-8"))["ports"][0]
    except (OSError, ValueError, LookupError):  # it is being started, or stopped
        port = stack.web_port
    raise StackError(f"it is up already: {replace(stack, web_port=port).web}; stop it with `make down`")


def say(line: str) -> None:
    """Print a line at once, also where the output is a file."""
    print(line, flush=True)


def _start(stack: Stack, metadata: Database, settings: dict[str, str]) -> None:
    """Start the programs; Airflow's when its database is ready."""
    sock = supervision.socket_path(stack)
    if sock.exists() and not sock.is_socket():
        raise StackError(f"{sock} is in the way of supervisord's socket; remove it")
    sock.unlink(missing_ok=True)  # a killed supervisord's
    started = subprocess.run(
        [BIN / "supervisord", "-c", stack.home / "supervisord.conf"], env=settings, capture_output=True, text=True
    )
    if started.returncode:
        raise StackError(f"supervisord did not start: {started.stderr.strip()[-500:]}")
    _write_running(stack)
    with heartbeat("preparing Airflow's database"):
        try:
            database.wait(metadata)
        except database.DatabaseError as error:
            raise StackError(
                f"{error}; see {stack.home / 'logs' / 'postgres.log'}; ESTEIRA_DATABASE_URL names another server"
            ) from None
        migrated = subprocess.run([BIN / "airflow", "db", "migrate"], env=settings, capture_output=True, text=True)
    if migrated.returncode:
        log_file = stack.home / "logs" / "migrate.log"
        log_file.write_text(without_passwords(f"{migrated.stdout}{migrated.stderr}"), encoding="utf-8")
        said = [line for line in log_file.read_text(encoding="utf-8").splitlines() if line.strip()]
        raise StackError(
            f"Airflow's database can't be prepared: {said[-1] if said else 'airflow db migrate failed'}; see {log_file}"
        )
    supervisor = supervision.interface(stack)
    for name in processes.AIRFLOW:
        supervisor.startProcess(name, False)  # it would wait a second for each


def _stop_what_was_left(stack: Stack) -> None:
    """Stop what the supervisor of this set-up has left, where that was killed."""
    data = database.data(stack.home)
    left = processes.of(stack.home, data)
    if left:
        say(f"stopping what a killed set-up has left: {', '.join(processes.names(left, stack.home, data))}")
        processes.stop(left, data)


def _write_running(stack: Stack) -> None:
    """Write what runs into the state folder: the command line finds MLflow there, and `down` the ports."""
    supervisor = None
    limit = time.monotonic() + 10
    while supervisor is None:
        if time.monotonic() > limit:
            raise StackError(f"supervisord did not start; see {stack.home / 'logs' / 'supervisord.log'}")
        supervisor = processes.supervisor(stack.home, database.data(stack.home))
        time.sleep(0.05)
    about = {
        "mlflow": stack.mlflow,
        "ports": [stack.web_port, stack.mlflow_port, stack.smtp_port],
        "supervisor": {"pid": supervisor.pid, "created": supervisor.create_time()},
    }
    draft = stack.home / f"{RUNNING}.part"
    draft.write_text(json.dumps(about), encoding="utf-8")
    draft.replace(stack.home / RUNNING)


def is_up(stack: Stack) -> bool:
    """Whether anything of the set-up runs, also without its supervisor."""
    return bool(processes.of(stack.home, database.data(stack.home)))


def down(stack: Stack) -> list[str]:
    """Stop what `up` started, every process of it; returns the names of what ran. Raises StackError if something stays."""
    data = database.data(stack.home)
    running = processes.of(stack.home, data)
    names = processes.names(running, stack.home, data)
    processes.wake(running)
    supervisor = processes.supervisor(stack.home, data)
    if supervisor is not None:
        supervision.stop_programs(stack, STOP_WITHIN)
        supervisor.terminate()
        psutil.wait_procs([supervisor], timeout=STOP_WITHIN)
    processes.stop(processes.of(stack.home, data), data)
    if running:
        _check_stopped(stack)
    for name in (RUNNING, "supervisord.pid"):
        (stack.home / name).unlink(missing_ok=True)
    return names


def _check_stopped(stack: Stack) -> None:
    left = processes.of(stack.home, database.data(stack.home))
    if left:
        pids = ", ".join(str(process.pid) for process in left)
        raise StackError(f"these processes did not stop: {pids}; see {stack.home / 'logs'}")
    running = stack.home / RUNNING
    ports = json.loads(running.read_text(encoding="utf-8"))["ports"] if running.exists() else []
    limit = time.monotonic() + FREE_WITHIN
    for port in ports:
        while _taken(port):
            if time.monotonic() > limit:
                raise StackError(
                    f"all processes are stopped, but port {port} is taken by a process that is none of them"
                )
            time.sleep(0.2)


def down_all(stack: Stack) -> None:
    """Stop the set-up and the demo, and say in a line what was stopped."""
    stopped = []
    for name, each in (("the set-up", stack), ("the demo", replace(stack, home=stack.home / "demo"))):
        names = down(each)
        if names:
            stopped.append(f"{name}: {', '.join(names)}")
    say(f"stopped {'; '.join(stopped)}" if stopped else "nothing is up")


def clean(stack: Stack) -> None:
    """Stop the set-up and the demo, and remove what they have written, wherever it is."""
    down_all(stack)
    for home in (stack.home / "demo", stack.home):
        places.remove(home)
        if (home / "secrets.json").exists() or (home / "postgres").is_symlink():  # a set-up's, not any folder
            _remove_own(home)
        with suppress(OSError):  # it is not there, or a user's own files are
            home.rmdir()


def _remove_own(home: Path) -> None:
    # A link whose folder is gone is there, too; glob() would not say so.
    for path in [path for path in home.iterdir() if any(fnmatch(path.name, name) for name in OWN)]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _carry_over(stack: Stack, metadata: Database) -> None:
    """After a move from SQLite: the DAGs that were not paused run on. Airflow's history starts anew."""
    old = database.sqlite_file(stack.home)
    if metadata.kind == "sqlite" or not old.exists():
        return
    with closing(sqlite3.connect(old)) as connection:
        rows = connection.execute("SELECT dag_id FROM dag WHERE NOT is_paused AND NOT is_stale").fetchall()
    airflow = Airflow(stack.web, "admin", stack.password.read_text(encoding="utf-8"))
    missing = []
    with heartbeat(f"Airflow moves from SQLite to PostgreSQL: {len(rows)} DAGs that were not paused go on"):
        for (dag_id,) in rows:
            try:
                airflow.wait_for_dags([dag_id], 60)
                airflow.unpause(dag_id)
            except RunTimeout:
                missing.append(dag_id)
    kept = old.rename(old.with_name("airflow-before-postgres.db"))
    say(f"Airflow's history starts anew; the old one, with connections and variables made in the web UI, is in {kept}")
    if missing:
        say(f"these DAGs are not there any more, or stay paused: {', '.join(missing)}")


def _check_port(name: str, port: int) -> None:
    why = _taken(port)
    if why:
        raise StackError(f"port {port} is taken ({why}); choose another: ESTEIRA_{name}_PORT=…")


def _taken(port: int) -> str:
    """Why a port can't be listened on; empty where it can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            return str(error.strerror)
    return ""


def _make_home(stack: Stack) -> None:
    stack.home.mkdir(parents=True, exist_ok=True)
    stack.home.chmod(0o700)
    for name in ("logs", "airflow", "mlflow"):
        (stack.home / name).mkdir(exist_ok=True)


def _wait(stack: Stack) -> None:
    with heartbeat("waiting until Airflow and MLflow answer"):
        _until_all_answer(stack)


def _until_all_answer(stack: Stack) -> None:
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
                raise StackError(f"{name} did not answer within {READY_WITHIN} s; see {stack.home / 'logs'}")
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
    parser.add_argument("command", choices=["up", "down", "clean"])
    try:
        {"up": up, "down": down_all, "clean": clean}[parser.parse_args().command](Stack.from_environment())
    except FAULTS as error:
        sys.exit(f"esteira: {error}")
    except KeyboardInterrupt:
        sys.exit(f"esteira: {INTERRUPTED}")
