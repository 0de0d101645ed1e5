"""What `make` and docker-compose.yaml ask for beside the services: secrets, the first start, a first day, deployment, backup, restore.

It runs with any Python, without .venv, but for `init` and what it starts in a container. All but `secrets` and `init` work on
this machine's engine, or on that of DEPLOY_HOST; see engine().
"""

from __future__ import annotations

import argparse
import base64
import binascii
import hashlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).resolve().parents[1]
WRITERS = (
    "airflow-apiserver",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
    "airflow-worker",
    "mlflow",
)
DATABASES = ("airflow", "mlflow")
VOLUMES = ("lake", "state", "artifacts")
READY_WITHIN = 600  # seconds
SSH_WITHIN = 30  # seconds
# docker-compose.yaml refuses to start without these.
SECRETS: dict[str, Callable[[], str]] = {
    "AIRFLOW_ADMIN_PASSWORD": lambda: secrets.token_urlsafe(18),
    "AIRFLOW_WATCHDOG_PASSWORD": lambda: secrets.token_urlsafe(32),
    "AIRFLOW_FERNET_KEY": lambda: base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
    "AIRFLOW_SECRET_KEY": lambda: secrets.token_urlsafe(48),
    "AIRFLOW_JWT_SECRET": lambda: secrets.token_urlsafe(64),
    "POSTGRES_PASSWORD": lambda: secrets.token_urlsafe(24),
    "MLFLOW_POSTGRES_PASSWORD": lambda: secrets.token_urlsafe(24),
    "REDIS_PASSWORD": lambda: secrets.token_urlsafe(24),
}
HEAD = """\
# Secrets and settings of docker-compose.yaml, made by `make secrets`. docs/production.md lists what else can be set here.
# Keep a copy in a safe place: a backup can't be read without AIRFLOW_FERNET_KEY. Never commit it.
"""


class ContainersError(RuntimeError):
    """It can't be done; the text says why and what to do."""


def make_secrets() -> None:
    """Write .env with random values, readable by its owner alone. What is there stays; what is missing is added."""
    path = PROJECT / ".env"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    path.chmod(0o600)
    text = path.read_text(encoding="utf-8")
    missing = [name for name in SECRETS if not settings(text).get(name)]
    if not missing:
        print(f"{path} has all secrets already; nothing was changed")
        return
    lines = [f"{name}={SECRETS[name]()}\n" for name in missing]
    if not text:
        lines.append(f"# Tasks that run at once, on all workers.\nESTEIRA_PARALLELISM={max(4, os.cpu_count() or 4)}\n")
    # Written beside it first: a process that dies leaves the old file, not half of one.
    draft = path.with_name(".env.part")
    draft.unlink(missing_ok=True)
    _private(draft, (text.rstrip("\n") + "\n" if text else HEAD) + "".join(lines))
    draft.replace(path)
    print(f"wrote {len(missing)} secrets to {path}; user admin, password AIRFLOW_ADMIN_PASSWORD in it")


def settings(text: str) -> dict[str, str]:
    """The names and values of an .env file's text."""
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
    return {name.strip(): value.strip().strip("'\"") for name, value in pairs}


def init() -> None:
    """In the container airflow-init: migrate both databases, make the users admin and watchdog, make the volume a lake."""
    subprocess.run(["airflow", "db", "migrate"], check=True)
    _migrate_mlflow(os.environ["MLFLOW_BACKEND_STORE_URI"])
    watchdog = os.environ["ESTEIRA_API_USER"]
    _airflow(
        *_user("admin", "Admin", os.environ["ADMIN_PASSWORD"]),
        ("roles", "create", WATCHDOG_ROLE),
        ("roles", "add-perms", WATCHDOG_ROLE, "--action", "can_read", "--resource", *WATCHDOG_READS),
        ("roles", "add-perms", WATCHDOG_ROLE, "--action", "can_edit", "--resource", *WATCHDOG_EDITS),
        *_user(watchdog, WATCHDOG_ROLE, os.environ["ESTEIRA_API_PASSWORD"]),
    )
    subprocess.run([sys.executable, "-m", "esteira", "init"], check=True)


