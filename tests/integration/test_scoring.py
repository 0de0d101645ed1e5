"""Steps of `steps/scoring.py`, on real tables and a real registry."""

from __future__ import annotations

import json
from datetime import date, timedelta

import pandas as pd
import pytest
from esteira import data, steps
from esteira.errors import NoChampion, Unaccounted
from esteira.learning import predicting
from esteira.lifecycle.changes import Proposal
from esteira.spec import ModelSpec
from esteira.spec.sources import CsvSource
from esteira.spec.words import RESERVED_COLUMNS
from esteira.steps import champions, labelling, scoring
from esteira.steps.scoring import Request
from esteira.store import lake, runs

from tests.models import AS_OF, CHANGE, FIRST, score_days
from tests.worlds import lived


def test_score_writes_the_day_and_never_reads_the_target(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    seen: list[str] = []
    real = data.examine
    monkeypatch.setattr(
        data, "examine", lambda spec, rows, *how, **more: (seen.extend(rows.columns), real(spec, rows, *how, **more))[1]
    )
    score_days(spec, [FIRST])
    assert spec.target not in seen
    rows = lake.read("predictions", spec.name)
    assert len(rows) == 72
    assert set(rows["version"]) == {1}
    assert set(rows["run"]) == {"r"}
    assert rows["prediction"].notna().all()
    assert rows["trained_through"].iloc[0] == pd.Timestamp(runs.load_version(spec, 1).trained_through)
    assert not {spec.target, "label"} & set(rows.columns)


def test_the_columns_that_tables_get_of_ours_are_those_that_no_model_may_name(trained, monkeypatch) -> None:
    spec, real = trained(), data.read
    monkeypatch.setattr(
        data,
        "batches",
        lambda *asked: [real(*asked[:3]).assign(heat=lambda rows: rows["heat"].mask(rows.index < 3, 99))],
    )
    score_days(spec, [FIRST])
    labelling.store(spec, FIRST, FIRST + timedelta(days=1))
    tables = ("raw", "quarantine", "features", "predictions", "served", "labels")
    written = {name for table in tables for name in lake.columns(table, spec.name)}
    given = {*spec.source_columns, spec.target, "day"}  # a source's time may be called day
    assert written - given == RESERVED_COLUMNS


def test_a_day_before_the_first_promotion_is_refused(trained) -> None:
    spec = trained()
    with pytest.raises(NoChampion, match=f"no champion for {AS_OF}: the first serves from {FIRST}"):
        score_days(spec, [AS_OF])
    score_days(spec, [AS_OF], version=1)
    assert len(lake.read("predictions", spec.name, day=AS_OF)) == 72


def test_bad_rows_go_to_quarantine_and_nothing_is_lost(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    real = data.read

    def spoilt(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        rows.loc[rows.index[:3], "heat"] = 99.0
        rows.loc[rows.index[3], "site"] = "Z"
        return rows

    monkeypatch.setattr(data, "batches", lambda *asked: [spoilt(*asked[:3])])
    score_days(spec, [FIRST])
    bad = lake.read("quarantine", spec.name)
    assert sorted(bad["rule"]) == ["in", "max", "max", "max"]
    assert json.loads(bad["row"].iloc[0])["heat"] is not None
    assert len(bad) + len(lake.read("predictions", spec.name)) == len(lake.read("raw", spec.name, day=FIRST)) == 72
    monkeypatch.setattr(data, "batches", lambda *asked: [real(*asked[:3])])
    score_days(spec, [FIRST])
    assert lake.read("quarantine", spec.name).empty


def test_scoring_again_replaces_predictions_and_leaves_what_was_served(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=20), "t2", promoted=False)
    score_days(spec, [FIRST], run="first")
    score_days(spec, [FIRST], run="second", version=2)
    assert set(lake.read("predictions", spec.name)["version"]) == {2}
    assert set(lake.read("served", spec.name)["version"]) == {1}
    assert set(lake.read("served", spec.name)["run"]) == {"first"}


def test_what_was_served_never_changes(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST], run="first")
    monkeypatch.setattr(
        predicting,
        "predict",
        lambda spec, model, frame: pd.DataFrame({"prediction": 7.0, "probability": float("nan")}, index=frame.index),
    )
    score_days(spec, [FIRST], run="first")
    assert set(lake.read("predictions", spec.name)["prediction"]) == {7.0}
    assert 7.0 not in set(lake.read("served", spec.name)["prediction"])


def test_each_day_of_a_range_is_scored_by_its_own_champion(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    champions.promote(spec, Proposal(2, AS_OF + timedelta(days=3), measured=1, why="test", by="test"))
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=5)))
    by_day = lake.read("predictions", spec.name).groupby("day")["version"].unique().map(list)
    assert list(by_day) == [[1]] * 3 + [[2]] * 3


