"""Attempt 0: what was trained for a model before, blended, or a champion from before, as it was."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd

from esteira import data
from esteira.errors import ModelRefused, Refused, UnknownVersion
from esteira.learning import blending, drift, predicting
from esteira.learning.blending import Blended
from esteira.learning.drift import Profile
from esteira.learning.predicting import Model
from esteira.lifecycle.events import Registered, Verified, run_key
from esteira.spec import ModelSpec
from esteira.steps import champions, fitting, labelling
from esteira.steps.measuring import slice_days
from esteira.store import ledger, runs
from esteira.store.lineage import DataVersions, DaysSeen, Evaluation
from esteira.store.runs import Run
from esteira.text import counted

log = logging.getLogger(__name__)

POOL = 32  # models that a blend is chosen from: the newest ones
EARLIER = 3  # champions that may come back: the last ones
BACK = "back_to"  # the tag of a run that keeps one


@dataclass(frozen=True)
class Made:
    """A blend, the rows that its weights are of, by the runs of its members their weights, and the runs it was chosen from."""

    blended: Blended
    frame: pd.DataFrame
    shares: Mapping[str, float]
    pool: Sequence[str]

    @property
    def model(self) -> Model:
        """What predicts."""
        return self.blended.model


@dataclass(frozen=True)
class Tried:
    """Blends by what was known before each span of `check.every` days of the held-out slice, in order, and what they were made of."""

    made: Sequence[Made]
    versions: DataVersions

    @property
    def models(self) -> list[Model]:
        """What the slice is judged by, the newest first: each day by the blend of what was known before its span."""
        return [each.model for each in reversed(self.made)]


def blend(spec: ModelSpec, day: date) -> Tried | None:
    """Blend the model's pipelines by what they lost on mature days before the held-out slice.

    So would it have served, had it been blended anew at each window. None where no pipeline has days enough that it has not seen.
    """
    versions = labelling.versions(spec)
    starts = data.days(*slice_days(spec, day))[:: spec.check.every]
    made = _made(spec, day, [start - timedelta(days=1) for start in starts], versions)
    return Tried(made, versions) if made else None


def earlier(spec: ModelSpec, day: date) -> dict[int, Tried]:
    """The champions before the present one, the newest first, by version: each as a blend of itself alone, and not calibrated.

    What learnt of a world that is over knows less of the one that came back than they do, and a blend sees that days later.
    """
    now, known = ledger.require_champion(spec, day), ledger.state(spec)
    before = dict.fromkeys(each.version for each in reversed(known.changes) if each.effective_day < now.effective_day)
    barred, versions = _barred(spec), labelling.versions(spec)
    last = labelling.mature_through(spec, day)
    frame = labelling.sample(spec, last - timedelta(days=blending.PAST - 1), last, versions)
    found: dict[int, Tried] = {}
    for version in before:
        if len(found) == EARLIER:
            break
        try:
            run, model = runs.run_of(spec, version), champions.load_version(spec, version)
        except (ModelRefused, UnknownVersion) as error:
            log.error("%s", error)
            continue
        if version != now.version and run not in barred and {*model.columns} <= {*spec.features.all}:
            alone = Blended(model, (0,), (1.0,), "none", 0.0)
            found[version] = Tried([Made(alone, frame, {run: 1.0}, [run])], versions)
    return found


def keep(spec: ModelSpec, day: date, tried: Tried, *, with_model: bool, back_to: int | None = None) -> str:
    """Keep the blend of a day, or the champion that it goes back to, with its model where that may be promoted; returns the MLflow run."""
    about = {"kind": "blend", "as_of": day, "check_day": day, "attempt": 0}
    about |= {BACK: back_to} if back_to else {}
    with runs.tracked(spec, attempt_key(day, 0), f"blend of {day}", **about) as run_id:
        _log(run_id, tried.made[0], tried.versions)
        if with_model:
            held_out = labelling.sample(spec, *slice_days(spec, day))
            scored = predicting.unseen(spec, tried.models, held_out)
            columns = ["day", "label", "prediction", "probability"]
            _keep_model(spec, run_id, tried.made[0], fitting.outcomes_of(spec, held_out, scored[columns]))
    return run_id


def again(spec: ModelSpec, day: date, run_id: str) -> tuple[int, date]:
    """The blend of a run with weights from all mature days, for serving: the version it is registered as, and the last day it has seen.

    It is chosen from what could be chosen then: what the check has trained since no blend was judged with. Raises Refused where
    all of that has been rolled back, or erased, in between.
    """
    done = runs.search(spec, kind="blend", evaluated=run_id)
    if done and done[0].status == "FINISHED":
        made_run = done[0].id
    else:
        versions = labelling.versions(spec)
        pool = json.loads(runs.get(run_id).tags["pool"])
        made = _made(spec, day, [labelling.mature_through(spec, day)], versions, pool)
        if not made:
            raise Refused(
                f"model {spec.name}: none of the models that the blend of {day} was judged with may be blended any more, "
                "for they were rolled back, turned out worse or were erased since; check a later day"
            )
        about = {"kind": "blend", "as_of": day, "evaluated": run_id}
        with runs.tracked(spec, f"{run_key(day)}/refit", f"blend of {day} refit", **about) as made_run:
            _log(made_run, made[0], versions)
            _keep_model(spec, made_run, made[0], drift.of_outcomes(runs.profile(run_id)))
    return champions.register(spec, made_run, day), DaysSeen.of(runs.get(made_run).tags).last


def attempt_key(day: date, attempt: int) -> str:
    """What the run of an attempt of a day's check is known by; the blend is attempt 0."""
    return f"{run_key(day)}/attempt/{attempt}"


