"""A blend: pipelines that were fitted before, weighted by what they lost of late, and calibrated. It fits none anew.

Weights fall exponentially with a member's loss, as in the aggregation of experts (Vovk 1990; Cesa-Bianchi and Lugosi 2006,
Prediction, Learning, and Games, chapter 2). That old models help when what they have learnt comes back: Matchmaker (MLSys 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from esteira.learning.metrics import METRICS
from esteira.learning.predicting import Model, design
from esteira.spec import ModelSpec

if TYPE_CHECKING:
    from esteira.learning.metrics import Array

SHARPNESS = 30.0  # a member that loses 10 % more than the best one weighs exp(-3) of it
HALF_LIFE = 14  # days after which a loss counts half
PAST = 6 * HALF_LIFE  # days that are looked at: what is older weighs next to nothing
LEAST = 0.01  # a member that weighs less is left out
TINY = 1e-6  # how near a chance may come to 0 and 1

Kind = Literal["factor", "shift", "logit", "none"]


class Blend:
    """Fitted pipelines as one: the weighted mean of what they predict, times a factor, plus a shift, or plus that of the log-odds."""

    def __init__(self, members: Sequence[Any], weights: Sequence[float], kind: Kind, value: float) -> None:
        self.members = members
        self.weights = weights
        self.kind = kind
        self.value = value

    @property
    def feature_names_in_(self) -> Array:
        """The features that its members want, each once."""
        return np.array(list(dict.fromkeys(str(name) for each in self.members for name in each.feature_names_in_)))

    def predict(self, matrix: pd.DataFrame) -> Array:
        """What is predicted of each row; of a classification the number of its class."""
        if hasattr(self.members[0], "predict_proba"):
            return np.asarray(self.predict_proba(matrix).argmax(axis=1))
        parts = [
            np.asarray(each.predict(matrix[list(each.feature_names_in_)]), dtype="float64") for each in self.members
        ]
        return calibrated(np.average(parts, axis=0, weights=self.weights), self.kind, self.value)

    def predict_proba(self, matrix: pd.DataFrame) -> Array:
        """The chance of each class."""
        parts = [np.asarray(each.predict_proba(matrix[list(each.feature_names_in_)])) for each in self.members]
        return calibrated(np.average(parts, axis=0, weights=self.weights), self.kind, self.value)


@dataclass(frozen=True)
class Blended:
    """A blend, and by which of the models given it came to be: their numbers, their weights, their calibration."""

    model: Model
    members: tuple[int, ...]
    weights: tuple[float, ...]
    kind: Kind
    value: float


@dataclass(frozen=True)
class Known:
    """Models, and what each predicts of the rows of `frame` (features and `label`); NaN where it has seen the row's day."""

    models: Sequence[Model]
    frame: pd.DataFrame
    given: Sequence[Array]


def known(spec: ModelSpec, models: Sequence[Model], frame: pd.DataFrame) -> Known:
    """What the models predict of the rows that each has not seen."""
    return Known(models, frame, _given(spec, models, frame))


def blend(spec: ModelSpec, past: Known, last: date) -> Blended | None:
    """The blend of the models by what each lost on the rows up to `last` that it has not seen.

    None where no model has `check.min_days` of them.
    """
    rows = past.frame["day"].between(pd.Timestamp(last - timedelta(days=PAST - 1)), pd.Timestamp(last)).to_numpy()
    frame, given = past.frame[rows], [each[rows] for each in past.given]
    enough = [
        index for index, each in enumerate(given) if frame.loc[~_missing(each), "day"].nunique() >= spec.check.min_days
    ]
    if not enough:
        return None
    labels = _labels(past.models[0].classes, frame["label"])
    losses = {index: _losses(spec, labels, given[index]) for index in enough}
    weights = _weights(losses, frame["day"])
    kept = sorted(weights, key=lambda index: (-weights[index], index))[: spec.members]
    kept = [index for index in kept if weights[index] >= LEAST * sum(weights.values())]
    total = math.fsum(weights[index] for index in kept)
    shares = tuple(weights[index] / total for index in kept)
    kind, value = _calibration(spec, labels, _mean([given[index] for index in kept], shares), frame["day"])
    pipeline = Blend([past.models[index].pipeline for index in kept], list(shares), kind, value)
    seen = max(frame["day"].max().date(), *(past.models[index].trained_through for index in kept))
    return Blended(Model(pipeline, past.models[0].classes, seen), tuple(kept), shares, kind, value)


def importance(members: Sequence[Mapping[str, float]], weights: Sequence[float]) -> dict[str, float]:
    """The features' importance to a blend: that to its members, by their weights."""
    names = dict.fromkeys(name for each in members for name in each)
    return {
        name: math.fsum(share * each.get(name, 0.0) for each, share in zip(members, weights, strict=True))
        for name in names
    }


def _given(spec: ModelSpec, models: Sequence[Model], frame: pd.DataFrame) -> list[Array]:
    """What each model predicts (a number, or chances) for each row; NaN where it has seen the row's day."""
    found = []
    for model in models:
        new = (frame["day"] > pd.Timestamp(model.trained_through)).to_numpy()
        shape = (len(frame), len(model.classes)) if model.classes else (len(frame),)
        values = np.full(shape, np.nan)
        if new.any():
            matrix = design(spec, frame[new], model.columns)
            asked = model.pipeline.predict_proba if model.classes else model.pipeline.predict
            values[new] = asked(matrix)
        found.append(values)
    return found


