"""How a model is, in a word and a sentence: what a list of models shows, the worst first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from zoneinfo import ZoneInfo

from croniter import croniter

from esteira.errors import EsteiraError, OutOfReach
from esteira.lifecycle.episode import episode
from esteira.lifecycle.events import CHECK, Verified
from esteira.lifecycle.policy import Decision, Verdict
from esteira.lifecycle.state import Serving, State
from esteira.spec import Limit, ModelSpec
from esteira.store import lake, ledger, measurements
from esteira.store.measurements import Drift, Measured
from esteira.store.schemas import Kind
from esteira.text import counted, ranges, said
from esteira.views import life
from esteira.views.rows import put_aside

WEEKS = 8  # of windows that a list shows
KINDS: tuple[Kind, ...] = ("ledger", "metrics", "predictions", "served", "features", "quarantine", "raw", "labels")
LATELY = 28  # days of rows, of which the share in quarantine is told


class Condition(StrEnum):
    """How a model is, the worst first."""

    BROKEN = "broken"
    LATE = "late"
    OUTDATED = "not as published"
    WARNED = "warned"
    WAITING = "waiting for labels"
    STALE = "stale"
    RETRAINING = "retraining"
    UNVERIFIED = "recovered, not verified yet"
    WATCH = "watch"
    NEW = "not measured yet"
    HEALTHY = "healthy"

    @property
    def rank(self) -> int:
        """0 is the worst."""
        return list(Condition).index(self)


@dataclass(frozen=True)
class Finding:
    """What a model is, and why, in a sentence."""

    condition: Condition
    why: str


@dataclass(frozen=True)
class Health:
    """How a model is, and the figures that say so; `why` is a sentence, `also` what it is besides, the worst first.

    `champion` is the one that serves now, `trend` has the main metric by window, of whichever version served, over 8 weeks. `rows` are those of the day last
    scored, `quarantined` is the share of the rows of the last 28 scored days that are in quarantine, `labelled_through` the newest day that has a
    label, which is due `label_delay` days after it. `next_due` is when the next day is to be scored by the schedule.
    """

    model: str
    owner: str
    condition: Condition
    why: str
    metric: str
    limit: Limit | None
    also: tuple[Finding, ...] = ()
    champion: Serving | None = None
    trend: tuple[Measured, ...] = ()
    last_scored: date | None = None
    last_checked: date | None = None
    rows: int = 0
    quarantined: float | None = None
    drift: Drift | None = None
    labelled_through: date | None = None
    label_delay: int = 0
    next_due: datetime | None = None

    @property
    def last(self) -> Measured | None:
        """The metric's last window."""
        return self.trend[-1] if self.trend else None

    @property
    def ranks(self) -> list[int]:
        """By which models are sorted, the worst first: of two that are late the one that is warned, too."""
        return [self.condition.rank, *(each.condition.rank for each in self.also), len(Condition)]

    @property
    def drifting(self) -> bool:
        """Whether too many features have drifted."""
        return self.drift is not None and self.drift.too_much


def health(spec: ModelSpec, now: datetime | None = None) -> Health:
    """How a model is. Tables that are out of reach make it broken, and the sentence says how to mend that; nothing is raised."""
    now = now or lake.clock()
    try:
        found, late = _as_it_was(spec), _late(spec, now)
    except Exception as error:  # whatever it is, it is told of this model, and the others are looked at
        metric, is_ours = spec.check.metric, isinstance(error, EsteiraError | OutOfReach)
        why = str(error) if is_ours else f"its tables can't be read: {said(error)}"
        return Health(spec.name, spec.owner, Condition.BROKEN, why, metric, spec.check.metrics[metric])
    if late is not None:
        also = (
            ()
            if found.condition in (Condition.NEW, Condition.HEALTHY)
            else (Finding(found.condition, found.why), *found.also)
        )
        found = replace(found, condition=late.condition, why=late.why, also=also)
    return replace(found, next_due=_due(spec, now, ahead=True))


_last: dict[
    str, tuple[object, Health, State]
] = {}  # by the place of its predictions: a list of models asks for all of them again and again


