"""The train DAG's steps: candidates, select, evaluate, register, promote."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd

from esteira import data
from esteira.errors import DataError, UnknownVersion
from esteira.learning import drift, evaluation, pipelines, tuning
from esteira.learning.pipelines import Model
from esteira.lifecycle import policy
from esteira.lifecycle.events import Rejected, effective_day
from esteira.lifecycle.state import Serving
from esteira.spec import Candidate, Limit, ModelSpec
from esteira.steps import champions, ingest, quality
from esteira.store import lake, ledger, runs
from esteira.store.lineage import DataVersions, DaysSeen, Evaluation, Tuned, Validated
from esteira.text import better_by, counted

log = logging.getLogger(__name__)


def training_days(spec: ModelSpec, as_of: date, window: int | None = None) -> tuple[date, date]:
    """The first and the last day that a training for `as_of` may see: those whose labels were mature by then."""
    last = ingest.mature_through(spec, as_of)
    return last - timedelta(days=(window or spec.train.window) - 1), last


def lacking(spec: ModelSpec, as_of: date, window: int | None = None) -> list[date]:
    """The days of the training window that the feature store lacks, or has of an older spec."""
    days = data.days(*training_days(spec, as_of, window))
    return lake.missing_days("features", spec.name, days, ingest.features_mark(spec))


def prepare(spec: ModelSpec, as_of: date, window: int | None, days: list[date]) -> DataVersions:
    """Build the features of the days and read the window's labels; returns the Delta versions to train on."""
    quality.require_mostly_good(spec, days)
    ingest.features(spec, days)
    ingest.labels(spec, training_days(spec, as_of, window)[0], as_of)
    return ingest.versions(spec)


def _prepared(spec: ModelSpec, as_of: date, window: int | None) -> DataVersions:
    """All that comes before a training: what the store lacks is extracted, validated and built; returns the Delta versions."""
    days = lacking(spec, as_of, window)
    ingest.extract(spec, days, "keep")
    ingest.validate(spec, days)
    return prepare(spec, as_of, window, days)


def _frame(spec: ModelSpec, as_of: date, window: int | None, versions: DataVersions) -> pd.DataFrame:
    first, last = training_days(spec, as_of, window)
    frame = ingest.labelled(spec, first, last, versions)
    if frame.empty:
        raise DataError(
            f"model {spec.name}: no row with a label from {first} to {last}; train for a later day, or look at the source"
        )
    return frame


def _identity(spec: ModelSpec, as_of: date, versions: DataVersions, window: int | None) -> str:
    """What tells a training from others: the day, the model.yaml and the model's code, the data, the window."""
    asked = json.dumps(
        [str(as_of), str(versions), window or spec.train.window, spec.model_dump(mode="json")], sort_keys=True
    )
    return hashlib.sha256(asked.encode() + spec.code).hexdigest()


def _trained_before(spec: ModelSpec, identity: str, tuned: Tuned | None = None) -> int | None:
    """The version that the same training has registered, if it was compared with the champion that there is now.

    With `tuned` only a version of the same candidate and parameters counts.
    """
    now = ledger.champion(spec)
    for run in runs.search(spec, kind="model", identity=identity):
        version = runs.version_of(spec, run.id)
        if version is None or tuned not in (None, Tuned.of(run.tags)):
            continue
        serves = now is not None and (now.version == version or ledger.evaluated(spec, now.version) == version)
        if serves or Evaluation.of(run.tags).measured == (now.version if now else None):
            return version
    return None


def candidate(
    spec: ModelSpec, as_of: date, index: int, versions: DataVersions, run: str, window: int | None = None
) -> str:
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
        _require_measured(spec, measured, validation, "validation")
        runs.log(
            run_id,
            params={"estimator": chosen.estimator, **chosen.params, **found.params, "trials": found.trials},
            metrics={
                "cross_validation": found.value,
                **{f"validation_{name}": value for name, value in measured.items()},
            },
            tags=Validated(Tuned(index, found.params), measured[spec.check.metric]).tags(),
        )
    log.info(
        "model %s: candidate %s reached %s = %.4g",
        spec.name,
        chosen.name,
        spec.check.metric,
        measured[spec.check.metric],
    )
    return run_id


