"""Split rows by time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from esteira.errors import DataError
from esteira.spec import ModelSpec
from esteira.text import counted

SHARES = (0.70, 0.15, 0.15)  # of the days: to fit on, to choose a candidate by, to judge it by
WEIGHT = "(weight)"  # a column of rows of which only a sample was taken: how many rows each stands for


Span = tuple[date, date]


@dataclass(frozen=True)
class Parts:
    """The days of a training, in order of time: what is chosen on the first two parts is fitted on both, and judged on `test`."""

    past: Span
    validation: Span
    test: Span

    @property
    def before_test(self) -> Span:
        """The first two parts."""
        return self.past[0], self.validation[1]


def split_days(spec: ModelSpec, days: Iterable[date]) -> Parts:
    """The parts of days that have rows with labels. Raises DataError if one is empty."""
    every = sorted(set(days))
    first, second = (round(len(every) * share) for share in np.cumsum(SHARES)[:-1])
    parts = every[:first], every[first:second], every[second:]
    if not all(parts):
        raise DataError(
            f"model {spec.name}: {counted(len(every), 'day')} with mature labels {'is' if len(every) == 1 else 'are'} too few to "
            f"split {'/'.join(f'{share:.0%}' for share in SHARES)}; widen train.window in model.yaml, or give an as-of day that "
            "more days of data come before"
        )
    return Parts(*((part[0], part[-1]) for part in parts))


def within(frame: pd.DataFrame, span: Span) -> pd.DataFrame:
    """The rows of some days."""
    return frame[frame["day"].between(pd.Timestamp(span[0]), pd.Timestamp(span[1]))]


def recent_and_sample(frame: pd.DataFrame, start: date, keep_old: float | None, seed: int) -> pd.DataFrame:
    """The rows from `start` on, and of the rows before it the share `keep_old`, drawn with `seed`."""
    old = frame[frame["day"] < pd.Timestamp(start)]
    recent = frame[frame["day"] >= pd.Timestamp(start)]
    if not keep_old or old.empty:
        return recent
    return pd.concat([old.sample(frac=keep_old, random_state=seed).sort_index(), recent])