def _labels(classes: tuple[str, ...], labels: pd.Series) -> Array:
    """Labels as numbers: of a classification the class's, -1 where the models know none such."""
    if not classes:
        return labels.to_numpy(dtype="float64")
    numbers = {name: number for number, name in enumerate(classes)}
    return labels.map(lambda name: numbers.get(name, -1)).to_numpy(dtype="int64")


def recency(days: pd.Series, last: pd.Timestamp) -> Array:
    """What each of the days counts: half for each 14 days that it is before the last."""
    age = (last - days).dt.days.to_numpy(dtype="float64")
    return np.asarray(0.5 ** (age / HALF_LIFE))


def _missing(values: Array) -> Array:
    return np.isnan(values if values.ndim == 1 else values[:, 0])


def _losses(spec: ModelSpec, labels: Array, values: Array) -> Array:
    """What each row loses: by the loss of the gate's metric where that has one, else its absolute error, or its log loss."""
    if values.ndim == 1:
        metric = METRICS.get(spec.check.metric)
        loss = metric.loss if metric is not None and metric.loss else METRICS["mae"].loss
        assert loss is not None, "the mean absolute error has one"
        return np.asarray(loss(labels, values))
    chance = np.where(labels < 0, 0.0, values[np.arange(len(labels)), np.maximum(labels, 0)])
    return np.asarray(-np.log(np.clip(np.where(_missing(values), np.nan, chance), 1e-3, 1)))


def _weights(losses: Mapping[int, Array], days: pd.Series) -> dict[int, float]:
    """By how much more than the best one a model lost: the mean over days of its loss beside what all lost on the same rows.

    A day counts as one, whatever was lost on it: a holiday on which all were wrong says little of who is right.
    """
    every = np.vstack(list(losses.values()))
    known = ~np.isnan(every)
    usual = np.nansum(np.where(known, every, 0), axis=0) / np.maximum(known.sum(axis=0), 1)
    relative = {}
    for index, values in losses.items():
        mine = ~np.isnan(values)
        daily = pd.DataFrame({"lost": values[mine], "usual": usual[mine]}).groupby(days[mine].to_numpy()).sum()
        daily = daily[daily["usual"] > 0]
        ratios, recent = daily["lost"] / daily["usual"], recency(daily.index.to_series(), days.max())
        relative[index] = float(np.average(ratios, weights=recent)) if len(daily) else 1.0
    best = min(relative.values()) or 1.0
    return {index: math.exp(-SHARPNESS * (value / best - 1)) for index, value in relative.items()}


def _mean(given: Sequence[Array], weights: Sequence[float]) -> Array:
    """The weighted mean of each row over those that have not seen it; NaN where all have."""
    total, weight = np.zeros(given[0].shape), np.zeros(len(given[0]))
    for values, share in zip(given, weights, strict=True):
        new = ~_missing(values)
        total[new] += share * values[new]
        weight[new] += share
    some = np.where(weight > 0, weight, np.nan)
    return np.asarray(total / (some if total.ndim == 1 else some[:, None]))


def _calibration(spec: ModelSpec, labels: Array, values: Array, days: pd.Series) -> tuple[Kind, float]:
    """What brings the predictions to the labels: of a number the median over days, which a week of holidays does not move.

    None where the gate's metric sees the order only: shifts that differ from span to span of the slice would pass for a gain.
    """
    if spec.check.metric in METRICS and METRICS[spec.check.metric].ranks:
        return "none", 0.0
    new = ~_missing(values) & (labels >= 0 if values.ndim == 2 else True)
    labels, values, days = labels[new], values[new], days[new]
    if values.ndim == 2:
        recent = recency(days, days.max())
        return ("logit", _logit_shift(labels, values[:, 1], recent)) if values.shape[1] == 2 else ("none", 0.0)
    daily = pd.DataFrame({"wanted": labels, "given": values}).groupby(days.to_numpy()).mean()
    if (daily > 0).all(axis=None):  # a row at 0, or a return now and then, does not make what grows by factors add up
        return "factor", _median(daily["wanted"] / daily["given"])
    return "shift", _median(daily["wanted"] - daily["given"])


def _median(daily: pd.Series) -> float:
    """The weighted median of a value a day, a later one weighing more."""
    ordered = daily.sort_values()
    weights = recency(ordered.index.to_series(), daily.index.max()).cumsum()
    return float(ordered.iloc[int(np.searchsorted(weights, weights[-1] / 2))])


def _logit_shift(labels: Array, chances: Array, recent: Array) -> float:
    """By how much the log-odds are to be moved so that as many are positive as are expected (Newton's method)."""
    odds, shift = _odds(chances), 0.0
    for _ in range(50):
        likely = 1 / (1 + np.exp(-(odds + shift)))
        slope = float(recent @ (likely * (1 - likely)))
        step = float(recent @ (labels - likely)) / max(slope, TINY)
        shift = float(np.clip(shift + np.clip(step, -1, 1), -5, 5))
        if abs(step) < 1e-9:
            break
    return shift


def _odds(chances: Array) -> Array:
    near = np.clip(chances, TINY, 1 - TINY)
    return np.asarray(np.log(near / (1 - near)))


def calibrated(values: Array, kind: Kind, value: float) -> Array:
    """Predictions, or chances of two classes, as a calibration corrects them."""
    if kind == "factor":
        return values * value
    if kind == "shift":
        return values + value
    if kind == "logit":
        positive = 1 / (1 + np.exp(-(_odds(values[:, 1]) + value)))
        return np.column_stack([1 - positive, positive])
    return values
