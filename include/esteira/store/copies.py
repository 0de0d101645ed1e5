"""Copies of what a registry keeps and never changes, on this machine: a day is scored without asking the registry for it.

A copy is known by the digest (SHA-256) of its content. One that is gone, or can't be kept, is no fault.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from esteira.store import places

log = logging.getLogger(__name__)

UNUSED = 30 * 24 * 3600  # seconds after which a copy that nobody read is removed


def read(sha256: str) -> bytes | None:
    """The content with a digest; None where there is no copy, or it is not as it was."""
    path = _folder() / sha256
    try:
        if not path.is_file():  # a pipe would be waited for
            return None
        content = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        return None
    with suppress(OSError):
        os.utime(path)  # it is in use
    return content


def keep(sha256: str, content: bytes) -> None:
    """Keep a copy, whole or not at all, and remove those that nobody has read for long."""
    try:
        places.make_home()
        _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_folder()) as place:
            draft = Path(place, sha256)
            draft.write_bytes(content)
            draft.replace(_folder() / sha256)
        _remove_unused()
    except OSError as error:
        log.info("no copy of %s is kept: %s", sha256, error)


def _remove_unused() -> None:
    for path in _folder().iterdir():
        with suppress(FileNotFoundError):  # another process removes it, too
            if path.stat().st_mtime < time.time() - UNUSED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _folder() -> Path:
    return places.home() / "cache" / "models"