def _require_measured(spec: ModelSpec, measured: Mapping[str, float], rows: pd.DataFrame, part: str) -> None:
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


def select(spec: ModelSpec, run_ids: Sequence[str]) -> str:
    """The run of the candidate that did best on the validation part."""
    found = {run_id: Validated.of(runs.get(run_id).tags).value for run_id in run_ids}
    best = (max if spec.higher_is_better(spec.check.metric) else min)(found, key=lambda run_id: found[run_id])
    runs.log(best, tags={"selected": "yes"})
    return best


def evaluate(
    spec: ModelSpec, as_of: date, candidate_run: str, versions: DataVersions, run: str, window: int | None = None
) -> str:
    """Fit the chosen candidate on 85 % of the days and measure it on the last 15 %, which nothing has seen yet.

    Beside it the naive baseline, and the champion on the rows that neither has seen. The run keeps the model and, as
    tags, whether it may be promoted, and why. Returns the MLflow run.
    """
    tuned = Tuned.of(runs.get(candidate_run).tags)
    chosen = spec.train.candidates[tuned.candidate]
    past, test = data.split_days(spec, _frame(spec, as_of, window, versions), 0.85, 0.15)
    with runs.tracked(
        spec, f"{run}/model", f"{chosen.name} {as_of}", kind="model", as_of=as_of, **tuned.tags()
    ) as run_id:
        model = pipelines.fit(spec, chosen, tuned.params, past, spec.train.half_life)
        scored = pipelines.scored(spec, model, test)
        now = ledger.champion(spec)
        accepted, why, evidence = _compare(spec, now, model, scored, test, pipelines.baseline(spec, past))
        log_fitted(spec, run_id, model, past, test, scored, chosen, tuned.params, versions)
        found = Evaluation(
            accepted=accepted,
            why=why,
            measured=now.version if now else None,
            versions=versions,
            window=window or spec.train.window,
            identity=_identity(spec, as_of, versions, window),
        )
        runs.log(run_id, metrics=evidence, tags=found.tags())
    log.info("model %s: %s: %s", spec.name, "accepted" if accepted else "not accepted", why)
    return run_id


def _compare(
    spec: ModelSpec, now: Serving | None, model: Model, scored: pd.DataFrame, test: pd.DataFrame, naive: Model
) -> tuple[bool, str, dict[str, float]]:
    """Whether the model may replace the champion: in its accepted ranges, better than naive, better than the champion."""
    limits = spec.check.metrics if spec.train.accept is None else spec.train.accept
    metric = spec.check.metric
    names = tuple({**spec.check.metrics, **limits})
    measured = evaluation.evaluate(spec, scored, names)
    _require_measured(spec, measured, test, "test")
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


def log_fitted(
    spec: ModelSpec,
    run_id: str,
    model: Model,
    past: pd.DataFrame,
    rows: pd.DataFrame,
    scored: pd.DataFrame,
    chosen: Candidate,
    params: Mapping[str, Any],
    versions: DataVersions,
) -> None:
    """Keep a fitted model with its lineage and the plots of its predictions on rows that it has not seen."""
    weights = pipelines.importance(spec, model, rows) if len(rows) else {}
    log_lineage(spec, run_id, past, chosen, params, versions)
    runs.log_model(spec, run_id, model, data.masked(spec, past.head(5)), drift.profile(spec, past, weights))
    if len(rows):

        def drawn() -> Mapping[str, Any]:
            from esteira.learning import plots  # matplotlib takes a second to import

            return plots.of_model(spec, scored, weights)

        runs.log_figures(run_id, drawn)


def log_lineage(
    spec: ModelSpec,
    run_id: str,
    frame: pd.DataFrame,
    chosen: Candidate,
    params: Mapping[str, Any],
    versions: DataVersions,
) -> None:
    """Note what a model was fitted on, and how: parameters, seed, rows, their days, Delta versions."""
    seen = DaysSeen(frame["day"].min().date(), frame["day"].max().date())
    runs.log(
        run_id,
        params={"estimator": chosen.estimator, **chosen.params, **params, "seed": spec.train.seed, "rows": len(frame)},
        tags={**versions.tags(), **seen.tags()},
    )


