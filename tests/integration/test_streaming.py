"""A day in batches and in shards comes to what it comes to as a whole, and nobody sees a part of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from esteira import data, steps
from esteira.data.sources import parquet, reading, sql
from esteira.errors import DataError, NoChampion
from esteira.lifecycle.changes import Proposal
from esteira.spec import ModelSpec, load
from esteira.steps import champions, ingest, maintenance, staging, streaming
from esteira.steps.scoring import Request
from esteira.store import handover, lake
from sqlalchemy import create_engine

from tests import models, worlds
from tests.conftest import use_object_store
from tests.models import AS_OF

DAY = AS_OF + timedelta(days=1)
ROWS = 900
TABLES = ("raw", "quarantine", "features", "predictions", "served")


@pytest.fixture(autouse=True)
def few_rows_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 100 rows."""
    for module in (reading, parquet, lake):
        monkeypatch.setattr(module, "BATCH", 100)
    monkeypatch.setattr(ingest, "MANY", 50)


def day_of_rows(day=DAY, seed: int = 0) -> pd.DataFrame:
    """A day's rows as a source has them, more than a batch holds."""
    draw = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "site": draw.choice(["A", "B", "C"], ROWS),
            "at": pd.Timestamp(day) + pd.to_timedelta(np.arange(ROWS) * 90, unit="s"),
            "hour": (np.arange(ROWS) * 90 // 3600).astype("int64"),
            "heat": draw.normal(20, 5, ROWS).round(3),
            "open": draw.random(ROWS) < 0.7,
            "amount": draw.normal(50, 5, ROWS),
        }
    )


@pytest.fixture
def given(trained: Callable[..., ModelSpec]) -> Callable[..., ModelSpec]:
    """A trained model whose source is a parquet file of row groups of 100 rows, with the rows given."""

    def make(rows: pd.DataFrame, more: str = "") -> ModelSpec:
        spec = trained()
        rows.to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
        yaml = spec.folder / "model.yaml"
        yaml.write_text(
            yaml.read_text().replace(
                "source: {kind: python, function: source.read}", "source: {kind: parquet, path: '{day}.parquet'}"
            )
            + more
        )
        return load(yaml)

    return make


def tables(spec: ModelSpec) -> dict[str, pd.DataFrame]:
    """What the day's tables have, but for the clocks."""
    found = {}
    for kind in TABLES:
        rows = lake.read(kind, spec.name, day=DAY)  # type: ignore[arg-type]
        rows = rows.drop(columns=[*worlds.CLOCKS, "run"], errors="ignore")
        if "row" in rows:
            rows["row"] = rows["row"].str.replace(r',?"read_at":"[^"]*"', "", regex=True)
        found[kind] = rows.sort_values(list(rows.columns), ignore_index=True)
    return found


def spoilt(rows: pd.DataFrame) -> pd.DataFrame:
    """With a row of each kind that is bad, early and late in the day, and keys that are there twice, near and far."""
    rows = rows.copy()
    rows.loc[[5, 805], "heat"] = 99.0
    rows.loc[[7, 707], "site"] = "Z"
    rows.loc[[300], "at"] = pd.NaT
    twice = rows.loc[[10, 11, 620]].assign(heat=1.0)
    bad_first = rows.loc[[5]].assign(heat=2.0)  # its other one is bad, so this one is not the second
    return pd.concat([rows.head(20), twice, rows.iloc[20:], rows.loc[[12]].assign(heat=3.0), bad_first])


