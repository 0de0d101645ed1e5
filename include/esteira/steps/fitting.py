"""Candidates: tuned, compared on the validation part, fitted, and kept with their lineage."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import pandas as pd

from esteira import data
from esteira.errors import DataError
from esteira.learning import drift, evaluation, pipelines, predicting, tuning
from esteira.learning.drift import Profile
from esteira.learning.predicting import Model
from esteira.spec import Candidate, ModelSpec
from esteira.steps import labelling, preparing
from esteira.store import runs
from esteira.store.lineage import DataVersions, DaysSeen, Tuned, Validated
from esteira.text import counted

log = logging.getLogger(__name__)


def candidate(
    spec: ModelSpec, as_of: date, index: int, versions: DataVersions, run: str, window: int | None = None
) -> str:
    """Tune the candidate `index` on the first 70 % of the days, measure it on the next 15 %; returns its MLflow run."""
    chosen = spec.train.candidates[index]
    past, validation = preparing.to_choose(spec, as_of, window, versions)
    with runs.tracked(
        spec, f"{run}/candidate/{index}", chosen.name, kind="candidate", as_of=as_of, candidate=index
    ) as run_id:
        found = tuning.tune(spec, chosen, past, spec.train.half_life, only=len(spec.train.candidates) == 1)
        model = pipelines.fit(spec, chosen, found.params, past, spec.train.half_life)
        names = tuple(spec.check.metrics)
        measured = evaluation.evaluate(spec, predicting.scored(spec, model, validation), names)
        require_measured(spec, measured, validation, "validation")
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


def require_measured(spec: ModelSpec, measured: Mapping[str, float], rows: pd.DataFrame, part: str) -> None:
    """Raise DataError where the gate's metric can't be computed from a part of the days, most often since it has one class."""
    if not math.isnan(measured[spec.check.metric]):
        return
    span = f"{part} part, {rows['day'].min().date()} to {rows['day'].max().date()}"
    seen = sorted(rows["label"].unique()) if spec.task != "regression" else []
    why = f"its labels hold one class only, {seen[0]!r}" if len(seen) == 1 else f"it has {counted(len(rows), 'row')}"
    raise DataError(
        f"model {spec.name}: {spec.check.metric} can't be computed on the {span}: {why}. Where the labels of some rows come later than "
        f"label_delay ({spec.label_delay}d), it must be as long as the latest take; else widen train.window, or train for a later day"
    )


def select(spec: ModelSpec, run_ids: Sequence[str]) -> str:
    """The run of the candidate that did best on the validation part."""
    found = {run_id: Validated.of(runs.get(run_id).tags).value for run_id in run_ids}
    best = evaluation.best(spec, found)
    runs.log(best, tags={"selected": "yes"})
    return best


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
    keep_model(spec, run_id, model, past, weights, outcomes_of(spec, rows, scored))
    if len(rows):

        def drawn() -> Mapping[str, Any]:
            from esteira.learning import plots  # matplotlib takes a second to import

            return plots.of_model(spec, scored, weights)

        runs.log_figures(run_id, drawn)


def outcomes_of(spec: ModelSpec, rows: pd.DataFrame, scored: pd.DataFrame) -> Profile:
    """How predictions and errors are spread over rows that a model has not seen."""
    return drift.outcome_profile(spec, scored.join(rows[list(spec.check.segments)]))


def keep_model(
    spec: ModelSpec,
    run_id: str,
    model: Model,
    frame: pd.DataFrame,
    weights: Mapping[str, float],
    outcomes: Profile,
) -> None:
    """Keep a model with the profile of what it was made of: its features and labels, `outcomes`, what was usual of labels."""
    labelled: Profile = {drift.LABELLED: labelling.usual(spec, date.fromisoformat(runs.get(run_id).tags["as_of"]))}
    even = pipelines.evened(frame, spec.train.seed)
    profile = {**drift.profile(spec, even, weights), **outcomes, **labelled}
    runs.log_model(spec, run_id, model, data.masked(spec, frame.head(5)), profile)


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
