"""Where this machine's state lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from esteira.errors import EsteiraError, OutOfReach
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


@contextmanager
def alone(work: str, model: str) -> Iterator[None]:
    """Do a work of a model while no other command of this machine does: they would take each other's runs for what a killed one left.

    Raises EsteiraError where another does, and OutOfReach where the lock can't be had.
    """
    make_home()
    lock = FileLock(home() / f"{work}-{model}.lock", timeout=0)
    try:
        held = lock.acquire()
    except Timeout:
        raise EsteiraError(
            f"model {model}: another {work} of it is at work on this machine; wait for it ({lock.lock_file})"
        ) from None
    except OSError as error:
        raise OutOfReach(
            f"model {model}: {lock.lock_file} can't be locked: {error.strerror}; it must be a file that this user can write"
        ) from None
    with held:
        yield