def register(spec: ModelSpec, run_id: str, as_of: date, *, again: bool = False) -> int:
    """Register an evaluated run's model as `challenger` does; returns the version.

    Where the same training has registered one before, that is returned, unless it is to be done `again`.
    """
    tags = runs.get(run_id).tags
    if not again and runs.version_of(spec, run_id) is None:
        before = _trained_before(spec, Evaluation.of(tags).identity, Tuned.of(tags))
        if before is not None:
            champions.repair_aliases(spec)
            log.info("model %s: version %d is of the same day, spec and data: none is registered", spec.name, before)
            return before
    return challenger(spec, run_id, as_of)


def challenger(spec: ModelSpec, run_id: str, as_of: date) -> int:
    """Register a run's model as a version with the alias `challenger`, unless it is champion by now; returns the version."""
    champions.repair_aliases(spec)
    version = champions.registered(spec, run_id, as_of)
    now = ledger.champion(spec)
    if now is None or now.version != version:
        runs.alias(spec, "challenger", version)
    return version


def promote(spec: ModelSpec, as_of: date, version: int, run: str) -> str:
    """Make the version champion where its evaluation allowed it; returns what was done, as a sentence.

    With `promote: {refit: true}` the version promoted is one of its own, fitted on everything that was known.
    """
    run_id = runs.run_of(spec, version)
    evaluated = runs.get(run_id)
    found, measured = Evaluation.of(evaluated.tags), evaluated.metrics
    if not found.accepted:
        ledger.write(spec, Rejected(version=version, day=effective_day(as_of), by=run, why=found.why))
        return f"version {version} was not promoted: {found.why}"
    chosen = version
    if spec.promote.refit:
        frame = _frame(spec, as_of, found.window, found.versions)
        chosen = refit(spec, as_of, run_id, frame, found.versions, run, spec.train.half_life)
    champions.make_champion(
        spec,
        chosen,
        as_of,
        measured=found.measured,
        why=found.why,
        by=run,
        evidence={
            "run": run_id,
            "evaluated": version,
            "commit": evaluated.commit,
            **{
                name: measured[name]
                for name in ("gain", "gain_lower", "gain_upper")
                if math.isfinite(measured.get(name, math.nan))
            },
        },
    )
    return f"version {chosen} is the champion from {effective_day(as_of)} on: {found.why}"


def refit(
    spec: ModelSpec,
    as_of: date,
    run_id: str,
    frame: pd.DataFrame,
    versions: DataVersions,
    run: str,
    half_life: int | None,
) -> int:
    """Fit the candidate of an evaluated run again, on the rows of `frame`; returns the version it is registered as.

    When it is asked again for the same evaluated run, it returns the version that it made before.
    """
    made = runs.search(spec, kind="refit", evaluated=run_id)
    if made and made[0].status == "FINISHED":
        return champions.registered(spec, made[0].id, as_of)
    evaluated = runs.get(run_id)
    tuned = Tuned.of(evaluated.tags)
    chosen = spec.train.candidates[tuned.candidate]
    about = {"kind": "refit", "as_of": as_of, "evaluated": run_id, **tuned.tags()}
    with runs.tracked(spec, f"{run}/refit", f"{chosen.name} {as_of} refit", **about) as again:
        model = pipelines.fit(spec, chosen, tuned.params, frame, half_life)
        log_lineage(spec, again, frame, chosen, tuned.params, versions)
        weights = drift.importance(runs.profile(run_id)) if evaluated.has_model else {}
        runs.log_model(spec, again, model, data.masked(spec, frame.head(5)), drift.profile(spec, frame, weights))
    return champions.registered(spec, again, as_of)


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
    return refit(spec, as_of, best, _frame(spec, as_of, None, versions), versions, run, spec.train.half_life)


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
    before = None if again else _trained_before(spec, _identity(spec, as_of, versions, window))
    if before is not None:
        said = promote(spec, as_of, before, run) if promoted else f"version {before} is registered"
        return f"trained before, of the same day, spec and data (--again trains anew): {said}"
    indices = candidates if candidates is not None else range(len(spec.train.candidates))
    best = select(spec, [candidate(spec, as_of, index, versions, run, window) for index in indices])
    version = register(spec, evaluate(spec, as_of, best, versions, run, window), as_of, again=again)
    return promote(spec, as_of, version, run) if promoted else f"version {version} was registered as challenger"
