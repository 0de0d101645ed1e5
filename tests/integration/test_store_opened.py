"""A table that a process has open follows what others write, and reads nothing twice that can't have changed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from esteira.store import lake, opened

from tests.conftest import PROJECT

DAY = date(2026, 1, 1)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path))


def day(number: int) -> date:
    return DAY + timedelta(days=number)


def write(number: int, value: float = 1.0, mark: int = 1, rows: int = 3) -> None:
    frame = pd.DataFrame({"day": pd.to_datetime([day(number)] * rows), "value": value})
    lake.replace_days("raw", "m", frame, [day(number)], mark=mark)


def elsewhere(code: str) -> None:
    """Run a line with the tables in another process."""
    begin = "import pandas as pd; from datetime import date; from esteira.store import lake; "
    subprocess.run([sys.executable, "-c", begin + code], cwd=PROJECT, check=True, timeout=60)


def values(number: int) -> list[float]:
    return list(lake.read("raw", "m", day=day(number))["value"])


def test_what_another_process_writes_is_seen() -> None:
    write(0)
    assert values(0) == [1.0] * 3
    assert lake.missing_days("raw", "m", [day(0)], mark=1) == []
    elsewhere(
        "lake.replace_days('raw', 'm', pd.DataFrame({'day': pd.to_datetime(['2026-01-01']), 'value': [5.0]}), "
        "[date(2026, 1, 1)], mark=2)"
    )
    assert values(0) == [5.0]
    assert lake.missing_days("raw", "m", [day(0)], mark=1) == [day(0)]
    assert lake.missing_days("raw", "m", [day(0)], mark=2) == []


def test_a_table_is_opened_anew_before_it_becomes_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    real = opened.DeltaTable
    monkeypatch.setattr(opened, "DeltaTable", lambda place, **options: asked.append(place) or real(place, **options))
    for number in range(3 * opened.FOLLOWED):
        write(number)
        assert values(number) == [1.0] * 3
    assert 3 <= len(asked) <= 5  # not for each of the 24 writes, and not once


def test_a_table_that_was_made_anew_is_another_one() -> None:
    write(0)
    write(1)
    assert len(lake.read("raw", "m")) == 6
    shutil.rmtree(lake.path("raw", "m"))
    assert lake.read("raw", "m").empty
    assert lake.missing_days("raw", "m", [day(0)]) == [day(0)]
    write(0, value=7.0)
    write(2)
    assert values(0) == [7.0] * 3
    assert lake.unwritten_days("raw", "m", [day(0), day(1), day(2)]) == [day(1)]


def test_a_file_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = opened.pq.ParquetFile
    monkeypatch.setattr(opened.pq, "ParquetFile", lambda path, **options: read.append(path) or real(path, **options))
    for number in range(4):
        write(number)
    for _ in range(3):
        assert len(lake.read("raw", "m", day=(day(0), day(3)))) == 12
    assert len(read) == len(set(read)) == 4
    write(2, value=9.0)
    assert sorted(lake.read("raw", "m", day=(day(0), day(3)))["value"])[-3:] == [9.0] * 3
    assert len(read) == 5


def test_a_column_that_came_later_is_empty_in_files_that_were_read_before() -> None:
    write(0)
    assert values(0) == [1.0] * 3
    frame = pd.DataFrame({"day": pd.to_datetime([day(1)]), "value": [1.0], "extra": ["x"]})
    lake.replace_days("raw", "m", frame, [day(1)])
    found = lake.read("raw", "m").sort_values("day")
    assert list(found["extra"].fillna("-")) == ["-", "-", "-", "x"]


def test_a_large_file_is_not_kept_and_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        write(number, value=float(number))
    small = lake.read("raw", "m", columns=["value"], day=(day(1), day(2)))
    before = len(opened._files)
    monkeypatch.setattr(opened, "SMALL", 0)
    large = lake.read("raw", "m", columns=["value"], day=(day(1), day(2)))
    pd.testing.assert_frame_equal(
        small.sort_values("value", ignore_index=True), large.sort_values("value", ignore_index=True)
    )
    assert len(opened._files) == before
    assert list(lake.read("raw", "m", value=2.0)["value"]) == [2.0] * 3


def test_what_is_kept_is_bounded() -> None:
    assert opened._files.maxsize == opened.KEPT
    assert opened._files.currsize <= opened.KEPT


def test_days_are_found_without_reading_rows() -> None:
    for number in (3, 0, 1):
        write(number)
    lake.replace_days("raw", "m", pd.DataFrame(), [day(1)])
    assert lake.days_of("raw", "m") == [day(0), day(3)]
    assert lake.days_of("served", "m") == []


def test_a_checkpoint_comes_every_twenty_versions() -> None:
    for number in range(20):
        write(number, rows=1)
    log = Path(lake.path("raw", "m"), "_delta_log")
    assert [path.name[:20] for path in sorted(log.glob("*.checkpoint.parquet"))] == [f"{19:020}"]
    assert DeltaTable(str(log.parent)).version() == 20


def test_a_file_that_is_larger_in_memory_than_what_is_kept_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that compresses well is small on disk."""
    monkeypatch.setattr(opened, "LARGE", 8)
    before = len(opened._files)
    write(0, rows=50)
    assert values(0) == [1.0] * 50
    assert len(opened._files) == before


