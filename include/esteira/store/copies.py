"""Copies of what a registry keeps and never changes, on this machine: a day is scored without asking the registry for it.

A copy is named by the digest of what it is of; whoever reads one compares it. A copy that is gone, or can't be kept, is no fault.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from esteira.store import places

log = logging.getLogger(__name__)

UNUSED = 30 * 24 * 3600  # seconds after which a copy that nobody read is removed


def read(name: str) -> bytes | None:
    """The copy with a name; None where there is none."""
    path = _folder() / name
    try:
        content = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):
        os.utime(path)  # it is in use
    return content


def keep(name: str, content: bytes) -> None:
    """Keep a copy, whole or not at all, and remove those that nobody has read for long."""
    try:
        places.make_home()
        _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=_folder(), delete=False) as file:
            file.write(content)
        Path(file.name).replace(_folder() / name)
        _remove_unused()
    except OSError as error:
        log.info("no copy of %s is kept: %s", name, error)


def _remove_unused() -> None:
    for path in _folder().iterdir():
        with suppress(FileNotFoundError):  # another process removes it, too
            if path.stat().st_mtime < time.time() - UNUSED:
                path.unlink()


def _folder() -> Path:
    return places.home() / "cache" / "models"
