"""A value has its column's type or is left out, whatever its neighbours are."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest
from esteira.data import kinds


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


def test_texts_made_all_at_once_are_those_made_one_by_one() -> None:
    rows = pd.DataFrame(
        {
            "whole": [1, 2, 3],
            "float": [1.0, 2.5, None],
            "flag": [True, False, True],
            "time": [*pd.to_datetime(["2026-01-02 01:00", "2026-01-02 02:00"]), pd.NaT],
            "mixed": [1, "x", None],
            "text": pd.Series(["a", None, "c"], dtype="str"),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "category": pd.Categorical(["x", None, "y"]),
        },
        index=[5, 7, 9],
    )
    made = kinds.as_texts(rows)
    assert list(made) == list(rows.columns)
    for name in rows.columns:
        pd.testing.assert_series_equal(made[name], kinds.as_text(rows[name]), check_names=False)
    assert [len(values) for values in kinds.as_texts(rows.head(0)).values()] == [0] * len(rows.columns)
