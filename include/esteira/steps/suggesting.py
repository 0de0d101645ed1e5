"""What limits the past suggests, and whether they find anything."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from esteira import data
from esteira.errors import DataError
from esteira.learning import evaluation, pipelines, tuning
from esteira.spec import ModelSpec
from esteira.steps import preparing
from esteira.text import counted

WINDOWS = 12  # that are measured at most
LEARNT = 0.6  # of the days are learnt from before the first of them
QUANTILES = (0.5, 0.75, 0.9, 0.95, 1.0)


@dataclass(frozen=True)
class Suggested:
    """What a metric reached in past windows, a value each, the limit that this suggests, and what chance reaches.

    `quantiles` are limits, the tightest first, each with how many of the windows would have been out of range; `bad` is that of `limit`.
    """

    values: tuple[float, ...]
    limit: float
    bad: int
    chance: float
    quantiles: tuple[tuple[float, int], ...]


def limits(spec: ModelSpec, as_of: date, factor: float = 1.25) -> tuple[str, dict[str, Suggested]]:
    """What limits the past suggests: the best candidate, and what came of each metric of the check.

    The last windows of check.every in the training window are predicted one after the other, each by a training on the days
    before it. The limit lets the error be `factor` times that of the median window, but come no nearer to chance than half-way; the
    error of a metric whose best is 1 is what it lacks to that. Chance is what the naive baseline reaches on the last 15 % of the days.
    """
    frame = preparing.rows(spec, as_of, None, preparing.prepare_all(spec, as_of, None))
    half_life = spec.train.half_life
    index, best = tuning.best(spec, frame, half_life)
    chosen, names = spec.train.candidates[index], tuple(spec.check.metrics)
    measured = []
    for past, window in _origins(spec, frame):
        model = pipelines.fit(spec, chosen, best.params, past, half_life)
        measured.append(evaluation.evaluate(spec, pipelines.scored(spec, model, window), names))
    parts = data.split_days(spec, frame)
    naive = pipelines.baseline(spec, parts.before_test)
    chance = evaluation.evaluate(spec, pipelines.scored(spec, naive, parts.test), names)
    return chosen.name, {name: _suggested(spec, name, measured, chance[name], factor) for name in names}


def _origins(spec: ModelSpec, frame: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    """The windows in order of time, each after the rows before it; those are left out whose past has one class alone."""
    days, every = np.sort(frame["day"].unique()), spec.check.every
    count = min(WINDOWS, int((1 - LEARNT) * len(days)) // every)
    if count < 1:
        raise DataError(
            f"model {spec.name}: {counted(len(days), 'day')} with mature labels are too few for a window of {counted(every, 'day')} "
            "after what is to be learnt; widen train.window in model.yaml, or give an as-of day that more days of data come before"
        )
    for number in range(count, 0, -1):
        start, end = len(days) - number * every, len(days) - (number - 1) * every
        past = frame[frame["day"] < days[start]]
        if spec.task == "regression" or past["label"].nunique() > 1:
            yield past, frame[frame["day"].isin(days[start:end])]


def _suggested(spec: ModelSpec, name: str, measured: list[dict[str, float]], chance: float, factor: float) -> Suggested:
    values = tuple(each[name] for each in measured if not math.isnan(each[name]))
    if not values:
        raise DataError(
            f"model {spec.name}: {name} can't be computed in any past window; widen train.window, or check.every"
        )
    higher = spec.higher_is_better(name)

    def bound(share: float) -> float:
        return float(np.quantile(values, 1 - share if higher else share))

    def bad(limit: float) -> int:
        return sum(value < limit if higher else value > limit for value in values)

    median = bound(0.5)
    limit = 1 - factor * (1 - median) if higher else factor * median
    if better(spec, name, median, chance) and not math.isnan(chance):  # so wide a limit as chance would find nothing
        limit = (max if higher else min)(limit, (median + chance) / 2)
    return Suggested(values, limit, bad(limit), chance, tuple((bound(share), bad(bound(share))) for share in QUANTILES))


def better(spec: ModelSpec, metric: str, value: float, chance: float) -> bool:
    """Whether a value of a metric is better than what chance reaches; where that is not known, it is."""
    return math.isnan(chance) or evaluation.better_by(spec, metric, chance, value) > 0
