from __future__ import annotations

import base64
import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from ops import containers


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for the project; `docker` and `ssh` there note how they were called and what they could see."""
    monkeypatch.setattr(containers, "PROJECT", tmp_path)
    monkeypatch.delenv("DEPLOY_KNOWN_HOSTS", raising=False)
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "docker").write_text(
        f"""#!/bin/bash
cd {tmp_path}
echo "$*" >> calls
env >> environment
[ "$1" = login ] && cat >> stdin
[ -f "$3" ] && stat -c '%a' "$3" >> modes && cat "$3" > env-file
[ "$2" = ls ] && echo there:v1
case "$*" in *"$FAILS"*) [ -n "$FAILS" ] && exit 1 ;; esac
exit 0
"""
    )
    (programs / "ssh").write_text(
        f"""#!/bin/bash
cd {tmp_path}
echo "$*" >> ssh-calls
[ -n "$SSH_FAILS" ] && echo "Host key verification failed." >&2 && exit 255
while [ $# -gt 1 ]; do
    case "$1" in -i) stat -c '%a' "$2" >> modes; cat "$2" > key ;; -L) touch "${{2%%:*}}" ;; UserKnown*) cat "${{1#*=}}" > known ;; esac
    shift
done
exec sleep 60
"""
    )
    for program in programs.iterdir():
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    for name in ("ESTEIRA_IMAGE", "DEPLOY_HOST", "DEPLOY_KEY_BASE64", "DOTENV_BASE64", "REGISTRY_TOKEN", "BACKUP_TO"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_secrets_are_random_whole_and_for_their_owner_alone(project: Path) -> None:
    containers.make_secrets()
    path = project / ".env"
    first = containers.settings(path.read_text())
    assert int(first.pop("ESTEIRA_PARALLELISM")) >= 4
    assert set(first) == set(containers.SECRETS)
    assert all(len(value) >= 24 for value in first.values())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    containers.make_secrets()
    second = containers.settings(path.read_text())
    assert not set(first.values()) & set(second.values())


def test_secrets_that_are_there_stay_and_missing_ones_are_added(project: Path) -> None:
    path = project / ".env"
    path.write_text("POSTGRES_PASSWORD=mine\nESTEIRA_WEB_PORT=9000\n# REDIS_PASSWORD=not this\n")
    path.chmod(0o644)
    containers.make_secrets()
    values = containers.settings(path.read_text())
    assert (values["POSTGRES_PASSWORD"], values["ESTEIRA_WEB_PORT"]) == ("mine", "9000")
    assert set(containers.SECRETS) < set(values)
    assert values["REDIS_PASSWORD"] != "not this"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    containers.make_secrets()
    assert path.read_text() == before


def test_passwords_fit_into_the_addresses_that_they_are_part_of() -> None:
    for name, make in containers.SECRETS.items():
        value = make()
        assert not set(value) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_="), name


@pytest.fixture
def pipeline(project: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment that a pipeline gives."""
    given = {
        "ESTEIRA_IMAGE": "registry.example.com/esteira:v1",
        "DEPLOY_HOST": "deploy@example.com",
        "DEPLOY_KEY_BASE64": base64_of("the key\r\nof two lines"),
        "DEPLOY_KNOWN_HOSTS": "example.com ssh-ed25519 AAAA",
        "DOTENV_BASE64": base64_of("POSTGRES_PASSWORD=secret\n"),
        "REGISTRY": "registry.example.com",
        "REGISTRY_USER": "me",
        "REGISTRY_TOKEN": "the token",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    return given


def test_a_deployment_by_ssh_trusts_one_key_and_one_host_and_leaves_no_secret(
    project: Path, pipeline: dict[str, str]
) -> None:
    containers.deploy()
    login, listed, pull, logout, stop, up = (project / "calls").read_text().splitlines()
    assert login == "login registry.example.com --username me --password-stdin"
    assert (project / "stdin").read_text() == "the token"
    assert listed.startswith("image ls")
    assert pull == "pull registry.example.com/esteira:v1"
    assert logout == "logout registry.example.com"
    assert stop.startswith("compose --env-file ")
    assert stop.endswith("stop " + " ".join(containers.WRITERS))
    assert up.endswith("up --detach --wait --wait-timeout 600 --no-build --remove-orphans")
    (ssh,) = (project / "ssh-calls").read_text().splitlines()
    assert ssh.endswith(":/var/run/docker.sock ssh://deploy@example.com")
    for option in ("StrictHostKeyChecking=yes", "IdentitiesOnly=yes", "BatchMode=yes", "ExitOnForwardFailure=yes"):
        assert option in ssh
    assert (project / "key").read_text() == "the key\nof two lines\n"
    assert (project / "known").read_text() == "example.com ssh-ed25519 AAAA\n"
    assert (project / "env-file").read_text() == "POSTGRES_PASSWORD=secret\n"
    assert set((project / "modes").read_text().split()) == {"600"}
    folder = ssh.split("-i ")[1].split("/key")[0]
    assert f"DOCKER_HOST=unix://{folder}/docker.sock" in (project / "environment").read_text()
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    "name", ["ESTEIRA_IMAGE", "DEPLOY_HOST", "DEPLOY_KEY_BASE64", "DEPLOY_KNOWN_HOSTS", "REGISTRY", "REGISTRY_USER"]
)
@pytest.mark.parametrize("empty", ["", "$({name})"])
def test_a_deployment_without_what_it_needs_is_refused(
    project: Path, pipeline: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, empty: str
) -> None:
    """Azure leaves `$(NAME)` where a variable is missing; and nothing must be started on the pipeline's own machine."""
    monkeypatch.setenv(name, empty.format(name=name))
    with pytest.raises(containers.ContainersError, match=f"{name} is not set"):
        containers.deploy()
    assert not (project / "calls").exists() or " up " not in (project / "calls").read_text()


