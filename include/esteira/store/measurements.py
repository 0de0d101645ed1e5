"""The metrics table, as what it means: windows of the champion, attempts, drift, labels, what was decided and why it moved."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import groupby
from operator import itemgetter
from typing import Any

import pandas as pd

from esteira.learning.drift import STATISTIC
from esteira.lifecycle.policy import Decision, Gate, Measurement, Outcome, Reached, Verdict
from esteira.spec import Limit, ModelSpec
from esteira.store import lake, schemas
from esteira.store.records import Record, Role, Window

# Under which attempt a check writes: its measurements, what it decided, a verification, why its metrics moved, its blend, which
# people call attempt 0; 1 and up: attempts.
CHECK, DECISION, VERIFICATION, EXPLANATION, BLEND = 0, -1, -2, -3, -4

YEARS = 2 * 365  # days that are looked back at most for a check that did not wait

Row = dict[str, Any]


def write(spec: ModelSpec, records: Sequence[Record], day: date, attempt: int) -> None:
    """Replace what the check of a day wrote for an attempt."""
    frame = pd.DataFrame([record.row() for record in records], columns=schemas.METRICS.names)
    where = {"check_day": day, "attempt": attempt}
    lake.replace("metrics", spec.name, frame, where, schema=schemas.METRICS, partition="check_day")


def of_attempt(number: int) -> int:
    """Under which attempt an attempt of a check writes, whose number is 0 for the blend."""
    return number or BLEND


def _number(attempt: int) -> int:
    return 0 if attempt == BLEND else attempt


def with_gain(found: Record, seen: Gate) -> Record:
    """A record with what a gate saw; a bound that is not finite stays empty."""
    lower, upper = (bound if math.isfinite(bound) else None for bound in (seen.lower, seen.upper))
    return replace(found, gain=seen.gain, gain_lower=lower, gain_upper=upper)


def read(spec: ModelSpec, columns: list[str] | None = None, **where: Any) -> pd.DataFrame:
    """The rows as they are."""
    return lake.read("metrics", spec.name, columns=columns, **where)


def place(spec: ModelSpec) -> str:
    """Where the table lies."""
    return lake.path("metrics", spec.name)


def days(spec: ModelSpec) -> list[date]:
    """The days that were checked, in order."""
    return lake.days_of("metrics", spec.name)


# ----------------------------------------------------------------------------------------------------------- windows


@dataclass(frozen=True)
class Measured:
    """A metric of a version over a span of days, as a check recorded it; `in_range` is None where nothing was asked of it."""

    version: int
    window: Window
    first: date
    last: date
    metric: str
    value: float
    in_range: bool | None
    rows: int
    days: int
    check_day: date


def windows(spec: ModelSpec, day: date, window: Window = Window.WHOLE) -> list[Measurement]:
    """The champion's windows as the check of a day recorded them, the latest one last."""
    columns = [
        "role",
        "segment",
        "first_day",
        "last_day",
        "metric",
        "value",
        "min",
        "max",
        "in_range",
        "n_rows",
        "n_days",
    ]
    every = _records(read(spec, columns, check_day=day, attempt=CHECK, window=window))
    of_champion = (each for each in every if each["role"] == Role.CHAMPION)
    rows = [each for each in of_champion if not each["segment"] or _is_known(each["in_range"])]
    rows.sort(key=itemgetter("first_day", "last_day", "segment"))  # all rows, whose segment is empty, come first
    found = []
    for (first, last), grouped in groupby(rows, itemgetter("first_day", "last_day")):
        part = list(grouped)
        reached = {_full_name(each): _reached(each) for each in part if _is_known(each["in_range"])}
        whole = [name for name in spec.check.metrics if name in reached]
        ordered = [*whole, *(name for name in reached if name not in whole)]
        labels = [each for each in every if each["role"] == Role.LABELS and each["last_day"] == last]
        unknown = [each["metric"] for each in part if not _is_known(each["in_range"])]
        found.append(
            Measurement(
                first.date(),
                last.date(),
                int(part[0]["n_rows"]),
                int(part[0]["n_days"]),
                {name: reached[name] for name in ordered},
                "; ".join([*lacking(labels), *(f"{name} can't be computed from them" for name in unknown)]),
            )
        )
    return found


