"""Why a metric moved: which features drifted that matter, and which segments got worse."""

from __future__ import annotations

from datetime import date

import pandas as pd

from esteira.learning import drift, evaluation
from esteira.lifecycle.policy import first_violated
from esteira.spec import ModelSpec
from esteira.steps.outcomes import known_rows, rules, segments
from esteira.store import ledger, measurements, runs
from esteira.store.measurements import Explanation, Moved, Worsened


def explain(spec: ModelSpec, day: date) -> Explanation:
    """Look into why the metrics of a day's check may have moved, and keep it in the metrics table, where mails read it."""
    found = Explanation(tuple(moved(spec, day)), tuple(worsened(spec, day)))
    measurements.write_explanation(spec, day, found, spec.check.metric)
    return found


def moved(spec: ModelSpec, day: date) -> list[Moved]:
    """The features that drifted, as the day's check has found, by importance × drift, the largest first."""
    now = ledger.require_champion(spec, day)
    kept = drift.importance(runs.profile(runs.run_of(spec, now.version)))
    found = measurements.drifts(spec, day)
    weight = {each.feature: max(kept.get(each.feature, 0.0), 0.0) for each in found}
    total = sum(weight.values()) or 1.0
    every = [Moved(each.feature, each.value, weight[each.feature] / total) for each in found if each.drifted]
    return sorted(every, key=lambda each: (each.weight, each.value), reverse=True)


def worsened(spec: ModelSpec, day: date, most: int = 5) -> list[Worsened]:
    """The segments whose metric got worse, those first whose rows make it weigh most.

    The latest window is compared with the champion's predictions for the days before the violation that it has not seen.
    Segments are those of check.segments, else every value of the categorical and boolean features.
    """
    now = ledger.require_champion(spec, day)
    windows = measurements.windows(spec, day)
    if not windows:
        return []
    since = first_violated(windows, rules(spec))
    rows = known_rows(spec, now.version, windows[-1].last)
    if rows.empty:
        return []
    before, late = (
        rows[rows["day"] < pd.Timestamp(since)],
        rows[rows["day"] >= pd.Timestamp(windows[-1].first)],
    )
    every = [*spec.check.segments] or [*spec.features.categorical, *spec.features.boolean]
    columns = [name for name in every if name not in spec.personal]
    metric = spec.check.metric
    past = {name: part for _, name, part in segments(before, columns)}
    found = []
    for _, name, part in segments(late, columns):
        if name not in past or len(part) < spec.check.min_rows:
            continue
        values = [evaluation.evaluate(spec, some, (metric,))[metric] for some in (past[name], part)]
        if evaluation.better_by(spec, metric, *values) < 0:
            found.append(Worsened(name, values[0], values[1], len(part)))
    return sorted(found, key=lambda each: abs(each.now - each.before) * each.rows, reverse=True)[:most]