# What the user may do whom the DAG esteira_outbox asks Airflow as: see which runs failed, and which of their tasks.
WATCHDOG_ROLE = "Watchdog"
WATCHDOG_READS = ("DAGs", "DAG Runs", "Task Instances")
WATCHDOG_EDITS = ("DAGs", "DAG Runs")  # for the notes of runs


def _user(name: str, role: str, password: str) -> list[tuple[str, ...]]:
    """The commands that make a user. One that was there keeps an older password: .env is what counts."""
    about = ("--firstname", "Esteira", "--lastname", role, "--email", f"{name}@localhost")
    return [
        ("users", "create", "--username", name, "--role", role, "--password", password, *about),
        ("users", "reset-password", "--username", name, "--password", password),
    ]


def _airflow(*commands: tuple[str, ...]) -> None:
    """Call Airflow's command line, in a process whose list of arguments, which others can read, holds no password.

    One process for all: each would need seconds to import Airflow.
    """
    code = (
        "import json, sys\n"
        "commands = json.load(sys.stdin)\n"
        "from airflow.__main__ import main\n"
        "for command in commands:\n"
        "    sys.argv = ['airflow', *command]\n"
        "    main()\n"
    )
    subprocess.run([sys.executable, "-c", code], input=json.dumps(commands), text=True, check=True)


def _migrate_mlflow(address: str) -> None:
    """Bring MLflow's database to this version; an empty one is left to the server, which makes its tables itself."""
    import sqlalchemy

    database = sqlalchemy.create_engine(address)
    if sqlalchemy.inspect(database).has_table("alembic_version"):
        code = "import sys; sys.argv = ['mlflow', 'db', 'upgrade', sys.stdin.read()]; from mlflow.cli import cli; cli()"
        subprocess.run([sys.executable, "-c", code], input=address, text=True, check=True)
    database.dispose()


# ----------------------------------------------------------------------------------------------------------- the engine


@dataclass(frozen=True)
class Engine:
    """Where the stack runs, and the .env that it runs with."""

    environment: dict[str, str]
    dotenv: Path

    def call(self, *command: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None, **more: str) -> None:
        """Run a command that talks to the engine. Raises CalledProcessError."""
        environment = {**os.environ, **self.environment, **more}
        subprocess.run(command, cwd=PROJECT, stdin=stdin, stdout=stdout, env=environment, check=True)

    def answer(self, *command: str) -> str:
        """What a command prints. Raises CalledProcessError."""
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, env=environment, check=True)
        return done.stdout.strip()

    def compose(self, *arguments: str) -> tuple[str, ...]:
        """A command of docker compose."""
        return ("docker", "compose", "--env-file", str(self.dotenv), *arguments)


@contextmanager
def engine() -> Iterator[Engine]:
    """This machine's engine and .env, or what the environment names, as pipelines do.

    DEPLOY_HOST: another machine, as user@host or user@host:port, reached by ssh; with DEPLOY_KEY_BASE64 (the private key) and
    DEPLOY_KNOWN_HOSTS (the host's line), else with this user's own key and known hosts. DEPLOY_SOCKET: its engine's socket.
    DOTENV_BASE64: the contents of .env. Secrets are in files of a private folder as long as this runs.
    """
    given = os.environ
    with tempfile.TemporaryDirectory(prefix="esteira-") as name:
        place = Path(name)
        dotenv = PROJECT / ".env"
        if given.get("DOTENV_BASE64"):
            dotenv = place / "env"
            _private(dotenv, _decoded("DOTENV_BASE64"))
        if not dotenv.is_file():
            raise ContainersError(f"there is no {dotenv}: run make secrets first - it writes .env")
        if given.get("DEPLOY_HOST", "local") == "local":
            yield Engine({}, dotenv)
            return
        with _forwarded(place, given["DEPLOY_HOST"]) as socket:
            yield Engine({"DOCKER_HOST": f"unix://{socket}"}, dotenv)


