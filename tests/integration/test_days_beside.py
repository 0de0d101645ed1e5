"""Files named for days, whose rows may be of the days beside: nothing of them is lost, and nothing is taken for read that was not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira import steps
from esteira.errors import DataError
from esteira.spec import ModelSpec, load
from esteira.steps import ingest
from esteira.store import lake

from tests.models import AS_OF

DAY = AS_OF + timedelta(days=1)
BEFORE, AFTER = DAY - timedelta(days=1), DAY + timedelta(days=1)

Given = Callable[..., ModelSpec]


def rows_of(day: date, count: int = 40, start: int = 0, **more: object) -> pd.DataFrame:
    """Rows of a day, a minute apart from one on."""
    at = pd.Timestamp(day) + pd.to_timedelta(np.arange(start, start + count), unit="min")
    given = {"site": "A", "at": at, "hour": at.hour, "heat": 20.0, "open": True, "amount": 50.0, **more}
    return pd.DataFrame(given, index=range(count))


@pytest.fixture
def given(trained: Callable[..., ModelSpec]) -> Given:
    """A trained model whose source is a CSV file a day, with the files given."""

    def make(files: dict[date, pd.DataFrame], kind: str = "csv") -> ModelSpec:
        spec = trained()
        yaml = spec.folder / "model.yaml"
        text = yaml.read_text().replace(
            "{kind: python, function: source.read}", f"{{kind: {kind}, path: '{{day}}.{kind}'}}"
        )
        yaml.write_text(text)
        for day, rows in files.items():
            put(spec, day, rows)
        return load(yaml)

    return make


def put(spec: ModelSpec, day: date, rows: pd.DataFrame) -> Path:
    """A day's file."""
    path = spec.folder / f"{day}.csv"
    rows.to_csv(path, index=False)
    return path


def put_aside(spec: ModelSpec, day: date) -> list[str]:
    """The rules by which rows of a day are in quarantine."""
    return list(lake.read("quarantine", spec.name, day=day).get("rule", []))


def late_row(given: Given) -> tuple[ModelSpec, Path]:
    """A model one row of whose day came in the file of the next one, and that file."""
    spec = given({DAY: rows_of(DAY)})
    steps.score_from_source(spec, [DAY], "first")
    path = put(spec, AFTER, pd.concat([rows_of(DAY, 1, start=600), rows_of(AFTER)]))
    steps.score_from_source(spec, [AFTER], "second")
    assert put_aside(spec, DAY) == ["late"]
    return spec, path


@pytest.mark.parametrize(
    "change", [Path.unlink, lambda path: path.write_text("<html>"), lambda path: path.write_text("")]
)
def test_a_late_row_whose_file_is_gone_stays_late(given: Given, change: Callable[[Path], object]) -> None:
    spec, path = late_row(given)
    content = path.read_bytes()
    change(path)
    assert steps.requeue(spec, [DAY], "again") == "41 rows read = 40 published + 1 in quarantine"
    assert put_aside(spec, DAY) == ["late"]
    path.write_bytes(content)
    assert steps.requeue(spec, [DAY], "at last") == "41 rows read = 41 published + 0 in quarantine"
    assert put_aside(spec, DAY) == []


def test_a_late_row_stays_while_its_file_is_gone_and_other_days_are_read(given: Given) -> None:
    spec, path = late_row(given)
    put(spec, AFTER + timedelta(days=1), rows_of(AFTER + timedelta(days=1)))
    path.unlink()
    ingest.extract(spec, [AFTER, AFTER + timedelta(days=1)], "keep")
    assert put_aside(spec, DAY) == ["late"]
    assert len(lake.read("raw", spec.name, day=AFTER)) == 40


