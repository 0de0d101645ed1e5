"""Split rows by time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from esteira.errors import DataError
from esteira.spec import ModelSpec
from esteira.text import counted

SHARES = (0.70, 0.15, 0.15)  # of the days: to fit on, to choose a candidate by, to judge it by


@dataclass(frozen=True)
class Parts:
    """A training's rows in order of time, cut between days: what is chosen on the first two is fitted on both, and judged on `test`."""

    past: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    @property
    def before_test(self) -> pd.DataFrame:
        """The first two parts."""
        return pd.concat([self.past, self.validation])


def split_days(spec: ModelSpec, frame: pd.DataFrame) -> Parts:
    """The parts of a training's rows. Raises DataError if one is empty."""
    every = np.sort(frame["day"].unique())
    cuts = [round(len(every) * share) for share in np.cumsum(SHARES)[:-1]]
    parts = [frame[frame["day"].isin(part)] for part in np.split(every, cuts)]
    if any(part.empty for part in parts):
        raise DataError(
            f"model {spec.name}: {counted(len(every), 'day')} with mature labels {'is' if len(every) == 1 else 'are'} too few to "
            f"split {'/'.join(f'{share:.0%}' for share in SHARES)}; widen train.window in model.yaml, or give an as-of day that "
            "more days of data come before"
        )
    return Parts(*parts)


def recent_and_sample(frame: pd.DataFrame, start: date, keep_old: float | None, seed: int) -> pd.DataFrame:
    """The rows from `start` on, and of the rows before it the share `keep_old`, drawn with `seed`."""
    old = frame[frame["day"] < pd.Timestamp(start)]
    recent = frame[frame["day"] >= pd.Timestamp(start)]
    if not keep_old or old.empty:
        return recent
    return pd.concat([old.sample(frac=keep_old, random_state=seed).sort_index(), recent])
