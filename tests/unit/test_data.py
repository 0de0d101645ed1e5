from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from esteira import data
from esteira.data import kinds
from esteira.data.sources import csv, files
from esteira.errors import DataError, SpecError
from esteira.spec import ModelSpec, canonical, load
from esteira.store import lake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


def test_each_row_is_good_or_in_quarantine_with_its_rule(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    rows = pd.DataFrame(
        {
            "site": ["A", "A", "Z", "A", None, "B", "C"],
            "at": [
                "2026-01-02 01:00",
                "2026-01-02 01:00",
                "2026-01-02 02:00",
                "no time",
                "2026-01-02 03:00",
                *["2026-01-02 04:00"] * 2,
            ],
            "hour": [1, 1, 2, 3, 3, "x", 4],
            "heat": [1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 99.0],
            "open": True,
        }
    )
    rows = rows.assign(event_time=data.event_time(spec, rows), day=pd.Timestamp(DAY))
    good, bad = data.validate(spec, rows)
    assert len(good) + len(bad) == len(rows)
    assert list(good.index) == [0]
    assert list(bad["rule"]) == ["unique_key", "in", "time", "key", "number", "max"]
    assert bad["reason"].iloc[1] == "'site' is not one of ['A', 'B', 'C']"


def test_empty_values_pass_unless_required(tmp_path: Path) -> None:
    rows = pd.DataFrame({"site": ["A"], "at": ["2026-01-02"], "hour": [1], "heat": [np.nan], "open": [True]})
    rows = rows.assign(event_time=pd.to_datetime(rows["at"]), day=pd.Timestamp(DAY))
    assert len(data.validate(models.write(tmp_path), rows)[1]) == 0
    strict = models.write(tmp_path, yaml=models.YAML.replace("heat: {{min: -50", "heat: {{required: true, min: -50"))
    assert list(data.validate(strict, rows)[1]["rule"]) == ["required"]


def test_bad_labels_are_told_apart(tmp_path: Path) -> None:
    rows = pd.DataFrame({"label": [1.0, None, "x", np.inf, -2000.0]})
    good, bad = data.validate_labels(models.write(tmp_path), rows)
    assert list(good["label"]) == [1.0]
    assert list(bad["rule"]) == ["label", "label", "label", "min"]


def test_features_have_one_type_each_and_no_target(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    rows = data.read(spec, DAY, DAY)
    built = data.build_features(spec, rows)
    assert list(built.columns) == ["event_time", "day", "site", "at", "hour", "heat", "open"]
    assert built["open"].dtype == "float64"
    assert built["hour"].dtype == "float64"
    assert isinstance(built["site"].dtype, pd.StringDtype)
    assert built["event_time"].is_monotonic_increasing


def test_features_code_gets_no_target_and_must_keep_the_rows(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    code = tmp_path / "sales" / "features.py"
    code.write_text(
        "def build(rows):\n    assert 'amount' not in rows\n    return rows.assign(heat=rows['heat'] / 2)\n"
    )
    spec = load(tmp_path / "sales" / "model.yaml")
    rows = data.read(spec, DAY, DAY)
    assert data.build_features(spec, rows)["heat"].sum() == pytest.approx(rows["heat"].sum() / 2)
    code.write_text("def build(rows):\n    return rows.head(3)\n")
    with pytest.raises(DataError, match=r"build must return the 72 rows that it got, with their index; it returned 3"):
        data.build_features(spec, rows)
    code.write_text("def build(rows):\n    return rows.drop(columns='heat')\n")
    with pytest.raises(DataError, match=r"\['heat'\] neither come from the source nor from features.py"):
        data.build_features(spec, rows)
    code.write_text("def build(rows):\n    return rows.sort_values('heat').assign(hour=99.0)\n")
    shuffled = data.build_features(spec, rows).merge(rows, on=["site", "at"])
    assert (shuffled["heat_x"] == shuffled["heat_y"]).all()
    code.write_text("def build(rows):\n    return None\n")
    with pytest.raises(DataError, match="build must return a pandas DataFrame, got NoneType"):
        data.build_features(spec, rows)


def test_labels_of_another_source_are_joined_by_their_key(tmp_path: Path) -> None:
    ROWS[["site", "at", "amount"]].to_csv(tmp_path / "labels.csv", index=False)
    spec = models.write(
        tmp_path, yaml=models.YAML + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n"
    )
    found = data.read_labels(spec, DAY, DAY)
    assert list(found.columns) == ["day", "site", "at", "label", "disputed"]
    assert list(found["label"]) == [1.0, 2.0, 3.0, 4.0]


def test_labels_without_a_day_need_a_key_of_their_own(tmp_path: Path) -> None:
    ROWS[["site", "amount"]].to_csv(tmp_path / "labels.csv", index=False)
    spec = models.write(
        tmp_path,
        yaml=models.YAML + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}, key: [site]}}}}\n",
    )
    with pytest.raises(
        DataError,
        match=r"3 rows whose key is not the only one of its kind, such as {'site': 'A'}; add the time column 'at'",
    ):
        data.read_labels(spec, DAY, DAY)