def test_a_century_of_days_is_one_commit() -> None:
    """As a list of days it overflowed the stack of Delta's engine, and killed the process."""
    days = [date(1900, 1, 1) + timedelta(days=n) for n in range(36_500)]
    frame = pd.DataFrame({"day": pd.to_datetime([days[0], days[-1]]), "value": 1.0})
    for value in (1.0, 2.0):
        lake.replace_days("raw", "m", frame.assign(value=value), days)
    assert list(lake.read("raw", "m")["value"]) == [2.0, 2.0]
    assert lake.missing_days("raw", "m", [days[1], days[-2]]) == []
    lake.replace_days("raw", "m", frame.head(1).assign(value=3.0), [days[0], days[2]])  # with a gap it is a list
    assert sorted(lake.read("raw", "m")["value"]) == [2.0, 3.0]


@pytest.mark.parametrize(("count", "step"), [(2_000, 1), (2_000, 3), pytest.param(36_500, 2, marks=pytest.mark.slow)])
def test_years_of_days_with_gaps_are_one_commit(count: int, step: int) -> None:
    """A list of so many days, or a chain of so many conditions, overflows Delta's stack."""
    every = [date(1926, 1, 1) + timedelta(days=n) for n in range(count)]
    some = [each for number, each in enumerate(every) if step == 1 or number % step]
    write(0)
    before = lake.version("raw", "m")
    lake.replace_days("raw", "m", pd.DataFrame({"day": pd.to_datetime(some[-3:]), "value": 5.0}), some, mark=7)
    assert lake.version("raw", "m") == before + 1
    assert len(lake.read("raw", "m")) == 3 + (0 if day(0) in some else 3)
    assert lake.missing_days("raw", "m", every, 7) == [each for each in every if each not in set(some)]


def test_all_marks_of_the_log_are_those_that_delta_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a checkpoint and the entries after it."""
    for number in range(50):
        lake.replace_days(
            "raw",
            "m",
            pd.DataFrame({"day": [pd.Timestamp(day(number % 30))], "value": [1.0]}),
            [day(number % 30)],
            mark=number,
        )
    names = [f"{day(number):%Y-%m-%d}" for number in range(40)]
    place = lake.path("raw", "m")
    opened.forget(place)
    one_by_one = opened.marks(place, names)
    opened.forget(place)
    opened._opened.clear()
    monkeypatch.setattr(opened, "MANY", 0)
    assert opened.marks(place, names) == one_by_one
    assert one_by_one[names[35]] is None
    assert one_by_one[names[5]] == 35
