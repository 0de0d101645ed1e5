"""Copies of what a registry keeps and never changes, on this machine: a day is scored without asking the registry for it.

A copy is known by the digest (SHA-256) of its content. One that is gone, or can't be kept, is no fault.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from esteira.store import places

log = logging.getLogger(__name__)

UNUSED = 30 * 24 * 3600  # seconds after which a copy that nobody read is removed


def read(sha256: str) -> tuple[bytes, dict[str, str]] | None:
    """The content with a digest, and what was noted about it; None where there is no copy, or it is not as it was."""
    path = _folder() / sha256
    try:
        about, _, content = path.read_bytes().partition(b"\n")
        noted: dict[str, str] = json.loads(about)
    except (OSError, ValueError):
        return None
    if hashlib.sha256(content).hexdigest() != sha256:
        return None
    with suppress(OSError):
        os.utime(path)  # it is in use
    return content, noted


def keep(sha256: str, content: bytes, about: Mapping[str, str] | None = None) -> None:
    """Keep a copy, whole or not at all, and remove those that nobody has read for long."""
    try:
        places.make_home()
        _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=_folder(), delete=False) as file:
            file.write(json.dumps(dict(about or {})).encode() + b"\n" + content)
        Path(file.name).replace(_folder() / sha256)
        _remove_unused()
    except OSError as error:
        log.info("no copy of %s is kept: %s", sha256, error)


def _remove_unused() -> None:
    for path in _folder().iterdir():
        with suppress(FileNotFoundError):  # another process removes it, too
            if path.stat().st_mtime < time.time() - UNUSED:
                path.unlink()


def _folder() -> Path:
    return places.home() / "cache" / "models"