def test_what_features_code_makes_of_a_row_is_looked_at_too(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    (tmp_path / "sales" / "features.py").write_text(
        "def build(rows):\n    return rows.assign(heat=rows['heat'].where(rows['hour'] > 0, 1000), hour=rows['hour'].astype(object).where(rows['hour'] != 5, 'five'))\n"
    )
    spec = load(tmp_path / "sales" / "model.yaml")
    rows = data.read(spec, DAY, DAY)
    good, bad = data.validate(spec, rows)
    assert bad["rule"].value_counts().to_dict() == {"max": 3, "number": 3}
    assert len(good) == len(data.build_features(spec, rows)) == 66


def test_a_bad_row_does_not_cost_a_good_one_of_the_same_key_its_place(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    rows = pd.DataFrame(
        {"site": ["A", "A"], "at": ["2026-01-02"] * 2, "hour": [1, 1], "heat": [99.0, 1.0], "open": True}
    )
    rows = rows.assign(event_time=pd.to_datetime(rows["at"]), day=pd.Timestamp(DAY))
    good, bad = data.validate(spec, rows)
    assert (list(good.index), list(bad["rule"])) == ([1], ["max"])


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


def test_split_is_by_days_in_order() -> None:
    frame = pd.DataFrame({"day": np.repeat(pd.date_range("2026-01-01", periods=20), 5)})
    past, validation, test = data.split_days(declared, frame, 0.70, 0.15, 0.15)
    assert (past["day"].nunique(), validation["day"].nunique(), test["day"].nunique()) == (14, 3, 3)
    assert past["day"].max() < validation["day"].min() <= validation["day"].max() < test["day"].min()
    with pytest.raises(DataError, match="2 days with mature labels are too few to split 70%/15%/15%"):
        data.split_days(declared, frame.head(10), 0.70, 0.15, 0.15)


def test_a_share_of_the_older_rows_is_kept_and_always_the_same() -> None:
    frame = pd.DataFrame({"day": np.repeat(pd.date_range("2026-01-01", periods=20), 10)})
    start = date(2026, 1, 16)
    kept = data.recent_and_sample(frame, start, 0.2, seed=1)
    assert (len(kept[kept["day"] >= pd.Timestamp(start)]), len(kept)) == (50, 50 + 30)
    assert kept.equals(data.recent_and_sample(frame, start, 0.2, seed=1))
    assert len(data.recent_and_sample(frame, start, None, seed=1)) == 50


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (True, "1"), (np.True_, "1"), (np.float64(2), "2"), (1.5, "1.5"), ("UP", "UP")],
)
def test_canonical(value: object, text: str) -> None:
    assert canonical(value) == text


CELLS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Lu"]), max_size=3),  # with lone halves of characters
    st.complex_numbers(),
    st.binary(max_size=3),
    st.sampled_from(["", " 3 ", "1,5", "nan", "inf", "TRUE", "2026-02-30", "2026-02-03 08:00", "=1+1"]),
    st.datetimes(),
)
TABLES = st.integers(1, 6).flatmap(
    lambda size: st.fixed_dictionaries(
        {
            name: st.lists(CELLS, min_size=size, max_size=size)
            for name in ("at", "site", "hour", "heat", "open", "amount", "extra")
        }
    )
)


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    return models.write(tmp_path_factory.mktemp("models"))


@given(cells=TABLES)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_source_gives_each_row_is_stored_or_in_quarantine(declared: ModelSpec, cells: dict) -> None:
    rows = pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})
    rows = data.writable(rows, {*declared.source_columns, *declared.features.all, declared.target})
    rows = rows.assign(event_time=data.event_time(declared, rows))
    rows = rows.assign(day=rows["event_time"].dt.normalize().fillna(pd.Timestamp(DAY)).astype("datetime64[s]"))
    rows.index = pd.Index(range(7, 7 + 3 * len(rows), 3))  # as that of rows of which others were left out
    good, bad = data.storable(declared, rows, {})
    assert sorted([*good.index, *bad.index]) == list(rows.index)
    assert (bad["rule"] != "").all()
    fine, worse = data.validate(declared, good)
    assert sorted([*fine.index, *worse.index]) == list(good.index)
    stored = lake._to_arrow(good.assign(event_time=good["event_time"]), None, None)  # what the raw table would get
    assert stored.num_rows == len(good)
    features = data.build_features(declared, good)
    assert len(features) == len(fine)
    if len(features):
        assert features[["hour", "heat", "open"]].dtypes.eq("float64").all()
        assert not np.isinf(features[["hour", "heat", "open"]]).any(axis=None)
    # A second day of other types fits the types of the first, or its rows are in quarantine.
    known = {field.name: field.type for field in stored.schema}
    again, rest = data.storable(declared, rows.iloc[::-1], known)
    assert len(again) + len(rest) == len(rows)


