"""What `make` and docker-compose.yaml ask for beside the services: secrets, the first start, a first day, deployment, backup, restore.

It runs with any Python, without .venv, but for `init` and what it starts in a container.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

PROJECT = Path(__file__).resolve().parents[1]
WRITERS = ("airflow-apiserver", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer", "airflow-worker")
DATABASES = ("airflow", "mlflow")
VOLUMES = ("lake", "state", "artifacts")
# docker-compose.yaml refuses to start without these.
SECRETS: dict[str, Callable[[], str]] = {
    "AIRFLOW_ADMIN_PASSWORD": lambda: secrets.token_urlsafe(18),
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
    """In the container airflow-init: migrate Airflow's database, make the user admin, make the volume a lake."""
    subprocess.run(["airflow", "db", "migrate"], check=True)
    password = os.environ["ADMIN_PASSWORD"]
    _airflow(
        *("users", "create", "--username", "admin", "--role", "Admin", "--password", password),
        *("--firstname", "Esteira", "--lastname", "Admin", "--email", "admin@localhost"),
    )
    # A user that was there keeps an older password: .env is what counts.
    _airflow("users", "reset-password", "--username", "admin", "--password", password)
    subprocess.run([sys.executable, "-m", "esteira", "init"], check=True)


def _airflow(*arguments: str) -> None:
    """Call Airflow's command line in a process whose list of arguments, which others can read, holds no password."""
    code = "import json, sys; sys.argv = json.load(sys.stdin); from airflow.__main__ import main; main()"
    subprocess.run([sys.executable, "-c", code], input=json.dumps(["airflow", *arguments]), text=True, check=True)


def first_day(model: str, day: str) -> None:
    """Train a model as of the day before, score the day, and show its first rows."""
    password = settings((PROJECT / ".env").read_text(encoding="utf-8"))["AIRFLOW_ADMIN_PASSWORD"]
    command = ["exec", "-T", "-e", "AIRFLOW_ADMIN_PASSWORD", "airflow-worker", "python", "-m", "local.first_day"]
    _compose(*command, model, day, environment={"AIRFLOW_ADMIN_PASSWORD": password})


def deploy() -> None:
    """Start the image ESTEIRA_IMAGE and wait until all is well; what runs another image is replaced, volumes stay.

    From the environment, all but the first optional: ESTEIRA_IMAGE; DEPLOY_HOST (user@host[:port], reached by ssh; else this
    machine's engine) with DEPLOY_KEY and DEPLOY_KNOWN_HOSTS (contents of the files); DOTENV (contents of .env); REGISTRY with
    REGISTRY_USER and REGISTRY_TOKEN. Secrets are in files of a private folder as long as this runs.
    """
    given = os.environ
    if not given.get("ESTEIRA_IMAGE"):
        raise ContainersError("which image? Set ESTEIRA_IMAGE, for example ESTEIRA_IMAGE=registry/esteira:v1")
    environment: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="esteira-") as name:
        place = Path(name)
        if given.get("DEPLOY_HOST"):
            for file in ("DEPLOY_KEY", "DEPLOY_KNOWN_HOSTS"):
                if not given.get(file):
                    raise ContainersError(f"DEPLOY_HOST needs {file}: an unknown host or user is not trusted")
                _private(place / file, given[file].replace("\r\n", "\n").rstrip("\n") + "\n")
            # Docker calls `ssh` and takes no options for it.
            options = (
                f"-i {place}/DEPLOY_KEY -o UserKnownHostsFile={place}/DEPLOY_KNOWN_HOSTS -o StrictHostKeyChecking=yes"
            )
            _private(
                place / "ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} {options} -o IdentitiesOnly=yes "$@"\n', 0o700
            )
            environment = {
                "DOCKER_HOST": f"ssh://{given['DEPLOY_HOST']}",
                "PATH": f"{place}{os.pathsep}{given['PATH']}",
            }
        dotenv = []
        if given.get("DOTENV"):
            _private(place / "env", given["DOTENV"].replace("\r\n", "\n"))
            dotenv = ["--env-file", str(place / "env")]
        if given.get("REGISTRY_TOKEN"):
            login = ["docker", "login", given["REGISTRY"], "--username", given["REGISTRY_USER"], "--password-stdin"]
            subprocess.run(login, input=given["REGISTRY_TOKEN"], text=True, check=True)
        try:
            up = ("up", "--detach", "--wait", "--wait-timeout", "600", "--no-build", "--remove-orphans")
            _compose(*dotenv, *up, environment=environment)
        finally:
            if given.get("REGISTRY_TOKEN"):
                subprocess.run(["docker", "logout", given["REGISTRY"]], check=True)


