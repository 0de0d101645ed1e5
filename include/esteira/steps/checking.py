"""What a check does: attempts, and what follows from them."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import assert_never

import numpy as np
import pandas as pd

from esteira import data, views
from esteira.errors import DataError, EsteiraError, Refused
from esteira.learning import drift, evaluation, pipelines, predicting, tuning
from esteira.learning.blending import PAST, recency
from esteira.learning.predicting import Model
from esteira.lifecycle.actions import (
    Blend,
    Done,
    Evidence,
    Keep,
    Promote,
    Reconcile,
    ReportDrift,
    Retrain,
    Verify,
    Wait,
    Warn,
    next_action,
    order_of,
)
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Unrecovered, Verified, run_key
from esteira.lifecycle.policy import (
    Decision,
    Gate,
    Outcome,
    Verdict,
    best_attempt,
    first_violated,
    judge,
    recipes_tried,
)
from esteira.notebooks import git
from esteira.notify import messages, rendering
from esteira.outages import is_outage
from esteira.spec import ModelSpec, Recipe
from esteira.steps import alerting, blending, champions, explaining, fitting, ingest, labelling, registering, scoring
from esteira.steps.blending import Tried, attempt_key
from esteira.steps.measuring import (
    decide,
    drift_to_report,
    lacking_labels,
    measure,
    slice_days,
    spans,
    store_labels,
    violation_began,
    windows,
)
from esteira.steps.outcomes import judged, paired, rules
from esteira.steps.scoring import Reconciled
from esteira.steps.verification import to_verify
from esteira.store import lake, ledger, measurements, runs
from esteira.store.lineage import DataVersions, DaysSeen, Tuned
from esteira.store.measurements import Attempt
from esteira.store.outbox import Mail
from esteira.store.records import Record, Role, Window
from esteira.text import better_by

YEAR = 365  # days of which it is looked back at how blends ended
CLOSER = 0.05  # of the way back to its limit, which an attempt must bring a metric at least

log = logging.getLogger(__name__)


def retrain(spec: ModelSpec, day: date, attempt: int) -> str:
    """Train by the attempt's recipe, on mature rows before the held-out slice; returns the MLflow run that keeps the model.

    Raises Refused where the day's check has promoted before: what it rests on stays as it was.
    """
    _begin_attempt(spec, day, attempt)
    recipe = spec.recipes[attempt - 1]
    frame, versions = _recipe_frame(spec, recipe, slice_days(spec, day, attempt)[0] - timedelta(days=1), day)
    asked = spec.by_recipe(recipe)
    index, best = tuning.best(asked, frame, recipe.half_life, recipe.trials)
    chosen = asked.train.candidates[index]
    about = {
        "kind": "attempt",
        "as_of": day,
        "check_day": day,
        "attempt": attempt,
        "recipe": recipe.model_dump_json(),
        **Tuned(index, best.params).tags(),
    }
    with runs.tracked(spec, attempt_key(day, attempt), f"attempt {attempt} of {day}", **about) as run_id:
        model = pipelines.fit(asked, chosen, best.params, frame, recipe.half_life)
        runs.log(run_id, metrics={"cross_validation": best.value})
        held_out = labelling.sample(spec, *slice_days(spec, day, attempt))
        fitting.log_fitted(
            spec,
            run_id,
            model,
            frame,
            held_out,
            predicting.scored(spec, model, held_out),
            chosen,
            best.params,
            versions,
        )
    return run_id


def blend(spec: ModelSpec, day: date) -> Outcome:
    """Blend what was trained before, and judge it as any attempt: it is attempt 0. Raises Refused as retrain() does.

    Where it does not recover, a champion from before may. Where there is nothing to blend its outcome is unknown, and nothing is written.
    """
    _begin_attempt(spec, day, 0)
    made = blending.blend(spec, day)
    found = _judge(spec, day, 0, made.models) if made else None
    if found is None or found.outcome is not Outcome.RECOVERS:
        back = _back(spec, day)
        if back is not None:
            version, made, found = back
            return _note(spec, day, 0, blending.keep(spec, day, made, with_model=True, back_to=version), found)
    if made is None or found is None:
        return Outcome.UNKNOWN
    run_id = blending.keep(spec, day, made, with_model=found.outcome in (Outcome.RECOVERS, Outcome.IMPROVES))
    return _note(spec, day, 0, run_id, found)


def _back(spec: ModelSpec, day: date) -> tuple[int, Tried, _Judgement] | None:
    """The champion from before that recovers, of several the surest, with what came of it; None where none does.

    It is judged as it was on the latest `check.every` days; and over all that neither it nor the champion has seen it must be better, too,
    a day counting half after 14: else what knows one of two worlds that come by turns would replace what knows both.
    """
    last, every = labelling.mature_through(spec, day), blending.earlier(spec, day)
    window = last - timedelta(days=max(spec.check.every, spec.check.min_days) - 1), last
    judgements = {
        version: _judge(spec, day, 0, tried.models, held_out=window, looks=len(every))
        for version, tried in every.items()
    }
    back = {
        version: found
        for version, found in judgements.items()
        if found.outcome is Outcome.RECOVERS and _is_better_of_late(spec, found.champion, every[version].models, last)
    }
    best = max(back, key=lambda version: back[version].seen.lower, default=None)
    return None if best is None else (best, every[best], back[best])


def _is_better_of_late(spec: ModelSpec, champion: int, models: Sequence[Model], last: date) -> bool:
    """Whether models are better than the champion over the days, up to the last, that neither has seen, a recent one counting more."""
    old, new = paired(spec, models, judged(spec, champion, last - timedelta(days=PAST - 1), last))
    gains = evaluation.daily_gains(spec, spec.check.metric, old, new)
    days = pd.Series(sorted(old["day"].unique()))
    return float(np.average(gains, weights=recency(days, days.iloc[-1]))) > 0


def _begin_attempt(spec: ModelSpec, day: date, attempt: int) -> None:
    """Forget what an earlier run of the check has left of this attempt and of those that come after it."""
    promoted = ledger.promoted_by(spec, run_key(day))
    if promoted is not None:
        raise Refused(
            f"model {spec.name}: the check of {day} has promoted version {promoted}, so it trains no more; check a later day"
        )
    order = attempt_order(spec, day)
    later = order[order.index(attempt) :]
    for number in measurements.attempts(spec, day):
        if number in later:
            measurements.write(spec, [], day, measurements.of_attempt(number))


def attempt_order(spec: ModelSpec, day: date) -> tuple[int, ...]:
    """The attempts that a day's check may make, in their order; 0 is the blend."""
    verdict = measurements.decided(spec, day)
    recipes = recipes_tried(verdict, len(spec.recipes))
    if spec.retrain_first == "none":
        return order_of(recipes, None)
    return order_of(recipes, measurements.blends(spec, day - timedelta(days=YEAR), day - timedelta(days=1)))


