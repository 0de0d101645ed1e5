"""Each row is good or in quarantine, with the rule that it breaks; features are made of the good ones."""

from __future__ import annotations

import time
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira import data
from esteira.data import validating
from esteira.errors import DataError
from esteira.spec import ModelSpec, load
from esteira.store import lake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import models

DAY = date(2026, 1, 2)


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


@pytest.mark.timeout(60)
def test_an_expression_matches_in_a_time_that_grows_with_the_text(tmp_path: Path) -> None:
    yaml = models.YAML.replace("in: [A, B, C]", r"matches: '(a+)+b'")
    spec = models.write(tmp_path, yaml=yaml)
    rows = pd.DataFrame(
        {"site": ["aaab", "a" * 50_000, "aab\n", "xaab", None], "at": "2026-01-02", "hour": 1, "heat": 1.0}
    )
    rows = rows.assign(at=[f"2026-01-02 0{n}:00" for n in range(5)], open=True)
    rows = rows.assign(event_time=data.event_time(spec, rows), day=pd.Timestamp(DAY))
    started = time.monotonic()
    _, bad = data.validate(spec, rows)
    assert time.monotonic() - started < 10
    assert list(bad["rule"]) == ["matches"] * 3 + ["key"]


@pytest.mark.parametrize(
    ("pattern", "texts", "matched"),
    [
        ("A|AB", ["A", "AB", "ABC"], [True, True, False]),
        (r"^\d{3}$", ["123", "123\n", "1234"], [True, False, False]),
        ("(?i)käse", ["KÄSE", "kase"], [True, False]),
        ("", ["", "x"], [True, False]),
        ("a$|b", ["a", "b", "ab"], [True, True, False]),
    ],
)
def test_an_expression_is_of_the_whole_value(pattern: str, texts: list[str], matched: list[bool]) -> None:
    assert list(validating._match(pd.Series(texts, dtype="str"), pattern)) == matched


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
