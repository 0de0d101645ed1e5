"""What a check does: attempts, and what follows from them."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any, assert_never

import pandas as pd

from esteira import data, views
from esteira.errors import DataError, EsteiraError
from esteira.learning import drift, evaluation, pipelines, tuning
from esteira.learning.pipelines import Model
from esteira.lifecycle.actions import (
    Done,
    Evidence,
    Keep,
    Promote,
    Reconcile,
    Retrain,
    Wait,
    Warn,
    next_action,
)
from esteira.lifecycle.events import Verified
from esteira.lifecycle.policy import Gate, Outcome, Verdict, best_attempt, first_violated, gate, judge
from esteira.notebooks import git
from esteira.notify import messages, rendering
from esteira.spec import ModelSpec, Recipe
from esteira.steps import alerting, champions, explaining, fitting, ingest, registering, scoring
from esteira.steps.measuring import decide, labels, measure, slice_days, spans, windows
from esteira.steps.outages import is_outage
from esteira.steps.outcomes import served
from esteira.steps.scoring import Reconciled
from esteira.store import lake, ledger, measurements, runs
from esteira.store.lineage import DataVersions, DaysSeen, Judged, Tuned
from esteira.store.measurements import Attempt
from esteira.store.outbox import Mail
from esteira.text import better_by
from esteira.views import run_key

log = logging.getLogger(__name__)


def retrain(spec: ModelSpec, day: date, attempt: int) -> str:
    """Train by the attempt's recipe, on mature rows before the held-out slice; returns the MLflow run that keeps the model."""
    recipe = spec.recipes[attempt - 1]
    for number in measurements.attempts(spec, day):
        if number >= attempt:  # what an earlier run of this check left is not this one's
            measurements.write(spec, [], day, number)
    frame, versions = _recipe_frame(spec, recipe, slice_days(spec, day)[0] - timedelta(days=1), day)
    asked = spec.by_recipe(recipe)
    every = asked.train.candidates
    found = [
        (tuning.tune(asked, candidate, frame, recipe.half_life, recipe.trials, only=len(every) == 1), index)
        for index, candidate in enumerate(every)
    ]
    best, index = (max if spec.higher_is_better(spec.check.metric) else min)(found, key=lambda pair: pair[0].value)
    chosen = every[index]
    about = {
        "kind": "attempt",
        "as_of": day,
        "check_day": day,
        "attempt": attempt,
        "recipe": recipe.model_dump_json(),
        **Tuned(index, best.params).tags(),
    }
    with runs.tracked(spec, f"{run_key(day)}/attempt/{attempt}", f"attempt {attempt} of {day}", **about) as run_id:
        model = pipelines.fit(asked, chosen, best.params, frame, recipe.half_life)
        runs.log(run_id, metrics={"cross_validation": best.value})
        held_out = ingest.labelled(spec, *slice_days(spec, day))
        fitting.log_fitted(
            spec, run_id, model, frame, held_out, pipelines.scored(spec, model, held_out), chosen, best.params, versions
        )
    return run_id


def _recipe_frame(spec: ModelSpec, recipe: Recipe, last: date, day: date) -> tuple[pd.DataFrame, DataVersions]:
    """The rows that a recipe trains on, and the Delta versions of features and labels that they were read from.

    They are its window up to `last`, and of what the store has before it the share to keep.
    """
    first = last - timedelta(days=recipe.window - 1)
    ingest.ensure_features(spec, data.days(first, last))
    ingest.labels(spec, first, day)
    oldest = last - timedelta(days=max(spec.train.window, recipe.window) - 1) if recipe.keep_old else first
    versions = ingest.versions(spec)
    frame = ingest.labelled(spec, oldest, last, versions)
    rows = data.recent_and_sample(frame, first, recipe.keep_old, spec.train.seed)
    if rows.empty:
        raise DataError(f"model {spec.name}: no row with a label from {first} to {last}; widen the recipe's window")
    return rows, versions


def recheck(spec: ModelSpec, day: date, attempt: int, run_id: str) -> Outcome:
    """Measure champion and challenger on the same held-out rows that neither has seen, and judge the attempt."""
    now = ledger.require_champion(spec, day)
    challenger = runs.load(spec, run_id)
    held_out = served(spec, now.version, *slice_days(spec, day))
    unseen = held_out[held_out["day"] > pd.Timestamp(challenger.trained_through)]
    old, new = _paired(spec, challenger, unseen)
    gains = evaluation.daily_gains(spec, spec.check.metric, old, new)
    seen = gate(
        gains,
        min_gain=spec.promote.min_gain,
        confidence=spec.promote.confidence,
        attempts=len(spec.recipes),
        seed=spec.train.seed,
    )
    rows = _attempt_rows(spec, day, attempt, now.version, run_id, old, new)
    healthy = all(
        row["in_range"] is not False for row in rows if row["role"] == "challenger" and row["window"] == "slice"
    )
    enough = len(old) >= spec.check.min_rows
    outcome = judge(seen, min_days=spec.check.min_days, healthy=healthy, enough_rows=enough)
    measurements.write(spec, _with_evidence(spec, rows, seen, outcome), day, attempt)
    judged = Judged(outcome, now.version)
    runs.log(run_id, metrics={"gain": seen.gain, "gain_lower": seen.lower}, tags=judged.tags())
    log.info(
        "model %s: attempt %d %s: gain %.4g, at least %.4g", spec.name, attempt, outcome.value, seen.gain, seen.lower
    )
    return outcome


