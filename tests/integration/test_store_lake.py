from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from threading import Barrier

import pandas as pd
import pytest
from esteira.store import lake, schemas

DAYS = [date(2026, 1, 1), date(2026, 1, 2)]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path))


def rows(*days: date, value: float = 1.0, **more: object) -> pd.DataFrame:
    return pd.DataFrame({"day": pd.to_datetime(list(days)), "value": value, **more})


def test_a_day_is_replaced_and_the_others_stay() -> None:
    lake.replace_days("raw", "m", rows(*DAYS), DAYS)
    lake.replace_days("raw", "m", rows(DAYS[1], DAYS[1], value=2.0), [DAYS[1]])
    found = lake.read("raw", "m").sort_values(["day", "value"])
    assert list(found["value"]) == [1.0, 2.0, 2.0]
    assert list(lake.read("raw", "m", day=DAYS[0])["value"]) == [1.0]
    assert len(lake.read("raw", "m", day=(DAYS[0], DAYS[1]))) == 3


def test_an_absent_table_has_no_rows() -> None:
    assert lake.read("raw", "m").empty
    assert lake.version("raw", "m") == -1
    assert list(lake.read("metrics", "m").columns) == schemas.METRICS.names


def test_an_empty_day_is_written_and_known() -> None:
    lake.replace_days("raw", "m", pd.DataFrame(), [DAYS[0]])
    assert lake.missing_days("raw", "m", DAYS) == [DAYS[1]]
    lake.replace_days("raw", "m", rows(*DAYS), DAYS)
    lake.replace_days("raw", "m", rows(), [DAYS[1]])
    assert list(lake.read("raw", "m")["day"].dt.date) == [DAYS[0]]
    assert lake.missing_days("raw", "m", DAYS) == []


def test_a_day_of_an_older_mark_is_missing() -> None:
    lake.replace_days("raw", "m", rows(*DAYS), DAYS, mark=1)
    lake.replace_days("raw", "m", rows(DAYS[0]), [DAYS[0]], mark=2)
    assert lake.missing_days("raw", "m", DAYS, mark=2) == [DAYS[1]]


def test_rows_outside_the_days_are_refused() -> None:
    with pytest.raises(Exception, match="validation check"):
        lake.replace_days("raw", "m", rows(*DAYS), [DAYS[0]])


def test_a_new_column_is_added_and_a_changed_type_is_named() -> None:
    lake.replace_days("raw", "m", rows(DAYS[0]), [DAYS[0]])
    lake.replace_days("raw", "m", rows(DAYS[1], extra="x"), [DAYS[1]])
    assert set(lake.read("raw", "m")["extra"].fillna("")) == {"", "x"}
    with pytest.raises(ValueError, match="column 'value' was double so far and is now"):
        lake.replace_days("raw", "m", rows(DAYS[1]).assign(value="many"), [DAYS[1]])


def test_whole_numbers_that_turn_to_floats_keep_their_type_where_they_can() -> None:
    lake.replace_days("raw", "m", rows(DAYS[0]).assign(value=3), [DAYS[0]])
    lake.replace_days("raw", "m", rows(DAYS[1]).assign(value=4.0), [DAYS[1]])
    assert sorted(lake.read("raw", "m")["value"]) == [3, 4]


def test_time_travel_reads_the_version_asked_for() -> None:
    first = lake.replace_days("raw", "m", rows(DAYS[0]), [DAYS[0]])
    lake.replace_days("raw", "m", rows(DAYS[0], value=9.0), [DAYS[0]])
    assert list(lake.read("raw", "m", at=first)["value"]) == [1.0]
    assert list(lake.read("raw", "m")["value"]) == [9.0]


def test_columns_that_a_table_lacks_are_left_out() -> None:
    lake.replace_days("raw", "m", rows(DAYS[0]), [DAYS[0]])
    assert list(lake.read("raw", "m", columns=["day", "nothing"]).columns) == ["day"]


def test_quotes_in_a_value_are_values_not_sql() -> None:
    lake.replace_days("quarantine", "m", rows(DAYS[0]).assign(stage="a' OR '1'='1"), [DAYS[0]], stage="a' OR '1'='1")
    lake.replace_days("quarantine", "m", rows(DAYS[0]).assign(stage="b"), [DAYS[0]], stage="b")
    assert sorted(lake.read("quarantine", "m")["stage"]) == ["a' OR '1'='1", "b"]


def test_rows_are_merged_with_those_there_are() -> None:
    lake.replace_days("served", "m", rows(DAYS[0]), [DAYS[0]])
    new = rows(*DAYS, value=2.0)
    lake.replace_days("served", "m", new, DAYS, merge=lambda had: pd.concat([had, new[~new["day"].isin(had["day"])]]))
    found = lake.read("served", "m").sort_values("day")
    assert list(found["value"]) == [1.0, 2.0]
    before = lake.version("served", "m")
    assert lake.replace_days("served", "m", new, DAYS, merge=lambda had: None) == before