def _is_known(in_range: object) -> bool:
    return not pd.isna(in_range)  # type: ignore[call-overload]


def _full_name(row: Row) -> str:
    return f"{row['metric']} of {row['segment']}" if row["segment"] else str(row["metric"])


def _reached(row: Row) -> Reached:
    limit = Limit(**{name: None if pd.isna(row[name]) else float(row[name]) for name in ("min", "max")})
    return Reached(float(row["value"]), limit.beyond(row["value"]), str(limit))


def lacking(rows: Iterable[Row]) -> list[str]:
    """What the labels lack that the rows of a span are about."""
    reasons = {
        "labelled_share": "{value:.0%} of the rows have one, and at least {min:.0%} would be usual",
        "classes": "they hold {value:.0f} class{alone}, and several were usual (where that is real, train on days that hold it)",
        "rarer": "{value:.0f} of the rows are of the rarer class, and a metric made of each class takes {min:.0f} (a longer check.every has more)",
    }
    return [
        reasons[row["metric"]].format(
            value=row["value"], min=row["min"], alone=f" ({row['segment']})" if row["segment"] else ""
        )
        for row in rows
        if not row["in_range"]
    ]


def history(spec: ModelSpec, metric: str, window: Window = Window.WHOLE, since: date = date.min) -> list[Measured]:
    """A metric of the champions over all rows, by window or day, in order; of what several checks measured, the last."""
    rows = read(
        spec,
        columns=["version", "first_day", "last_day", "value", "in_range", "n_rows", "n_days", "check_day"],
        check_day=(since, date.max),
        attempt=CHECK,
        role=Role.CHAMPION,
        window=window,
        metric=metric,
        segment="",
    )
    rows = rows.sort_values("check_day").drop_duplicates(["version", "first_day", "last_day"], keep="last")
    return [_measured(dict(row), window, metric) for row in _records(rows.sort_values(["last_day", "version"]))]


def _records(rows: pd.DataFrame) -> list[Row]:
    found: list[Row] = rows.to_dict("records")  # type: ignore[assignment]
    return found


def _measured(row: Row, window: Window, metric: str) -> Measured:
    return Measured(
        version=int(row["version"]),
        window=window,
        first=row["first_day"].date(),
        last=row["last_day"].date(),
        metric=metric,
        value=float(row["value"]),
        in_range=None if pd.isna(row["in_range"]) else bool(row["in_range"]),
        rows=int(row["n_rows"]),
        days=int(row["n_days"]),
        check_day=row["check_day"].date(),
    )


def segments(spec: ModelSpec, day: date) -> list[Measured]:
    """The metrics by segment (as `metric of segment`) in the latest window of a day's check."""
    rows = read(spec, check_day=day, attempt=CHECK, role=Role.CHAMPION, window=Window.WHOLE)
    rows = rows[(rows["segment"] != "") & rows["value"].notna()]
    rows = rows[rows["last_day"] == rows["last_day"].max()] if len(rows) else rows
    return [_measured(row, Window.WHOLE, _full_name(row)) for row in _records(rows.sort_values(["metric", "segment"]))]


def recorded(spec: ModelSpec, version: int, first: date, last: date) -> set[date]:
    """The days of a version that the checks from `first` to `last` have recorded one by one."""
    known = read(
        spec, columns=["last_day"], check_day=(first, last), window=Window.DAY, version=version, role=Role.CHAMPION
    )
    return {moment.date() for moment in known["last_day"]}


@dataclass(frozen=True)
class Estimate:
    """What is expected of the days that have no labels yet; `off` is how far such estimates were off, where that is known."""

    value: float
    in_range: bool
    off: float | None


def error_of(metric: str) -> str:
    """How the metrics table calls how far the estimates of a metric were off."""
    return f"{metric}_error"


def estimate(spec: ModelSpec, day: date) -> Estimate | None:
    """What a day's check expects of the days that have no labels yet; None where it expects nothing."""
    rows = read(spec, check_day=day, role=Role.ESTIMATED, attempt=CHECK)
    metric = spec.check.metric
    pending = rows[(rows["window"] == Window.PENDING) & (rows["metric"] == metric)]
    if pending.empty:
        return None
    error = rows.loc[rows["metric"] == error_of(metric), "value"]
    off = float(error.iloc[0]) if len(error) else None
    return Estimate(float(pending["value"].iloc[0]), bool(pending["in_range"].iloc[0]), off)


