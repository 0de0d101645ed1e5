"""Folders outside the state folder: where a path must be short, or where another user must be able to go."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from pathlib import Path

SOCKET_PATH_LIMIT = 100  # bytes; the kernel's own limit is 104 or 108


class PlaceError(RuntimeError):
    """A folder can't be used; the text says why and what to do."""


def socket_folder(home: Path, folder: Path, name: str) -> Path:
    """The folder for a socket: `folder`, or a private one under the temporary folder where the path is too long."""
    if len(os.fsencode(folder / name)) < SOCKET_PATH_LIMIT:
        return folder
    return own_folder(short_folder(home))


def short_folder(home: Path) -> Path:
    """The private folder under the temporary folder that belongs to a state folder."""
    return Path(tempfile.gettempdir()) / f"esteira-{os.geteuid()}-{_digest(home)}"


def system_folder(home: Path) -> Path:
    """The folder of root's set-up that other users can enter: its state folder, and perhaps its home, are closed to them."""
    parent = Path("/var/lib")
    return (parent if os.access(parent, os.W_OK) else Path(tempfile.gettempdir())) / f"esteira-{_digest(home)}"


def own_folder(path: Path, mode: int = 0o700) -> Path:
    """Make a folder of this user's own. Raises PlaceError where something of another user has its name."""
    path.mkdir(mode=mode, exist_ok=True)
    state = path.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.geteuid():
        raise PlaceError(f"{path} is not a folder of this user's own; remove it, or choose another ESTEIRA_HOME")
    path.chmod(mode)
    return path


def remove(home: Path) -> None:
    """Remove the folders outside the state folder that belong to it."""
    for path in {short_folder(home), system_folder(home)}:
        if path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid():
            shutil.rmtree(path, ignore_errors=True)


def _digest(home: Path) -> str:
    return hashlib.sha256(os.fsencode(home)).hexdigest()[:12]
