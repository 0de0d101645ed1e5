"""A range longer than a month, run by Airflow itself (dag.test): months by themselves, and the rest when one has failed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from esteira import data, steps
from esteira.errors import DataError
from esteira.spec import ModelSpec
from esteira.store import lake, ledger

from tests import models
from tests.models import AS_OF, FIRST

pytestmark = pytest.mark.usefixtures("airflow_db")

LAST = date(2026, 4, 10)
SPANS = ["2026-02-01 to 2026-02-28", "2026-03-01 to 2026-03-31"]


@pytest.fixture
def spec(home: Path, tmp_path: Path) -> ModelSpec:
    """A model with a champion."""
    found = models.write(tmp_path / "models")
    steps.train(found, AS_OF, "t")
    return found


@pytest.fixture
def run(dag_bag, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the score DAG of a model; returns the run, with its tasks."""
    from esteira.dags import alerts

    monkeypatch.setattr(alerts, "deliver_now", lambda spec, mail: None)
    nap = time.sleep

    def run(spec: ModelSpec, **conf: object) -> Any:
        dag = dag_bag(spec.folder.parent).dags[f"{spec.name}_score"]
        dag.deadline = None  # with one, DAG.test of Airflow 3.3 can't end a run; a live test has it
        for task in dag.tasks:
            task.retries = 0
        with warnings.catch_warnings(), monkeypatch.context() as patch:
            warnings.simplefilter("ignore")  # Airflow's own
            patch.setattr(time, "sleep", lambda seconds: nap(0.01))  # it sleeps a second wherever tasks are skipped
            return dag.test(run_conf={"check": False, **conf})

    return run


def states(ended: Any) -> dict[str, list[str]]:
    """The states of each task, of a mapped one in order."""
    found: dict[str, list[tuple[int, str]]] = {}
    for each in ended.get_task_instances():
        found.setdefault(each.task_id, []).append((each.map_index, str(each.state)))
    return {name: [state for _, state in sorted(mapped)] for name, mapped in found.items()}


def scored(spec: ModelSpec) -> pd.DataFrame:
    names = ["day", *spec.key]
    return (
        lake.read("predictions", spec.name)
        .drop(columns=["run", "load_seconds", "predict_seconds"])
        .sort_values(names, ignore_index=True)
    )


def test_a_long_range_comes_to_what_its_days_do_one_by_one(spec: ModelSpec, run) -> None:
    ended = run(spec, day=str(FIRST), last_day=str(LAST))
    done = ["success"] * 2
    assert states(ended) == {
        "score": ["success"],
        "earlier.score_span": done,
        "earlier.publish_span": done,
        "publish": ["success"],
    }
    named = [each.rendered_map_index for each in ended.get_task_instances() if each.task_id == "earlier.publish_span"]
    assert sorted(named) == SPANS
    by_range = scored(spec)
    assert len(by_range) == 72 * len(data.days(FIRST, LAST))
    for kind in ("predictions", "served", "features", "raw"):
        assert lake.days_of(kind, spec.name)[-1] == LAST
    assert len(lake.read("served", spec.name)) == len(by_range)
    for day in data.days(FIRST, LAST):
        steps.score_from_source(spec, [day], str(day))
    pd.testing.assert_frame_equal(by_range, scored(spec))


def test_a_day_has_no_tasks_for_months(spec: ModelSpec, run) -> None:
    ended = run(spec, day=str(FIRST))
    assert states(ended) == {
        "score": ["success"],
        "earlier.score_span": ["skipped"],
        "earlier.publish_span": ["skipped"],
        "publish": ["success"],
    }


def test_a_version_that_is_asked_for_is_that_of_the_whole_range(spec: ModelSpec, run) -> None:
    steps.train(spec, AS_OF, "another", window=21)
    run(spec, day=str(FIRST), last_day=str(LAST), version=2)
    assert set(lake.read("predictions", spec.name)["version"]) == {2}
    (pinned,) = (each for each in ledger.state(spec).numbered if each.state == "pinned")
    assert (pinned.day, pinned.version) == (FIRST, 2)
    run(spec, day=str(FIRST), last_day=str(LAST), champion=True)
    assert set(lake.read("predictions", spec.name)["version"]) == {ledger.require_champion(spec, LAST).version}


def test_months_that_fail_leave_the_others_done(spec: ModelSpec, run, monkeypatch: pytest.MonkeyPatch) -> None:
    real = data.batches

    def march_is_away(spec: ModelSpec, first: date, last: date, *share: Any) -> Any:
        if first.month == 3:
            raise DataError("the source has no March yet")
        return real(spec, first, last, *share)

    with monkeypatch.context() as patch:
        patch.setattr(data, "batches", march_is_away)
        ended = run(spec, day=str(FIRST), last_day=str(LAST))
    assert str(ended.state) == "failed"
    assert states(ended)["earlier.publish_span"] == ["success", "upstream_failed"]
    assert {each.month for each in lake.days_of("predictions", spec.name)} == {2}
    run(spec, day=str(FIRST), last_day=str(LAST))
    assert len(scored(spec)) == 72 * len(data.days(FIRST, LAST))


@pytest.mark.parametrize(
    ("shards", "first", "last", "lengths"),
    [
        (1, date(2026, 1, 15), date(2026, 2, 14), [31]),
        (1, date(2026, 1, 15), date(2026, 2, 15), [17, 15]),
        (1, date(2024, 1, 1), date(2024, 12, 31), [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]),
        (4, date(2026, 1, 15), date(2026, 1, 17), [1, 1, 1]),
    ],
)
def test_spans(tmp_path: Path, shards: int, first: date, last: date, lengths: list[int]) -> None:
    spec = models.write(tmp_path, yaml=models.YAML + f"score: {{{{shards: {shards}}}}}\n")
    found = steps.spans(spec, data.days(first, last))
    assert [len(span) for span in found] == lengths
    assert [day for span in found for day in span] == data.days(first, last)


def test_large_days_of_a_range_are_tasks_by_themselves(spec: ModelSpec, run) -> None:
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text() + "score: {shards: 2}\n")
    ended = run(spec, day=str(FIRST), last_day=str(FIRST + timedelta(days=2)))
    assert states(ended) == {
        "plan": ["success"],
        "spans": ["success"],
        "score": ["success"] * 2,
        "earlier.score_span": ["success"] * 2,
        "earlier.publish_span": ["success"] * 2,
        "publish": ["success"],
    }
    assert len(scored(spec)) == 72 * 3


def test_a_range_of_more_spans_than_airflow_maps_is_refused_in_words(
    spec: ModelSpec, run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "1")
    ended = run(spec, day=str(FIRST), last_day=str(LAST))
    assert str(ended.state) == "failed"
    assert "the range is 3 spans" in capsys.readouterr().out
    assert lake.count("predictions", spec.name, data.days(FIRST, LAST)) == 0