def estimates(spec: ModelSpec, version: int, first: date, last: date) -> pd.DataFrame:
    """What the checks from `first` to `last` had expected of single days of a version."""
    return read(spec, check_day=(first, last), role=Role.ESTIMATED, window=Window.DAY, version=version)


def estimated(spec: ModelSpec, first: date, last: date) -> list[tuple[date, float]]:
    """What the gate's metric of single days was expected to be before they had labels, by the last check that said so, in order."""
    rows = read(
        spec, check_day=(first, last), role=Role.ESTIMATED, window=Window.DAY, metric=spec.check.metric, segment=""
    )
    rows = rows.sort_values("check_day").drop_duplicates("last_day", keep="last").sort_values("last_day")
    return [(row["last_day"].date(), float(row["value"])) for row in _records(rows) if not pd.isna(row["value"])]


# ---------------------------------------------------------------------------------------------------------- attempts


@dataclass(frozen=True)
class Attempt:
    """An attempt that was measured: the gate's metric and gain on the held-out slice, and the MLflow run with the model.

    `measured` is the champion that it was compared with.
    """

    number: int
    run_id: str
    outcome: Outcome
    value: float
    gain: float
    lower: float
    upper: float
    days: int
    rows: int
    measured: int


def attempts(spec: ModelSpec, day: date) -> dict[int, Attempt]:
    """The attempts of a day's check that were measured, by number."""
    return attempts_of(spec, day, day).get(day, {})


def attempts_of(spec: ModelSpec, first: date, last: date) -> dict[date, dict[int, Attempt]]:
    """The attempts of the days' checks that were measured, by day, in order, and by number."""
    every = read(spec, check_day=(first, last), window=Window.SLICE, metric=spec.check.metric, segment="")
    champions = every[(every["role"] == Role.CHAMPION) & _is_attempt(every)]
    measured = dict(
        zip(zip(champions["check_day"], champions["attempt"], strict=True), champions["version"], strict=True)
    )
    rows = every[every["role"] == Role.CHALLENGER]
    found: dict[date, dict[int, Attempt]] = {}
    for row in sorted(_records(rows), key=lambda row: (row["check_day"], _number(int(row["attempt"])))):
        attempt = Attempt(
            _number(int(row["attempt"])),
            str(row["run_id"]),
            Outcome(row["outcome"]),
            float(row["value"]),
            float(row["gain"]),
            float(row["gain_lower"]),
            float(row["gain_upper"]),
            int(row["n_days"]),
            int(row["n_rows"]),
            int(measured[row["check_day"], row["attempt"]]),
        )
        found.setdefault(row["check_day"].date(), {})[attempt.number] = attempt
    return found


def _is_attempt(rows: pd.DataFrame) -> pd.Series:
    return (rows["attempt"] > CHECK) | (rows["attempt"] == BLEND)


def reached(spec: ModelSpec, day: date) -> tuple[dict[str, float], bool]:
    """The best that the attempts of a day's check came to on the slice, by metric, and whether one of them was within every limit."""
    rows = read(spec, check_day=day, window=Window.SLICE, role=Role.CHALLENGER)
    rows = rows[rows["min"].notna() | rows["max"].notna()]
    held = rows["in_range"].eq(True)  # of a value that is not known nothing is held
    whole = rows[(rows["segment"] == "") & rows["value"].notna()]
    found = {}
    for name, values in whole.groupby("metric")["value"]:
        found[str(name)] = float(values.max() if spec.higher_is_better(str(name)) else values.min())
    return found, bool(held.groupby(rows["attempt"]).all().any())


def tried(spec: ModelSpec, first: date, last: date) -> dict[date, dict[int, Outcome]]:
    """How the attempts ended that the checks of the days have made, by day, in order, and by number."""
    rows = read(spec, check_day=(first, last), role=Role.CHALLENGER, window=Window.SLICE, metric=spec.check.metric)
    rows = rows[_is_attempt(rows) & (rows["segment"] == "")].sort_values(["check_day", "attempt"])
    found: dict[date, dict[int, Outcome]] = {}
    for day, attempt, outcome in zip(rows["check_day"], rows["attempt"], rows["outcome"], strict=True):
        found.setdefault(day.date(), {})[_number(int(attempt))] = Outcome(outcome)
    return found


