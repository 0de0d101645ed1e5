"""The train DAG's steps: candidates, select, evaluate, register, promote."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from datetime import date, timedelta

import pandas as pd

from esteira import data
from esteira.errors import DataError
from esteira.learning import evaluation, pipelines, tuning
from esteira.lifecycle.events import Rejected, effective_day
from esteira.spec import ModelSpec
from esteira.steps import champions, evaluating, ingest, labelling, quality, registering
from esteira.store import lake, ledger, runs

log = logging.getLogger(__name__)


def training_days(spec: ModelSpec, as_of: date, window: int | None = None) -> tuple[date, date]:
    """The first and the last day that a training for `as_of` may see: those whose labels were mature by then."""
    last = labelling.mature_through(spec, as_of)
    return last - timedelta(days=(window or spec.train.window) - 1), last


def lacking(spec: ModelSpec, as_of: date, window: int | None = None) -> list[date]:
    """The days of the training window that the feature store lacks, or has of an older spec."""
    days = data.days(*training_days(spec, as_of, window))
    return lake.missing_days("features", spec.name, days, ingest.features_mark(spec))


def prepare(spec: ModelSpec, as_of: date, window: int | None, days: list[date]) -> str:
    """Build the features of the days and read the window's labels; returns the Delta versions to train on, as text."""
    quality.require_mostly_good(spec, days)
    ingest.features(spec, days)
    labelling.store(spec, training_days(spec, as_of, window)[0], as_of)
    return labelling.versions(spec)


def _prepared(spec: ModelSpec, as_of: date, window: int | None) -> str:
    """All that comes before a training: what the store lacks is extracted, validated and built; returns the Delta versions."""
    days = lacking(spec, as_of, window)
    ingest.extract(spec, days, "keep")
    ingest.validate(spec, days)
    return prepare(spec, as_of, window, days)


def _frame(spec: ModelSpec, as_of: date, window: int | None, versions: str) -> pd.DataFrame:
    first, last = training_days(spec, as_of, window)
    frame = labelling.labelled(spec, first, last, versions)
    if frame.empty:
        raise DataError(
            f"model {spec.name}: no row with a label from {first} to {last}; train for a later day, or look at the source"
        )
    return frame


def candidate(spec: ModelSpec, as_of: date, index: int, versions: str, run: str, window: int | None = None) -> str:
    """Tune the candidate `index` on the first 70 % of the days, measure it on the next 15 %; returns its MLflow run."""
    chosen = spec.train.candidates[index]
    past, validation, _ = data.split_days(spec, _frame(spec, as_of, window, versions), 0.70, 0.15, 0.15)
    with runs.tracked(
        spec, f"{run}/candidate/{index}", chosen.name, kind="candidate", as_of=as_of, candidate=index
    ) as run_id:
        found = tuning.tune(spec, chosen, past, spec.train.half_life, only=len(spec.train.candidates) == 1)
        model = pipelines.fit(spec, chosen, found.params, past, spec.train.half_life)
        names = tuple(spec.check.metrics)
        measured = evaluation.evaluate(spec, pipelines.scored(spec, model, validation), names)
        evaluating.require_measured(spec, measured, validation, "validation")
        runs.log(
            run_id,
            params={"estimator": chosen.estimator, **chosen.params, **found.params, "trials": found.trials},
            metrics={
                "cross_validation": found.value,
                **{f"validation_{name}": value for name, value in measured.items()},
            },
            tags={"params": json.dumps(found.params), "value": measured[spec.check.metric]},
        )
    log.info(
        "model %s: candidate %s reached %s = %.4g",
        spec.name,
        chosen.name,
        spec.check.metric,
        measured[spec.check.metric],
    )
    return run_id


def select(spec: ModelSpec, run_ids: Sequence[str]) -> str:
    """The run of the candidate that did best on the validation part."""
    found = {run_id: float(runs.get(run_id).tags["value"]) for run_id in run_ids}
    best = (max if spec.higher_is_better(spec.check.metric) else min)(found, key=lambda run_id: found[run_id])
    runs.log(best, tags={"selected": "yes"})
    return best


def evaluate(
    spec: ModelSpec, as_of: date, candidate_run: str, versions: str, run: str, window: int | None = None
) -> str:
    """Fit the chosen candidate on 85 % of the days and measure it on the last 15 %, which nothing has seen yet.

    Beside it the naive baseline, and the champion on the rows that neither has seen. The run keeps the model and, as
    tags, whether it may be promoted, and why. Returns the MLflow run.
    """
    tags = runs.get(candidate_run).tags
    chosen, params = spec.train.candidates[int(tags["candidate"])], json.loads(tags["params"])
    past, test = data.split_days(spec, _frame(spec, as_of, window, versions), 0.85, 0.15)
    with runs.tracked(
        spec, f"{run}/model", f"{chosen.name} {as_of}", kind="model", as_of=as_of, candidate=tags["candidate"]
    ) as run_id:
        model = pipelines.fit(spec, chosen, params, past, spec.train.half_life)
        scored = pipelines.scored(spec, model, test)
        now = ledger.champion(spec)
        accepted, why, evidence = evaluating.compare(spec, now, model, scored, test, pipelines.baseline(spec, past))
        registering.log_fitted(spec, run_id, model, past, test, scored, chosen, params, versions)
        runs.log(
            run_id,
            metrics=evidence,
            tags={
                "accepted": accepted,
                "why": why,
                "measured": now.version if now else 0,
                "params": json.dumps(params),
                "versions": versions,
                "window": window or spec.train.window,
                "identity": registering.identity(spec, as_of, versions, window),
            },
        )
    log.info("model %s: %s: %s", spec.name, "accepted" if accepted else "not accepted", why)
    return run_id


