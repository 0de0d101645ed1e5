"""Which registry a command works on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest
from esteira.store import mlflow_tracking

SERVER = "http://127.0.0.1:15000"


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder, with a space in its path, of a set-up whose supervisor is this process."""
    place = tmp_path / "a place"
    place.mkdir()
    monkeypatch.setenv("ESTEIRA_HOME", str(place))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write(place)
    return place


def write(place: Path, **changed: object) -> None:
    supervisor = {"pid": os.getpid(), "created": psutil.Process().create_time(), **changed}
    (place / "running.json").write_text(json.dumps({"mlflow": SERVER, "supervisor": supervisor}))


def file_of(place: Path) -> str:
    return f"sqlite:///{place}/mlflow/mlflow.db"


def test_the_server_of_a_running_set_up_is_found(state: Path) -> None:
    assert mlflow_tracking.uri() == SERVER


def test_the_environment_wins(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    assert mlflow_tracking.uri() == "http://127.0.0.1:1"


def test_after_the_set_up_was_killed_its_file_is_used(state: Path) -> None:
    write(state, pid=2**22 + 1)  # more than any process has
    assert mlflow_tracking.uri() == file_of(state)


def test_another_process_with_the_supervisor_s_number_is_not_taken_for_it(state: Path) -> None:
    write(state, created=psutil.Process().create_time() - 100)
    assert mlflow_tracking.uri() == file_of(state)


@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"supervisor": {"pid": 1}}'])
def test_half_a_file_is_no_server(state: Path, text: str) -> None:
    (state / "running.json").write_text(text)
    assert mlflow_tracking.uri() == file_of(state)


def test_another_state_folder_has_another_registry(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path))
    assert mlflow_tracking.uri() == file_of(tmp_path)
