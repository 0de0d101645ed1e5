"""Rows are split by time, and a share of the older ones is kept."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira import data
from esteira.errors import DataError

from tests import models


def test_split_is_by_days_in_order(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    frame = pd.DataFrame({"day": np.repeat(pd.date_range("2026-01-01", periods=20), 5)})
    parts = data.split_days(spec, frame["day"].dt.date)
    past, validation, test = (data.within(frame, span) for span in (parts.past, parts.validation, parts.test))
    assert pd.concat([data.within(frame, parts.before_test), test]).equals(frame)
    assert (past["day"].nunique(), validation["day"].nunique(), test["day"].nunique()) == (14, 3, 3)
    assert past["day"].max() < validation["day"].min() <= validation["day"].max() < test["day"].min()
    with pytest.raises(DataError, match="2 days with mature labels are too few to split 70%/15%/15%"):
        data.split_days(spec, frame.head(10)["day"].dt.date)


def test_a_share_of_the_older_rows_is_kept_and_always_the_same() -> None:
    frame = pd.DataFrame({"day": np.repeat(pd.date_range("2026-01-01", periods=20), 10)})
    start = date(2026, 1, 16)
    kept = data.recent_and_sample(frame, start, 0.2, seed=1)
    assert (len(kept[kept["day"] >= pd.Timestamp(start)]), len(kept)) == (50, 50 + 30)
    assert kept.equals(data.recent_and_sample(frame, start, 0.2, seed=1))
    assert len(data.recent_and_sample(frame, start, None, seed=1)) == 50
