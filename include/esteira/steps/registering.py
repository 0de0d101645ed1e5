"""From an evaluated run to a version, and from a version to the champion."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from datetime import date

import pandas as pd

from esteira.learning import drift, pipelines
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Rejected, effective_day
from esteira.spec import ModelSpec
from esteira.steps import champions, fitting, preparing
from esteira.store import ledger, runs
from esteira.store.lineage import DataVersions, Evaluation, Tuned

log = logging.getLogger(__name__)


def register(spec: ModelSpec, run_id: str, as_of: date, *, again: bool = False) -> int:
    """Register an evaluated run's model as `challenger` does; returns the version.

    Where the same training has registered one before, that is returned, unless it is to be done `again`.
    """
    tags = runs.get(run_id).tags
    if not again and runs.version_of(spec, run_id) is None:
        before = trained_before(spec, Evaluation.of(tags).identity, Tuned.of(tags))
        if before is not None:
            champions.repair_aliases(spec)
            log.info("model %s: version %d is of the same day, spec and data: none is registered", spec.name, before)
            return champions.register(spec, runs.run_of(spec, before), as_of)  # which may have died before its row
    return challenger(spec, run_id, as_of)


def challenger(spec: ModelSpec, run_id: str, as_of: date) -> int:
    """Register a run's model as a version with the alias `challenger`, unless it is champion by now; returns the version."""
    champions.repair_aliases(spec)
    version = champions.register(spec, run_id, as_of)
    now = ledger.champion(spec)
    if (now is None or now.version != version) and ledger.state(spec).voided_by(version) is None:
        runs.alias(spec, "challenger", version)
    return version


def trained_before(spec: ModelSpec, identity: str, tuned: Tuned | None = None) -> int | None:
    """The version that the same training has registered, if it was compared with the champion that there is now.

    With `tuned` only a version of the same candidate and parameters counts.
    """
    now = ledger.champion(spec)
    for run in runs.search(spec, kind="model", identity=identity):
        version = runs.version_of(spec, run.id)
        if version is None or tuned not in (None, Tuned.of(run.tags)):
            continue
        serves = now is not None and (now.version == version or ledger.twin(spec, now.version) == version)
        if serves or Evaluation.of(run.tags).measured == (now.version if now else None):
            return version
    return None


def promote(spec: ModelSpec, as_of: date, version: int, run: str) -> str:
    """Make the version champion where its evaluation allowed it; returns what was done, as a sentence.

    But with `promote: {refit: false}` the version promoted is one of its own, fitted on everything that was known.
    """
    run_id = runs.run_of(spec, version)
    evaluated = runs.get(run_id)
    found, measured = Evaluation.of(evaluated.tags), evaluated.metrics
    if not found.accepted:
        ledger.write(spec, Rejected(version=version, day=effective_day(as_of), by=run, why=found.why))
        return f"version {version} was not promoted: {found.why}"
    proposal = Proposal(version, as_of, measured=found.measured, why=found.why, by=run)
    if spec.promote.refit:
        frame = preparing.rows(spec, as_of, found.window, found.versions)
        again = refit(spec, as_of, run_id, frame, found.versions, run, spec.train.half_life)
        proposal = replace(proposal, version=again, twin=version, seen=frame["day"].max().date())
    gains = {name: measured.get(name, math.nan) for name in ("gain", "gain_lower", "gain_upper")}
    known = {name: value for name, value in gains.items() if math.isfinite(value)}
    champions.promote(spec, replace(proposal, facts={"run": run_id, "commit": evaluated.commit, **known}))
    return f"version {proposal.version} is the champion from {effective_day(as_of)} on: {found.why}"


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
        return champions.register(spec, made[0].id, as_of)
    evaluated = runs.get(run_id)
    tuned = Tuned.of(evaluated.tags)
    chosen = spec.train.candidates[tuned.candidate]
    about = {"kind": "refit", "as_of": as_of, "evaluated": run_id, **tuned.tags()}
    with runs.tracked(spec, f"{run}/refit", f"{chosen.name} {as_of} refit", **about) as again:
        model = pipelines.fit(spec, chosen, tuned.params, frame, half_life)
        fitting.log_lineage(spec, again, frame, chosen, tuned.params, versions)
        known = runs.profile(run_id) if evaluated.has_model else {}
        fitting.keep_model(spec, again, model, frame, drift.importance(known), drift.of_outcomes(known))
    return champions.register(spec, again, as_of)
