"""The whole train DAG, one step after the other."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from esteira.learning import pipelines
from esteira.spec import ModelSpec
from esteira.steps import champions, preparing
from esteira.steps.evaluating import evaluate, identity
from esteira.steps.fitting import candidate, select
from esteira.steps.registering import promote, refit, register, trained_before
from esteira.store import runs


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
    versions = preparing.prepare_all(spec, as_of, window)
    before = None if again else trained_before(spec, identity(spec, as_of, versions, window))
    if before is not None:
        champions.register(spec, runs.run_of(spec, before), as_of)  # which may have died before its row
        said = promote(spec, as_of, before, run) if promoted else f"version {before} is registered"
        return f"trained before, of the same day, spec and data (--again trains anew): {said}"
    indices = candidates if candidates is not None else range(len(spec.train.candidates))
    best = select(spec, [candidate(spec, as_of, index, versions, run, window) for index in indices])
    version = register(spec, evaluate(spec, as_of, best, versions, run, window), as_of, again=again)
    return promote(spec, as_of, version, run) if promoted else f"version {version} was registered as challenger"


def retrained(spec: ModelSpec, as_of: date, run: str) -> int:
    """Fit the best candidate on all that was mature by the day, asking nothing; returns the version it is registered as."""
    versions = preparing.prepare_all(spec, as_of, None)
    indices = range(len(spec.train.candidates))
    best = select(spec, [candidate(spec, as_of, index, versions, run) for index in indices])
    return refit(spec, as_of, best, preparing.rows(spec, as_of, None, versions), versions, run, spec.train.half_life)