_lates: dict[
    str, tuple[object, Finding | None]
] = {}  # by the same place, of the tables as they were and the day that was due


def is_read(spec: ModelSpec) -> bool:
    """Whether a model's tables were read by this process as they are now, so that its health is told at once."""
    known = _last.get(lake.path("predictions", spec.name))
    try:
        return known is not None and known[0] == (spec, *lake.states(KINDS, spec.name))
    except (EsteiraError, OSError):  # health() says what is wrong; here one model must not hold up the others
        return False


def as_last_read(spec: ModelSpec) -> Health | None:
    """How a model was when this process last read its tables, which may have changed since; None where it never did."""
    known = _last.get(lake.path("predictions", spec.name))
    return None if known is None else known[1]


def _as_it_was(spec: ModelSpec) -> Health:
    """A model's health but for what the clock says: computed anew only when one of its tables, or its model.yaml, has changed."""
    place, written = lake.path("predictions", spec.name), (spec, *lake.states(KINDS, spec.name))
    known = _last.get(place)
    if known is None or known[0] != written:
        lake.require_all(spec.name)
        state = ledger.state(spec)
        known = _last[place] = (written, _measured(spec, state), state)
    return known[1]


def _measured(spec: ModelSpec, known: State) -> Health:
    checked, scored = measurements.days(spec), lake.sizes("predictions", spec.name)
    last_scored, last_checked = max(scored, default=None), checked[-1] if checked else None
    since = last_checked - timedelta(days=7 * WEEKS) if last_checked else date.min
    trend = tuple(measurements.history(spec, spec.check.metric, since=since)) if last_checked else ()
    verdict = measurements.decided(spec, last_checked) if last_checked else None
    found = [
        *_outdated(spec, known),
        *_warned(known),
        *_waiting(spec, known, verdict, last_checked),
        *_stale(spec, last_scored, last_checked),
        *_unverified(known),
        *_watched(spec, known, verdict, trend),
    ]
    found.sort(key=lambda each: each.condition.rank)
    worst = found[0] if found else _none_of_these(known, trend)
    return Health(
        model=spec.name,
        owner=spec.owner,
        condition=worst.condition,
        why=worst.why,
        metric=spec.check.metric,
        limit=spec.check.metrics[spec.check.metric],
        also=tuple(found[1:]),
        champion=life.champion(known),
        trend=trend,
        last_scored=last_scored,
        last_checked=last_checked,
        rows=scored[last_scored][0] if last_scored else 0,
        quarantined=_quarantined(spec, sorted(scored)[-LATELY:]),
        drift=measurements.drift(spec, last_checked) if last_checked else None,
        label_delay=spec.label_delay,
        labelled_through=max(lake.days_of("labels", spec.name), default=None),
    )


def _due(spec: ModelSpec, now: datetime, *, ahead: bool) -> datetime | None:
    """When the next day is to be scored by the schedule, or the last one was; None where there is none."""
    if spec.score.schedule is None:
        return None
    return _due_at(spec.score.schedule, spec.time.timezone, now.replace(second=0, microsecond=0), ahead)


@lru_cache(2000)
def _due_at(schedule: str, zone: str, now: datetime, ahead: bool) -> datetime:  # part of what is kept
    """Many models have the same schedule."""
    times = croniter(schedule, now.astimezone(ZoneInfo(zone)))
    found: datetime = times.get_next(datetime) if ahead else times.get_prev(datetime)
    return found


def _late(spec: ModelSpec, now: datetime) -> Finding | None:
    place = lake.path("predictions", spec.name)
    written, _, known = _last[place]
    if spec.score.deadline is None or not known.changes:
        return None
    due = _due(spec, now - timedelta(hours=spec.score.deadline), ahead=False)
    if due is None:
        return None
    day = due.date() - timedelta(days=1)
    if place not in _lates or _lates[place][0] != (written, day):
        _lates[place] = (written, day), _missing(spec, known, due, day)
    return _lates[place][1]


