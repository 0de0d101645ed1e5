"""What limits the past suggests, and whether they find anything."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from statistics import fmean

import numpy as np
import pandas as pd

from esteira import data
from esteira.errors import DataError
from esteira.learning import evaluation, pipelines, predicting, tuning
from esteira.learning.metrics import best_of
from esteira.spec import ModelSpec, Violated
from esteira.steps import preparing
from esteira.steps.measuring import OF_CLASS, is_by_class, rarer
from esteira.text import counted

WINDOWS = 12  # that are measured at most
NORMAL = 0.6745 * math.sqrt(2)  # of a standard deviation is the median step between two independent values
LEARNT = 0.6  # of the days are learnt from before the first of them
QUANTILES = (0.5, 0.75, 0.9, 0.95, 1.0)
# Standard errors of a window that a limit is away at least. By a limit that is known to be so far chance makes a violation, of two of three windows and
# their mean, in one of 150 years of weeks; by one that is estimated from so few windows as here it does in one of 5 to 10.
SURE = 2.0
DIGITS = 3  # of the error that a limit allows, with which it is written


@dataclass(frozen=True)
class Suggested:
    """What a metric reached in past windows, a value each, the limit that this suggests, and what chance reaches.

    `written` is the limit as it is to be written down, with so many digits as its error has, and a little wider. `quantiles` are limits, the tightest
    first, each with how many of the windows would have been out of range; `bad` is that of `written`, and `violated` by how many of them it
    would have been violated. `noise` is the standard error of a window, and `longer` the days that
    one must have for the error that was asked for to be beyond it; None where it is. `few` of the windows had so few rows of a class that
    a check would wait.
    """

    values: tuple[float, ...]
    limit: float
    written: float
    bad: int
    violated: int
    noise: float
    longer: int | None
    few: int
    chance: float
    quantiles: tuple[tuple[float, int], ...]


def limits(spec: ModelSpec, as_of: date, factor: float = 1.25) -> tuple[str, dict[str, Suggested]]:
    """What limits the past suggests: the best candidate, and what came of each metric of the check.

    The last windows of check.every in the training window are predicted one after the other, each by a training on the days
    before it. The limit lets the error be `factor` times that of the median window, but come no nearer to chance than half-way; the
    error of a metric whose best is 1 is what it lacks to that. Where windows are so short that they differ by more than that by chance,
    it is wider, up to what chance reaches. Chance is what the naive baseline reaches on the last 15 % of the days.
    """
    frame = preparing.rows(spec, as_of, None, preparing.prepare_all(spec, as_of, None))
    half_life = spec.train.half_life
    index, best = tuning.best(spec, frame, half_life)
    chosen, names = spec.train.candidates[index], tuple(spec.check.metrics)
    measured, errors, few = [], [], 0
    for past, window in _origins(spec, frame):
        if window is None:
            measured.append(dict.fromkeys(names, math.nan))
            continue
        scored = predicting.scored(spec, pipelines.fit(spec, chosen, best.params, past, half_life), window)
        measured.append(evaluation.evaluate(spec, scored, names))
        errors.append({name: evaluation.standard_error(spec, scored, name) for name in names})
        few += spec.task == "binary" and rarer(scored["label"]) < OF_CLASS
    parts = data.split_days(spec, frame["day"].dt.date)
    naive = pipelines.baseline(spec, data.within(frame, parts.before_test))
    chance = evaluation.evaluate(spec, predicting.scored(spec, naive, data.within(frame, parts.test)), names)
    found = {name: _suggested(spec, name, measured, errors, chance[name], factor) for name in names}
    return chosen.name, {name: replace(each, few=few if is_by_class(name) else 0) for name, each in found.items()}


def _origins(spec: ModelSpec, frame: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame | None]]:
    """The windows in order of time, each after the rows before it; None for one whose past has one class alone, and where a check would wait."""
    days, every = frame["day"], timedelta(days=spec.check.every)
    first, end = days.min(), days.max() + timedelta(days=1)
    count = min(WINDOWS, int((1 - LEARNT) * (end - first).days) // spec.check.every)
    if count < 1:
        raise DataError(
            f"model {spec.name}: {counted((end - first).days, 'day')} with mature labels are too few for a window of {counted(spec.check.every, 'day')} "
            "after what is to be learnt; widen train.window in model.yaml, or give an as-of day that more days of data come before"
        )
    for number in range(count, 0, -1):
        start = end - number * every
        past, window = frame[days < start], frame[(days >= start) & (days < start + every)]
        enough = window["day"].nunique() >= spec.check.min_days and len(window) >= spec.check.min_rows
        known = spec.task == "regression" or past["label"].nunique() > 1
        yield past, window if enough and known else None


def _noise(values: Sequence[float], errors: list[float]) -> float:
    """The standard error of a window: that between its days, or as windows differ from the next ones, where that is less.

    Both hold more than chance: days of the week, or that the error moves.
    """
    steps = np.abs(np.diff(values))
    between = float(np.median(steps)) / NORMAL if len(steps) > 1 else math.nan
    known = [each for each in (float(np.median(errors)), between) if not math.isnan(each)]
    return min(known, default=0.0)


def _suggested(
    spec: ModelSpec,
    name: str,
    measured: list[dict[str, float]],
    errors: list[dict[str, float]],
    chance: float,
    factor: float,
) -> Suggested:
    every = [each[name] for each in measured]
    values = tuple(value for value in every if not math.isnan(value))
    if not values:
        raise DataError(
            f"model {spec.name}: {name} can't be computed in any past window; widen train.window, or check.every"
        )
    higher = spec.higher_is_better(name)
    worse = -1 if higher else 1

    def bound(share: float) -> float:
        return _written(float(np.quantile(values, 1 - share if higher else share)), best_of(name), worse)

    def bad(limit: float) -> int:
        return sum((value - limit) * worse > 0 for value in values)

    median = float(np.median(values))
    away = (factor - 1) * abs(median - best_of(name))
    noise = _noise(values, [each[name] for each in errors])
    beyond = SURE * noise
    if better(spec, name, median, chance) and not math.isnan(chance):  # so wide a limit as chance would find nothing
        far = abs(chance - median)
        away, beyond = min(away, far / 2), min(beyond, far)
    limit = median + worse * max(away, beyond)
    longer = (
        None if SURE * noise <= away else math.ceil((SURE * noise / away) ** 2) * spec.check.every if away else None
    )
    written = _written(limit, best_of(name), worse)
    violated = _violated([(value - written) * worse for value in every], spec.check.violated)
    quantiles = tuple((bound(share), bad(bound(share))) for share in QUANTILES)
    return Suggested(values, limit, written, bad(written), violated, noise, longer, 0, chance, quantiles)


def _written(limit: float, best: float, worse: int) -> float:
    """A limit with three digits of the error that it allows, and no narrower: of an accuracy of 0.99934 not 1, but 0.99934."""
    allowed = abs(limit - best)
    if allowed == 0 or not math.isfinite(allowed):
        return limit
    digits = DIGITS - 1 - math.floor(math.log10(allowed))
    scaled = round(limit * 10.0**digits, 6)  # 0.3 is 299.99999999999994 thousandths, and no narrower than that
    return round((math.ceil(scaled) if worse > 0 else math.floor(scaled)) / 10.0**digits, max(digits, 0))


def _violated(beyond: Sequence[float], rule: Violated) -> int:
    """In how many of the windows a check would have found a violation, of how far each is out of range; one that is not known is no evidence."""
    count = 0
    for number, each in enumerate(beyond):
        last = beyond[max(number - rule.of_last + 1, 0) : number + 1]
        mean = [value for value in last[-(rule.at_least + 1) :] if not math.isnan(value)]
        count += (
            each > 0 and sum(value > 0 for value in last) >= rule.at_least and (rule.at_least == 1 or fmean(mean) > 0)
        )
    return count


def better(spec: ModelSpec, metric: str, value: float, chance: float) -> bool:
    """Whether a value of a metric is better than what chance reaches; where that is not known, it is."""
    return math.isnan(chance) or evaluation.better_by(spec, metric, chance, value) > 0