def _paired(spec: ModelSpec, challenger: Model, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same rows twice: as the champion served them, and as the challenger predicts them.

    A row that was served but is no longer in the feature store (its source was corrected) can't be compared: it is left
    out of both.
    """
    if rows.empty:
        return rows, rows
    frame = lake.read("features", spec.name, day=(rows["day"].min().date(), rows["day"].max().date()))
    frame = frame.drop(columns=["event_time", *(name for name in spec.check.segments if name not in spec.key)])
    known = rows.merge(frame, on=["day", *spec.key], how="inner", validate="one_to_one")
    if known.empty:
        return known, known
    columns = ["day", "label", *spec.check.segments]
    new = known[columns].join(pipelines.predict(spec, challenger, known))
    return known[[*columns, "prediction", "probability"]], new


def _attempt_rows(
    spec: ModelSpec, day: date, attempt: int, version: int, run_id: str, old: pd.DataFrame, new: pd.DataFrame
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    single = [(moment.date(), moment.date()) for moment in sorted(old["day"].unique())]
    for role, number, rows in (("champion", version, old), ("challenger", None, new)):
        about = {"check_day": day, "attempt": attempt, "role": role, "version": number, "run_id": run_id}
        found += spans(spec, rows, [slice_days(spec, day)], "slice", **about)
        found += spans(spec, rows, single, "day", **about)
    return found


def _with_evidence(spec: ModelSpec, rows: list[dict[str, Any]], seen: Gate, outcome: Outcome) -> list[dict[str, Any]]:
    def of_gate(row: Mapping[str, Any]) -> bool:
        return bool(
            row["role"] == "challenger"
            and row["window"] == "slice"
            and row["metric"] == spec.check.metric
            and not row["segment"]
        )

    lower = seen.lower if math.isfinite(seen.lower) else None
    upper = seen.upper if math.isfinite(seen.upper) else None
    evidence = {"gain": seen.gain, "gain_lower": lower, "gain_upper": upper, "outcome": outcome.value}
    return [{**row, **evidence} if of_gate(row) else row for row in rows]


def chosen_attempt(spec: ModelSpec, day: date) -> Attempt | None:
    """The attempt to promote; None where none improved."""
    found = measurements.attempts(spec, day)
    best = best_attempt({number: (attempt.outcome, attempt.gain) for number, attempt in found.items()})
    return None if best is None else found[best]


def _require_chosen(spec: ModelSpec, day: date) -> Attempt:
    chosen = chosen_attempt(spec, day)
    if chosen is None:
        raise EsteiraError(
            f"model {spec.name}: no attempt of the check of {day} improved, so there is nothing to promote"
        )
    return chosen


def chosen_version(spec: ModelSpec, day: date) -> int:
    """Register the chosen attempt's model, as it was tried, with the alias `challenger`; returns the version."""
    return registering.challenger(spec, _require_chosen(spec, day).run_id, day)


def promote_chosen(spec: ModelSpec, day: date, version: int, commit: str) -> int:
    """Make the chosen attempt champion, citing the notebook's commit; returns the version that serves now."""
    chosen = _require_chosen(spec, day)
    recipe = spec.recipes[chosen.number - 1]
    if spec.promote.refit:
        frame, versions = _recipe_frame(spec, recipe, ingest.mature_through(spec, day), day)
        version = registering.refit(
            spec.by_recipe(recipe), day, chosen.run_id, frame, versions, run_key(day), recipe.half_life
        )
    measured = f"{spec.check.metric} = {chosen.value:.4g} on the held-out slice, {better_by(chosen.gain)}"
    champions.make_champion(
        spec,
        version,
        day,
        measured=Judged.of(runs.get(chosen.run_id).tags).measured,
        why=f"attempt {chosen.number} {chosen.outcome.value}: {measured}",
        by=run_key(day),
        replaces_from=violated_since(spec, day),
        evidence={
            "run": chosen.run_id,
            "commit": commit,
            "gain": chosen.gain,
            "gain_lower": chosen.lower if math.isfinite(chosen.lower) else None,
            "gain_upper": chosen.upper if math.isfinite(chosen.upper) else None,
            "check_day": str(day),
        },
    )
    return version


def violated_since(spec: ModelSpec, day: date) -> date:
    """The first day of the violation that a day's check found: from it on a promotion replaces what was published."""
    found = measurements.windows(spec, day)
    return first_violated(found, min_days=spec.check.min_days, min_rows=spec.check.min_rows)


def rescore(spec: ModelSpec, day: date) -> Reconciled:
    """Bring predictions to what is published since the day's check has promoted: another version from the violation on.

    Where somebody has rolled that back meanwhile, it does what that says.
    """
    return scoring.reconcile(spec, run_key(day))


def commit_notebook(spec: ModelSpec, day: date) -> str:
    """Execute the retraining notebook and commit it; returns the commit. A push that fails is only warned about."""
    return git.commit(spec.name, day, {"model": spec.name, "day": str(day)})


def drift_report(spec: ModelSpec, day: date) -> str:
    """Keep Evidently's report of the latest window against the champion's training rows, and why.html; returns the MLflow run."""
    now = ledger.require_champion(spec, day)
    seen = DaysSeen.of(runs.get(runs.run_of(spec, now.version)).tags)
    reference = lake.read("features", spec.name, day=(seen.first, seen.last))
    current = lake.read("features", spec.name, day=windows(spec, now, day)[-1])
    known = measurements.explanation(spec, day) or explaining.explain(spec, day)
    with (
        runs.tracked(spec, f"{run_key(day)}/drift", f"drift {day}", kind="drift", check_day=day) as run_id,
        tempfile.TemporaryDirectory() as folder,
    ):
        report, why = Path(folder) / "drift.html", Path(folder) / "why.html"
        drift.report(spec, reference, current, report)
        why.write_text(rendering.html(messages.why_page(spec, views.check(spec, day))), encoding="utf-8")
        runs.log_file(run_id, report)
        runs.log_file(run_id, why)
    found = replace(known, report=runs.run_link(spec, run_id))
    measurements.write_explanation(spec, day, found, spec.check.metric)
    return run_id


# ------------------------------------------------------------------------------------------------------ the whole check


def evidence(spec: ModelSpec, day: date, tried: int) -> Evidence:
    """What a day's check has found so far. Attempts up to number `tried` have ended; of those one that left nothing has crashed."""
    verdict = measurements.decided(spec, day)
    if verdict is None:
        raise EsteiraError(f"model {spec.name}: nothing was decided for {day} yet; run measure and decide first")
    measured = measurements.attempts(spec, day)
    ended = {
        number: (measured[number].outcome, measured[number].gain) if number in measured else (Outcome.FAILS, math.nan)
        for number in range(1, tried + 1)
    }
    return Evidence(verdict, len(spec.recipes), ended)


@dataclass(frozen=True)
class Checked:
    """What a whole check came to: the decision, each attempt's outcome, the version promoted, the warning queued."""

    verdict: Verdict
    outcomes: tuple[Outcome, ...] = ()
    promoted: int | None = None
    warning: Mail | None = None
    worse: Verified | None = None


def check(spec: ModelSpec, day: date, *, keep_notebook: bool = True) -> Checked:
    """The whole check, one action after the other, as the DAG does it; only Evidently's report is the DAG's alone.

    A crash is an attempt that did not improve, but for an outage, which is raised. A check that died after its promotion,
    and runs again, does only what was left to do.
    """
    promoted = ledger.promoted_by(spec, run_key(day))
    worse = None
    if promoted is None or measurements.decided(spec, day) is None:
        worse = _look(spec, day)
        verdict = decide(spec, day)
        if ledger.champion(spec, day) is None:
            return Checked(verdict)
        alerting.report_drift(spec, day)
        found = Evidence(verdict, len(spec.recipes), {})
    else:
        tried = max(measurements.attempts(spec, day), default=0)
        found = replace(evidence(spec, day, tried), promoted=True)
    return replace(_act(spec, day, found, promoted, keep_notebook), worse=worse)


def _look(spec: ModelSpec, day: date) -> Verified | None:
    labels(spec, day)
    measure(spec, day)
    try:
        found = alerting.verify(spec, day)
        return found.verified if found else None
    except Exception:  # in the DAG it is a task beside the others, whose failure keeps none of them from running
        log.exception("model %s: the promotion could not be verified", spec.name)
        return None


def _act(spec: ModelSpec, day: date, found: Evidence, promoted: int | None, keep_notebook: bool) -> Checked:
    """Do the next action, and look again, until nothing is left to do."""
    warning = None
    while True:
        match next_action(found):
            case Keep() | Wait() | Done():
                outcomes = tuple(outcome for outcome, _ in found.attempts.values())
                return Checked(found.verdict, outcomes, promoted, warning)
            case Retrain(number):
                found = replace(found, attempts={**found.attempts, number: _attempt(spec, day, number)})
            case Promote():
                commit = commit_notebook(spec, day) if keep_notebook else ""
                promoted = promote_chosen(spec, day, chosen_version(spec, day), commit)
                found = replace(found, promoted=True)
            case Reconcile():
                rescore(spec, day)
                found = replace(found, reconciled=True)
            case Warn():
                warning = alerting.warn(spec, day)
                found = replace(found, warned=True)
            case _ as unknown:
                assert_never(unknown)


def _attempt(spec: ModelSpec, day: date, number: int) -> tuple[Outcome, float]:
    try:
        outcome = recheck(spec, day, number, retrain(spec, day, number))
    except Exception as error:  # whatever it was, the next recipe may still help; it is in the log
        if is_outage(error):
            raise
        log.exception("model %s: attempt %d crashed", spec.name, number)
        return Outcome.FAILS, math.nan
    tried = measurements.attempts(spec, day).get(number)
    return outcome, tried.gain if tried else math.nan  # another check of the day has begun anew