def test_a_secret_that_is_no_base64_is_named_and_not_shown(
    project: Path, pipeline: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOTENV_BASE64", "POSTGRES_PASSWORD=secret")
    with pytest.raises(containers.ContainersError, match="DOTENV_BASE64 is not base64") as raised:
        containers.deploy()
    assert "secret" not in str(raised.value)


def test_a_host_that_ssh_does_not_trust_is_named(
    project: Path, pipeline: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSH_FAILS", "yes")
    with pytest.raises(containers.ContainersError, match=r"deploy@example\.com .*Host key verification failed"):
        containers.deploy()
    assert not (project / "calls").exists()


def test_without_secrets_nothing_is_done(project: Path) -> None:
    with pytest.raises(containers.ContainersError, match="run make secrets first"):
        containers.backup(project / "backup")
    assert not (project / "calls").exists()


def test_an_image_that_is_there_is_not_pulled(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    containers.make_secrets()
    monkeypatch.setenv("ESTEIRA_IMAGE", "there:v1")
    monkeypatch.setenv("DEPLOY_HOST", "local")
    containers.deploy()
    calls = (project / "calls").read_text()
    assert "pull" not in calls
    assert f"--env-file {project}/.env up " in calls
    assert not (project / "ssh-calls").exists()


def test_who_logged_in_logs_out_when_the_deployment_fails(
    project: Path, pipeline: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAILS", "pull ")
    with pytest.raises(subprocess.CalledProcessError):
        containers.deploy()
    assert (project / "calls").read_text().splitlines()[-1] == "logout registry.example.com"


@pytest.mark.parametrize("fails", [" stop ", " exec ", " run "])
def test_a_backup_that_fails_starts_again_what_it_stopped(
    project: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    containers.make_secrets()
    monkeypatch.setenv("FAILS", fails)
    with pytest.raises(subprocess.CalledProcessError):
        containers.backup(project / "backup")
    calls = (project / "calls").read_text().splitlines()
    assert calls[-1].endswith("start " + " ".join(containers.WRITERS))
    assert not (project / "backup").exists()
    with pytest.raises(containers.ContainersError, match=r"backup\.part exists already"):
        containers.backup(project / "backup")


def test_a_backup_overwrites_nothing(project: Path) -> None:
    containers.make_secrets()
    (project / "backup").mkdir()
    with pytest.raises(containers.ContainersError, match="exists already"):
        containers.backup(project / "backup")
    assert not (project / "calls").exists()


def test_what_is_no_backup_or_a_damaged_one_is_not_restored(project: Path) -> None:
    containers.make_secrets()
    with pytest.raises(containers.ContainersError, match=r"no manifest\.json"):
        containers.restore(project / "backup")
    containers.backup(project / "backup")
    (project / "calls").unlink()
    (project / "backup" / "mlflow.dump").write_text("damaged")
    with pytest.raises(containers.ContainersError, match=r"mlflow\.dump is missing or not what was written"):
        containers.restore(project / "backup")
    (project / "backup" / "mlflow.dump").unlink()
    with pytest.raises(containers.ContainersError, match=r"mlflow\.dump is missing"):
        containers.restore(project / "backup")
    assert not (project / "calls").exists()


def test_the_users_are_made_with_passwords_that_no_list_of_processes_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog may look at runs and tasks, and edit runs, for their notes."""
    calls: list[tuple[list[str], str]] = []
    monkeypatch.setattr(
        containers.subprocess, "run", lambda command, **given: calls.append((command, given.get("input", "")))
    )
    monkeypatch.setattr(containers, "_migrate_mlflow", lambda address: None)
    given = {"ADMIN_PASSWORD": "for-admin", "ESTEIRA_API_PASSWORD": "for-watchdog", "ESTEIRA_API_USER": "watchdog"}
    for name, value in {**given, "MLFLOW_BACKEND_STORE_URI": "x"}.items():
        monkeypatch.setenv(name, value)
    containers.init()
    assert not any("for-" in word for command, _ in calls for word in command)
    (asked,) = (json.loads(text) for _, text in calls if text)
    roles = [command for command in asked if command[0] == "roles"]
    assert roles == [
        ["roles", "create", "Watchdog"],
        ["roles", "add-perms", "Watchdog", "--action", "can_read", "--resource", "DAGs", "DAG Runs", "Task Instances"],
        ["roles", "add-perms", "Watchdog", "--action", "can_edit", "--resource", "DAGs", "DAG Runs"],
    ]
    made = {command[3]: command[command.index("--role") + 1] for command in asked if command[:2] == ["users", "create"]}
    assert made == {"admin": "Admin", "watchdog": "Watchdog"}
    reset = {command[3]: command[-1] for command in asked if command[:2] == ["users", "reset-password"]}
    assert reset == {"admin": "for-admin", "watchdog": "for-watchdog"}