def promote(spec: ModelSpec, as_of: date, version: int, run: str) -> str:
    """Make the version champion where its evaluation allowed it; returns what was done, as a sentence.

    With `promote: {refit: true}` the version promoted is one of its own, fitted on everything that was known.
    """
    run_id = runs.run_of(spec, version)
    evaluation_run = runs.get(run_id)
    tags, measured = evaluation_run.tags, evaluation_run.metrics
    if tags["accepted"] != "True":
        ledger.write(spec, Rejected(version=version, day=effective_day(as_of), by=run, why=tags["why"]))
        return f"version {version} was not promoted: {tags['why']}"
    chosen = version
    if spec.promote.refit:
        frame = _frame(spec, as_of, int(tags["window"]), tags["versions"])
        chosen = registering.refit(spec, as_of, run_id, frame, tags["versions"], run, spec.train.half_life)
    champions.make_champion(
        spec,
        chosen,
        as_of,
        measured=int(tags["measured"]) or None,
        why=tags["why"],
        by=run,
        evidence={
            "run": run_id,
            "evaluated": version,
            "commit": tags.get("code", ""),
            **{
                name: measured[name]
                for name in ("gain", "gain_lower", "gain_upper")
                if math.isfinite(measured.get(name, math.nan))
            },
        },
    )
    return f"version {chosen} is the champion from {effective_day(as_of)} on: {tags['why']}"


def limits(spec: ModelSpec, as_of: date, factor: float = 1.25) -> tuple[str, dict[str, tuple[float, float, float]]]:
    """What limits the past suggests: the best candidate, and of each metric of the check its value, a limit, and chance.

    The value is cross-validated. The limit lets the error grow by `factor`; the error of a metric whose best is 1 is what it
    lacks to that. Chance is what the naive baseline reaches on the last 15 % of the days.
    """
    frame = _frame(spec, as_of, None, _prepared(spec, as_of, None))
    half_life = spec.train.half_life
    found = [(tuning.tune(spec, each, frame, half_life), each) for each in spec.train.candidates]
    best, chosen = (max if spec.higher_is_better(spec.check.metric) else min)(found, key=lambda pair: pair[0].value)
    values = {
        name: tuning.cross_validate(spec, chosen, best.params, frame, half_life, name) for name in spec.check.metrics
    }
    past, test = data.split_days(spec, frame, 0.85, 0.15)
    chance = evaluation.evaluate(spec, pipelines.scored(spec, pipelines.baseline(spec, past), test), tuple(values))
    return chosen.name, {
        name: (value, 1 - factor * (1 - value) if spec.higher_is_better(name) else factor * value, chance[name])
        for name, value in values.items()
    }


def better(spec: ModelSpec, metric: str, value: float, chance: float) -> bool:
    """Whether a value of a metric is better than what chance reaches; where that is not known, it is."""
    return math.isnan(chance) or evaluation.better_by(spec, metric, chance, value) > 0


def retrained(spec: ModelSpec, as_of: date, run: str) -> int:
    """Fit the best candidate on all that was mature by the day, asking nothing; returns the version it is registered as."""
    versions = _prepared(spec, as_of, None)
    indices = range(len(spec.train.candidates))
    best = select(spec, [candidate(spec, as_of, index, versions, run) for index in indices])
    return registering.refit(
        spec, as_of, best, _frame(spec, as_of, None, versions), versions, run, spec.train.half_life
    )


def train(
    spec: ModelSpec,
    as_of: date,
    run: str,
    *,
    window: int | None = None,
    candidates: Sequence[int] | None = None,
    promoted: bool = True,
    again: bool = False,
) -> str:
    """The whole train DAG, one step after the other; returns what was done, as a sentence.

    Asked a second time for the same day, spec and data it does nothing, unless it is to be done `again`.
    """
    pipelines.check_candidates(spec)
    versions = _prepared(spec, as_of, window)
    before = None if again else registering.trained_before(spec, registering.identity(spec, as_of, versions, window))
    if before is not None:
        said = promote(spec, as_of, before, run) if promoted else f"version {before} is registered"
        return f"trained before, of the same day, spec and data (--again trains anew): {said}"
    indices = candidates if candidates is not None else range(len(spec.train.candidates))
    best = select(spec, [candidate(spec, as_of, index, versions, run, window) for index in indices])
    version = registering.register(spec, evaluate(spec, as_of, best, versions, run, window), as_of, again=again)
    return promote(spec, as_of, version, run) if promoted else f"version {version} was registered as challenger"