def _recipe_frame(spec: ModelSpec, recipe: Recipe, last: date, day: date) -> tuple[pd.DataFrame, DataVersions]:
    """The rows that a recipe trains on, and the Delta versions of features and labels that they were read from.

    They are its window up to `last`, of it only what is new where it asks for that, and of what the store has before it the share to keep.
    """
    first = last - timedelta(days=recipe.window - 1)
    since = violation_began(spec, day) if recipe.since_violation else None
    if since is not None:
        first = max(first, min(since, last - timedelta(days=spec.check.every - 1)))
    ingest.ensure_features(spec, data.days(first, last))
    labelling.store(spec, first, day)
    oldest = last - timedelta(days=max(spec.train.window, recipe.window) - 1) if recipe.keep_old else first
    versions = labelling.versions(spec)
    frame = labelling.labelled(spec, oldest, last, versions, spec.train.max_rows)
    rows = data.recent_and_sample(frame, first, recipe.keep_old, spec.train.seed)
    if rows.empty:
        raise DataError(f"model {spec.name}: no row with a label from {first} to {last}; widen the recipe's window")
    return rows, versions


def recheck(spec: ModelSpec, day: date, attempt: int, run_id: str) -> Outcome:
    """Measure champion and challenger on the same held-out rows that neither has seen, and judge the attempt."""
    run_id = runs.finished(spec, attempt_key(day, attempt), run_id)
    return _note(spec, day, attempt, run_id, _judge(spec, day, attempt, [runs.load(spec, run_id)]))


@dataclass(frozen=True)
class _Judgement:
    """What came of an attempt: the gate's evidence, and champion and challenger on the rows that it is of."""

    seen: Gate
    outcome: Outcome
    champion: int
    records: Sequence[Record]