def _private(path: Path, text: str, mode: int = 0o600) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)


def backup(folder: Path) -> None:
    """Write both databases and the volumes of lake, state and artifacts to a new folder. Nothing runs meanwhile."""
    if folder.exists():
        raise ContainersError(f"{folder} exists already; name a new folder")
    os.umask(0o077)
    draft = folder.with_name(folder.name + ".part")
    draft.mkdir(parents=True)
    _compose("stop", *WRITERS)
    try:
        for name in DATABASES:
            with (draft / f"{name}.dump").open("wb") as file:
                _compose("exec", "-T", "postgres", "pg_dump", "-U", "airflow", "--format=custom", name, stdout=file)
        with (draft / "volumes.tar").open("wb") as file:
            _volumes("--create", *VOLUMES, stdout=file)
    finally:
        _compose("start", *WRITERS)
    draft.rename(folder)
    print(
        f"{folder} holds {', '.join(path.name for path in sorted(folder.iterdir()))}; keep a copy of .env apart from it"
    )


def restore(folder: Path) -> None:
    """Bring a backup into a stack that is down and has no volumes, with the .env of that time; then start the stack."""
    needed = [folder / f"{name}.dump" for name in DATABASES] + [folder / "volumes.tar"]
    if missing := [str(path) for path in needed if not path.is_file()]:
        raise ContainersError(f"this is no backup of `make backup`: {', '.join(missing)} is not there")
    if _volumes_exist():
        raise ContainersError(
            "there are volumes of this stack already, and a restore would mix with them; "
            "`docker compose down --volumes` removes them and all that is in them"
        )
    _compose("up", "--detach", "--wait", "postgres")
    for name in DATABASES:
        with (folder / f"{name}.dump").open("rb") as file:
            command = ["pg_restore", "-U", "airflow", "--exit-on-error", "--role", name, "--no-owner", "--dbname", name]
            _compose("exec", "-T", "postgres", *command, stdin=file)
    with (folder / "volumes.tar").open("rb") as file:
        _volumes("--extract", stdin=file)
    _compose("up", "--detach", "--wait", "--wait-timeout", "300")


def _volumes(*arguments: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | None = None) -> None:
    command = ["run", "--rm", "--no-deps", "-T", "--entrypoint", "tar", "airflow-worker", "--directory=/"]
    _compose(*command, *arguments, "--file=-", stdin=stdin, stdout=stdout)


def _volumes_exist() -> bool:
    command = ["docker", "compose", "config", "--format", "json"]
    name = json.loads(subprocess.run(command, cwd=PROJECT, capture_output=True, check=True).stdout)["name"]
    label = f"label=com.docker.compose.project={name}"
    found = subprocess.run(["docker", "volume", "ls", "--quiet", "--filter", label], capture_output=True, check=True)
    return bool(found.stdout.strip())


def _compose(
    *arguments: str,
    stdin: IO[bytes] | None = None,
    stdout: IO[bytes] | None = None,
    environment: dict[str, str] | None = None,
) -> None:
    subprocess.run(
        ["docker", "compose", *arguments],
        cwd=PROJECT,
        stdin=stdin,
        stdout=stdout,
        env={**os.environ, **(environment or {})},
        check=True,
    )


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
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"esteira: {error.cmd[0]} {error.cmd[1] if len(error.cmd) > 1 else ''} … ended with {error.returncode}"
        )


if __name__ == "__main__":
    main()
