from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import models
from tests.conftest import PROJECT


def esteira(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "esteira", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100", **environment}, timeout=120
    )


def without_progress(said: str) -> str:
    """What a slow machine says besides is that it is at work."""
    return re.sub(r"^training sales: \d+ s\n", "", said, flags=re.M)


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


def test_a_server_that_is_down_is_a_sentence(tmp_path: Path) -> None:
    models.write(tmp_path)
    where = {"ESTEIRA_MODELS": str(tmp_path), "ESTEIRA_HOME": str(tmp_path / "home")}
    done = esteira(
        "train", "sales", "--as-of", "2026-01-31", MLFLOW_TRACKING_URI="http://user:word@127.0.0.1:9", **where
    )
    assert done.returncode == 1
    said = without_progress(done.stderr)
    assert said.startswith("esteira: a server can't be reached: API request to http://***@127.0.0.1:9/")
    assert "Connection refused" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("address", ["garbage", "ftp://user:word@host/x"])
def test_an_address_of_mlflow_that_is_none_is_a_sentence(tmp_path: Path, address: str) -> None:
    models.write(tmp_path)
    where = {"ESTEIRA_MODELS": str(tmp_path), "ESTEIRA_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": address}
    done = esteira("train", "sales", "--as-of", "2026-01-31", **where)
    assert done.returncode == 1
    assert without_progress(done.stderr).startswith("esteira: MLFLOW_TRACKING_URI can't be used: it begins with")
    assert "word" not in done.stderr
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0  # made by the command line, and only its user's


@pytest.mark.slow
def test_a_model_is_itself_by_whatever_path(tmp_path: Path) -> None:
    models.write(tmp_path)
    for given in ("sales", "sales/model.yaml", "./sales", str(tmp_path / "sales")):
        command = [sys.executable, "-m", "esteira", "validate", given]
        environment = {**os.environ, "ESTEIRA_MODELS": str(tmp_path), "PYTHONPATH": str(PROJECT / "include")}
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", ["nowhere.yaml", "model.yaml"])
def test_a_model_that_is_a_link_to_nothing_is_named(tmp_path: Path, target: str) -> None:
    models.write(tmp_path, "good")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "model.yaml").symlink_to(target)
    done = esteira("validate", ESTEIRA_MODELS=str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path}/linked/model.yaml: can't be read" in done.stderr


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


def test_training_prints_what_came_of_it_and_no_line_of_a_library(tmp_path: Path) -> None:
    models.write(tmp_path / "models", "sales")
    done = esteira(
        "train", "sales", "--as-of", "2026-01-31", ESTEIRA_MODELS=str(tmp_path / "models"), ESTEIRA_HOME=str(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("version 1 is the champion from 2026-02-01 on: ")
    assert len(done.stdout.splitlines()) == 1
    assert without_progress(done.stderr) == ""


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["train", "sales", "--as-of", "0001-01-01"], "is too early; give a day from 1900-01-01 on"),
        (["train", "sales", "--as-of", "soon"], "a day is written YYYY-MM-DD"),
        (
            ["train", "sales", "--as-of", "2026-01-31", "--window", "99999999999"],
            "Input should be less than or equal to 36500",
        ),
        (
            ["score", "sales", "--day", "2026-02-01", "--version", str(10**30)],
            "Input should be less than or equal to 2147483647",
        ),
        (["score", "sales", "--day", "2026-02-02", "--last-day", "2026-02-01"], "is before --day 2026-02-02"),
        (["score", "sales", "--day", "2199-01-01"], "is in the future; give a day that has ended"),
        (
            ["replay", "sales", "--from", "2026-02-01", "--to", "2026-02-02", "--every", "fortnight"],
            "a span is month, week",
        ),
        (["limits", "sales", "--as-of", "2026-01-31", "--factor", "inf"], "should be less than or equal to 100"),
    ],
)
def test_what_can_not_be_is_a_sentence(tmp_path: Path, asked: list[str], says: str) -> None:
    models.write(tmp_path, "sales")
    done = esteira(*asked, ESTEIRA_MODELS=str(tmp_path), ESTEIRA_HOME=str(tmp_path / "home"))
    assert done.returncode == 2
    assert says in " ".join(re.sub("[│╭╰─╮╯]", " ", done.stderr).split())
    assert "Traceback" not in done.stderr


def test_redirected_progress_has_a_line_every_thirty_seconds(monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    from esteira.cli import models as cli

    now = 1000.0
    monkeypatch.setattr(cli.time, "monotonic", lambda: now)
    lines = cli._Lines("replaying: {done} of {of} checks")
    for done in range(200):  # one check every second
        lines.show(done, 200)
        now += 1
    said = capsys.readouterr().out.splitlines()
    assert said == [f"replaying: {done} of 200 checks" for done in (0, 30, 60, 90, 120, 150, 180)]
