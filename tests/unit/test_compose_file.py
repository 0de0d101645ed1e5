"""docker-compose.yaml as a text: what every service must have. `make test-compose` runs it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops import environment
from ops.containers import SECRETS

PROJECT = Path(__file__).parents[2]
TEXT = (PROJECT / "docker-compose.yaml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
ENDS = ("airflow-init", "volumes")  # they do their work and end


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_limited_watched_started_again_and_its_log_rotated(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name == "volumes":
        assert service["logging"] == {"driver": "none"}  # a backup goes through it
    else:
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    if name in ENDS:
        assert service["restart"] == "no" or service["restart"].startswith("on-failure:")
        assert service["healthcheck"] == {"disable": True}
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"]


@pytest.mark.parametrize("name", SERVICES)
def test_an_image_is_of_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image == "${ESTEIRA_IMAGE:-esteira:local}" or re.fullmatch(r"\w+:\d[\w.-]+", image)


def test_the_base_image_is_of_airflow_s_locked_version() -> None:
    base = re.search(r"^FROM apache/airflow:([\d.]+)-python3.11$", (PROJECT / "Dockerfile").read_text(), re.M)
    locked = re.search(r"^apache-airflow==([\d.]+)\s", (PROJECT / "requirements.txt").read_text(), re.M)
    assert base is not None
    assert locked is not None
    assert base[1] == locked[1]


def test_only_the_web_port_is_published_on_the_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"airflow-apiserver": ["${ESTEIRA_BIND:-127.0.0.1}:${ESTEIRA_WEB_PORT:-8080}:8080"]}
    assert FILE["networks"]["inside"] == {"internal": True}
    for name in ("postgres", "redis", "mlflow", "mail"):
        assert SERVICES[name]["networks"] == ["inside"]
    for name in ("log-groomer", "volumes"):
        assert SERVICES[name]["network_mode"] == "none"


def test_every_secret_is_asked_for_and_none_has_a_default() -> None:
    asked = set(re.findall(r"\$\{(\w+):\?run make secrets first", TEXT))
    assert asked == set(SECRETS)
    with_default = set(re.findall(r"\$\{(\w+):-", TEXT))
    assert not with_default & set(SECRETS)
    named = re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|KEY|TOKEN)\w*)", TEXT)
    assert set(named) - {"ESTEIRA_GIT_TOKEN"} == set(SECRETS)


def test_what_set_ups_share_is_written_once() -> None:
    shared = set(environment.shared_settings())
    airflow = [name for name in SERVICES if name.startswith("airflow-")]
    for name in [*airflow, "mlflow"]:
        assert SERVICES[name]["env_file"] == ["config/airflow.env"]
        assert not shared & set(SERVICES[name]["environment"]), name


def test_all_that_write_the_lake_share_one_volume() -> None:
    for name in SERVICES:
        if name.startswith("airflow-"):
            assert "lake:/lake" in SERVICES[name]["volumes"]
    assert SERVICES["airflow-worker"]["environment"]["ESTEIRA_LAKE"] == "/lake"


def test_what_runs_in_the_image_for_the_tests_needs_no_pytest_which_the_image_has_not() -> None:
    code = "import sys; sys.modules['pytest'] = None; from tests.soak.crashes import image_of_one"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
