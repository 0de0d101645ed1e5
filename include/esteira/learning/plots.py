"""Plots of a model on rows it has not seen. Each function returns a matplotlib figure; nothing here writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve

from esteira.spec import ModelSpec


def of_model(spec: ModelSpec, scored: pd.DataFrame, weights: Mapping[str, float]) -> dict[str, Figure]:
    """The plots that fit the task, by file name. `scored` has labels and predictions, `weights` the features' importance."""
    figures = {"importance.png": importance(weights)}
    if spec.task == "regression":
        figures["residuals.png"] = residuals(scored)
    if spec.task == "binary":
        figures["roc.png"] = roc(spec, scored)
        figures["calibration.png"] = calibration(spec, scored)
    return figures


def residuals(scored: pd.DataFrame) -> Figure:
    """Predicted against actual, and how the errors are spread."""
    figure, (left, right) = _pair()
    errors = scored["prediction"] - scored["label"]
    left.scatter(scored["label"], scored["prediction"], s=4, alpha=0.4)
    low, high = scored["label"].min(), scored["label"].max()
    left.plot([low, high], [low, high], color="black", linewidth=1)
    left.set(xlabel="actual", ylabel="predicted")
    right.hist(errors, bins=50)
    right.set(xlabel="predicted - actual", ylabel="rows")
    return figure


def roc(spec: ModelSpec, scored: pd.DataFrame) -> Figure:
    """The ROC curve."""
    figure, axes = _one()
    positive = scored["label"] == spec.positive_class
    if 0 < positive.sum() < len(positive):
        false, true, _ = roc_curve(positive, scored["probability"])
        axes.plot(false, true)
    axes.plot([0, 1], [0, 1], color="black", linewidth=1)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    return figure


def calibration(spec: ModelSpec, scored: pd.DataFrame) -> Figure:
    """How often the positive class came, by the probability given to it."""
    figure, axes = _one()
    share, given = calibration_curve(scored["label"] == spec.positive_class, scored["probability"], n_bins=10)
    axes.plot(given, share, marker="o")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1)
    axes.set(xlabel="probability given", ylabel="share of the positive class")
    return figure


def importance(weights: Mapping[str, float]) -> Figure:
    """Permutation importance: how much worse the score gets when a feature's values are shuffled."""
    order = sorted(weights, key=lambda name: weights[name])
    figure, axes = _one()
    axes.barh(order, [weights[name] for name in order])
    axes.set(xlabel="loss of score when shuffled")
    return figure


def _one() -> tuple[Figure, Any]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    return figure, figure.subplots()


def _pair() -> tuple[Figure, Any]:
    figure = Figure(figsize=(10, 4), layout="constrained")
    return figure, figure.subplots(1, 2)
