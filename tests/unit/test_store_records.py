"""A record is a row of the metrics table: the same columns, in the same order, and words as plain text."""

from __future__ import annotations

import math
from dataclasses import fields
from datetime import date

import pytest
from esteira.spec import Limit
from esteira.store.records import Record, Role, Window
from esteira.store.schemas import METRICS

DAY = date(2026, 2, 1)
FOUND = Record(check_day=DAY, attempt=0, role=Role.CHAMPION, window=Window.WHOLE, metric="mae", value=2.0)


def test_a_record_has_the_columns_of_the_table() -> None:
    assert {each.name for each in fields(Record)} == set(METRICS.names)


def test_its_row_holds_plain_text() -> None:
    row = FOUND.row()
    assert (type(row["role"]), row["role"]) == (str, "champion")
    assert (type(row["window"]), row["window"]) == (str, "window")


@pytest.mark.parametrize(
    ("value", "limit", "held"),
    [
        (2.0, Limit(max=2), True),
        (2.0, Limit(min=3), False),
        (math.nan, Limit(max=2), None),
        (None, Limit(max=2), None),
        (2.0, None, None),
    ],
)
def test_a_value_is_in_range_where_there_is_one_and_it_was_asked(
    value: float | None, limit: Limit | None, held: bool | None
) -> None:
    found = Record(check_day=DAY, attempt=0, role=Role.CHAMPION, metric="mae", value=value).beside(limit)
    assert found.in_range is held
    assert found.is_held is (limit is None or held is True)
    assert (found.min, found.max) == ((limit.min, limit.max) if limit else (None, None))
