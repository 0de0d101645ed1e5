"""README.md's first command: the demo runs, tells what it promises, and is stopped by `make down`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from ops.places import remove
from tests.docs.pages import PROJECT
from tests.ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.live, pytest.mark.timeout(900)]


def make(target: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", target], cwd=PROJECT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )


def test_the_demo_runs_and_stops(tmp_path: Path) -> None:
    ports = {f"ESTEIRA_{name}_PORT": str(free_port()) for name in ("WEB", "MLFLOW", "SMTP")}
    environment = {"ESTEIRA_HOME": str(tmp_path / "home"), "COLUMNS": "200", **ports}
    try:
        demo = make("demo", environment)
    finally:
        down = make("down", environment)
        remove(tmp_path / "home" / "demo")
    assert demo.returncode == 0, demo.stdout + demo.stderr
    for word in ("attempt 2 did: promoted", "three attempts failed", "did-not-help", "make down"):
        assert word in demo.stdout, demo.stdout
    assert down.returncode == 0, down.stdout + down.stderr