def _judge(
    spec: ModelSpec,
    day: date,
    attempt: int,
    models: Sequence[Model],
    held_out: tuple[date, date] | None = None,
    looks: int = 1,
) -> _Judgement:
    """Judge what an attempt came to on its slice, or on other days, where it is one of so many looks."""
    now = ledger.require_champion(spec, day)
    held_out = held_out or slice_days(spec, day, attempt)
    old, new = paired(spec, models, judged(spec, now.version, *held_out))
    # A look flatters, so trainings share what may go wrong; the blend is one look by itself, at which it is all that is asked of.
    looks = recipes_tried(measurements.decided(spec, day), len(spec.recipes)) if attempt else looks
    seen = evaluation.gate(spec, old, new, attempts=looks, least=CLOSER * _to_go(spec, old))
    place = measurements.of_attempt(attempt)
    about = Record(check_day=day, attempt=place, role=Role.CHAMPION, version=now.version)
    found = _attempt_records(spec, about, held_out, old, new)
    healthy = all(each.is_held for each in found if _is_of(each, Role.CHALLENGER, Window.SLICE))
    is_part = held_out != slice_days(spec, day)
    # What learnt of one week, and is judged on one, is often otherwise in the next; after a change that lasts each day is better.
    asked = {"must_recover": _must_recover(spec, day, attempt), "must_be_sure": is_part and attempt > 0}
    outcome = judge(seen, len(old), rules(spec), healthy=healthy, **asked)
    if is_part and lacking_labels(spec, now.version, held_out, day):
        outcome = Outcome.UNKNOWN
    return _Judgement(seen, outcome, now.version, [_judged(spec, each, seen, outcome) for each in found])


def _to_go(spec: ModelSpec, champion: pd.DataFrame) -> float:
    """How far the champion is from its limit on the rows; 0 where it is in range."""
    metric = spec.check.metric
    value = evaluation.evaluate(spec, champion, [metric])[metric]
    far = evaluation.better_by(spec, metric, value, evaluation.bound(spec, metric))
    return far if far > 0 else 0.0


def _must_recover(spec: ModelSpec, day: date, attempt: int) -> bool:
    """Whether to improve is too little for an attempt.

    So it is of a blend whose promotion would keep a loop that is held back from beginning: the first window of a new champion is
    whole only once its labels have come, and where these are later than a window, that is later.
    """
    verdict = measurements.decided(spec, day)
    late = spec.label_delay + labelling.settling_days(spec) > spec.check.every
    return not attempt and late and verdict is not None and verdict.decision is Decision.BLEND


def _note(spec: ModelSpec, day: date, attempt: int, run_id: str, found: _Judgement) -> Outcome:
    """Note what came of an attempt where it is read in MLflow, and in the table, which is written last: the check goes on with that."""
    seen, outcome = found.seen, found.outcome
    told = {"outcome": outcome.value, "measured": str(found.champion)}
    runs.log(run_id, metrics={"gain": seen.gain, "gain_lower": seen.lower}, tags=told)
    rows = [replace(each, run_id=run_id) for each in found.records]
    measurements.write(spec, rows, day, measurements.of_attempt(attempt))
    log.info(
        "model %s: attempt %d %s: gain %.4g, at least %.4g", spec.name, attempt, outcome.value, seen.gain, seen.lower
    )
    return outcome


def _attempt_records(
    spec: ModelSpec, champion: Record, held_out: tuple[date, date], old: pd.DataFrame, new: pd.DataFrame
) -> list[Record]:
    found: list[Record] = []
    single = [(moment.date(), moment.date()) for moment in sorted(old["day"].unique())]
    for about, rows in ((champion, old), (replace(champion, role=Role.CHALLENGER, version=None), new)):
        found += spans(spec, rows, [held_out], replace(about, window=Window.SLICE))
        found += spans(spec, rows, single, replace(about, window=Window.DAY))
    return found


def _is_of(found: Record, role: Role, window: Window) -> bool:
    return found.role is role and found.window is window


def _judged(spec: ModelSpec, found: Record, seen: Gate, outcome: Outcome) -> Record:
    """A record of an attempt; the one that the gate judged has what came of it."""
    of_gate = _is_of(found, Role.CHALLENGER, Window.SLICE) and found.metric == spec.check.metric and not found.segment
    return replace(measurements.with_gain(found, seen), outcome=outcome.value) if of_gate else found