@contextmanager
def _forwarded(place: Path, host: str) -> Iterator[Path]:
    """The socket of another machine's engine, here: one connection, where docker's own ssh:// would open one for each call."""
    options = ["-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes", "-o", "StrictHostKeyChecking=yes"]
    if os.environ.get("DEPLOY_KEY_BASE64") or os.environ.get("DEPLOY_KNOWN_HOSTS"):
        _private(place / "key", _decoded("DEPLOY_KEY_BASE64").rstrip("\n") + "\n")
        _private(place / "known_hosts", _given("DEPLOY_KNOWN_HOSTS") + "\n")
        options += ["-i", f"{place}/key", "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={place}/known_hosts"]
    socket = place / "docker.sock"
    there = os.environ.get("DEPLOY_SOCKET") or "/var/run/docker.sock"
    command = ["ssh", *options, "-N", "-L", f"{socket}:{there}", f"ssh://{host}"]
    with (place / "told").open("w+") as told, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=told) as ssh:
        try:
            limit = time.monotonic() + SSH_WITHIN
            while not socket.exists():
                if ssh.poll() is not None or time.monotonic() > limit:
                    told.seek(0)
                    raise ContainersError(f"{host} (DEPLOY_HOST) can't be reached by ssh: {told.read().strip()}")
                time.sleep(0.1)
            yield socket
        finally:
            ssh.terminate()


def _given(name: str) -> str:
    """A variable of the environment. Raises ContainersError where it is empty, or what a pipeline leaves of a missing one."""
    value = os.environ.get(name, "")
    if not value or value.startswith("$("):
        raise ContainersError(f"{name} is not set; docs/production.md, CI/CD, says what it is")
    return value


def _decoded(name: str) -> str:
    try:
        return base64.b64decode("".join(_given(name).split()), validate=True).decode().replace("\r\n", "\n")
    except (binascii.Error, UnicodeDecodeError):
        raise ContainersError(f"{name} is not base64 of a text; make it by `base64 -w0 <file>`") from None


def _private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


# ----------------------------------------------------------------------------------------------------------------- verbs


def first_day(model: str, day: str) -> None:
    """Train a model as of the day before, score the day, and show its first rows."""
    with engine() as where:
        password = settings(where.dotenv.read_text(encoding="utf-8"))["AIRFLOW_ADMIN_PASSWORD"]
        command = ("exec", "-T", "-e", "AIRFLOW_ADMIN_PASSWORD", "airflow-worker", "python", "-m", "ops.first_day")
        where.call(*where.compose(*command, model, day), AIRFLOW_ADMIN_PASSWORD=password)


def deploy() -> None:
    """Start the image ESTEIRA_IMAGE on DEPLOY_HOST and wait until all is well; what ran before is stopped first, volumes stay.

    With REGISTRY, REGISTRY_USER and REGISTRY_TOKEN it logs in there, and out again. With BACKUP_TO it makes a backup before.
    """
    image = _given("ESTEIRA_IMAGE")
    # `local` is this machine; a pipeline that lost the name must not be green for having started the stack on itself.
    _given("DEPLOY_HOST")
    registry = os.environ.get("REGISTRY_TOKEN") and _given("REGISTRY")
    with engine() as where:
        if registry:
            login = ["docker", "login", registry, "--username", _given("REGISTRY_USER"), "--password-stdin"]
            subprocess.run(login, input=_given("REGISTRY_TOKEN"), text=True, check=True)
        try:
            if image not in where.answer("docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").splitlines():
                where.call("docker", "pull", image)
        finally:
            if registry:
                subprocess.run(["docker", "logout", registry], check=True)
        if os.environ.get("BACKUP_TO"):
            _back_up(where, Path(os.environ["BACKUP_TO"]).absolute())
        # The old ones must not work on databases that the new ones migrate.
        where.call(*where.compose("stop", *WRITERS))
        up = ("up", "--detach", "--wait", "--wait-timeout", str(READY_WITHIN), "--no-build", "--remove-orphans")
        where.call(*where.compose(*up))


def backup(folder: Path) -> None:
    """Write both databases and the volumes of lake, state and artifacts to a new folder. Nothing writes meanwhile."""
    with engine() as where:
        _back_up(where, folder)