def blends(spec: ModelSpec, first: date, last: date) -> list[Outcome]:
    """How the blends ended that the checks of the days have tried, in order."""
    return [each[0] for each in tried(spec, first, last).values() if 0 in each]


@dataclass(frozen=True)
class AttemptDay:
    """The gate's metric of champion or challenger on one held-out day of an attempt."""

    attempt: int
    role: str
    day: date
    value: float


def attempt_days(spec: ModelSpec, day: date) -> list[AttemptDay]:
    """Champion and challenger day by day, in each attempt of a day's check."""
    rows = read(spec, check_day=day, window=Window.DAY, metric=spec.check.metric, segment="")
    rows = rows[_is_attempt(rows) & rows["role"].isin([Role.CHAMPION, Role.CHALLENGER])]
    rows = rows.assign(attempt=rows["attempt"].map(_number))
    return [
        AttemptDay(int(row["attempt"]), str(row["role"]), row["first_day"].date(), float(row["value"]))
        for row in _records(rows.sort_values(["attempt", "role", "first_day"]))
    ]


def write_decision(spec: ModelSpec, day: date, verdict: Verdict) -> None:
    """Keep what the check of a day decides."""
    found = Record(check_day=day, attempt=DECISION, role=Role.DECISION, outcome=verdict.decision.value, why=verdict.why)
    write(spec, [found], day, DECISION)


def waiting_since(spec: ModelSpec, day: date) -> date | None:
    """The day of the first of the checks, one after the other up to that of a day, that have waited; None where that one has not."""
    rows = read(spec, ["check_day", "outcome"], check_day=(day - timedelta(days=YEARS), day), role=Role.DECISION)
    first = None
    for row in _records(rows.sort_values("check_day", ascending=False)):
        if row["outcome"] != Decision.WAIT:
            break
        first = row["check_day"].date()
    return first


def decided(spec: ModelSpec, day: date) -> Verdict | None:
    """What the check of a day has decided; None where it has not."""
    rows = read(spec, check_day=day, role=Role.DECISION)
    return Verdict(Decision(rows["outcome"].iloc[0]), str(rows["why"].iloc[0])) if len(rows) else None


def decisions(spec: ModelSpec, first: date, last: date) -> dict[date, Verdict]:
    """What the checks of the days have decided, by day, in order."""
    rows = read(spec, ["check_day", "outcome", "why"], check_day=(first, last), role=Role.DECISION)
    return {
        row["check_day"].date(): Verdict(Decision(row["outcome"]), str(row["why"]))
        for row in _records(rows.sort_values("check_day"))
    }


# ------------------------------------------------------------------------------------------------- drift, and the why


@dataclass(frozen=True)
class Drift:
    """How many of the features of a window drifted since the champion `version` was trained, and whether that is too many."""

    version: int
    last: date
    share: float
    too_much: bool


def drift(spec: ModelSpec, day: date) -> Drift | None:
    """The drift of the latest window of a day's check; None where it was not measured."""
    rows = read(spec, check_day=day, attempt=CHECK, role=Role.DRIFT, metric="drift_share")
    if rows.empty:
        return None
    row = rows.iloc[0]
    return Drift(int(row["version"]), row["last_day"].date(), float(row["value"]), not row["in_range"])


@dataclass(frozen=True)
class FeatureDrift:
    """How far a feature is from what it was when the champion was trained, and whether that is so far that it drifted."""

    feature: str
    value: float
    drifted: bool


def drifts(spec: ModelSpec, day: date) -> tuple[FeatureDrift, ...]:
    """The drift of each feature in the latest window of a day's check, the largest first."""
    rows = read(spec, check_day=day, attempt=CHECK, role=Role.DRIFT, metric=STATISTIC.name)
    found = _records(rows.sort_values("value", ascending=False))
    return tuple(FeatureDrift(row["segment"], float(row["value"]), not row["in_range"]) for row in found)


