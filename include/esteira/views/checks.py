"""Checks: what they measured, tried, decided, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from esteira.lifecycle.events import Warned, run_key
from esteira.lifecycle.policy import Measurement, Verdict
from esteira.spec import ModelSpec
from esteira.store import ledger, measurements, runs
from esteira.store.measurements import (
    Attempt,
    AttemptDay,
    Drift,
    DriftOn,
    Explanation,
    FeatureDrift,
    Measured,
    OutcomeDrift,
)
from esteira.store.records import Window


@dataclass(frozen=True)
class Check:
    """What a day's check measured, tried and decided; `table` is where the metrics lie."""

    day: date
    champion: int
    windows: tuple[Measurement, ...]
    attempts: Mapping[int, Attempt]
    verdict: Verdict | None
    explanation: Explanation | None
    drift: Drift | None
    drifts: tuple[FeatureDrift, ...]
    outcomes: tuple[OutcomeDrift, ...]
    warned: Warned | None
    table: str


def check(spec: ModelSpec, day: date) -> Check:
    """The check of a day. Raises NoChampion where the day has none."""
    now = ledger.require_champion(spec, day)
    run = run_key(day)
    warned = [each for each in ledger.state(spec).of(Warned) if each.by == run]
    return Check(
        day=day,
        champion=now.version,
        windows=tuple(measurements.windows(spec, day)),
        attempts=measurements.attempts(spec, day),
        verdict=measurements.decided(spec, day),
        explanation=measurements.explanation(spec, day),
        drift=measurements.drift(spec, day),
        drifts=measurements.drifts(spec, day),
        outcomes=measurements.outcome_drifts(spec, day),
        warned=warned[0] if warned else None,
        table=measurements.place(spec),
    )


def windows(spec: ModelSpec, metric: str = "", window: Window = Window.WHOLE, since: date = date.min) -> list[Measured]:
    """A metric (else the gate's) by window, or by day, of whichever version served."""
    return measurements.history(spec, metric or spec.check.metric, window, since)


@dataclass(frozen=True)
class CheckOf:
    """What the check of a day decided, tried and came to; `champion` is the version that it measured, `promoted` the one that it promoted."""

    day: date
    champion: int | None
    verdict: Verdict | None
    attempts: Mapping[int, Attempt]
    promoted: int | None
    warned: bool


def checks(spec: ModelSpec, first: date, last: date) -> tuple[CheckOf, ...]:
    """The checks of the days, in order."""
    known = ledger.state(spec)
    verdicts, tried = measurements.decisions(spec, first, last), measurements.attempts_of(spec, first, last)
    promoted = {each.by: each.version for each in known.promotions}
    warned = {each.by for each in known.of(Warned)}
    found = []
    for day in sorted({*verdicts, *tried}):
        serving, run = known.serving(day), run_key(day)
        found.append(
            CheckOf(
                day,
                serving.version if serving else None,
                verdicts.get(day),
                tried.get(day, {}),
                promoted.get(run),
                run in warned,
            )
        )
    return tuple(found)


def drift(spec: ModelSpec, first: date, last: date) -> tuple[DriftOn, ...]:
    """The drift of features, labels, predictions and errors by the checks of the days."""
    return tuple(measurements.drift_history(spec, first, last))


def attempt_days(spec: ModelSpec, day: date) -> list[AttemptDay]:
    """Champion and challenger day by day, in each attempt of a day's check."""
    return measurements.attempt_days(spec, day)


def attempt_runs(spec: ModelSpec, day: date) -> dict[int, runs.Run]:
    """The MLflow run of each attempt of a day's check; asks the server."""
    return {number: runs.get(each.run_id) for number, each in measurements.attempts(spec, day).items()}
