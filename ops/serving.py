"""Airflow's API server by itself, with a database of its own: for pictures and measurements of pages, and tests of who sees what."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from ops.layout import LOOPBACK, PROJECT

SIMPLE = "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager"
LIMIT = 180.0  # seconds that it has to answer


def settings(home: Path, models: Path) -> dict[str, str]:
    """The environment of a server that keeps everything in `home`, on a free port; whoever asks is an administrator."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "ESTEIRA"))}
    return {
        **own,
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
        "AIRFLOW__CORE__AUTH_MANAGER": SIMPLE,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(64),
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": f"http://{LOOPBACK}:{port}",
        "AIRFLOW__API__WORKERS": "1",
        "ESTEIRA_HOME": str(home / "state"),
        "ESTEIRA_MODELS": str(models),
    }


def prepare(environment: dict[str, str]) -> None:
    """Make the database, and write every DAG into it."""
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        program = [sys.executable, "-m", "airflow", *command]
        subprocess.run(program, env=environment, check=True, capture_output=True)


@contextmanager
def serving(environment: dict[str, str], log: Path) -> Iterator[tuple[str, int]]:
    """The server's address once it answers, and the id of its process."""
    web = environment["AIRFLOW__API__BASE_URL"]
    with log.open("w") as out:
        program = [sys.executable, "-m", "airflow", "api-server"]
        process = subprocess.Popen(program, env=environment, stdout=out, stderr=out)
        try:
            _wait(web, process, log)
            yield web, process.pid
        finally:
            process.terminate()
            process.wait(30)


def _wait(web: str, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + LIMIT
    while time.monotonic() < limit:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{web}/api/v2/version", timeout=5).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.3)
    raise RuntimeError(f"Airflow's API server does not answer; its log ends with: {log.read_text()[-2000:]}")