def test_writers_of_one_day_never_double_it() -> None:
    lake.replace_days("raw", "m", rows(*DAYS), DAYS)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: lake.replace_days("raw", "m", rows(DAYS[0], value=float(n)), [DAYS[0]]), range(8)))
    assert len(lake.read("raw", "m", day=DAYS[0])) == 1
    assert len(lake.read("raw", "m", day=DAYS[1])) == 1


def at_once(*jobs: Callable[[], object]) -> None:
    """Call the jobs at the same moment, each in a thread of its own."""
    together = Barrier(len(jobs))

    def go(job: Callable[[], object]) -> object:
        together.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        list(pool.map(go, jobs))


def test_the_first_writers_of_a_table_do_not_add_up() -> None:
    """Where there is no table yet Delta has nothing to compare a commit with."""
    day = rows(*[DAYS[0]] * 50)
    for number in range(12):  # each of them went wrong four times of five
        name = f"m{number}"
        at_once(*[lambda name=name: lake.replace_days("predictions", name, day, [DAYS[0]])] * 2)  # type: ignore[misc]
        assert len(lake.read("predictions", name)) == len(day)


def test_the_first_checks_of_a_model_do_not_add_up() -> None:
    found = pd.DataFrame({"check_day": [DAYS[0]] * 2, "attempt": [0, 0], "metric": ["mae", "r2"], "value": [1.0, 0.5]})

    def write(name: str) -> None:
        where = {"check_day": str(DAYS[0]), "attempt": 0}
        lake.replace("metrics", name, found, where, schema=schemas.METRICS, partition="check_day")

    for number in range(12):
        at_once(*[lambda name=f"m{number}": write(name)] * 2)  # type: ignore[misc]
        assert len(lake.read("metrics", f"m{number}")) == len(found)


def test_of_two_first_servings_one_wins_whole() -> None:
    lake.replace_days("served", "m", rows(DAYS[0]).assign(run="old"), [DAYS[0]])

    def serve(run: str) -> None:
        mine = rows(*[DAYS[1]] * 3).assign(run=run)
        lake.replace_days("served", "m", mine, [DAYS[1]], merge=lambda had: None if len(had) else mine)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(serve, ["a", "b", "c", "d"]))
    found = lake.read("served", "m", day=DAYS[1])
    assert len(found) == 3
    assert found["run"].nunique() == 1


def ledger_row(key: str, why: str) -> dict[str, object]:
    return {"id": key, "at": lake.clock(), "effective_day": DAYS[0], "version": 1, "to_state": "champion", "why": why}


def test_the_ledger_takes_an_id_once() -> None:
    assert lake.append_once("m", ledger_row("champion:1", "first"))
    assert not lake.append_once("m", ledger_row("champion:1", "second"))
    assert list(lake.read("ledger", "m")["why"]) == ["first"]


def test_of_many_writers_of_an_id_one_wins() -> None:
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda n: lake.append_once("m", ledger_row("champion:1", str(n))), range(8)))
    assert won.count(True) == 1
    assert len(lake.read("ledger", "m")) == 1


def event(name: str) -> dict[str, object]:
    return {"id": name, "at": lake.clock(), "effective_day": DAYS[0], "to_state": "queued", "why": "", "by": "x"}


def test_an_id_longer_than_the_bounds_of_its_file_is_found() -> None:
    """Parquet cuts the bounds of a column at 64 characters."""
    long = "queued:failed/" + "x" * 100
    for name in (long, "champion:1", long + "y"):
        assert lake.append_once("m", event(name))
    assert not lake.append_once("m", event(long))
    for name in (long, "champion:1", long + "y"):
        assert list(lake.read("ledger", "m", columns=["id"], id=name)["id"]) == [name]
    assert lake.read("ledger", "m", columns=["by"], id="none").empty


def test_rows_that_a_commit_rewrites_are_found_by_their_text() -> None:
    first = rows(DAYS[0], DAYS[0], DAYS[0], stage=["rows", "rows", "labels"], rule=["time", "key", "unique"])
    lake.replace_days("quarantine", "m", first, [DAYS[0]])
    lake.replace_days("quarantine", "m", rows(DAYS[0], stage="labels", rule="x" * 100), [DAYS[0]], stage="labels")
    lake.maintain("quarantine", "m", keep=[], hours=0)
    assert sorted(lake.read("quarantine", "m", stage="rows")["rule"]) == ["key", "time"]
    assert len(lake.read("quarantine", "m", rule="time", stage="rows")) == 1
