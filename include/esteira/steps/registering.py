"""Fitted models with their lineage, and the versions that they are registered as."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import date
from typing import Any

import pandas as pd

from esteira import data
from esteira.learning import drift, pipelines
from esteira.learning.pipelines import Model
from esteira.spec import Candidate, ModelSpec
from esteira.steps import champions
from esteira.store import ledger, runs

log = logging.getLogger(__name__)


def identity(spec: ModelSpec, as_of: date, versions: str, window: int | None) -> str:
    """What tells a training from others: the day, the model.yaml and the model's code, the data, the window."""
    asked = json.dumps(
        [str(as_of), versions, window or spec.train.window, spec.model_dump(mode="json")], sort_keys=True
    )
    return hashlib.sha256(asked.encode() + spec.code).hexdigest()


def trained_before(spec: ModelSpec, identity: str, candidate: str | None = None) -> int | None:
    """The version that the same training has registered, if it was compared with the champion that there is now.

    With `candidate` (its tags) only a version of the same candidate and parameters counts.
    """
    now = ledger.champion(spec)
    for run in runs.search(spec, kind="model", identity=identity):
        tags = run.tags
        version = runs.version_of(spec, run.id)
        if version is None or candidate not in (None, _candidate_of(tags)):
            continue
        serves = now is not None and (now.version == version or ledger.evaluated(spec, now.version) == version)
        if serves or int(tags["measured"]) == (now.version if now else 0):
            return version
    return None


def _candidate_of(tags: Mapping[str, str]) -> str:
    return f"{tags['candidate']} {tags['params']}"


def log_fitted(
    spec: ModelSpec,
    run_id: str,
    model: Model,
    past: pd.DataFrame,
    rows: pd.DataFrame,
    scored: pd.DataFrame,
    chosen: Candidate,
    params: Mapping[str, Any],
    versions: str,
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
    spec: ModelSpec, run_id: str, frame: pd.DataFrame, chosen: Candidate, params: Mapping[str, Any], versions: str
) -> None:
    """Note what a model was fitted on, and how: parameters, seed, rows, first day, Delta versions."""
    features_at, labels_at = versions.split("/")
    runs.log(
        run_id,
        params={"estimator": chosen.estimator, **chosen.params, **params, "seed": spec.train.seed, "rows": len(frame)},
        tags={
            "features_version": features_at,
            "labels_version": labels_at,
            "first_day": frame["day"].min().date(),
            "params": json.dumps(params),
        },
    )


def register(spec: ModelSpec, run_id: str, as_of: date, *, again: bool = False) -> int:
    """Register the run's model as a version with the alias `challenger`; returns the version.

    Where the same training has registered one before, that is returned, unless it is to be done `again`.
    """
    champions.repair_aliases(spec)
    tags = runs.get(run_id).tags
    if not again and "identity" in tags and runs.version_of(spec, run_id) is None:
        before = trained_before(spec, tags["identity"], _candidate_of(tags))
        if before is not None:
            log.info("model %s: version %d is of the same day, spec and data: none is registered", spec.name, before)
            return before
    version = champions.registered(spec, run_id, as_of)
    now = ledger.champion(spec)
    if now is None or now.version != version:
        runs.alias(spec, "challenger", version)
    return version


def refit(
    spec: ModelSpec, as_of: date, run_id: str, frame: pd.DataFrame, versions: str, run: str, half_life: int | None
) -> int:
    """Fit the candidate of an evaluated run again, on the rows of `frame`; returns the version it is registered as.

    When it is asked again for the same evaluated run, it returns the version that it made before.
    """
    made = runs.search(spec, kind="refit", evaluated=run_id)
    if made and made[0].status == "FINISHED":
        return champions.registered(spec, made[0].id, as_of)
    tags = runs.get(run_id).tags
    chosen, params = spec.train.candidates[int(tags["candidate"])], json.loads(tags["params"])
    with runs.tracked(
        spec, f"{run}/refit", f"{chosen.name} {as_of} refit", kind="refit", as_of=as_of, evaluated=run_id
    ) as again:
        model = pipelines.fit(spec, chosen, params, frame, half_life)
        runs.log(again, tags={"candidate": tags["candidate"]})
        log_lineage(spec, again, frame, chosen, params, versions)
        weights = drift.importance(runs.profile(run_id)) if "model_uri" in tags else {}
        runs.log_model(spec, again, model, data.masked(spec, frame.head(5)), drift.profile(spec, frame, weights))
    return champions.registered(spec, again, as_of)