def test_a_day_that_is_scored_beside_a_promotion_is_of_the_new_champion(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    tomorrow = day + timedelta(days=1)
    steps.extract(spec, [tomorrow])
    steps.features(spec, [tomorrow])
    steps.score(spec, [tomorrow], "tomorrow")
    promoted = steps.check(spec, day, keep_notebook=False).promoted
    steps.publish(spec, [tomorrow], "tomorrow")
    for table in ("predictions", "served"):
        assert set(lake.read(table, spec.name, day=tomorrow)["version"]) == {promoted}  # type: ignore[arg-type]


def test_predictions_are_read_back_with_their_times(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    rows = lake.read("predictions", spec.name)
    assert (rows["predict_seconds"] > 0).all()
    assert scoring.publish(spec, [FIRST], "r") == 72
    assert scoring.publish(spec, [FIRST], "another run") == 0


def test_a_rescored_row_says_which_version_it_replaces(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    assert lake.read("predictions", spec.name)["replaces"].isna().all()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    for _ in range(2):  # a retry replaces what the version before it had made, not itself
        steps.score(spec, [FIRST], "again", Request(2))
        rows = lake.read("predictions", spec.name)
        assert (set(rows["version"]), set(rows["replaces"])) == ({2}, {1.0})
    assert "replaces" not in lake.columns("served", spec.name)


def test_requeue_adds_what_was_mended_and_touches_nothing_served(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    real = data.read

    def spoilt(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        rows.loc[rows.index[:3], "heat"] = 99.0
        return rows

    monkeypatch.setattr(data, "batches", lambda *asked: [spoilt(*asked[:3])])
    score_days(spec, [FIRST])
    assert steps.accounted(spec, [FIRST]) == "72 rows read = 69 published + 3 in quarantine"
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    steps.score(spec, [FIRST], "rescored", Request(2))
    monkeypatch.setattr(data, "batches", lambda *asked: [real(*asked[:3])])
    said = steps.requeue(spec, [FIRST], "requeued")
    assert said == "72 rows read = 72 published + 0 in quarantine"
    assert set(lake.read("predictions", spec.name)["version"]) == {2}  # a re-scored day stays re-scored
    served = lake.read("served", spec.name)
    assert served["version"].value_counts().to_dict() == {1: 69, 2: 3}
    steps.requeue(spec, [FIRST], "again")
    pd.testing.assert_frame_equal(lake.read("served", spec.name), served)


def test_rows_that_went_missing_are_noticed(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    lake.replace_days("predictions", spec.name, lake.read("predictions", spec.name).head(70), [FIRST])
    with pytest.raises(Unaccounted, match=r"72 rows read = 70 published \+ 0 in quarantine does not add up"):
        steps.publish(spec, [FIRST], "r")


def test_a_row_without_a_time_is_in_quarantine_once(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    given = trained()
    spec = given.model_copy(update={"source": CsvSource(kind="csv", path="all.csv")})
    real = data.read

    def timeless(_: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(given, first, last)
        lost = {"site": "A", "hour": 1, "heat": 20.0, "open": True, "amount": 1.0, "day": pd.Timestamp(first)}
        return pd.concat([rows, pd.DataFrame([lost]).astype({"day": rows["day"].dtype})], ignore_index=True)

    monkeypatch.setattr(data, "batches", lambda *asked: [timeless(*asked[:3])])
    for _ in range(2):
        score_days(spec, [FIRST])
        assert steps.accounted(spec, [FIRST]) == "73 rows read = 72 published + 1 in quarantine"
    score_days(spec, [FIRST + timedelta(days=1)])  # the source, one file of all days, gives the row again
    assert steps.accounted(spec, [FIRST + timedelta(days=1)]) == "72 rows read = 72 published + 0 in quarantine"
    assert list(lake.read("quarantine", spec.name)["rule"]) == ["time"]


def test_what_another_run_scored_in_between_is_served_all_the_same(trained) -> None:
    spec = trained()
    steps.extract(spec, [FIRST])
    steps.features(spec, [FIRST])
    steps.score(spec, [FIRST], "mine")
    steps.score(spec, [FIRST], "another's")
    assert steps.publish(spec, [FIRST], "mine") == 0
    assert set(lake.read("served", spec.name)["run"]) == {"another's"}
    assert steps.publish(spec, [FIRST], "another's") == 72
    assert len(lake.read("served", spec.name)) == 72
