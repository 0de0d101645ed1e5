"""What every kind of source must do: the rows of the days asked for, with their time."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from deltalake import write_deltalake
from esteira import data
from esteira.data.sources import csv, files
from esteira.errors import DataError
from esteira.spec import ModelSpec

from tests import models

DAY = date(2026, 1, 2)
ROWS = pd.DataFrame(
    {
        "at": pd.to_datetime(["2026-01-01 10:00", "2026-01-02 00:00", "2026-01-02 23:00", "2026-01-03 00:00"]),
        "site": ["A", "A", "B", "A"],
        "hour": [10, 0, 23, 0],
        "heat": [1.0, 2.0, 3.0, 4.0],
        "open": [True, False, True, True],
        "amount": [1.0, 2.0, 3.0, 4.0],
    }
)
SOURCE = "source: {{kind: python, function: source.read}}"


def declare(tmp_path: Path, source: str, **replaced: str) -> ModelSpec:
    yaml = models.YAML.replace(SOURCE, f"source: {{{source}}}")
    for old, new in replaced.items():
        yaml = yaml.replace(old, new)
    return models.write(tmp_path, yaml=yaml)


def write_sqlite(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        ROWS.assign(at=ROWS["at"].astype(str)).to_sql("sales", connection, index=False)
    connection.close()


@pytest.mark.parametrize("kind", ["csv", "csv by day", "parquet", "parquet with text times", "delta", "sql", "python"])
def test_every_source_gives_the_rows_of_the_day(tmp_path: Path, kind: str) -> None:
    if kind == "csv":
        ROWS.to_csv(tmp_path / "x.csv", index=False, sep=";")
        source = f'{{kind: csv, path: {tmp_path}/x.csv, separator: ";"}}'
    elif kind == "csv by day":
        for day, part in ROWS.groupby(ROWS["at"].dt.date):
            part.to_csv(tmp_path / f"x-{day}.csv", index=False)
        source = f'{{kind: csv, path: "{tmp_path}/x-{{{{day}}}}.csv"}}'
    elif kind.startswith("parquet"):
        rows = ROWS.assign(at=ROWS["at"].astype(str)) if "text" in kind else ROWS
        rows.to_parquet(tmp_path / "x.parquet")
        source = f"{{kind: parquet, path: {tmp_path}/x.parquet}}"
    elif kind == "delta":
        write_deltalake(str(tmp_path / "x"), ROWS)
        source = f"{{kind: delta, path: {tmp_path}/x}}"
    elif kind == "sql":
        write_sqlite(tmp_path / "x.db")
        query = "select * from sales where date(at) between :first and :last"
        source = f"{{kind: sql, url: 'sqlite:///{tmp_path}/x.db', query: \"{query}\"}}"
    else:
        spec = models.write(tmp_path)
        rows = data.read(spec, DAY, DAY)
        assert (len(rows), set(rows["event_time"].dt.date)) == (72, {DAY})
        return
    spec = declare(tmp_path, source)
    rows = data.read(spec, DAY, DAY)
    assert list(rows["site"]) == ["A", "B"]
    assert list(rows["event_time"]) == [pd.Timestamp("2026-01-02 00:00"), pd.Timestamp("2026-01-02 23:00")]
    assert set(rows["day"]) == {pd.Timestamp(DAY)}
    assert len(data.read(spec, date(2025, 1, 1), date(2025, 1, 2))) == 0


def test_a_path_that_matches_nothing_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file matches .*absent\.csv; put it there, or correct source.path"):
        data.read(declare(tmp_path, "{kind: csv, path: absent.csv}"), DAY, DAY)


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    ROWS.drop(columns="heat").to_csv(tmp_path / "x.csv", index=False)
    with pytest.raises(
        DataError, match=r"model sales: .*x.csv has no column 'heat'; it has: at, site, hour, open, amount"
    ):
        data.read(declare(tmp_path, f"{{kind: csv, path: {tmp_path}/x.csv}}"), DAY, DAY)


def test_scoring_needs_no_target(tmp_path: Path) -> None:
    ROWS.drop(columns="amount").to_csv(tmp_path / "x.csv", index=False)
    assert len(data.read(declare(tmp_path, f"{{kind: csv, path: {tmp_path}/x.csv}}"), DAY, DAY)) == 2


def test_times_with_a_zone_become_the_models_clock(tmp_path: Path) -> None:
    spec = declare(
        tmp_path, "{kind: csv, path: x}", **{"{{column: at}}": "{{column: at, timezone: America/Sao_Paulo}}"}
    )
    moments = data.event_time(spec, pd.DataFrame({"at": ["2026-01-02T01:00:00+00:00"]}))
    assert moments[0] == pd.Timestamp("2026-01-01 22:00")


def test_times_whose_offset_changes_are_read_and_half_zoned_ones_refused(tmp_path: Path) -> None:
    spec = declare(
        tmp_path, "{kind: csv, path: x}", **{"{{column: at}}": "{{column: at, timezone: America/Sao_Paulo}}"}
    )
    moments = data.event_time(spec, pd.DataFrame({"at": ["2018-11-03T12:00:00-03:00", "2018-11-04T12:00:00-02:00"]}))
    assert list(moments) == [pd.Timestamp("2018-11-03 12:00"), pd.Timestamp("2018-11-04 12:00")]
    with pytest.raises(
        DataError, match=r"1 of 2 times in 'at' have an offset and the others have none, such as '2018-11-04T12:00:00'"
    ):
        data.event_time(spec, pd.DataFrame({"at": ["2018-11-03T12:00:00-03:00", "2018-11-04T12:00:00"]}))


def test_files_cut_by_another_clock_lose_no_row(tmp_path: Path) -> None:
    hours = pd.date_range("2026-01-01", "2026-01-04", freq="h", tz="UTC", inclusive="left")
    for day, part in pd.DataFrame({"at": hours, "site": "A", "hour": 1, "heat": 1.0, "open": True}).groupby(hours.date):
        part.to_csv(tmp_path / f"x-{day}.csv", index=False)
    spec = declare(
        tmp_path,
        f'{{kind: csv, path: "{tmp_path}/x-{{{{day}}}}.csv"}}',
        **{"{{column: at}}": "{{column: at, timezone: America/Sao_Paulo}}"},
    )
    found = data.read(spec, DAY, DAY)["day"].value_counts()
    assert found.to_dict() == {
        pd.Timestamp("2026-01-02"): 24,
        pd.Timestamp("2026-01-01"): 3,
    }  # its file's own of the day before


def test_a_python_source_without_rows_is_an_empty_day(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    (tmp_path / "sales" / "source.py").write_text(
        "import pandas as pd\n\ndef read(first, last):\n    return pd.DataFrame()\n"
    )
    assert data.read(spec, DAY, DAY).empty


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["1", "2"], [1, 2]),
        (["1", None], [1, None]),
        (["1.0", "2"], [1, 2]),
        (["1.5", "2"], ["1.5", "2"]),
        (["1.10", "1.1"], ["1.10", "1.1"]),
        (["12E4", "3E2"], ["12E4", "3E2"]),
        (["9223372036854775808", "-5"], ["9223372036854775808", "-5"]),
        (["-5", "+7"], [-5, 7]),
        (["9007199254740993", None], [9007199254740993, None]),
        (["9223372036854775808", None], ["9223372036854775808", None]),
        (["99999999999999999999", "99999999999999999998"], ["99999999999999999999", "99999999999999999998"]),
        (["1e300", "2"], ["1e300", "2"]),
        (["inf", "2"], ["inf", "2"]),
        (["007", "7"], ["007", "7"]),
        (["0", "0.5"], ["0", "0.5"]),
        (["True", "1"], ["True", "1"]),
        (["2026-01-01 08:00", "x"], ["2026-01-01 08:00", "x"]),
        ([None, None], [None, None]),
    ],
)
def test_a_key_is_read_to_its_last_digit(given: list[str | None], found: list[object], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("key,at\n" + "".join(f"{value or ''},2026-01-02\n" for value in given))
    yaml = {"key: [site, at]": "key: [key]", "{{column: at}}": "{{column: at}}"}
    spec = declare(tmp_path, f"{{kind: csv, path: {tmp_path}/x.csv}}", **yaml)
    (rows,) = csv.CsvReader(spec, spec.source).read(files.File(str(tmp_path / "x.csv"), str(tmp_path)), DAY, DAY)  # type: ignore[arg-type]
    assert [None if pd.isna(value) else value for value in rows["key"]] == found


BIG = 1_400_000_000_000_000_000  # beyond what a float tells from its neighbours


@pytest.mark.parametrize("column", ["site", "heat"])
@pytest.mark.parametrize("beside", ["no row of the day", "an empty one", "fractions"])
def test_whole_numbers_keep_their_digits_beside_a_file_of_others(tmp_path: Path, column: str, beside: str) -> None:
    """As of ids, of which a file of a day beside has none, an empty one, or others."""
    own = ROWS[ROWS["at"].dt.date == DAY]
    numbers = pd.array([BIG + 1, BIG + 2], dtype="int64")
    own.assign(**{column: numbers}).to_parquet(tmp_path / f"x-{DAY}.parquet", index=False)
    others = ROWS[ROWS["at"].dt.date != DAY] if beside == "no row of the day" else own
    given = pd.array([None, None], dtype="Int64") if beside == "an empty one" else [0.5, 1.5]
    given = numbers if beside == "no row of the day" else given
    others.assign(**{column: given}).to_parquet(tmp_path / "x-2026-01-01.parquet", index=False)
    rows = data.read(declare(tmp_path, f'{{kind: parquet, path: "{tmp_path}/x-{{{{day}}}}.parquet"}}'), DAY, DAY)
    assert [value for value in rows[column].dropna() if value > 2] == [BIG + 1, BIG + 2]


def test_parquet_types_that_no_table_has_are_read_as_ones_that_it_has(tmp_path: Path) -> None:
    own = ROWS[ROWS["at"].dt.date == DAY]
    lists = pd.Series([["A"], ["B"]], index=own.index)
    own.assign(heat=own["heat"].astype("float16"), site=lists).to_parquet(tmp_path / "x.parquet", index=False)
    spec = declare(tmp_path, f"{{kind: parquet, path: {tmp_path}/x.parquet}}")
    rows = data.read(spec, DAY, DAY)
    assert (rows["heat"].dtype, list(rows["heat"])) == ("float32", [2.0, 3.0])
    assert list(data.read_labels(spec, DAY, DAY)["label"]) == [2.0, 3.0]
    good, bad = data.storable(spec, rows, {})
    assert (list(good["site"]), len(bad)) == (["['A']", "['B']"], 0)


@pytest.mark.parametrize("size", [1, csv.LARGE])
@pytest.mark.parametrize("first", ["1", "0"])
def test_a_first_row_that_is_longer_than_the_header_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, first: str
) -> None:
    """read_csv takes a first column that counts the rows for their index, and says nothing."""
    monkeypatch.setattr(csv, "LARGE", size)
    lines = [f"{number + int(first)},2026-01-02T0{number},A,1,2.5,true,7,\n" for number in range(3)]
    (tmp_path / "x.csv").write_text("trip,at,site,hour,heat,open,amount\n" + "".join(lines))
    with pytest.raises(DataError, match=r"more fields than its header has names \(8 and 7\)"):
        data.read(declare(tmp_path, f"{{kind: csv, path: {tmp_path}/x.csv}}"), DAY, DAY)
