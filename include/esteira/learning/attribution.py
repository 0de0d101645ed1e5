"""What each feature of a row adds to its prediction: Shapley values, from the predictions alone.

They are of any model, a blend too: the row's features take the place of a background row's one after the other, in random orders, and
each is given the mean of what its turn changes (Štrumbelj and Kononenko 2014). Each order is walked in both directions, which spares
half of the noise (Mitchell et al. 2022), and the shares add up to the prediction whatever the orders were.

The library shap is not used: version 0.51 is off by as much as the predictions themselves, without a word, for a HistGradientBoosting that is told which
columns are categories (its shares do not add up), and brings a compiler of 170 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from esteira.learning.metrics import Array

ORDERS = 24  # each walked in both directions
BACKGROUND = 50  # rows


@dataclass(frozen=True)
class Attribution:
    """The mean prediction of the background, the row's own, and by feature what it adds to the one to make the other."""

    base: float
    prediction: float
    shares: dict[str, float]


def attribute(
    predict: Callable[[pd.DataFrame], Array], row: pd.DataFrame, background: pd.DataFrame, *, seed: int = 0
) -> Attribution:
    """The shares of a row (a frame of one) beside a background of rows like it, by `predict`, which gives a number for each row."""
    names, random = list(row.columns), np.random.default_rng(seed)
    if len(background) > BACKGROUND:
        background = background.iloc[np.sort(random.choice(len(background), BACKGROUND, replace=False))]
    orders = [random.permutation(len(names)) for _ in range(ORDERS)]
    added = np.zeros(len(names))
    walks = [order for each in orders for order in (each, each[::-1])]
    base, whole = float(np.mean(predict(background))), float(predict(row)[0])
    for order in walks:
        steps = [background]
        for position in order:
            steps.append(steps[-1].assign(**{names[position]: _repeated(row[names[position]], len(background))}))
        values = (
            predict(pd.concat(steps[1:-1], ignore_index=True)).reshape(len(order) - 1, -1).mean(axis=1)
            if len(order) > 1
            else []
        )
        added[order] += np.diff([base, *values, whole])
    return Attribution(base, whole, dict(zip(names, (added / len(walks)).tolist(), strict=True)))


def _repeated(value: pd.Series, times: int) -> Array:
    return np.repeat(value.to_numpy(), times)
