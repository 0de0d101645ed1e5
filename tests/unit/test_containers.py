from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from local import containers


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken for the project, and a `docker` that notes how it was called and what it could see."""
    monkeypatch.setattr(containers, "PROJECT", tmp_path)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(
        f"""#!/bin/bash
cd {tmp_path}
echo "$*" >> calls
env >> environment
type -P ssh >> ssh-path
[ "$1" = login ] && cat >> stdin
for each in "$@"; do [ -f "$each" ] && stat -c '%a' "$each" >> modes && cat "$each" >> env-file; done
ssh_to=$(type -P ssh); case "$ssh_to" in */esteira-*) cp "$ssh_to" ssh-wrapper; cp "$(dirname "$ssh_to")"/DEPLOY_* . ;; esac
exit "${{DOCKER_ENDS_WITH:-0}}"
"""
    )
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{docker.parent}:{os.environ['PATH']}")
    for name in ("ESTEIRA_IMAGE", "DEPLOY_HOST", "DOTENV", "REGISTRY_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_secrets_are_random_whole_and_for_their_owner_alone(project: Path) -> None:
    containers.make_secrets()
    path = project / ".env"
    first = containers.settings(path.read_text())
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


def test_a_deployment_by_ssh_trusts_one_key_and_one_host_and_leaves_no_secret(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {
        "ESTEIRA_IMAGE": "registry.example.com/esteira:v1",
        "DEPLOY_HOST": "deploy@example.com",
        "DEPLOY_KEY": "the key",
        "DEPLOY_KNOWN_HOSTS": "example.com ssh-ed25519 AAAA",
        "DOTENV": "POSTGRES_PASSWORD=secret\n",
        "REGISTRY": "registry.example.com",
        "REGISTRY_USER": "me",
        "REGISTRY_TOKEN": "the token",
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    containers.deploy()
    login, up, logout = (project / "calls").read_text().splitlines()
    assert login == "login registry.example.com --username me --password-stdin"
    assert (project / "stdin").read_text() == "the token"
    assert logout == "logout registry.example.com"
    assert up.startswith("compose --env-file ")
    assert up.endswith("up --detach --wait --wait-timeout 600 --no-build --remove-orphans")
    assert "DOCKER_HOST=ssh://deploy@example.com" in (project / "environment").read_text()
    assert (project / "env-file").read_text() == "POSTGRES_PASSWORD=secret\n"
    assert (project / "modes").read_text() == "600\n"
    assert (project / "DEPLOY_KEY").read_text() == "the key\n"
    wrapper = (project / "ssh-wrapper").read_text()
    assert "StrictHostKeyChecking=yes" in wrapper
    assert "IdentitiesOnly=yes" in wrapper
    folder = wrapper.split("-i ")[1].split("/DEPLOY_KEY")[0]
    assert not Path(folder).exists()


def test_a_deployment_to_a_host_that_is_not_known_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_IMAGE", "esteira:v1")
    monkeypatch.setenv("DEPLOY_HOST", "deploy@example.com")
    monkeypatch.setenv("DEPLOY_KEY", "the key")
    monkeypatch.delenv("DEPLOY_KNOWN_HOSTS", raising=False)
    with pytest.raises(containers.ContainersError, match="needs DEPLOY_KNOWN_HOSTS"):
        containers.deploy()
    assert not (project / "calls").exists()


def test_a_deployment_names_its_image(project: Path) -> None:
    with pytest.raises(containers.ContainersError, match="Set ESTEIRA_IMAGE"):
        containers.deploy()


def test_who_logged_in_logs_out_when_the_deployment_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_IMAGE", "esteira:v1")
    monkeypatch.setenv("REGISTRY", "registry.example.com")
    monkeypatch.setenv("REGISTRY_USER", "me")
    monkeypatch.setenv("REGISTRY_TOKEN", "t")
    docker = project / "bin" / "docker"
    docker.write_text(docker.read_text().replace("exit ", '[ "$1" = compose ] && exit 1; exit '))
    with pytest.raises(subprocess.CalledProcessError):
        containers.deploy()
    assert (project / "calls").read_text().splitlines()[-1] == "logout registry.example.com"


def test_a_backup_stops_the_writers_and_starts_them_again_though_it_fails(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = project / "bin" / "docker"
    docker.write_text(docker.read_text().replace("exit ", '[ "$2" = exec ] && exit 1; exit '))
    with pytest.raises(subprocess.CalledProcessError):
        containers.backup(project / "backup")
    stopped, _, started = (project / "calls").read_text().splitlines()
    assert stopped == "compose stop " + " ".join(containers.WRITERS)
    assert started == "compose start " + " ".join(containers.WRITERS)
    assert not (project / "backup").exists()


def test_a_backup_overwrites_nothing(project: Path) -> None:
    (project / "backup").mkdir()
    with pytest.raises(containers.ContainersError, match="exists already"):
        containers.backup(project / "backup")
    assert not (project / "calls").exists()


def test_what_is_no_backup_is_not_restored(project: Path) -> None:
    (project / "backup").mkdir()
    with pytest.raises(containers.ContainersError, match=r"airflow\.dump.*is not there"):
        containers.restore(project / "backup")
    assert not (project / "calls").exists()