def test_a_late_row_with_the_key_of_another_is_late(given: Given) -> None:
    spec = given({DAY: rows_of(DAY)})
    steps.score_from_source(spec, [DAY], "first")
    put(spec, AFTER, pd.concat([rows_of(DAY, 1, heat=7.0), rows_of(AFTER)]))
    steps.score_from_source(spec, [AFTER], "second")
    assert put_aside(spec, DAY) == ["late"]
    assert steps.requeue(spec, [DAY], "again") == "41 rows read = 40 published + 1 in quarantine"
    assert put_aside(spec, DAY) == ["unique_key"]
    steps.score_from_source(spec, [AFTER], "third")
    assert put_aside(spec, DAY) == ["unique_key"]


def test_a_row_that_its_own_run_has_read_is_not_late(given: Given) -> None:
    spec = given({DAY: rows_of(DAY), AFTER: pd.concat([rows_of(DAY, 1, start=600), rows_of(AFTER)])})
    steps.score_from_source(spec, [DAY], "first")
    steps.score_from_source(spec, [AFTER], "second")
    assert put_aside(spec, DAY) == []
    assert len(lake.read("predictions", spec.name, day=DAY)) == 41


def test_a_row_in_the_file_of_the_day_before_is_told(given: Given) -> None:
    spec = given({DAY: rows_of(DAY), AFTER: rows_of(AFTER)})
    for day in (DAY, AFTER):
        steps.score_from_source(spec, [day], "first")
    put(spec, DAY, pd.concat([rows_of(DAY), rows_of(AFTER, 1, start=600)]))
    steps.requeue(spec, [DAY], "again")
    assert put_aside(spec, AFTER) == ["early"]
    assert steps.requeue(spec, [AFTER], "at last") == "41 rows read = 41 published + 0 in quarantine"
    assert put_aside(spec, AFTER) == []


def test_a_row_in_the_file_of_the_day_before_that_day_is_not_run_yet_is_left_to_its_run(given: Given) -> None:
    spec = given({DAY: pd.concat([rows_of(DAY), rows_of(AFTER, 1, start=600)]), AFTER: rows_of(AFTER)})
    assert steps.score_from_source(spec, [DAY], "first") == "40 rows read = 40 published + 0 in quarantine"
    assert lake.read("quarantine", spec.name).empty
    assert steps.score_from_source(spec, [AFTER], "second") == "41 rows read = 41 published + 0 in quarantine"


def test_days_that_are_read_with_a_gap_tell_the_rows_of_the_days_between(given: Given) -> None:
    days = [DAY + timedelta(days=number) for number in range(4)]
    files = {day: rows_of(day) for day in days}
    spec = given(files)
    steps.extract(spec, [days[2]])
    put(spec, days[3], pd.concat([rows_of(days[2], 1, start=600), rows_of(days[3])]))
    steps.extract(spec, [days[0], days[1], days[3]])
    assert put_aside(spec, days[2]) == ["late"]
    assert {day: len(lake.read("raw", spec.name, day=day)) for day in days} == dict.fromkeys(days, 40)


def test_a_day_whose_own_file_is_gone_is_refused_though_another_has_a_row_of_it(given: Given) -> None:
    spec = given({DAY: rows_of(DAY), AFTER: pd.concat([rows_of(DAY, 1, start=600), rows_of(AFTER)])})
    assert steps.score_from_source(spec, [DAY], "first").startswith("41 rows read")
    (spec.folder / f"{DAY}.csv").unlink()
    with pytest.raises(DataError, match=f"has no file any more, and 1 row in others, for {DAY}, of which 41 rows were"):
        steps.requeue(spec, [DAY], "again")
    assert len(lake.read("predictions", spec.name, day=DAY)) == 41
    ingest.extract(spec, [DAY], "keep")
    assert len(lake.read("raw", spec.name, day=DAY)) == 41
    assert steps.requeue(spec, [DAY], "as it is", "replace") == "1 row read = 1 published + 0 in quarantine"


def test_a_day_that_never_had_a_file_of_its_own_is_read_as_before(given: Given) -> None:
    """As where files are cut by another clock than the model's."""
    spec = given({AFTER: pd.concat([rows_of(DAY, 3, start=600), rows_of(AFTER)])})
    for run in ("first", "again"):
        assert steps.score_from_source(spec, [DAY], run) == "3 rows read = 3 published + 0 in quarantine"
