"""What predictions are worth: metrics over rows with labels, and how much better one version is than another."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pandas as pd

from esteira import data
from esteira.errors import SpecError
from esteira.learning.metrics import METRICS, best_of
from esteira.lifecycle import policy
from esteira.lifecycle.policy import Gate
from esteira.spec import ModelSpec

if TYPE_CHECKING:
    from esteira.learning.metrics import Array

K = TypeVar("K", bound=Hashable)
TINY = 1e-12


def evaluate(spec: ModelSpec, rows: pd.DataFrame, names: tuple[str, ...] | list[str]) -> dict[str, float]:
    """The metrics `names` over rows with `label`, `prediction` and `probability`; NaN where one can't be computed.

    A name with a dot is a function of the model's own: it gets labels, predictions and probabilities as arrays.
    """
    if rows.empty:
        return dict.fromkeys(names, math.nan)
    labels, predictions, shown = arrays(spec, rows)
    return {
        name: _own(spec, name, labels, predictions, shown)
        if "." in name
        else float(METRICS[name].function(labels, predictions, shown, None))
        for name in names
    }


def arrays(spec: ModelSpec, rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Labels, predictions and probabilities as metrics take them."""
    labels, predictions = rows["label"].to_numpy(), rows["prediction"].to_numpy()
    if spec.task == "binary":
        labels, predictions = ((values == spec.positive_class).astype(int) for values in (labels, predictions))
    return labels, predictions, rows["probability"].to_numpy(dtype="float64")


def _own(spec: ModelSpec, name: str, labels: Array, predictions: Array, shown: Array) -> float:
    found = data.function(spec.folder, name)(labels, predictions, shown)
    try:
        if isinstance(found, str | bytes):
            raise TypeError
        return float(found)
    except (TypeError, ValueError):
        raise SpecError(
            f"model {spec.name}: the metric {name} must return a number, got {type(found).__name__}"
        ) from None


def better_by(spec: ModelSpec, name: str, old: float, new: float) -> float:
    """How much better `new` is than `old` in the metric's own unit; negative where it is worse."""
    return new - old if spec.higher_is_better(name) else old - new


def best(spec: ModelSpec, values: Mapping[K, float]) -> K:
    """The key whose value of the gate's metric is best; of equal ones the first."""
    return (max if spec.higher_is_better(spec.check.metric) else min)(values, key=lambda key: values[key])


def gate(
    spec: ModelSpec,
    champion: pd.DataFrame,
    challenger: pd.DataFrame,
    attempts: int = 1,
    confidence: float | None = None,
    least: float = 0.0,
) -> Gate:
    """What the gate sees of two versions' predictions of the same rows, by what the model.yaml asks of a promotion.

    Its bounds are at another `confidence` where one is given; `least` is a gain that is wanted besides promote.min_gain.
    """
    return policy.gate(
        daily_gains(spec, spec.check.metric, champion, challenger),
        min_gain=max(spec.promote.min_gain, least),
        confidence=confidence or spec.promote.confidence,
        attempts=attempts,
        differing=_differing_days(spec, champion, challenger),
        seed=spec.train.seed,
    )


def _differing_days(spec: ModelSpec, champion: pd.DataFrame, challenger: pd.DataFrame) -> int:
    """On how many days the metric differs; one that a single day can't tell counts."""
    name = spec.check.metric
    days = zip(champion.groupby("day"), challenger.groupby("day"), strict=True)
    return sum(evaluate(spec, old, [name])[name] != evaluate(spec, new, [name])[name] for (_, old), (_, new) in days)


def standard_error(spec: ModelSpec, rows: pd.DataFrame, name: str) -> float:
    """That of a metric over rows of several days, by leaving out one day after the other; NaN of one day.

    The jackknife: Efron and Tibshirani 1993, chapter 11.
    """
    every = rows["day"].unique()
    without = [evaluate(spec, rows[rows["day"] != day], (name,))[name] for day in every]
    return math.sqrt(len(every) - 1) * float(np.std(without)) if len(every) > 1 else math.nan


def bound(spec: ModelSpec, name: str) -> float:
    """The bound of a metric's range that it may come to by getting worse."""
    limit = spec.check.metrics[name]
    found = limit.min if spec.higher_is_better(name) else limit.max
    assert found is not None, "a metric has the bound that makes it better"
    return found


def allowed(spec: ModelSpec, name: str) -> float:
    """The error that the range of a metric allows; that of a metric whose best is 1 is what it lacks to that. Never 0."""
    return abs(bound(spec, name) - best_of(name)) or TINY


def daily_gains(spec: ModelSpec, name: str, champion: pd.DataFrame, challenger: pd.DataFrame) -> list[float]:
    """The gain of each day, in order of days, whose mean is the gain over all (jackknife pseudo-values over days).

    Both frames have the same rows with `day`, `label`, `prediction`, `probability`. Pseudo-values carry a metric that
    is no mean over rows (AUC, F1, MAE over mean) to numbers that can be resampled by day
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11).
    """

    def gain(old: pd.DataFrame, new: pd.DataFrame) -> float:
        return better_by(spec, name, evaluate(spec, old, [name])[name], evaluate(spec, new, [name])[name])

    if name == "mae_over_mean":
        # Both divide by the same mean, which says nothing of who is better: to resample it would bury a plain advantage.
        mean = abs(float(champion["label"].mean())) if len(champion) else 0.0
        return [each / (mean or math.nan) for each in daily_gains(spec, "mae", champion, challenger)]
    every = sorted(champion["day"].unique())
    if len(every) < 2:
        return [gain(champion, challenger)] * len(every)
    whole, n = gain(champion, challenger), len(every)
    without = [gain(champion[champion["day"] != day], challenger[challenger["day"] != day]) for day in every]
    pseudo = [n * whole - (n - 1) * part for part in without]
    offset = whole - math.fsum(pseudo) / n  # the jackknife's bias: the gain reported is the plain one
    return [value + offset for value in pseudo]