def chosen_attempt(spec: ModelSpec, day: date) -> Attempt | None:
    """The attempt to promote; None where none improved."""
    found = measurements.attempts(spec, day)
    best = best_attempt({number: (attempt.outcome, attempt.lower) for number, attempt in found.items()})
    return None if best is None else found[best]


def _require_chosen(spec: ModelSpec, day: date) -> Attempt:
    chosen = chosen_attempt(spec, day)
    if chosen is None:
        raise EsteiraError(
            f"model {spec.name}: no attempt of the check of {day} improved, so there is nothing to promote"
        )
    return chosen


def register_chosen(spec: ModelSpec, day: date) -> int:
    """Register the chosen attempt's model, as it was tried, with the alias `challenger`; returns the version."""
    return registering.challenger(spec, _require_chosen(spec, day).run_id, day)


def promote_chosen(spec: ModelSpec, day: date, version: int, commit: str) -> int:
    """Make the chosen attempt champion, citing the notebook's commit; returns the version that serves now."""
    chosen = _require_chosen(spec, day)
    if runs.version_of(spec, chosen.run_id) != version:
        raise Refused(
            f"model {spec.name}: version {version} is not of attempt {chosen.number}, which the check of {day} has come to since; "
            "run the task register again, and those after it"
        )
    back_to = runs.get(chosen.run_id).tags.get(blending.BACK)  # which serves as it was
    proposal = _proposal(spec, day, chosen, version, commit, back_to)
    if spec.promote.refit and chosen.number == 0 and not back_to:
        again, seen = blending.again(spec, day, chosen.run_id)
        proposal = replace(proposal, version=again, twin=version, seen=seen)
    elif spec.promote.refit and chosen.number:
        recipe = spec.recipes[chosen.number - 1]
        frame, versions = _recipe_frame(spec, recipe, labelling.mature_through(spec, day), day)
        again = registering.refit(
            spec.by_recipe(recipe), day, chosen.run_id, frame, versions, run_key(day), recipe.half_life
        )
        proposal = replace(proposal, version=again, twin=version, seen=frame["day"].max().date())
    champions.promote(spec, proposal)
    return proposal.version


def _proposal(spec: ModelSpec, day: date, chosen: Attempt, version: int, commit: str, back_to: str | None) -> Proposal:
    """What the check of a day has come to, as a version that is to be champion from the violation on."""
    which = f"attempt {chosen.number}" + (f", version {back_to} as it was," if back_to else "")
    measured = f"{spec.check.metric} = {chosen.value:.4g} on the held-out slice, {better_by(chosen.gain)}"
    facts = {
        "run": chosen.run_id,
        "outcome": chosen.outcome.value,
        "commit": commit,
        "gain": chosen.gain,
        "gain_lower": chosen.lower if math.isfinite(chosen.lower) else None,
        "gain_upper": chosen.upper if math.isfinite(chosen.upper) else None,
        "check_day": str(day),
    }
    return Proposal(
        version,
        day,
        measured=chosen.measured,
        why=f"{which} {chosen.outcome.value}: {measured}",
        by=run_key(day),
        replaces_from=violated_since(spec, day),
        once=True,
        facts=facts,
    )


def violated_since(spec: ModelSpec, day: date) -> date:
    """The first day of the violation that a day's check found: from it on a promotion replaces what was published."""
    return first_violated(measurements.windows(spec, day), rules(spec))


def rescore(spec: ModelSpec, day: date) -> Reconciled:
    """Bring predictions to what is published since the day's check has promoted: another version from the violation on.

    Where somebody has rolled that back meanwhile, it does what that says.
    """
    return scoring.reconcile(spec, run_key(day))


def commit_notebook(spec: ModelSpec, day: date) -> str:
    """Execute the retraining notebook and commit it; returns the commit. A push that fails is only warned about."""
    return git.commit(spec.name, day, {"model": spec.name, "day": str(day)})


def keep_drift_report(spec: ModelSpec, day: date) -> str:
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


def begin(spec: ModelSpec, day: date) -> Evidence:
    """Decide, and see what else the check of a day is to do; where it has promoted before, what it has left to do."""
    if ledger.promoted_by(spec, run_key(day)) is not None and measurements.decided(spec, day) is not None:
        return evidence(spec, day, None)
    verdict = decide(spec, day)
    due = {"unverified": to_verify(spec, day) is not None, "drifted": drift_to_report(spec, day) is not None}
    has_attempts = verdict.decision is Decision.BLEND or verdict.decision.trains
    order = attempt_order(spec, day) if has_attempts else ()
    return Evidence.decided(verdict, order, **due)


