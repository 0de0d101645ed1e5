"""Whether a newly trained model may replace the champion: its accepted ranges, the naive baseline, the champion."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from esteira.errors import DataError, UnknownVersion
from esteira.learning import evaluation, pipelines
from esteira.learning.pipelines import Model
from esteira.lifecycle import policy
from esteira.lifecycle.state import Serving
from esteira.spec import Limit, ModelSpec
from esteira.steps import champions
from esteira.text import better_by, counted


def compare(
    spec: ModelSpec, now: Serving | None, model: Model, scored: pd.DataFrame, test: pd.DataFrame, naive: Model
) -> tuple[bool, str, dict[str, float]]:
    """Whether the model may replace the champion: in its accepted ranges, better than naive, better than the champion."""
    limits = spec.check.metrics if spec.train.accept is None else spec.train.accept
    metric = spec.check.metric
    names = tuple({**spec.check.metrics, **limits})
    measured = evaluation.evaluate(spec, scored, names)
    require_measured(spec, measured, test, "test")
    simple = evaluation.evaluate(spec, pipelines.scored(spec, naive, test), names)
    evidence = {f"test_{name}": value for name, value in measured.items()} | {
        f"baseline_{name}": value for name, value in simple.items()
    }
    bad = _out_of(limits, measured)
    if bad:
        return False, f"on the test part {bad}", evidence
    if not evaluation.better_by(spec, metric, simple[metric], measured[metric]) > 0:
        return (
            False,
            f"{metric} {measured[metric]:.4g} is not better than the naive baseline's {simple[metric]:.4g}",
            evidence,
        )
    if now is None:
        return (
            True,
            f"{metric} {measured[metric]:.4g} against the naive baseline's {simple[metric]:.4g}; there was no champion",
            evidence,
        )
    passed, why, gained = _against_champion(spec, now.version, model, test, scored)
    return passed, why, {**evidence, **gained}


def _out_of(limits: Mapping[str, Limit], measured: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} = {measured[name]:.4g} is not {limit}"
        for name, limit in limits.items()
        if not limit.holds(measured[name])
    )


def _against_champion(
    spec: ModelSpec, version: int, model: Model, test: pd.DataFrame, scored: pd.DataFrame
) -> tuple[bool, str, dict[str, float]]:
    try:
        old = champions.load_version(spec, version)
    except UnknownVersion:
        return True, f"the champion, version {version}, is no longer in MLflow, so nothing is left to compare with", {}
    gone = [name for name in old.columns if name not in spec.features.all]
    if gone:
        why = (
            f"the champion, version {version}, needs {gone}, which model.yaml has no more, so it can't be compared with"
        )
        return True, why, {}
    unseen = test["day"] > pd.Timestamp(max(old.trained_through, model.trained_through))
    days = test.loc[unseen, "day"].nunique()
    if days < spec.check.min_days:
        return (
            False,
            f"only {counted(days, 'day')} that neither it nor the champion, version {version}, has seen; {spec.check.min_days} are needed",
            {},
        )
    before = pipelines.scored(spec, old, test[unseen])
    gains = evaluation.daily_gains(spec, spec.check.metric, before, scored[unseen])
    seen = policy.gate(
        gains, min_gain=spec.promote.min_gain, confidence=spec.promote.confidence, attempts=1, seed=spec.train.seed
    )
    values = evaluation.evaluate(spec, before, (spec.check.metric,))
    why = (
        f"{spec.check.metric} {better_by(seen.gain)} than the champion's, version {version}, over {counted(seen.days, 'day')} "
        f"(by {seen.lower:.4g} or more at confidence {spec.promote.confidence:g}); asked for: {spec.promote.min_gain:g} at least, "
        "and more than 0 at that confidence"
    )
    return (
        seen.passed,
        why,
        {
            f"champion_{spec.check.metric}": values[spec.check.metric],
            "gain": seen.gain,
            "gain_lower": seen.lower,
            "gain_upper": seen.upper,
        },
    )


def require_measured(spec: ModelSpec, measured: Mapping[str, float], rows: pd.DataFrame, part: str) -> None:
    """Raise DataError where the gate's metric can't be computed from a part of the days, most often since it has one class."""
    if not math.isnan(measured[spec.check.metric]):
        return
    span = f"{part} part, {rows['day'].min().date()} to {rows['day'].max().date()}"
    seen = sorted(rows["label"].unique()) if spec.task != "regression" else []
    why = f"its labels hold one class only, {seen[0]!r}" if len(seen) == 1 else f"it has {counted(len(rows), 'row')}"
    raise DataError(
        f"model {spec.name}: {spec.check.metric} can't be computed on the {span}: {why}. Widen train.window, train for a later "
        "day, or choose a metric that one class has, such as log_loss"
    )