@pytest.mark.parametrize(
    ("values", "kind", "found"),
    [
        ([1, 2], None, [1.0, 2.0]),
        ([2**53 + 1, 2], None, [2**53 + 1, 2]),
        (["1", "x", None], "number", [1.0, None, None]),
        ([2**53 + 1, 2], "number", [None, 2]),
        (["1", "1.5", 3], "integer", [1, None, 3]),
        (["true", "0", "maybe"], "boolean", [True, False, None]),
        ([1.0, True, "x"], "text", ["1", "1", "x"]),
        (["2026-01-01", "x"], "time", [pd.Timestamp("2026-01-01"), None]),
    ],
)
def test_a_value_has_its_columns_type_or_is_left_out(values: list, kind: str | None, found: list) -> None:
    asked = pd.Series(values, index=range(5, 5 + len(values)), dtype=object if kind else None)
    fitted = kinds.fitted(asked, kinds.NAMES[kind] if kind else None)
    assert list(fitted.index) == list(asked.index)
    assert [None if pd.isna(value) else value for value in fitted] == found


def test_two_labels_of_one_key_are_both_in_doubt(tmp_path: Path) -> None:
    rows = pd.concat([ROWS, ROWS.tail(1), ROWS.head(2).assign(amount=[99.0, 2.0])])
    rows[["site", "at", "amount"]].to_csv(tmp_path / "labels.csv", index=False)
    labels = f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n"
    spec = models.write(tmp_path, yaml=models.YAML + labels)
    found = data.read_labels(spec, DAY, DAY)
    assert list(found["disputed"]) == [True, False, False, False]
    good, bad = data.validate_labels(spec, found)
    assert (len(good), list(bad["rule"])) == (3, ["unique_key"])


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ("{{matches: '['}}", r"got '\[', which is no regular expression"),
        ("{{type: text, min: 1}}", "min and max are of numbers, and the type is text; remove one"),
        ("{{type: word}}", "got 'word'; allowed: number, integer, text, boolean, time"),
        ("{{max_null: 1}}", "input should be less than 1"),
    ],
)
def test_impossible_expectations_are_named(tmp_path: Path, expected: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        models.write(tmp_path, yaml=models.YAML.replace("heat: {{min: -50, max: 60}}", f"heat: {expected}"))


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ("{{volume: {{}}}}", "the range is empty; give min, max or both"),
        ("{{volume: {{min: 2, max: 1}}}}", "impossible range"),
        ("{{freshness: 90m}}", "a span is a whole number of hours, days or weeks"),
        ("{{max_quarantined: 2}}", "less than or equal to 1"),
        ("{{max_bad: 0.1}}", "unknown key 'max_bad'; allowed: max_quarantined, volume, freshness"),
    ],
)
def test_impossible_qualities_are_named(tmp_path: Path, quality: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        models.write(tmp_path, yaml=models.YAML + f"quality: {quality}\n")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([str(n) for n in range(5_000)] + ["x"], pa.int64()),
        (["x", None, 2.5, True, *range(5_000), "7"], pa.int64()),
        ([True, False] * 2_000 + ["maybe", "true", None], pa.bool_()),
        (["2026-01-01 00:00:00"] * 5_000 + ["soon"], pa.timestamp("us")),
        (["x"] * 500, pa.int64()),
    ],
)
def test_a_value_that_does_not_fit_costs_its_neighbours_only(
    values: list[object], kind: pa.DataType, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [kinds._one(value, kind) for value in values]
    real, asked = kinds._one, []
    monkeypatch.setattr(kinds, "_one", lambda value, kind: (asked.append(value), real(value, kind))[1])
    found = kinds.fitted(pd.Series(values, dtype=object), kind)
    assert [None if pd.isna(value) else value for value in found] == [
        None if value is None else pd.Timestamp(value) if pa.types.is_timestamp(kind) else value for value in alone
    ]
    assert len(asked) <= max(500, 4 * kinds.FEW)


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
    rows = csv.CsvReader(spec, spec.source).read(files.File(str(tmp_path / "x.csv"), str(tmp_path)), DAY, DAY)  # type: ignore[arg-type]
    assert [None if pd.isna(value) else value for value in rows["key"]] == found
