"""The search for a candidate's parameters, by cross-validation in order of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import TimeSeriesSplit

from esteira.errors import SpecError
from esteira.learning import evaluation, pipelines, predicting
from esteira.spec import Candidate, Dimension, ModelSpec
from esteira.text import counted


@dataclass(frozen=True)
class Trial:
    """What a search found: the parameters, their cross-validated metric, and how many trials it took."""

    params: Mapping[str, Any] = field(default_factory=dict)
    value: float = math.nan
    trials: int = 0


def best(
    spec: ModelSpec, frame: pd.DataFrame, half_life: int | None = None, trials: int | None = None
) -> tuple[int, Trial]:
    """The candidate that does best by cross-validation over the days of `frame`, by its index, and what its search found."""
    every = spec.train.candidates
    found = [tune(spec, each, frame, half_life, trials, only=len(every) == 1) for each in every]
    index = evaluation.best(spec, {number: each.value for number, each in enumerate(found)})
    return index, found[index]


def tune(
    spec: ModelSpec,
    candidate: Candidate,
    frame: pd.DataFrame,
    half_life: int | None = None,
    trials: int | None = None,
    *,
    only: bool = False,
) -> Trial:
    """Search a candidate's parameters by time-series cross-validation over the days of `frame`; the metric is the gate's.

    The `only` candidate, with nothing to search, is compared with nothing, so its value is not asked for: NaN.
    """
    if not candidate.search:
        if only:
            return Trial({}, math.nan, 0)
        return Trial({}, cross_validate(spec, candidate, {}, frame, half_life), 1)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if spec.higher_is_better(spec.check.metric) else "minimize"
    study = optuna.create_study(direction=direction, sampler=_sampler(spec, candidate))

    def objective(trial: optuna.Trial) -> float:
        params = {name: _suggest(trial, name, dimension) for name, dimension in candidate.search.items()}
        return cross_validate(spec, candidate, params, frame, half_life)

    count = None if candidate.method == "grid" else trials or candidate.trials
    study.optimize(objective, n_trials=count)
    return Trial(study.best_params, study.best_value, len(study.trials))


def _sampler(spec: ModelSpec, candidate: Candidate) -> Any:
    import optuna

    if candidate.method == "grid":
        return optuna.samplers.GridSampler(
            {name: list(dim.choice or ()) for name, dim in candidate.search.items()}, seed=spec.train.seed
        )
    if candidate.method == "random":
        return optuna.samplers.RandomSampler(seed=spec.train.seed)
    return optuna.samplers.TPESampler(seed=spec.train.seed)


def _suggest(trial: Any, name: str, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return trial.suggest_categorical(name, list(dimension.choice))
    low, high = dimension.bounds
    if dimension.whole:
        return trial.suggest_int(name, int(low), int(high))
    return trial.suggest_float(name, low, high, log=dimension.log is not None)


def cross_validate(
    spec: ModelSpec,
    candidate: Candidate,
    params: Mapping[str, Any],
    frame: pd.DataFrame,
    half_life: int | None = None,
    metric: str = "",
) -> float:
    """A metric (the gate's unless another is named): its mean over folds that train on the days before those they measure."""
    name = metric or spec.check.metric
    values = []
    for past, future in _folds(spec, frame):
        if spec.task != "regression" and past["label"].nunique() < 2:
            continue
        model = pipelines.fit(spec, candidate, params, past, half_life)
        values.append(evaluation.evaluate(spec, predicting.scored(spec, model, future), [name])[name])
    values = [value for value in values if not math.isnan(value)]
    if not values:
        raise SpecError(
            f"model {spec.name}: no fold of the {counted(len(frame), 'row')} can be measured by {name}; widen the window"
        )
    return float(np.mean(values))


def _folds(spec: ModelSpec, frame: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    every = np.sort(frame["day"].unique())
    if len(every) < 3:
        raise SpecError(
            f"model {spec.name}: {counted(len(every), 'day')} with mature labels {'is' if len(every) == 1 else 'are'} too few to cross-validate; widen train.window in model.yaml, or give an as-of day that more days of data come before"
        )
    folds = min(spec.train.folds, len(every) - 1)
    for past, future in TimeSeriesSplit(n_splits=folds).split(every):
        yield frame[frame["day"].isin(every[past])], frame[frame["day"].isin(every[future])]