@dataclass(frozen=True)
class OutcomeDrift:
    """How far `what` (label, prediction or error) is from what it was, and whether so far that it drifted; `` is every row."""

    what: str
    segment: str
    value: float
    drifted: bool


def outcome_drifts(spec: ModelSpec, day: date) -> tuple[OutcomeDrift, ...]:
    """The drift of labels, predictions and errors in the latest window of a day's check: of all rows, then by segment."""
    rows = read(spec, check_day=day, attempt=CHECK, role=Role.OUTCOMES)
    found = [
        OutcomeDrift(
            row["metric"].removeprefix(f"{STATISTIC.name}_"),
            row["segment"],
            float(row["value"]),
            not row["in_range"],
        )
        for row in _records(rows)
    ]
    return tuple(sorted(found, key=lambda each: (each.segment, each.what)))


@dataclass(frozen=True)
class DriftOn:
    """How far a feature, or (`is_outcome`) labels, predictions or errors, are from what they were, by the check of a day."""

    day: date
    name: str
    segment: str
    is_outcome: bool
    value: float
    drifted: bool


def drift_history(spec: ModelSpec, first: date, last: date) -> list[DriftOn]:
    """The drift that the checks of the days have measured, in order."""
    columns = ["check_day", "role", "metric", "segment", "value", "in_range"]
    rows = read(spec, columns, check_day=(first, last), attempt=CHECK)
    rows = rows[(rows["role"] == Role.OUTCOMES) | ((rows["role"] == Role.DRIFT) & (rows["metric"] == STATISTIC.name))]
    found = []
    for row in _records(rows.sort_values(["check_day", "metric", "segment"])):
        outcome = row["role"] == Role.OUTCOMES
        name, segment = (
            (row["metric"].removeprefix(f"{STATISTIC.name}_"), row["segment"]) if outcome else (row["segment"], "")
        )
        found.append(DriftOn(row["check_day"].date(), name, segment, outcome, float(row["value"]), not row["in_range"]))
    return found


@dataclass(frozen=True)
class Moved:
    """A feature that drifted: how far, its share of the model's permutation importance, and their product."""

    feature: str
    value: float
    importance: float

    @property
    def weight(self) -> float:
        """How much the drift may matter to the model."""
        return self.value * self.importance


@dataclass(frozen=True)
class Worsened:
    """A segment whose metric is worse than it was before, and how many rows it has now."""

    segment: str
    before: float
    now: float
    rows: int


@dataclass(frozen=True)
class Explanation:
    """Why a metric may have moved: features by importance × drift, and segments that got worse; `report` is its page."""

    moved: tuple[Moved, ...] = ()
    worsened: tuple[Worsened, ...] = ()
    report: str = ""


def write_explanation(spec: ModelSpec, day: date, found: Explanation, metric: str) -> None:
    """Keep why the metrics of a day's check may have moved."""
    about = Record(check_day=day, attempt=EXPLANATION, role=Role.REPORT)
    moved = [
        replace(
            about, role=Role.MOVED, segment=each.feature, metric=STATISTIC.name, value=each.value, gain=each.importance
        )
        for each in found.moved
    ]
    worse = replace(about, role=Role.WORSENED, metric=metric)
    worsened = [
        replace(worse, segment=each.segment, value=each.now, gain=each.before, n_rows=each.rows)
        for each in found.worsened
    ]
    report = [replace(about, why=found.report)] if found.report else []
    write(spec, [*moved, *worsened, *report], day, EXPLANATION)


def explanation(spec: ModelSpec, day: date) -> Explanation | None:
    """Why the metrics of a day's check may have moved; None where that was not looked into."""
    rows = read(spec, check_day=day, attempt=EXPLANATION)
    if rows.empty:
        return None
    parts = {str(role): _records(part) for role, part in rows.groupby("role")}
    moved = tuple(Moved(row["segment"], row["value"], row["gain"]) for row in parts.get(Role.MOVED, ()))
    worsened = tuple(
        Worsened(row["segment"], row["gain"], row["value"], int(row["n_rows"])) for row in parts.get(Role.WORSENED, ())
    )
    report = next((str(row["why"]) for row in parts.get(Role.REPORT, ())), "")
    return Explanation(tuple(sorted(moved, key=lambda each: (each.weight, each.value), reverse=True)), worsened, report)
