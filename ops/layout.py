"""Where the embedded set-up is and what it listens on."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
LOOPBACK = "127.0.0.1"


class StackError(RuntimeError):
    """The embedded set-up can't do what it was asked; the text says why and what to do."""


def _port(variable: str, default: int) -> int:
    given = os.environ.get(variable) or str(default)
    if not (given.isascii() and given.isdigit() and 0 < int(given) < 65_536):
        raise StackError(f"{variable} is {given!r}; a port is a number from 1 to 65535")
    return int(given)


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
        web, mlflow, smtp = (_port(f"ESTEIRA_{name}_PORT", port) for name, port in defaults.items())
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
