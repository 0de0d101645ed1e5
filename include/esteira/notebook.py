"""The retraining notebook: executed by papermill, committed to a git repository, pushed where that has a remote."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from filelock import FileLock

from esteira import pulls, tables
from esteira.spec import EsteiraError

log = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "retraining.ipynb"


def repository() -> Path:
    """Where notebooks are committed: ESTEIRA_GIT, else `notebooks` under tables.home()."""
    return Path(os.environ.get("ESTEIRA_GIT") or tables.home() / "notebooks").absolute()


def commit(model: str, day: date, parameters: Mapping[str, str]) -> str:
    """Execute the notebook of a day's check and commit it as <model>/<day>.ipynb; returns the commit.

    Executing it again for the same day makes a new commit only if the notebook's content changed. A push that fails is
    warned about and blocks nothing: the next push takes it along. With ESTEIRA_GIT_REMOTE the commit is a branch of that
    repository, see pulls.py; else it is made on the branch that is checked out.
    """
    remote = pulls.Remote.from_environment()
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "executed.ipynb"
        _execute(executed, parameters)
        content = executed.read_bytes()
    place = repository()
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock", timeout=600):
        if not (place / ".git").exists():
            _git("init", "--quiet", "--initial-branch=main")
        _clear_locks(place / ".git")
        if remote:
            return pulls.commit(place, remote, model, day, content)
        target = place / model / f"{day}.ipynb"
        _write(place, target, content)
        _git("add", "--", str(target.relative_to(place)))
        if _git("status", "--porcelain", "--", str(target.relative_to(place))):
            _git(
                *pulls.AUTHOR,
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


def _execute(target: Path, parameters: Mapping[str, str]) -> None:
    import papermill
    from jupyter_client.manager import AsyncKernelManager

    class LocalKernel(AsyncKernelManager):
        """A kernel that is spoken to through sockets in a private folder: it listens on no port."""

        def __init__(self, *given: object, **options: object) -> None:
            super().__init__(*given, **{**options, "transport": "ipc", "ip": f"{sockets}/kernel"})

    # A folder of its own: by default the sockets have the same names for every kernel that starts in one folder.
    with tempfile.TemporaryDirectory(prefix="esteira-") as sockets, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # papermill's own use of Jupyter's older paths
        papermill.execute_notebook(
            str(TEMPLATE),
            str(target),
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            log_output=False,
            kernel_manager_class=LocalKernel,
        )
    _strip(target)


def _strip(path: Path) -> None:
    """Take out what papermill notes of this machine, of the clock and by lot, so that the same content is the same notebook."""
    import nbformat

    book = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    for place in (book, *book.cells):
        for name in ("papermill", "execution"):
            place["metadata"].pop(name, None)
    for number, cell in enumerate(book.cells):
        cell["id"] = f"cell-{number}"  # papermill gives the cell that it puts in a name by lot
    nbformat.write(book, path)  # type: ignore[no-untyped-call]


def _clear_locks(repository: Path) -> None:
    """Wait for another git to end; a lock older than any command of ours may take is of one that was killed."""
    limit = time.monotonic() + 2 * pulls.LIMIT
    while (locks := list(repository.rglob("*.lock"))) and time.monotonic() < limit:
        for lock in locks:
            with contextlib.suppress(FileNotFoundError):  # it has ended
                if time.time() - lock.stat().st_mtime > pulls.LIMIT:
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
        log.warning("the notebook is committed, but git push failed: %s", pulls.without_passwords(told))


def _git(*arguments: str) -> str:
    return pulls.git(repository(), *arguments)
