"""Performance before its labels arrive: expected metrics from calibrated probabilities, or from a model of the loss.

A binary task by confidence-based performance estimation, a regression by direct loss estimation (both named so by NannyML,
whose documentation describes them). Both assume that what the features mean has not changed: they see a drift of the
inputs, and not one of the concept.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from esteira.learning import evaluation
from esteira.learning.metrics import METRICS
from esteira.spec import ModelSpec

if TYPE_CHECKING:
    from esteira.learning.metrics import Array, Loss

ENOUGH = 500  # rows for an isotonic calibration; with fewer a logistic one varies less


def estimate(
    spec: ModelSpec, known: pd.DataFrame, rows: pd.DataFrame, names: tuple[str, ...]
) -> list[dict[str, float]]:
    """The metrics that are to be expected, one dict for each day of `rows`, and a last one for all of them together.

    `known` are rows with features, `label`, `prediction` and `probability`, which the model had not seen; `rows` have the
    same but for the label, and a `day`. NaN for a metric that can't be estimated: those of a multiclass task, and a
    user's own.
    """
    parts = [(rows["day"] == day).to_numpy() for day in sorted(rows["day"].unique())] + [np.ones(len(rows), dtype=bool)]
    if spec.task == "binary":
        chance = _calibrated(spec, known, rows)
        return [_expected(spec, rows[part], chance[part], names) for part in parts]
    if spec.task == "regression":
        losses = {name: METRICS[name].loss if name in METRICS else None for name in names}
        asked = {loss: _predicted_loss(spec, loss, known, rows) for loss in set(losses.values()) if loss}
        predictions = rows["prediction"].to_numpy(dtype="float64")
        return [
            {
                name: METRICS[name].whole(float(np.mean(asked[loss][part])), predictions[part]) if loss else math.nan
                for name, loss in losses.items()
            }
            for part in parts
        ]
    return [dict.fromkeys(names, math.nan) for _ in parts]


def _calibrated(spec: ModelSpec, known: pd.DataFrame, rows: pd.DataFrame) -> Array:
    """The probability of the positive class, so that of the known rows given p the share p was positive."""
    positive = (known["label"] == spec.positive_class).to_numpy(dtype="int64")
    given, asked = (np.clip(frame["probability"].to_numpy(dtype="float64"), 1e-6, 1 - 1e-6) for frame in (known, rows))
    if len(np.unique(positive)) < 2:
        return np.full(len(rows), float(positive.mean()))
    if len(known) >= ENOUGH:
        return np.asarray(
            IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(given, positive).predict(asked)
        )
    odds = [np.log(values / (1 - values)).reshape(-1, 1) for values in (given, asked)]
    return np.asarray(LogisticRegression().fit(odds[0], positive).predict_proba(odds[1])[:, 1])


def _expected(spec: ModelSpec, rows: pd.DataFrame, chance: Array, names: tuple[str, ...]) -> dict[str, float]:
    # Each row counts as a positive one with its chance, and as a negative one with the rest of it.
    _, predictions, shown = evaluation.arrays(spec, rows.assign(label=""))
    labels = np.repeat([1, 0], len(rows))
    weights = np.concatenate([chance, 1 - chance])
    twice = np.tile(predictions, 2), np.tile(shown, 2)
    return {name: METRICS[name].function(labels, *twice, weights) if name in METRICS else math.nan for name in names}


def _predicted_loss(spec: ModelSpec, loss: Loss, known: pd.DataFrame, rows: pd.DataFrame) -> Array:
    texts = [column for column in spec.features.categorical if column in known]
    numbers = [column for column in (*spec.features.numeric, *spec.features.boolean, "prediction") if column in known]
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    prepare = make_column_transformer((encode, texts), ("passthrough", numbers))
    model = make_pipeline(prepare, HistGradientBoostingRegressor(max_iter=100, random_state=spec.train.seed))
    lost = loss(known["label"].to_numpy(dtype="float64"), known["prediction"].to_numpy(dtype="float64"))

    def matrix(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[[*texts, *numbers]].assign(**{column: frame[column].astype(object).fillna("") for column in texts})

    likely: Array = np.maximum(np.asarray(model.fit(matrix(known), lost).predict(matrix(rows))), 0)
    return likely
