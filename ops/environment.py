"""The environment of every process of the embedded set-up: settings, places, ports, and secrets that are drawn by lot."""

from __future__ import annotations

import base64
import json
import os
import secrets
from pathlib import Path

from ops import processes
from ops.database import Database
from ops.layout import BIN, LOOPBACK, PROJECT, Stack

WATCHDOG = "watchdog"  # who may look at runs and write their notes, and is asked for by DAGs


def of(stack: Stack, metadata: Database) -> dict[str, str]:
    """The environment of every process: config/airflow.env, and the places, ports and secrets of this set-up."""
    password = _secret_file(stack.password, secrets.token_urlsafe(16))
    users = stack.home / "airflow-users.json"
    users.unlink(missing_ok=True)
    watchdog = secrets.token_urlsafe(32)  # a new one at each start: only the processes of this start need it
    _secret_file(users, json.dumps({"admin": password, WATCHDOG: watchdog}))
    fresh = {
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(64),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
    }
    kept = json.loads(_secret_file(stack.home / "secrets.json", json.dumps(fresh)))
    # The one would double every start; the other may hold a password, which only Airflow's own setting needs.
    own = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONDONTWRITEBYTECODE", "ESTEIRA_DATABASE_URL") and not name.startswith("AIRFLOW__")
    }
    return {
        **own,
        **shared_settings(),
        **kept,
        **processes.environment(stack.home),
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
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"admin:admin,{WATCHDOG}:user",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(users),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": metadata.url,
        "AIRFLOW__API__HOST": LOOPBACK,
        "AIRFLOW__API__PORT": str(stack.web_port),
        "AIRFLOW__API__BASE_URL": stack.web,
        "AIRFLOW_CONN_SMTP_DEFAULT": _smtp_connection(stack),
        "ESTEIRA_HOME": str(stack.home),
        "ESTEIRA_API_URL": stack.web,
        "ESTEIRA_API_USER": WATCHDOG,
        "ESTEIRA_API_PASSWORD": watchdog,
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


def _secret_file(path: Path, make: str) -> str:
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(make)
    return path.read_text(encoding="utf-8")
