"""What docs/security.md says, line by line, where no other test has it."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps
from esteira.errors import SpecError
from esteira.notify import messages, rendering
from esteira.spec import ModelSpec, find, load
from esteira.store import lake, mlflow_tracking, runs

from tests import models
from tests.models import AS_OF, FIRST, score_days

SECRET = "hunter2-is-not-shown"
NASTY = ["x'; DROP TABLE predictions; --", '" OR 1=1', "../../../etc/passwd", "=cmd|'/c calc'!A1", "a\nb", "é\u202e"]


@pytest.mark.parametrize("name", ["../evil", "a/b", "A", "a'b", "a b", ".", "a\\nb"])
def test_a_name_is_no_path_and_no_condition(tmp_path: Path, name: str) -> None:
    place = tmp_path / "sales"
    models.write(tmp_path)
    text = (place / "model.yaml").read_text().replace("name: sales", f"name: {json.dumps(name)}")
    (place / "model.yaml").write_text(text)
    with pytest.raises(SpecError, match="name: got"):
        load(place / "model.yaml")


@pytest.mark.parametrize("name", ["../sales", "/etc", "sales' OR '1'='1"])
def test_a_model_that_is_asked_for_by_a_path_is_not_found(tmp_path: Path, monkeypatch, name: str) -> None:
    models.write(tmp_path)
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path))
    with pytest.raises(SpecError, match="no model"):
        find(name)


@pytest.mark.parametrize("column", ["at'; --", "a`b", 'a"b', "a;b", "../at", "a\\nb"])
def test_a_column_is_no_condition(tmp_path: Path, column: str) -> None:
    with pytest.raises(SpecError, match="a column starts with a letter"):
        models.write(tmp_path, yaml=models.YAML.replace("numeric: [hour", f"numeric: [{json.dumps(column)}, hour"))


def test_keys_and_categories_are_data_whatever_they_spell(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = models.YAML.replace("site: {{in: [A, B, C]}}, ", "")
    spec = models.write(tmp_path / "models", yaml=yaml)
    steps.train(spec, AS_OF, "t")
    real = data.read

    def spoilt(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        rows.loc[rows.index[: len(NASTY)], "site"] = NASTY
        return rows

    monkeypatch.setattr(data, "batches", lambda *asked: [spoilt(*asked[:3])])
    for _ in range(2):
        score_days(spec, [FIRST], run="it's; a run")
    assert steps.accounted(spec, [FIRST]) == "72 rows read = 72 published + 0 in quarantine"
    for kind in ("predictions", "served", "features"):
        assert set(NASTY) <= set(lake.read(kind, spec.name, day=FIRST)["site"])
    assert len(lake.read("predictions", spec.name, day=FIRST, run="it's; a run")) == 72


def test_a_secret_stays_where_it_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The address of a database is in no log, no error, no run of MLflow and no DAG that Airflow keeps."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("DB_URL", f"sqlite:////nowhere/{SECRET}/sales.db")
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    query = "select * from sales where at between :first and :last"
    source = f'source: {{{{kind: sql, url: "${{{{DB_URL}}}}", query: "{query}"}}}}'
    spec = models.write(
        tmp_path / "models", yaml=models.YAML.replace("source: {{kind: python, function: source.read}}", source)
    )
    with pytest.raises(Exception, match="unable to open database file") as failed:
        steps.train(spec, AS_OF, "t")
    said = "".join(traceback.format_exception(failed.value))
    mail = rendering.message(messages.failure(spec, "extract", "run", None, failed.value, ""), "a@b").as_string()
    with runs.tracked(spec, "k", "n", kind="x") as run_id:
        pass
    kept = json.dumps(mlflow_tracking.client().get_run(run_id).to_dictionary())
    for text in (said, mail, kept, caplog.text, repr(spec), spec.model_dump_json()):
        assert SECRET not in text
    assert SECRET in spec.source.url.get_secret_value()  # type: ignore[union-attr]


def test_a_dag_that_airflow_keeps_holds_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.serialization.serialized_objects import DagSerialization
    from esteira.dags import building

    monkeypatch.setenv("DB_URL", f"sqlite:///{SECRET}")
    source = 'source: {{kind: sql, url: "${{DB_URL}}", query: "select :first, :last"}}'
    yaml = models.YAML.replace("source: {{kind: python, function: source.read}}", source)
    spec = models.write(tmp_path, yaml=yaml)
    for build in building.BUILDERS.values():
        kept = json.dumps(DagSerialization.to_dict(build(spec)), default=str)
        assert "sales" in kept
        assert SECRET not in kept
