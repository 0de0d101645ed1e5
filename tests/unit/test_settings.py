from __future__ import annotations

import os
from pathlib import Path

import pytest
from esteira import settings
from esteira.errors import EsteiraError


def test_the_environment_is_followed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ESTEIRA_HOME", raising=False)
    assert settings.settings().state_folder == settings.PROJECT / ".esteira"
    monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path))
    assert settings.settings().state_folder == tmp_path
    monkeypatch.setenv("ESTEIRA_MODELS", f"{tmp_path}/a:{tmp_path}/b")
    assert settings.settings().model_folders == [tmp_path / "a", tmp_path / "b"]


def test_a_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_GIT_TOKEN", "swordfish")
    assert settings.settings().git_token.get_secret_value() == "swordfish"
    assert "swordfish" not in repr(settings.settings())
    monkeypatch.setenv("ESTEIRA_API_PASSWORD", "hunter2")
    assert "hunter2" not in repr(settings.settings())


def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_GIT_HOST", "gitlab")
    with pytest.raises(EsteiraError, match="ESTEIRA_GIT_HOST can't be used: got 'gitlab'"):
        settings.settings()


def test_what_is_isolated_knows_of_no_other_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict.fromkeys((*settings.NAMES, "MLFLOW_TRACKING_URI", "PATH"), "somewhere"))
    settings.isolate(tmp_path, MLFLOW_TRACKING_URI="sqlite:///own")
    assert os.environ == {
        "ESTEIRA_HOME": str(tmp_path),
        "ESTEIRA_MODELS": "somewhere",
        "ESTEIRA_COMMIT": "somewhere",
        "MLFLOW_TRACKING_URI": "sqlite:///own",
        "PATH": "somewhere",
    }


@pytest.mark.parametrize("given", ["gs://bucket/lake", "s3://", "file:///lake"])
def test_a_lake_is_a_folder_or_in_a_bucket(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ESTEIRA_LAKE", given)
    with pytest.raises(
        EsteiraError, match=r"ESTEIRA_LAKE can't be used: got '.*'; .*it is a folder, or s3://bucket/path"
    ):
        settings.settings()