def _missing(spec: ModelSpec, known: State, due: datetime, day: date) -> Finding | None:
    first, deadline = known.changes[0].effective_day, spec.score.deadline
    if deadline is None or day < first or not lake.unwritten_days("predictions", spec.name, [day]):
        return None
    every = [first + timedelta(days=number) for number in range((day - first).days + 1)]
    missing = sorted(lake.unwritten_days("predictions", spec.name, every))
    spare = counted(deadline, "hour")
    if len(missing) > 1:
        return Finding(
            Condition.LATE,
            f"{counted(len(missing), 'day')} that were due are not scored, {missing[0]} to {missing[-1]}; the last was due on {due:%Y-%m-%d at %H:%M} "
            f"({spec.time.timezone}), and its deadline was {spare} later",
        )
    return Finding(
        Condition.LATE,
        f"{day} is not scored; it was due on {due:%Y-%m-%d at %H:%M} ({spec.time.timezone}), and its deadline was {spare} later",
    )


def _outdated(spec: ModelSpec, known: State) -> Iterator[Finding]:
    found = sorted(ledger.outdated(spec, known))
    if found:
        yield Finding(
            Condition.OUTDATED,
            f"{ranges(found)}: the predictions are not of the version that is published for them; see `esteira reconcile {spec.name}`",
        )


def _warned(known: State) -> Iterator[Finding]:
    found = episode(known)
    if found.loops and (found.met is None or found.met < found.loops[-1].last):
        last = found.loops[-1]
        yield Finding(
            Condition.WARNED,
            f"retraining has not brought it back in range since the window to {last.last}: {last.why}",
        )


def _waiting(spec: ModelSpec, known: State, verdict: Verdict | None, day: date | None) -> Iterator[Finding]:
    if verdict is None or verdict.decision is not Decision.WAIT or known.champion is None or day is None:
        return
    settling = spec.labels.settle if spec.labels else 0
    first = life.spans(known)[-1].first + timedelta(days=spec.check.every + spec.label_delay + settling)
    if day > first:
        yield Finding(Condition.WAITING, verdict.why)


def _stale(spec: ModelSpec, scored: date | None, checked: date | None) -> Iterator[Finding]:
    if scored is not None and checked is not None and (scored - checked).days > spec.check.every:
        yield Finding(Condition.STALE, f"the last check was that of {checked}, and days up to {scored} are scored")


def _unverified(known: State) -> Iterator[Finding]:
    verified = {each.promotion for each in known.of(Verified)}
    last = next((each for each in reversed(known.standing())), None)
    if last is not None and last.by.startswith(CHECK) and last.number not in verified and last.measured is not None:
        yield Finding(
            Condition.UNVERIFIED, f"version {last.version} was promoted by the check of {last.by.removeprefix(CHECK)}"
        )


def _watched(spec: ModelSpec, known: State, verdict: Verdict | None, trend: Sequence[Measured]) -> Iterator[Finding]:
    """Out of range, and not acted on yet; or the version that serves was so when it last was measured, as after a roll-back to it."""
    last = trend[-1] if trend else None
    if verdict is not None and verdict.decision is Decision.WATCH:
        yield Finding(Condition.WATCH, verdict.why)
    elif last is not None and known.champion and last.in_range is False and last.version == known.champion.version:
        yield Finding(
            Condition.WATCH,
            f"{last.metric} = {last.value:.4g} was out of range ({spec.check.metrics[last.metric]}) in the window to {last.last}, which version "
            f"{last.version} served; none is measured since",
        )


def _none_of_these(known: State, trend: tuple[Measured, ...]) -> Finding:
    if known.champion is None:
        return Finding(Condition.NEW, "no version was promoted yet")
    if not trend:
        return Finding(Condition.NEW, "no window is whole yet")
    return Finding(Condition.HEALTHY, f"every metric is in range, in the window to {trend[-1].last}")


def _quarantined(spec: ModelSpec, days: list[date]) -> float | None:
    bad = put_aside(spec, days)
    every = lake.count("raw", spec.name, days) + bad["extract"] + bad["late"]  # which are not in raw
    return bad.total() / every if every else None
