from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import models


def esteira(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-m", "esteira", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100", **environment}, timeout=120
    )


def test_help_teaches_a_first_day() -> None:
    done = esteira("--help")
    assert done.returncode == 0
    for word in ("validate", "train", "score", "check", "status", "schema", "A first day"):
        assert word in done.stdout


def test_validate_names_what_is_wrong_and_fails(tmp_path: Path) -> None:
    models.write(tmp_path, "good")
    wrong = models.write(tmp_path, "wrong").folder / "model.yaml"
    wrong.write_text(wrong.read_text().replace("max_depth", "max_dept"))
    done = esteira("validate", ESTEIRA_MODELS=str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}/good/model.yaml: ok: regression, 4 features, 2 candidates" in done.stdout
    assert "DecisionTreeRegressor has no parameter 'max_dept'; did you mean 'max_depth'?" in done.stderr
    assert "Traceback" not in done.stderr


def test_validate_without_a_model_fails(tmp_path: Path) -> None:
    done = esteira("validate", ESTEIRA_MODELS=str(tmp_path))
    assert done.returncode == 1
    assert "no model.yaml was found" in done.stderr


def test_an_error_is_a_sentence_not_a_traceback(tmp_path: Path) -> None:
    models.write(tmp_path)
    done = esteira("status", "slaes", ESTEIRA_MODELS=str(tmp_path), ESTEIRA_HOME=str(tmp_path / "home"))
    assert done.returncode == 1
    assert done.stderr == "esteira: no model 'slaes'; there are: sales; did you mean 'sales'?\n"


def test_schema_is_json() -> None:
    assert json.loads(esteira("schema").stdout)["title"] == "ModelSpec"


@pytest.mark.parametrize("day", ["2026-13-01", "yesterday"])
def test_a_wrong_day_is_refused(day: str) -> None:
    done = esteira("score", "toll_traffic", "--day", day)
    assert done.returncode == 2
    assert day in done.stderr


def test_a_future_day_is_refused() -> None:
    done = esteira("check", "toll_traffic", "--day", "2099-01-01")
    assert done.returncode == 2
    assert "2099-01-01" in done.stderr