def _back_up(where: Engine, folder: Path) -> None:
    draft = folder.with_name(folder.name + ".part")
    if folder.exists() or draft.exists():
        there = folder if folder.exists() else draft
        raise ContainersError(f"{there} exists already; name a new folder, or remove what a broken backup has left")
    os.umask(0o077)
    draft.mkdir(parents=True)
    ran = where.answer(*where.compose("ps", "--quiet", "airflow-scheduler"))
    image = where.answer("docker", "inspect", "--format", "{{.Config.Image}} {{.Image}}", ran) if ran else ""
    try:
        where.call(*where.compose("stop", *WRITERS))
        for name in DATABASES:
            dump = ("exec", "-T", "postgres", "pg_dump", "-U", "airflow", "--format=custom", name)
            with (draft / f"{name}.dump").open("wb") as file:
                where.call(*where.compose(*dump), stdout=file)
        with (draft / "volumes.tar").open("wb") as file:
            tar = ("run", "--rm", "-T", "volumes", "--directory=/", "--create", *VOLUMES, "--file=-")
            where.call(*where.compose(*tar), stdout=file)
    finally:
        where.call(*where.compose("start", *WRITERS))
    digests = {path.name: _digest(path) for path in sorted(draft.iterdir())}
    manifest = {"made_at": datetime.now(UTC).isoformat(timespec="seconds"), "image": image, "sha256": digests}
    (draft / "manifest.json").write_text(json.dumps(manifest, indent=1))
    draft.rename(folder)
    print(f"{folder} holds {', '.join(digests)}; keep a copy of .env apart from it")


def restore(folder: Path) -> None:
    """Bring a backup into a stack that is down and has no volumes, with the .env of that time; then start the stack."""
    if not (folder / "manifest.json").is_file():
        raise ContainersError(f"{folder} is no backup of `make backup`: it has no manifest.json")
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, digest in manifest["sha256"].items():
        if not (folder / name).is_file() or _digest(folder / name) != digest:
            raise ContainersError(f"{folder / name} is missing or not what was written; the backup can't be restored")
    print(f"made at {manifest['made_at']} with image {manifest['image']}")
    with engine() as where:
        if _has_volumes(where):
            raise ContainersError(
                "there are volumes of this stack already, and a restore would mix with them; "
                "`docker compose down --volumes` removes them and all that is in them"
            )
        where.call(*where.compose("up", "--detach", "--wait", "postgres"))
        for name in DATABASES:
            load = ("pg_restore", "-U", "airflow", "--exit-on-error", "--role", name, "--no-owner", "--dbname", name)
            with (folder / f"{name}.dump").open("rb") as file:
                where.call(*where.compose("exec", "-T", "postgres", *load), stdin=file)
        with (folder / "volumes.tar").open("rb") as file:
            where.call(
                *where.compose("run", "--rm", "-T", "volumes", "--directory=/", "--extract", "--file=-"), stdin=file
            )
        where.call(*where.compose("up", "--detach", "--wait", "--wait-timeout", str(READY_WITHIN)))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _has_volumes(where: Engine) -> bool:
    name = json.loads(where.answer(*where.compose("config", "--format", "json")))["name"]
    label = f"label=com.docker.compose.project={name}"
    return bool(where.answer("docker", "volume", "ls", "--quiet", "--filter", label))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("secrets")
    commands.add_parser("init")
    commands.add_parser("deploy")
    for name in ("backup", "restore"):
        commands.add_parser(name).add_argument("folder", type=lambda text: Path(text).absolute())
    day = commands.add_parser("first-day")
    day.add_argument("model")
    day.add_argument("day")
    asked = vars(parser.parse_args())
    work: dict[str, Callable[..., None]] = {
        "secrets": make_secrets,
        "init": init,
        "deploy": deploy,
        "backup": backup,
        "restore": restore,
        "first-day": first_day,
    }
    try:
        work[asked.pop("command")](**asked)
    except ContainersError as error:
        sys.exit(f"esteira: {error}")
    except FileNotFoundError as error:
        if error.filename not in ("docker", "ssh"):
            raise
        sys.exit(f"esteira: {error.filename} is not on this machine; install Docker with Compose, and an ssh client")
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"esteira: {error.cmd[0]} {error.cmd[1] if len(error.cmd) > 1 else ''} … ended with {error.returncode}"
        )


if __name__ == "__main__":
    main()
