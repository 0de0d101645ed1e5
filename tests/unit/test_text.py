from __future__ import annotations

from datetime import date

import pytest
from esteira.text import better_by, counted, ranges, shown_days


@pytest.mark.parametrize(("number", "said"), [(0, "0 days"), (1, "1 day"), (2, "2 days"), (12345, "12,345 days")])
def test_a_number_agrees_with_its_word(number: int, said: str) -> None:
    assert counted(number, "day") == said


def test_days_are_shown_short() -> None:
    days = [date(2026, 2, day) for day in (1, 2, 3)]
    assert [shown_days(days[:number]) for number in (1, 2, 3)] == [
        "2026-02-01",
        "2026-02-01 and 1 more day",
        "2026-02-01 and 2 more days",
    ]


@pytest.mark.parametrize(
    ("gain", "said"), [(0.12345, "better by 0.1235"), (-0.0004, "worse by 0.0004"), (0.0, "better by 0")]
)
def test_a_loss_is_no_negative_gain(gain: float, said: str) -> None:
    assert better_by(gain) == said


def test_days_as_spans() -> None:
    days = [date(2026, 2, 27), date(2026, 2, 28), date(2026, 3, 1), date(2026, 3, 3)]
    assert ranges(days) == "2026-02-27 to 2026-03-01, 2026-03-03"
    assert ranges([]) == ""
