"""A range of days is measured whole: every window of it, in order, and only its last day decides."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps
from esteira.lifecycle.policy import Decision
from esteira.spec import ModelSpec
from esteira.steps import training
from esteira.store import lake, ledger

from tests import models
from tests.models import AS_OF, CHANGE, FIRST, score_days


def check(spec: ModelSpec, day: date) -> Decision:
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    return steps.decide(spec, day).decision


def windows(spec: ModelSpec) -> list[tuple[date, date]]:
    """The spans of the champion's windows in the metrics table, in order."""
    rows = lake.read("metrics", spec.name, role="champion", window="window", metric="mae_over_mean")
    found = {(first.date(), last.date()) for first, last in zip(rows["first_day"], rows["last_day"], strict=True)}
    return sorted(found)


def decisions(spec: ModelSpec) -> dict[date, str]:
    rows = lake.read("metrics", spec.name, role="decision").sort_values("check_day")
    return dict(zip(rows["check_day"].dt.date, rows["why"], strict=True))


def weeks(number: int) -> list[tuple[date, date]]:
    return [(FIRST + timedelta(days=7 * n), FIRST + timedelta(days=7 * n + 6)) for n in range(number)]


def test_every_whole_window_of_a_range_is_measured_and_the_last_day_decides(trained) -> None:
    spec, last = trained(), FIRST + timedelta(days=49)
    score_days(spec, data.days(FIRST, last))
    assert check(spec, last) is Decision.KEEP
    assert windows(spec) == weeks(7)
    found = decisions(spec)
    assert list(found)[-1] == last
    assert [why for day, why in found.items() if day < last] == [
        f"only measured: it is part of a range that ends on {last}"
    ] * 4  # the last three windows are the last check's own
    single = lake.read("metrics", spec.name, role="champion", window="day", metric="mae_over_mean")
    assert sorted(single["last_day"].dt.date) == data.days(FIRST, last - timedelta(days=1))  # each day once


@pytest.mark.slow
def test_a_range_day_by_day_and_at_once_measures_the_same_windows(trained, home, mlflow_template) -> None:
    spec, last = trained(change=str(CHANGE)), FIRST + timedelta(days=35)
    score_days(spec, data.days(FIRST, last))
    for day in data.days(FIRST, last):
        steps.labels_for_check(spec, day)
        steps.measure(spec, day)
    daily = measured(spec)
    for kind in ("metrics",):
        __import__("shutil").rmtree(lake.path(kind, spec.name))
    check(spec, last)
    assert measured(spec).equals(daily)


def measured(spec: ModelSpec) -> pd.DataFrame:
    rows = lake.read("metrics", spec.name, role="champion", window="window")
    columns = ["first_day", "last_day", "segment", "metric", "value", "n_rows", "n_days"]
    return rows[columns].drop_duplicates().sort_values(columns, ignore_index=True)


def test_a_later_range_measures_what_came_since_the_last_check(trained) -> None:
    spec, middle, last = trained(), FIRST + timedelta(days=14), FIRST + timedelta(days=63)
    score_days(spec, data.days(FIRST, last))
    check(spec, middle)
    before = lake.read("metrics", spec.name, check_day=middle)
    check(spec, last)
    assert windows(spec) == weeks(9)
    assert len(lake.read("metrics", spec.name, check_day=middle)) == len(before)


def test_a_range_over_a_promotion_measures_each_champion_on_its_own_windows(trained) -> None:
    spec, middle, last = trained(), FIRST + timedelta(days=20), FIRST + timedelta(days=62)
    score_days(spec, data.days(FIRST, middle))
    second = training.retrained(spec, middle, "second")
    ledger.make_champion(spec, second, middle, measured=1, why="second", by="test")
    score_days(spec, data.days(middle + timedelta(days=1), last), run="later")
    check(spec, last)
    rows = lake.read("metrics", spec.name, role="champion", window="window", metric="mae_over_mean")
    spans = rows.drop_duplicates(["version", "first_day"]).groupby("version")["first_day"].count()
    assert spans.to_dict() == {1: 2, 2: 5}  # of the first 21 days the last label came a day after the promotion


@pytest.mark.parametrize("again", [False, True])
def test_a_check_said_again_measures_no_range_again(trained, again: bool) -> None:
    spec, last = trained(), FIRST + timedelta(days=42)
    score_days(spec, data.days(FIRST, last))
    check(spec, last)
    before = lake.version("metrics", spec.name)
    if again:
        check(spec, last)
    assert lake.version("metrics", spec.name) - before == (2 if again else 0)  # its own rows and its decision
    assert AS_OF < FIRST


def test_a_check_without_a_champion_is_in_nobodys_way(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    assert steps.check(spec, FIRST + timedelta(days=60))[0].decision is Decision.WAIT
    assert lake.days_of("metrics", spec.name) == []
