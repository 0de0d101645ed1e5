"""A row of the metrics table, and the words that its columns can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum
from typing import Any

from esteira.spec import Limit


class Role(StrEnum):
    """What a row is about."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"
    REPLACED = "replaced"  # by the champion that is verified
    DRIFT = "drift"  # of a feature
    OUTCOMES = "outcomes"  # the drift of labels, predictions, errors
    LABELS = "labels"
    ESTIMATED = "estimated"
    DECISION = "decision"
    MOVED = "moved"  # a feature that drifted
    WORSENED = "worsened"  # a segment
    REPORT = "report"


class Window(StrEnum):
    """Which days a row is of."""

    DAY = "day"
    WHOLE = "window"  # of `check.every` days
    SLICE = "slice"  # held out, for attempts
    VERIFICATION = "verification"
    PENDING = "pending"  # all days without labels yet


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a check measured, decided or found, over `first_day` to `last_day`; an empty `segment` is all rows.

    `attempt` is 0 for the check itself, 1 and up for its attempts; below that it is what store/measurements.py says.
    """

    check_day: date
    attempt: int
    role: Role
    version: int | None = None  # a challenger has none yet
    run_id: str | None = None
    first_day: date | None = None
    last_day: date | None = None
    window: Window | None = None
    segment: str | None = None
    metric: str | None = None
    value: float | None = None
    min: float | None = None
    max: float | None = None
    in_range: bool | None = None
    n_rows: int | None = None
    n_days: int | None = None
    gain: float | None = None
    gain_lower: float | None = None
    gain_upper: float | None = None
    outcome: str | None = None
    why: str | None = None

    def beside(self, limit: Limit | None) -> Record:
        """It, with the limit that its value was asked to hold, and whether it does: of no value that is not known."""
        if limit is None:
            return self
        held = None if self.value is None or math.isnan(self.value) else limit.holds(self.value)
        return replace(self, min=limit.min, max=limit.max, in_range=held)

    @property
    def is_held(self) -> bool:
        """Whether its value is in the range asked of it, if any was: a value that is not known is in none."""
        asked = self.min is not None or self.max is not None
        return bool(self.in_range) or not asked

    def row(self) -> dict[str, Any]:
        """By column; words as plain text."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in vars(self).items()}