def _made(
    spec: ModelSpec, day: date, ends: list[date], versions: DataVersions, pool: Sequence[str] | None = None
) -> list[Made]:
    """The blends by what was known at the end of each of the days, which are in order; none where the first can't be made.

    They are chosen from the runs of the `pool`; None: from all.
    """
    frame = labelling.sample(spec, ends[0] - timedelta(days=blending.PAST - 1), ends[-1], versions)
    members = _members(spec, day, ends[-1], pool) if len(frame) else []
    past = blending.known(spec, [model for _, model in members], frame)
    found = []
    for end in ends:
        blended = blending.blend(spec, past, end) if members else None
        if blended is None:
            log.info("model %s: of %s none can be blended yet", spec.name, counted(len(members), "model"))
            return []
        chosen = [members[number][0].id for number in blended.members]
        shares = dict(zip(chosen, blended.weights, strict=True))
        rows = frame[frame["day"] <= pd.Timestamp(end)]
        found.append(Made(blended, rows, shares, [run.id for run, _ in members]))
    return found


def _log(run_id: str, made: Made, versions: DataVersions) -> None:
    """Note a blend's lineage: its members' runs, their weights, the calibration, the rows that these are of."""
    found, frame = made.blended, made.frame
    last = found.model.trained_through
    seen = DaysSeen(min(frame["day"].min().date(), last), last)
    calibration = {"calibration": found.kind, "value": f"{found.value:.6g}"}
    runs.log(
        run_id,
        params={"estimator": "Blend", "members": len(made.shares), **calibration, "rows": len(frame)},
        tags={**versions.tags(), **seen.tags(), "members": json.dumps(made.shares), "pool": json.dumps(made.pool)},
    )


def _keep_model(spec: ModelSpec, run_id: str, made: Made, outcomes: Profile) -> None:
    importances = [drift.importance(runs.profile(each)) for each in made.shares]
    weights = blending.importance(importances, made.blended.weights)
    fitting.keep_model(spec, run_id, made.model, made.frame, weights, outcomes)


def _members(spec: ModelSpec, day: date, last: date, pool: Sequence[str] | None) -> list[tuple[Run, Model]]:
    """The models that may be blended, the newest first: those made by the day, of the pool if there is one, that have not seen days up to `last`."""
    until = last - timedelta(days=spec.check.min_days)
    classes = runs.get(runs.run_of(spec, ledger.require_champion(spec, day).version)).tags["classes"]
    every = [run for run in _runs(spec, day) if DaysSeen.of(run.tags).last <= until and run.tags["classes"] == classes]
    every = [run for run in every if pool is None or run.id in pool]
    doubled = {
        run.tags.get("evaluated") for run in every
    }  # of two that differ in what they have seen only the newer one
    every = [run for run in every if run.id not in doubled]
    every.sort(key=lambda run: (DaysSeen.of(run.tags).last, run.tags.get("key", "")), reverse=True)
    digests = {each.by: each.sha256 for each in ledger.state(spec).of(Registered)}
    found = []
    for run in every[:POOL]:
        try:
            model = runs.load(spec, run.id, digest=digests.get(run.id, ""))
        except ModelRefused as error:
            log.error("%s", error)
            continue
        if {*model.columns} <= {*spec.features.all}:
            found.append((run, model))
    return found


def _runs(spec: ModelSpec, day: date) -> list[Run]:
    """The finished runs whose models nothing speaks against."""
    barred = _barred(spec)
    every = (run for kind in ("model", "attempt", "refit") for run in runs.search(spec, kind=kind))
    return [
        run
        for run in every
        if run.status == "FINISHED"
        and run.has_model
        and run.id not in barred
        and date.fromisoformat(run.tags["as_of"]) <= day
        and not _failed_its_test(run)
    ]


def _failed_its_test(run: Run) -> bool:
    """Whether a training's test refused it for what it is, and not since the champion was better."""
    return run.tags.get("kind") == "model" and not Evaluation.of(run.tags).accepted and "gain" not in run.metrics


def _barred(spec: ModelSpec) -> set[str]:
    """The runs of the versions that a person has rolled back, or that turned out worse, and of their twins."""
    known = ledger.state(spec)
    worse = {each.version for each in known.of(Verified) if each.worse}
    versions = {each.version for each in known.promotions if each.version in worse or known.voided_by(each.version)}
    versions |= {each.twin for each in known.promotions if each.version in versions and each.twin}
    found = set()
    for version in versions:
        try:
            found.add(runs.run_of(spec, version))
        except UnknownVersion:  # deleted: nor is there a run to be found
            continue
    return found
