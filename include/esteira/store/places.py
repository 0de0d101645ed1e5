"""Where this machine's state lies."""

from __future__ import annotations

from pathlib import Path

from esteira.errors import OutOfReach
from esteira.settings import settings


def home() -> Path:
    """Where this machine's state lies: ESTEIRA_HOME, else .esteira in the project."""
    return settings().state_folder


def make_home() -> None:
    """Make the state folder, which only its user can read, if it is not there. Raises OutOfReach where it can't be made."""
    try:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutOfReach(
            f"the state folder {home()} can't be made: {error.strerror}; set ESTEIRA_HOME to a folder that can"
        ) from None
