"""Performance before its labels arrive: expected metrics from calibrated probabilities, or from a model of the loss.

A binary task by confidence-based performance estimation, a regression by direct loss estimation (both named so by NannyML,
whose documentation describes them). Both assume that what the features mean has not changed: they see a drift of the
inputs, and not one of the concept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from esteira import learn
from esteira.learn import FUNCTIONS, Array
from esteira.spec import ModelSpec

ENOUGH = 500  # rows for an isotonic calibration; with fewer a logistic one varies less

# What a row loses, by its label and its prediction: the metrics of a regression are made of the means of these.
LOSSES: Mapping[str, Callable[[Array, Array], Array]] = {
    "absolute": lambda y, p: np.abs(y - p),
    "squared": lambda y, p: (y - p) ** 2,
    "relative": lambda y, p: np.abs(y - p) / np.maximum(np.abs(y), np.finfo(float).eps),
}


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
        losses = {name: _loss_of(spec, name) for name in names}
        asked = {loss: _predicted_loss(spec, loss, known, rows) for loss in {loss for loss in losses.values() if loss}}
        return [
            {
                name: _from_loss(name, asked[loss][part], rows[part]) if loss else math.nan
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
    _, predictions, shown = learn.arrays(spec, rows.assign(label=""))
    labels = np.repeat([1, 0], len(rows))
    weights = np.concatenate([chance, 1 - chance])
    twice = np.tile(predictions, 2), np.tile(shown, 2)
    return {name: float(FUNCTIONS[name](labels, *twice, weights)) if name in FUNCTIONS else math.nan for name in names}


def _loss_of(spec: ModelSpec, name: str) -> str:
    if name.startswith("pinball_"):
        return name
    return {"mae": "absolute", "mae_over_mean": "absolute", "rmse": "squared", "r2": "squared", "mape": "relative"}.get(
        name, ""
    )


def _loss(name: str, labels: Array, predictions: Array) -> Array:
    if name in LOSSES:
        return np.asarray(LOSSES[name](labels, predictions))
    level = int(name.removeprefix("pinball_")) / 100
    short = labels - predictions
    return np.asarray(np.maximum(level * short, (level - 1) * short))


def _predicted_loss(spec: ModelSpec, name: str, known: pd.DataFrame, rows: pd.DataFrame) -> Array:
    texts = [column for column in spec.features.categorical if column in known]
    numbers = [column for column in (*spec.features.numeric, *spec.features.boolean, "prediction") if column in known]
    encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    prepare = make_column_transformer((encode, texts), ("passthrough", numbers))
    model = make_pipeline(prepare, HistGradientBoostingRegressor(max_iter=100, random_state=spec.train.seed))
    lost = _loss(name, known["label"].to_numpy(dtype="float64"), known["prediction"].to_numpy(dtype="float64"))

    def matrix(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[[*texts, *numbers]].assign(**{column: frame[column].astype(object).fillna("") for column in texts})

    likely: Array = np.maximum(np.asarray(model.fit(matrix(known), lost).predict(matrix(rows))), 0)
    return likely


def _from_loss(name: str, lost: Array, rows: pd.DataFrame) -> float:
    mean = float(np.mean(lost))
    predictions = rows["prediction"].to_numpy(dtype="float64")
    if name == "rmse":
        return math.sqrt(mean)
    if name == "mae_over_mean":
        middle = abs(float(np.mean(predictions)))
        return mean / middle if middle else math.nan
    if name == "r2":  # the labels spread as far as the predictions do, and by the squared loss around them
        spread = float(np.var(predictions)) + mean
        return 1 - mean / spread if spread else math.nan
    return mean
