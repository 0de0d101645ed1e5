"""Limits from past windows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from esteira.steps import suggesting

from tests import models


@pytest.mark.parametrize(
    ("metric", "values", "chance", "limit"),
    [
        ("mae_over_mean", (0.1, 0.2, 0.3), 0.9, 0.25),
        ("mae_over_mean", (0.8, 0.84, 0.9), 0.98, 0.91),  # 1.05 is more than chance reaches
        (
            "mae_over_mean",
            (0.8, 0.84, 0.9),
            0.7,
            1.05,
        ),  # chance is better than the model: nothing is to be learnt from it
        ("mae_over_mean", (0.8, 0.84, 0.9), math.nan, 1.05),
        ("r2", (0.7, 0.8, 0.9), 0.0, 0.75),
        ("r2", (0.1, 0.2, 0.3), 0.0, 0.1),
    ],
)
def test_a_limit_is_125_percent_of_the_median_windows_error_but_not_half_way_to_chance(
    tmp_path: Path, metric: str, values: tuple[float, ...], chance: float, limit: float
) -> None:
    spec = models.write(tmp_path)
    found = suggesting._suggested(spec, metric, [{metric: value} for value in values], chance, 1.25)
    assert found.limit == pytest.approx(limit)
    assert found.bad == sum(value > limit if metric == "mae_over_mean" else value < limit for value in values)
