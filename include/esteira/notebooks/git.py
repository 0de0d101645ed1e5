"""Where retraining notebooks are kept: a git repository, pushed where that has a remote."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from filelock import FileLock

from esteira.errors import EsteiraError
from esteira.notebooks import execute, hosts
from esteira.settings import settings
from esteira.store import places

log = logging.getLogger(__name__)


def repository() -> Path:
    """Where notebooks are committed: ESTEIRA_GIT, else `notebooks` under places.home()."""
    return Path(settings().git or places.home() / "notebooks").absolute()


def commit(model: str, day: date, parameters: Mapping[str, str]) -> str:
    """Execute the notebook of a day's check and commit it as <model>/<day>.ipynb; returns the commit.

    Executing it again for the same day makes a new commit only if the notebook's content changed. A push that fails is
    warned about and blocks nothing: the next push takes it along. With ESTEIRA_GIT_REMOTE the commit is a branch of that
    repository, see hosts.py; else it is made on the branch that is checked out.
    """
    remote = hosts.Remote.from_environment()
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "executed.ipynb"
        execute.execute(executed, parameters)
        content = executed.read_bytes()
    place = repository()
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock", timeout=600):
        if not (place / ".git").exists():
            _git("init", "--quiet", "--initial-branch=main")
        _clear_locks(place / ".git")
        if remote:
            return hosts.commit(place, remote, model, day, content)
        target = place / model / f"{day}.ipynb"
        _write(place, target, content)
        _git("add", "--", str(target.relative_to(place)))
        if _git("status", "--porcelain", "--", str(target.relative_to(place))):
            _git(
                *hosts.AUTHOR,
                "commit",
                "--quiet",
                "--message",
                f"{model}: retraining of {day}",
                "--",
                str(target.relative_to(place)),
            )
        _push()
        return _git("log", "-1", "--format=%H", "--", str(target.relative_to(place)))


def _write(place: Path, target: Path, content: bytes) -> None:
    """Write a file of the repository. What is a link there may lead anywhere, so it is refused."""
    for each in (place / ".git", target.parent, target):
        if each.is_symlink():
            raise EsteiraError(
                f"{each} is a link, and notebooks are not written through links; put a folder or file of the repository in its "
                "place, and run the task again"
            )
    target.parent.mkdir(exist_ok=True)
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o666), "wb") as file:
        file.write(content)


def _clear_locks(repository: Path) -> None:
    """Wait for another git to end; a lock older than any command of ours may take is of one that was killed."""
    limit = time.monotonic() + 2 * hosts.LIMIT
    while (locks := list(repository.rglob("*.lock"))) and time.monotonic() < limit:
        for lock in locks:
            with contextlib.suppress(FileNotFoundError):  # it has ended
                if time.time() - lock.stat().st_mtime > hosts.LIMIT:
                    log.warning("%s was left by a git that died: removed", lock)
                    lock.unlink()
        time.sleep(0.2)  # git tells nobody when it ends


def _push() -> None:
    if not _git("remote"):
        return
    try:
        _git("push", "--quiet", "--set-upstream", _git("remote").split()[0], "HEAD")
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        told = (getattr(error, "stderr", None) or b"").decode(errors="replace") or str(error)
        log.warning("the notebook is committed, but git push failed: %s", hosts.without_passwords(told))


def _git(*arguments: str) -> str:
    return hosts.git(repository(), *arguments)