def whole(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> dict[str, pd.DataFrame]:
    """The day as it comes out where it is looked at all at once, and its tables as they were before."""
    with monkeypatch.context() as patch:
        for module in (reading, parquet, lake):
            patch.setattr(module, "BATCH", 10**6)
        steps.score_from_source(spec, [DAY], "whole")
    found = tables(spec)
    for kind in TABLES:
        lake.replace_days(kind, spec.name, pd.DataFrame(), [DAY])
    return found


@pytest.mark.parametrize("change", [lambda rows: rows, spoilt])
@pytest.mark.parametrize("shards", [1, 3])
def test_batches_and_shards_come_to_the_same_as_the_whole(
    given, monkeypatch: pytest.MonkeyPatch, change: Callable[[pd.DataFrame], pd.DataFrame], shards: int
) -> None:
    spec = given(change(day_of_rows()), "quality: {max_quarantined: 0.5}\n")
    wanted = whole(spec, monkeypatch)
    for number in range(shards):
        steps.leave(spec, [DAY], "run", data.Share(number, shards))
        assert lake.count("predictions", spec.name, [DAY]) == 0, "nobody sees a part"
    said = steps.publish_left(spec, [DAY], "run", shards)
    found = tables(spec)
    for kind in (kind for kind in TABLES if len(found[kind]) or len(wanted[kind])):
        # What a prediction replaces is not the same: the one of the whole was there before.
        pd.testing.assert_frame_equal(
            found[kind].drop(columns="replaces", errors="ignore"),
            wanted[kind].drop(columns="replaces", errors="ignore"),
            obj=kind,
        )
    assert said == steps.accounted(spec, [DAY])
    assert len(found["quarantine"]) == (9 if change is spoilt else 0)


def test_publishing_again_changes_nothing(given) -> None:
    spec = given(day_of_rows())
    for number in range(2):
        steps.leave(spec, [DAY], "run", data.Share(number, 2))
    left = [streaming._left(spec, [DAY], "run", number, 2) for number in range(2)]
    said = streaming.publish(spec, [DAY], "run", left)  # type: ignore[arg-type]
    before = {kind: lake.version(kind, spec.name) for kind in TABLES}  # type: ignore[arg-type]
    assert streaming.publish(spec, [DAY], "run", left) == said  # type: ignore[arg-type]
    assert steps.publish_left(spec, [DAY], "run", 2) == said
    assert {kind: lake.version(kind, spec.name) for kind in TABLES} == before  # type: ignore[arg-type]
    assert handover.found(spec.name, "run", f"{DAY}.0-of-2.json") is None
    assert steps.publish_left(spec, [DAY], "run", 2) == said, "all was taken, and is there"


def test_two_tries_of_a_publish_at_once_are_both_well(given, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that Airflow takes for dead may publish, and remove what was left, while the next one reads it."""
    spec = given(day_of_rows())
    for number in range(2):
        steps.leave(spec, [DAY], "run", data.Share(number, 2))
    real, said = streaming._left, []

    def left(spec: ModelSpec, days: list[date], run: str, number: int, of: int) -> object:
        if number == 1 and not said:
            said.append("")
            said[0] = steps.publish_left(spec, [DAY], "run", 2)
        return real(spec, days, run, number, of)

    monkeypatch.setattr(streaming, "_left", left)
    assert steps.publish_left(spec, [DAY], "run", 2) == said[0]


def test_what_is_left_for_a_publish_that_never_comes_is_removed(given, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.ALL)
    maintenance.maintain(spec)
    assert handover.found(spec.name, "run", f"{DAY}.0-of-1.json") is not None
    later = datetime.now(UTC) + timedelta(days=8)
    monkeypatch.setattr(lake, "clock", lambda: later)
    maintenance.maintain(spec)
    assert handover.found(spec.name, "run", f"{DAY}.0-of-1.json") is None


def test_a_share_that_is_gone_is_read_again(given, caplog) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.Share(0, 2))
    assert steps.publish_left(spec, [DAY], "run", 2) == "900 rows read = 900 published + 0 in quarantine"
    assert "1 of 2 shares that were left of 2026-02-01 are there; it is read again as a whole" in caplog.text


def test_shares_of_another_number_are_not_taken_for_those_of_this(given) -> None:
    """Where model.yaml's shards were changed, and the tasks cleared one by one."""
    spec = given(day_of_rows())
    for number in range(3):
        steps.leave(spec, [DAY], "run", data.Share(number, 3))
    assert steps.publish_left(spec, [DAY], "run", 2) == "900 rows read = 900 published + 0 in quarantine"


def mended(spec: ModelSpec) -> None:
    day_of_rows().to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)


@pytest.mark.parametrize("shares", [1, 2])
def test_what_another_run_has_read_since_is_not_overwritten(given, shares: int) -> None:
    spec = given(day_of_rows().assign(heat=0.0))
    for number in range(shares):
        steps.leave(spec, [DAY], "old", data.Share(number, shares))
    mended(spec)
    steps.requeue(spec, [DAY], "new")
    wanted = tables(spec)
    steps.publish_left(spec, [DAY], "old", shares)
    for kind, rows in tables(spec).items():
        pd.testing.assert_frame_equal(rows, wanted[kind], obj=kind)


def test_two_runs_of_a_day_whose_steps_meet_leave_one_reading(given, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one comes whole when this one has published its raw rows: all tables are of what it has read."""
    spec = given(day_of_rows().assign(heat=0.0))
    steps.leave(spec, [DAY], "old", data.ALL)
    wanted: list[dict[str, pd.DataFrame]] = []
    real = streaming.quality.require_fit

    def meanwhile(spec: ModelSpec, days: list[date]) -> None:
        monkeypatch.setattr(streaming.quality, "require_fit", real)
        mended(spec)
        steps.requeue(spec, [DAY], "new")
        wanted.append(tables(spec))
        real(spec, days)

    monkeypatch.setattr(streaming.quality, "require_fit", meanwhile)
    steps.publish_left(spec, [DAY], "old", 1)
    for kind, rows in tables(spec).items():
        pd.testing.assert_frame_equal(rows, wanted[0][kind], obj=kind)


@pytest.mark.parametrize("moment", ["quarantine", "raw"])
def test_another_run_between_two_tables_of_a_reading_leaves_one_reading(
    given, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Of two readings with the same number of bad rows no count tells that the tables are not of one."""
    rows = day_of_rows()
    spec = given(rows.assign(heat=rows["heat"].mask(rows.index == 5, 99.0)))
    steps.leave(spec, [DAY], "old", data.ALL)
    real = lake.publish

    def meanwhile(kind: lake.Kind, *args: Any, **options: Any) -> int:
        if kind == moment:
            monkeypatch.setattr(lake, "publish", real)
            others = rows.assign(heat=rows["heat"].mask(rows.index == 9, 99.0))
            others.to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
            steps.requeue(spec, [DAY], "new")
        return real(kind, *args, **options)

    monkeypatch.setattr(lake, "publish", meanwhile)
    assert steps.publish_left(spec, [DAY], "old", 1) == "900 rows read = 899 published + 1 in quarantine"
    (bad,) = lake.read("quarantine", spec.name, day=DAY)["row"]
    assert json.loads(bad)["hour"] == rows["hour"][9]
    assert set(lake.read("predictions", spec.name, day=DAY)["at"]) == set(rows["at"].drop(9))


def test_a_bad_reading_that_another_has_replaced_leaves_nothing_and_refuses_nothing(
    given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on with its bad rows when the source was mended, and another run has read that."""
    spec = given(day_of_rows().assign(heat=99.0), "quality: {max_quarantined: 0}\n")
    steps.leave(spec, [DAY], "old", data.ALL)
    real = lake.publish

    def meanwhile(kind: lake.Kind, *args: Any, **options: Any) -> int:
        if kind == "quarantine":
            monkeypatch.setattr(lake, "publish", real)
            mended(spec)
            steps.requeue(spec, [DAY], "new")
        return real(kind, *args, **options)

    monkeypatch.setattr(lake, "publish", meanwhile)
    assert steps.publish_left(spec, [DAY], "old", 1) == "900 rows read = 900 published + 0 in quarantine"
    assert lake.read("quarantine", spec.name, day=DAY).empty


@pytest.mark.parametrize("end", ["killed", "refused"])
def test_a_publish_run_again_after_another_run_has_left_its_raw_rows_reads_again(
    given, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Both readings have the same number of rows, so that no count tells them apart."""
    spec = given(day_of_rows().assign(heat=1.0))
    steps.leave(spec, [DAY], "run", data.ALL)
    steps.publish_left(spec, [DAY], "run", 1)
    mended(spec)
    error = KeyboardInterrupt if end == "killed" else DataError("not fit")

    def ends(*_: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(streaming.quality, "require_fit", ends)
        with pytest.raises((KeyboardInterrupt, DataError)):
            steps.requeue(spec, [DAY], "other")
    steps.publish_left(spec, [DAY], "run", 1)
    for kind in ("raw", "features"):
        assert sorted(lake.read(kind, spec.name, day=DAY)["heat"]) == sorted(day_of_rows()["heat"]), kind


def test_late_rows_that_their_own_day_reads_meanwhile_are_not_put_aside(given, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, following = given(day_of_rows().iloc[:800]), DAY + timedelta(days=1)
    rows = pd.concat([day_of_rows().iloc[800:], day_of_rows(following)])
    rows.to_parquet(spec.folder / f"{following}.parquet", row_group_size=100, index=False)
    real = ingest._put

    def meanwhile(*args: Any, **of: str) -> None:
        monkeypatch.setattr(ingest, "_put", real)
        steps.score_from_source(spec, [DAY], "first")
        real(*args, **of)

    monkeypatch.setattr(ingest, "_put", meanwhile)
    steps.score_from_source(spec, [following], "second")
    assert len(lake.read("raw", spec.name, day=DAY)) == 900
    assert lake.read("quarantine", spec.name, day=DAY).empty


def test_late_rows_of_a_day_whose_follower_has_none_of_its_own_are_of_that_day(given) -> None:
    spec = given(day_of_rows())
    days = [DAY + timedelta(days=number) for number in range(3)]
    for day in days[1:]:
        day_of_rows(day, 1).head(50).to_parquet(spec.folder / f"{day}.parquet", index=False)
    ingest.extract(spec, days)
    late = day_of_rows(seed=5).head(5).assign(at=lambda rows: rows["at"] + pd.Timedelta(seconds=1))
    late.to_parquet(spec.folder / f"{days[1]}.parquet", index=False)
    ingest.extract(spec, days[1:], "keep")
    assert set(lake.read("quarantine", spec.name)["day"].dt.date) == {DAY}


def test_rows_without_a_time_stay_in_quarantine_while_two_runs_read_them(
    given, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = DAY + timedelta(days=1)
    every = pd.concat([day_of_rows(day, seed).head(60) for seed, day in enumerate((DAY, following))])
    spec = given(every)
    pd.concat([every, every.head(3).assign(at=pd.NaT)]).to_parquet(spec.folder / "all.parquet", index=False)
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("{day}.parquet", "all.parquet"))
    spec = load(yaml)
    for day in (DAY, following):
        steps.leave(spec, [day], "run", data.ALL)
    steps.publish_left(spec, [DAY], "run", 1)
    real = ingest._leave_once

    def meanwhile(*args: Any) -> None:
        monkeypatch.setattr(ingest, "_leave_once", real)
        steps.leave(spec, [DAY], "again", data.ALL)
        real(*args)

    monkeypatch.setattr(ingest, "_leave_once", meanwhile)
    steps.publish_left(spec, [following], "run", 1)
    steps.publish_left(spec, [DAY], "again", 1)
    assert list(lake.read("quarantine", spec.name)["day"].dt.date) == [DAY] * 3


def test_what_is_read_again_is_looked_at_as_what_was_read_first(given, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is read again the source is mended, and another run reads and publishes it."""
    spec = given(day_of_rows().assign(heat=1.0))
    steps.leave(spec, [DAY], "old", data.ALL)
    day_of_rows().assign(heat=2.0).to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
    steps.requeue(spec, [DAY], "new")
    real = streaming.stage

    def meanwhile(*args: Any) -> staging.Staged:
        found = real(*args)
        monkeypatch.setattr(streaming, "stage", real)
        mended(spec)
        steps.requeue(spec, [DAY], "newest")
        return found

    monkeypatch.setattr(streaming, "stage", meanwhile)
    steps.publish_left(spec, [DAY], "old", 1)
    assert sorted(lake.read("features", spec.name, day=DAY)["heat"]) == sorted(day_of_rows()["heat"])


def test_a_day_that_another_run_has_found_empty_since_is_read_again(given) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "old", data.ALL)
    day_of_rows().head(0).to_parquet(spec.folder / f"{DAY}.parquet")
    steps.score_from_source(spec, [DAY], "new")
    assert steps.publish_left(spec, [DAY], "old", 1) == "0 rows read = 0 published + 0 in quarantine"


def test_rows_that_come_with_the_next_day_while_a_day_is_not_published_yet_are_read(given) -> None:
    spec, following = given(day_of_rows().iloc[:800]), DAY + timedelta(days=1)
    steps.leave(spec, [DAY], "first", data.ALL)
    rows = pd.concat([day_of_rows().iloc[800:], day_of_rows(following)])
    rows.to_parquet(spec.folder / f"{following}.parquet", row_group_size=100, index=False)
    steps.score_from_source(spec, [following], "second")
    told = lake.read("quarantine", spec.name, day=DAY)
    assert set(told["reason"]) == {f"came in the file of {following}; the run of {DAY} reads it"}
    assert steps.publish_left(spec, [DAY], "first", 1) == "900 rows read = 900 published + 0 in quarantine"
    assert lake.read("quarantine", spec.name, day=DAY).empty


def test_rows_of_days_before_all_that_was_ever_read_are_nobodys(given) -> None:
    spec = given(day_of_rows())
    first = min(lake.days_of("raw", spec.name))
    rows = day_of_rows(first - timedelta(days=1), seed=3).head(5)
    pd.concat([rows, day_of_rows(first)]).to_parquet(spec.folder / f"{first}.parquet", index=False)
    ingest.extract(spec, [first])
    assert lake.read("quarantine", spec.name, day=first - timedelta(days=1)).empty


@pytest.mark.parametrize(
    ("name", "is_size_kept"),
    [*((name, False) for name in (*staging.NAMES, "raw", "predictions")), ("raw", True), ("served", True)],
)
def test_what_a_machine_that_stopped_has_left_in_part_is_read_again(given, name: str, is_size_kept: bool) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.ALL)
    files = (
        Path(lake.root(), "handover").rglob(f"*.{name}")
        if name in staging.NAMES
        else Path(lake.path(name, spec.name)).glob(f"day={DAY}/*.parquet")  # type: ignore[arg-type]
    )
    for file in files:
        size = file.stat().st_size
        file.write_bytes(
            b"\0" * size if file.suffix == ".parquet" and is_size_kept else file.read_bytes()[:20] or b"PAR1"
        )
    assert steps.publish_left(spec, [DAY], "run", 1) == "900 rows read = 900 published + 0 in quarantine"
    assert len(lake.read("raw", spec.name, day=DAY)) == 900


def test_what_is_replaced_is_what_stands_there_when_it_is_published(given) -> None:
    spec = given(day_of_rows())
    other = models.write(spec.folder.parent / "other", spec.name)  # with a source that has days to train on
    steps.train(other, AS_OF - timedelta(days=1), "t2", promoted=False)
    steps.leave(spec, [DAY], "staged", data.ALL, Request(2))
    steps.score_from_source(spec, [DAY], "meanwhile")
    steps.publish_left(spec, [DAY], "staged", 1, Request(2))
    found = lake.read("predictions", spec.name, day=DAY)
    assert (set(found["version"]), set(found["replaces"])) == ({2}, {1})


@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("is_first_read", [True, False])
def test_rows_that_come_a_day_late_are_told_by_the_next_day(given, shares: int, is_first_read: bool) -> None:
    """Also where the day before was read, and not published yet, when they were seen."""
    spec, following = given(day_of_rows()), DAY + timedelta(days=1)
    steps.leave(spec, [DAY], "first", data.ALL)
    if is_first_read:
        steps.publish_left(spec, [DAY], "first", 1)
    late = day_of_rows(seed=5).head(5).assign(at=lambda rows: rows["at"] + pd.Timedelta(seconds=1))
    rows = pd.concat([late, day_of_rows(following)])
    rows.to_parquet(spec.folder / f"{following}.parquet", row_group_size=100, index=False)
    for number in range(shares):
        steps.leave(spec, [following], "second", data.Share(number, shares))
    if not is_first_read:
        steps.publish_left(spec, [DAY], "first", 1)
    steps.publish_left(spec, [following], "second", shares)
    told = lake.read("quarantine", spec.name, day=DAY)
    assert list(told["stage"]) == ["late"] * 5


def test_a_run_whose_day_another_one_has_spoilt_reads_it_again(given) -> None:
    spec = given(day_of_rows(), "quality: {max_quarantined: 0}\n")
    steps.leave(spec, [DAY], "run", data.ALL)
    said = steps.publish_left(spec, [DAY], "run", 1)
    day_of_rows().assign(heat=99.0).to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
    with pytest.raises(DataError, match="max_quarantined"):
        steps.requeue(spec, [DAY], "other")
    mended(spec)
    assert steps.publish_left(spec, [DAY], "run", 1) == said


def test_a_day_that_was_refused_is_read_again_when_its_task_is_cleared(given) -> None:
    spec = given(day_of_rows().assign(heat=99.0), "quality: {max_quarantined: 0}\n")
    steps.leave(spec, [DAY], "run", data.ALL)
    with pytest.raises(DataError, match="max_quarantined"):
        steps.publish_left(spec, [DAY], "run", 1)
    with pytest.raises(DataError, match="max_quarantined"):
        steps.publish_left(spec, [DAY], "run", 1)
    mended(spec)
    assert steps.publish_left(spec, [DAY], "run", 1) == "900 rows read = 900 published + 0 in quarantine"
    assert steps.publish_left(spec, [DAY], "run", 1) == "900 rows read = 900 published + 0 in quarantine"


@pytest.mark.parametrize("kind", ["raw", "predictions"])
def test_what_maintenance_has_removed_is_read_again(given, kind: lake.Kind) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.ALL)
    for path in Path(lake.path(kind, spec.name)).glob(f"day={DAY}/*.parquet"):
        path.unlink()
    assert steps.publish_left(spec, [DAY], "run", 1) == "900 rows read = 900 published + 0 in quarantine"
    assert len(lake.read(kind, spec.name, day=DAY)) == 900


def test_of_a_run_that_goes_on_what_is_old_is_removed(given) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.Share(0, 2))
    kept = [path for path in Path(lake.root(), "handover").rglob("*") if path.is_file()]
    for path in kept:
        os.utime(path, (1, 1))
    steps.leave(spec, [DAY], "run", data.Share(1, 2))
    handover.remove_older(spec.name, datetime.now(UTC) - timedelta(days=7))
    left = {path.name for path in Path(lake.root(), "handover").rglob("*") if path.is_file()}
    assert left == {f"{DAY}.1-of-2.{name}" for name in staging.NAMES}


def test_a_source_that_changes_between_two_shares_is_read_again_as_a_whole(given, caplog) -> None:
    caplog.set_level("INFO")
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.Share(0, 2))
    rows = day_of_rows(seed=1).head(450)
    rows.to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
    steps.leave(spec, [DAY], "run", data.Share(1, 2))
    assert steps.publish_left(spec, [DAY], "run", 2) == "450 rows read = 450 published + 0 in quarantine"
    assert "can't be published as it is" in caplog.text


def test_a_source_that_is_replaced_while_a_share_reads_it_is_read_again(given, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at its state and the reading: else rows of two deliveries would pass for one."""
    spec = given(day_of_rows())
    new = day_of_rows(seed=1).assign(heat=30.0)
    steps.leave(spec, [DAY], "run", data.Share(0, 2))
    real = streaming._state

    def meanwhile(*args: Any) -> str:
        monkeypatch.setattr(streaming, "_state", real)
        found = real(*args)
        new.to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
        return found

    monkeypatch.setattr(streaming, "_state", meanwhile)
    steps.leave(spec, [DAY], "run", data.Share(1, 2))
    assert steps.publish_left(spec, [DAY], "run", 2) == "900 rows read = 900 published + 0 in quarantine"
    assert set(lake.read("raw", spec.name, day=DAY)["heat"]) == {30.0}


def test_a_key_in_two_shares_is_found_where_one_of_them_has_another_twice(given) -> None:
    rows = day_of_rows()
    rows.loc[250, ["site", "at"]] = rows.loc[10, ["site", "at"]]  # in the first share, in two of its batches
    rows.loc[350, ["site", "at"]] = rows.loc[20, ["site", "at"]]  # one in each
    spec = given(rows)
    for number in range(2):
        steps.leave(spec, [DAY], "run", data.Share(number, 2))
    assert steps.publish_left(spec, [DAY], "run", 2) == "900 rows read = 898 published + 2 in quarantine"
    served = lake.read("served", spec.name, day=DAY)
    assert not served.duplicated(["site", "at"]).any()


def test_keys_that_come_twice_in_a_second_answer_only_are_found(given) -> None:
    spec = given(day_of_rows())
    (spec.folder / "changing.py").write_text(
        f"""import pandas as pd
from pathlib import Path

def read(first, last):
    rows, place = pd.read_parquet('{spec.folder}/{DAY}.parquet'), Path('{spec.folder}/answers')
    answers = len(place.read_text()) if place.exists() else 0
    place.write_text('.' * (answers + 1))
    for number, twin in [(850, 5), *([(851, 6), (852, 7)] if answers else [])]:
        rows.loc[number, ['site', 'at']] = rows.loc[twin, ['site', 'at']]
    yield rows
"""
    )
    yaml = spec.folder / "model.yaml"
    yaml.write_text(
        yaml.read_text().replace("{kind: parquet, path: '{day}.parquet'}", "{kind: python, function: changing.read}")
    )
    said = steps.score_from_source(load(yaml), [DAY], "run")
    assert said == "900 rows read = 897 published + 3 in quarantine"


@pytest.mark.parametrize("step", [steps.validate, steps.features])
def test_what_a_training_makes_of_raw_rows_is_of_the_last_reading(
    given, step: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = given(spoilt(day_of_rows()))
    steps.extract(spec, [DAY])
    real = lake.publish

    def meanwhile(kind: lake.Kind, *args: Any, **options: Any) -> int:
        monkeypatch.setattr(lake, "publish", real)
        day_of_rows().head(400).to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
        steps.score_from_source(spec, [DAY], "run")
        return real(kind, *args, **options)

    monkeypatch.setattr(lake, "publish", meanwhile)
    step(spec, [DAY])
    assert steps.accounted(spec, [DAY]) == "400 rows read = 400 published + 0 in quarantine"
    assert len(lake.read("features", spec.name, day=DAY)) == 400


@pytest.mark.parametrize("other", ["summer", 3.5])
def test_days_that_meet_with_a_new_column_leave_one_type(given, monkeypatch: pytest.MonkeyPatch, other: object) -> None:
    following = DAY + timedelta(days=1)
    spec = given(day_of_rows())
    for day, value in ((DAY, 3), (following, other)):
        rows = day_of_rows(day).assign(promo=value)
        rows.to_parquet(spec.folder / f"{day}.parquet", row_group_size=100, index=False)
    (spec.folder / "features.py").write_text("def build(rows):\n    return rows\n")
    spec = load(spec.folder / "model.yaml")
    real = ingest.publish

    def meanwhile(*args: Any, **options: Any) -> int:
        monkeypatch.setattr(ingest, "publish", real)
        steps.score_from_source(spec, [DAY], "first")
        return real(*args, **options)

    monkeypatch.setattr(ingest, "publish", meanwhile)
    # as where one comes after the other
    refused = pytest.raises(DataError, match="'promo' is not a number") if other == "summer" else nullcontext()
    with refused:
        steps.score_from_source(spec, [following], "second")
    assert len(lake.read("raw", spec.name)) >= 900
    assert lake.types("raw", spec.name)["promo"] == "double"


def test_a_publish_that_is_taken_for_dead_removes_nothing_that_was_left_since(
    given, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.ALL)
    real = handover.leave

    def meanwhile(model: str, run: str, name: str, content: bytes) -> None:
        monkeypatch.setattr(handover, "leave", real)
        day_of_rows().assign(heat=30.0).to_parquet(spec.folder / f"{DAY}.parquet", row_group_size=100, index=False)
        steps.leave(spec, [DAY], "run", data.ALL)
        real(model, run, name, content)

    monkeypatch.setattr(handover, "leave", meanwhile)
    steps.publish_left(spec, [DAY], "run", 1)
    steps.publish_left(spec, [DAY], "run", 1)
    assert set(lake.read("raw", spec.name, day=DAY)["heat"]) == {30.0}


def test_a_change_of_champion_between_score_and_publish_is_seen(given) -> None:
    spec = given(day_of_rows())
    steps.leave(spec, [DAY], "run", data.ALL)
    other = models.write(spec.folder.parent / "other", spec.name)  # with a source that has days to train on
    steps.train(other, AS_OF - timedelta(days=1), "t2", promoted=False)
    champions.promote(spec, Proposal(2, AS_OF, measured=1, why="better", by="ana"))
    steps.publish_left(spec, [DAY], "run", 1)
    assert set(lake.read("predictions", spec.name, day=DAY)["version"]) == {2}
    assert set(lake.read("served", spec.name, day=DAY)["version"]) == {2}


def test_rows_that_are_their_own_features_are_written_once(given) -> None:
    rows = day_of_rows().astype({"hour": "float64", "open": "float64"})
    spec = given(rows)
    steps.score_from_source(spec, [DAY], "run")

    def inodes(kind: str) -> set[int]:
        return {path.stat().st_ino for path in Path(lake.path(kind, spec.name), f"day={DAY}").glob("*.parquet")}  # type: ignore[arg-type]

    assert inodes("features")
    assert inodes("features") <= inodes("raw")
    assert spec.target not in lake.columns("features", spec.name)
    assert spec.target not in lake.read("features", spec.name, day=DAY).columns


def test_a_day_without_a_champion_is_refused_before_it_is_read(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path / "models")
    with pytest.raises(NoChampion):
        steps.leave(spec, [DAY], "run", data.ALL)
    assert lake.version("raw", spec.name) < 0


def test_a_column_that_looks_like_numbers_at_first_is_text(given, monkeypatch: pytest.MonkeyPatch) -> None:
    """What its first rows suggest does not decide of what type a column is that nothing is known of."""
    rows = day_of_rows()
    rows["code"] = [str(number) if number < 500 else f"x{number}" for number in range(ROWS)]
    rows["late"] = [None] * 500 + [1.5] * 400
    spec = given(rows)
    spec.folder.joinpath("features.py").write_text("def build(rows):\n    return rows\n")
    spec = load(spec.folder / "model.yaml")
    steps.score_from_source(spec, [DAY], "run")
    kept = lake.read("raw", spec.name, day=DAY)
    assert set(kept["code"]) == set(rows["code"])
    assert kept["late"].notna().sum() == 400


def test_a_features_py_that_looks_at_other_rows_is_found_out(given) -> None:
    spec = given(day_of_rows())
    spec.folder.joinpath("features.py").write_text(
        "def build(rows):\n    return rows.assign(heat=rows['heat'].rank(pct=True))\n"
    )
    yaml = spec.folder / "model.yaml"
    assert "whole_day: true" in steps.preview(load(yaml), DAY)
    yaml.write_text(yaml.read_text().replace("features: {", "features: {whole_day: true, "))
    spec = load(yaml)
    assert "whole_day" not in steps.preview(spec, DAY)
    assert streaming.shares(spec.model_copy(update={"score": spec.score.model_copy(update={"shards": 4})}), [DAY]) == 1
    steps.score_from_source(spec, [DAY], "run")
    kept = lake.read("features", spec.name, day=DAY)
    assert kept["heat"].max() == 1.0
    assert kept["heat"].nunique() > 500, "ranks among all rows, not among those of a batch"


def test_of_several_days_features_py_gets_each_day_by_itself(given) -> None:
    """However their rows lie in the source, and whoever asks: a range's scoring, a day's, a training's."""
    days = [DAY + timedelta(days=number) for number in range(4)]
    rows = pd.concat([day_of_rows(day, seed).head(60) for seed, day in enumerate(days)])
    spec = given(rows)
    every = rows.sample(frac=1, random_state=1)
    every.to_parquet(spec.folder / "all.parquet", row_group_size=70, index=False)
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("{day}.parquet", "all.parquet"))
    spec.folder.joinpath("features.py").write_text("def build(rows):\n    return rows.assign(heat=float(len(rows)))\n")
    spec = load(yaml)

    def heats() -> dict[str, set[float]]:
        found = lake.read("features", spec.name, columns=["day", "heat"], day=(days[0], days[-1]))
        return {str(day.date()): set(of["heat"]) for day, of in found.groupby("day")}

    steps.score_from_source(spec, days, "range")
    assert heats() == {str(day): {60.0} for day in days}
    assert len(lake.read("predictions", spec.name, day=(days[0], days[-1]))) == 240
    ingest.ensure_features(spec, days)
    steps.features(spec, days)
    assert heats() == {str(day): {60.0} for day in days}


def test_a_source_py_may_yield_a_day_and_a_query_gives_it_some_rows_at_a_time(
    given, tmp_path: Path, monkeypatch
) -> None:
    """Each frame that is yielded, and each chunk of a query, is looked at by itself; they come to the same."""
    rows = day_of_rows()
    spec = given(rows)
    wanted = whole(spec, monkeypatch)
    yaml = spec.folder / "model.yaml"
    parquet = yaml.read_text()
    (spec.folder / "many.py").write_text(
        "import pandas as pd\n\n\ndef read(first, last):\n"
        f"    rows = pd.read_parquet('{spec.folder}/{DAY}.parquet')\n"
        "    for start in range(0, len(rows), 70):\n        yield rows.iloc[start : start + 70]\n"
    )
    engine = create_engine(f"sqlite:///{tmp_path}/sales.db")
    rows.to_sql("sales", engine, index=False)
    monkeypatch.setattr(sql, "BATCH", 100)
    query = f"{{kind: sql, url: 'sqlite:///{tmp_path}/sales.db', query: 'select * from sales where date(at) between :first and :last'}}"
    for source in ("{kind: python, function: many.read}", query):
        yaml.write_text(parquet.replace("{kind: parquet, path: '{day}.parquet'}", source))
        given_now = load(yaml)
        steps.leave(given_now, [DAY], source, data.Share(0, 2))
        steps.leave(given_now, [DAY], source, data.Share(1, 2))
        assert steps.publish_left(given_now, [DAY], source, 2).startswith("900 rows read = 900 published")
        found = tables(given_now)
        pd.testing.assert_frame_equal(found["features"], wanted["features"])
        pd.testing.assert_frame_equal(found["served"], wanted["served"])


@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.assign(heat=2.0),
        lambda rows: rows.assign(heat=rows["heat"].to_numpy()[::-1]),
        lambda rows: rows.rename(columns={"heat": "hour", "hour": "heat"}),
    ],
    ids=["other values", "exchanged values", "exchanged names"],
)
def test_a_source_without_a_state_that_answers_otherwise_to_each_share_is_read_as_a_whole(
    given, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    spec = given(day_of_rows())
    (spec.folder / "many.py").write_text(
        f"import pandas as pd\n\n\ndef read(first, last):\n    return pd.read_parquet('{spec.folder}/{DAY}.parquet')\n"
    )
    yaml = spec.folder / "model.yaml"
    yaml.write_text(
        yaml.read_text().replace("{kind: parquet, path: '{day}.parquet'}", "{kind: python, function: many.read}")
    )
    spec = load(yaml)
    steps.leave(spec, [DAY], "run", data.Share(0, 2))
    other = change(day_of_rows())
    other.to_parquet(spec.folder / f"{DAY}.parquet")
    steps.leave(spec, [DAY], "run", data.Share(1, 2))
    assert steps.publish_left(spec, [DAY], "run", 2) == "900 rows read = 900 published + 0 in quarantine"
    assert sorted(lake.read("raw", spec.name, day=DAY)["heat"]) == sorted(other["heat"])


def test_rows_without_a_time_are_in_quarantine_once_where_months_were_read_at_once(given) -> None:
    days = [DAY + timedelta(days=number) for number in range(4)]
    every = pd.concat([day_of_rows(day, seed).head(60) for seed, day in enumerate(days)])
    timeless = every.head(3).assign(at=pd.NaT)
    spec = given(every)
    pd.concat([every, timeless, timeless.head(1)]).to_parquet(spec.folder / "all.parquet", index=False)
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("{day}.parquet", "all.parquet"))
    spec = load(yaml)
    for span in (days[:2], days[2:]):
        steps.leave(spec, span, "run", data.ALL)
    for span in (days[2:], days[:2]):
        steps.publish_left(spec, span, "run", 1)
    kept = lake.read("quarantine", spec.name)
    assert list(kept["day"].dt.date) == [days[0]] * 4, "two of them are alike"


def test_what_is_left_of_days_is_one_reading_where_a_share_dies(given) -> None:
    """A share that is tried again after the other one was left, of a source that has changed since, is read as a whole."""
    spec = given(day_of_rows().assign(heat=1.0))
    for number in range(2):
        steps.leave(spec, [DAY], "run", data.Share(number, 2))
    mended(spec)
    steps.leave(spec, [DAY], "run", data.Share(1, 2))
    steps.publish_left(spec, [DAY], "run", 2)
    assert sorted(lake.read("features", spec.name, day=DAY)["heat"]) == sorted(day_of_rows()["heat"])


def test_what_fails_in_the_middle_of_a_source_py_is_told_with_its_line(given) -> None:
    spec = given(day_of_rows())
    (spec.folder / "many.py").write_text(
        "import pandas as pd\n\n\ndef read(first, last):\n    yield pd.DataFrame({'at': []})\n    raise ValueError('no more')\n"
    )
    yaml = spec.folder / "model.yaml"
    yaml.write_text(
        yaml.read_text().replace("{kind: parquet, path: '{day}.parquet'}", "{kind: python, function: many.read}")
    )
    with pytest.raises(DataError, match=r"many\.py, line 6: ValueError: no more; read gets the day 2026-02-01"):
        data.reader_of(load(yaml).source, load(yaml)).rows(DAY, DAY)


def test_a_day_in_shards_on_an_object_store(given, monkeypatch: pytest.MonkeyPatch, object_store: str) -> None:
    rows = spoilt(day_of_rows())
    spec = given(rows, "quality: {max_quarantined: 0.5}\n")
    wanted = whole(spec, monkeypatch)
    ledger = lake.read("ledger", spec.name).drop(columns="id_", errors="ignore")
    use_object_store(object_store, monkeypatch)
    lake.append_once(spec.name, *ledger.astype(object).where(ledger.notna(), None).to_dict("records"))
    for number in range(3):
        steps.leave(spec, [DAY], "run", data.Share(number, 3))
        assert lake.count("predictions", spec.name, [DAY]) == 0
    assert "9 in quarantine" in steps.publish_left(spec, [DAY], "run", 3)
    assert handover.found(spec.name, "run", f"{DAY}.0-of-3.json") is None
    found = tables(spec)
    for kind in ("quarantine", "features", "served"):
        pd.testing.assert_frame_equal(found[kind], wanted[kind], obj=kind)
