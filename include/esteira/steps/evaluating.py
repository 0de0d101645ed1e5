"""A candidate's model on days that nothing has seen: against its limits, the naive baseline, and the champion."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import date, timedelta

import pandas as pd

from esteira.errors import UnknownVersion
from esteira.learning import evaluation, pipelines, predicting
from esteira.learning.predicting import Model
from esteira.lifecycle.state import Serving
from esteira.spec import Limit, ModelSpec
from esteira.steps import champions, fitting, labelling, preparing
from esteira.steps.measuring import lacking_labels
from esteira.steps.outcomes import rules
from esteira.store import ledger, runs
from esteira.store.lineage import DataVersions, Evaluation, Tuned
from esteira.text import better_by, counted

log = logging.getLogger(__name__)


def evaluate(
    spec: ModelSpec, as_of: date, candidate_run: str, versions: DataVersions, run: str, window: int | None = None
) -> str:
    """Fit the chosen candidate on 85 % of the days and measure it on the last 15 %, which nothing has seen yet.

    Beside it the naive baseline, and the champion on the rows that neither has seen. The run keeps the model and, as
    tags, whether it may be promoted, and why. Returns the MLflow run.
    """
    tuned = Tuned.of(runs.get(candidate_run).tags)
    chosen = spec.train.candidates[tuned.candidate]
    past, test = preparing.to_judge(spec, as_of, window, versions)
    with runs.tracked(
        spec, f"{run}/model", f"{chosen.name} {as_of}", kind="model", as_of=as_of, **tuned.tags()
    ) as run_id:
        model = pipelines.fit(spec, chosen, tuned.params, past, spec.train.half_life)
        scored = predicting.scored(spec, model, test)
        now = ledger.champion(spec)
        naive = pipelines.baseline(spec, past)
        accepted, why, evidence = _compare(spec, as_of, now, model, scored, test, naive)
        fitting.log_fitted(spec, run_id, model, past, test, scored, chosen, tuned.params, versions)
        found = Evaluation(
            accepted=accepted,
            why=why,
            measured=now.version if now else None,
            versions=versions,
            window=window or spec.train.window,
            identity=identity(spec, as_of, versions, window),
        )
        runs.log(run_id, metrics=evidence, tags=found.tags())
    log.info("model %s: %s: %s", spec.name, "accepted" if accepted else "not accepted", why)
    return run_id


def identity(spec: ModelSpec, as_of: date, versions: DataVersions, window: int | None) -> str:
    """What tells a training from others: the day, the model.yaml and the model's code, the data, the window."""
    asked = json.dumps(
        [str(as_of), str(versions), window or spec.train.window, spec.model_dump(mode="json")], sort_keys=True
    )
    return hashlib.sha256(asked.encode() + spec.code).hexdigest()


def _compare(
    spec: ModelSpec,
    as_of: date,
    now: Serving | None,
    model: Model,
    scored: pd.DataFrame,
    test: pd.DataFrame,
    naive: Model,
) -> tuple[bool, str, dict[str, float]]:
    """Whether the model may replace the champion: in its accepted ranges, better than naive, better than the champion."""
    limits = spec.check.metrics if spec.train.accept is None else spec.train.accept
    metric = spec.check.metric
    names = tuple({**spec.check.metrics, **limits})
    measured = evaluation.evaluate(spec, scored, names)
    fitting.require_measured(spec, measured, test, "test")
    simple = evaluation.evaluate(spec, predicting.scored(spec, naive, test), names)
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
            f"{metric} {measured[metric]:.4g} against the naive baseline's {simple[metric]:.4g}; there was no champion{_lacking(spec, model, test)}",
            evidence,
        )
    passed, why, gained = _against_champion(spec, as_of, now.version, model, test, scored)
    return passed, why, {**evidence, **gained}


def _lacking(spec: ModelSpec, model: Model, test: pd.DataFrame) -> str:
    """What the labels of the first champion's test part lack beside those of the days before; empty where nothing. Later ones are compared with it."""
    last = test["day"].max().date()
    counts = labelling.label_counts(spec, last - timedelta(days=spec.train.window), last)
    is_test = counts["day"] > pd.Timestamp(model.trained_through)
    first = counts.loc[counts["label"].notna(), "day"].min()
    before, now = map(labelling.labelled_share, (counts[(counts["day"] >= first) & ~is_test], counts[is_test]))
    if not now < labelling.COMPLETE * before:
        return ""
    return (
        f". Only {now:.0%} of the rows of the test part have a label, and {before:.0%} of those before it: where labels come later than "
        f"label_delay ({spec.label_delay}d), that must be as long as the latest take"
    )


def _out_of(limits: Mapping[str, Limit], measured: Mapping[str, float]) -> str:
    return ", ".join(
        f"{name} = {measured[name]:.4g} is not {limit}"
        for name, limit in limits.items()
        if not limit.holds(measured[name])
    )


def _against_champion(
    spec: ModelSpec, as_of: date, version: int, model: Model, test: pd.DataFrame, scored: pd.DataFrame
) -> tuple[bool, str, dict[str, float]]:
    try:
        judges = champions.load_judges(spec, version)
    except UnknownVersion:
        return True, f"the champion, version {version}, is no longer in MLflow, so nothing is left to compare with", {}
    gone = [name for name in judges[0].columns if name not in spec.features.all]
    if gone:
        why = (
            f"the champion, version {version}, needs {gone}, which model.yaml has no more, so it can't be compared with"
        )
        return True, why, {}
    span = test["day"].min().date(), test["day"].max().date()
    lacking = lacking_labels(spec, version, span, as_of)
    if lacking:
        return (
            False,
            f"the labels from {span[0]} to {span[1]}, on which it would be judged, are not enough: {lacking}",
            {},
        )
    before = predicting.unseen(spec, judges, test[test["day"] > pd.Timestamp(model.trained_through)])
    days, rows = before["day"].nunique(), len(before)
    if not rules(spec).allow(days, rows):
        size = f"{counted(days, 'day')} and {counted(rows, 'row')}"
        why = f"only {size} that neither it nor the champion, version {version}, has seen; {spec.check.min_days} and {spec.check.min_rows} are needed"
        return False, why, {}
    seen = evaluation.gate(spec, before, scored.loc[before.index])
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