def evidence(spec: ModelSpec, day: date, tried: int | None) -> Evidence:
    """What a day's check has found and done so far, as it is stored.

    The attempts up to number `tried` (None: none) have ended, in their order, and all that left something where one was
    promoted; one that left nothing has crashed.
    """
    verdict = measurements.decided(spec, day)
    if verdict is None:
        raise EsteiraError(f"model {spec.name}: nothing was decided for {day} yet; run measure and decide first")
    measured, run = measurements.attempts(spec, day), run_key(day)
    promoted = ledger.promoted_by(spec, run) is not None
    order = attempt_order(spec, day)
    last = [order.index(number) for number in (tried, *(measured if promoted else ())) if number in order]
    ended = {
        number: (measured[number].outcome, measured[number].lower) if number in measured else (Outcome.FAILS, math.nan)
        for number in order[: max(last, default=-1) + 1]
    }
    return Evidence(
        verdict,
        order,
        ended,
        promoted=promoted,
        warned=any(each.by == run for each in ledger.state(spec).of(Unrecovered)),
    )


@dataclass(frozen=True)
class Checked:
    """What a whole check came to: the decision, the attempts' outcomes in order, the version promoted, the warning queued, the days scored again.

    What it has promoted and warned of counts, too, where an earlier run of it has done so.
    """

    verdict: Verdict
    attempts: Mapping[int, Outcome] = field(default_factory=dict)
    promoted: int | None = None
    warning: Mail | None = None
    rescored: Reconciled | None = None
    worse: Verified | None = None

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        """How the attempts ended, in the order in which they were made."""
        return tuple(self.attempts.values())


def check(spec: ModelSpec, day: date, *, keep_notebook: bool = True) -> Checked:
    """The whole check, one action after the other, as the DAG does it; only Evidently's report is the DAG's alone.

    A crash is an attempt that did not improve, but for an outage, which is raised. A check that died after its promotion,
    and runs again, does only what was left to do.
    """
    if ledger.promoted_by(spec, run_key(day)) is None:
        store_labels(spec, day)
        measure(spec, day)
    return act(spec, day, begin(spec, day), keep_notebook=keep_notebook)


def act(spec: ModelSpec, day: date, found: Evidence, *, keep_notebook: bool = True) -> Checked:
    """Do the next action, and look again, until nothing is left to do."""
    rescored, worse, told = None, None, None
    while True:
        match action := next_action(found):
            case Keep() | Done():
                break
            case Wait():
                alerting.queue_wait_mail(spec, day)
                break
            case Blend() | Retrain():
                _attempt(spec, day, action.attempt)
                found = replace(found, attempts=evidence(spec, day, action.attempt).attempts)
                continue
            case Verify():
                worse = _verified(spec, day)
            case ReportDrift():
                alerting.queue_drift_mail(spec, day)
            case Promote():
                commit = commit_notebook(spec, day) if keep_notebook else ""
                promote_chosen(spec, day, register_chosen(spec, day), commit)
            case Reconcile():
                rescored = rescore(spec, day)
            case Warn():
                told = alerting.warn(spec, day)  # of this window another day's check may have warned before
            case _ as unknown:
                assert_never(unknown)
        found = found.after(action)
    outcomes = {number: outcome for number, (outcome, _) in found.attempts.items()}
    promoted, warning = ledger.promoted_by(spec, run_key(day)), alerting.warning_of(spec, day) or told
    return Checked(found.verdict, outcomes, promoted, warning, rescored, worse)


def _verified(spec: ModelSpec, day: date) -> Verified | None:
    try:
        found = alerting.verify(spec, day)
        return found.verified if found else None
    except Exception:  # in the DAG it is a task beside the others, whose failure keeps none of them from running
        log.exception("model %s: the promotion could not be verified", spec.name)
        return None


def _attempt(spec: ModelSpec, day: date, number: int) -> None:
    try:
        if number:
            recheck(spec, day, number, retrain(spec, day, number))
        else:
            blend(spec, day)
    except Exception as error:  # whatever it was, the next recipe may still help; it is in the log
        if is_outage(error):
            raise
        log.exception("model %s: attempt %d crashed", spec.name, number)
