"""A model's life: what changed, which version served when and why, and how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime

from esteira.lifecycle.events import Registered, Verified
from esteira.lifecycle.sequence import Promoted
from esteira.lifecycle.state import Serving, State
from esteira.spec import Limit, ModelSpec
from esteira.store import lake, ledger, measurements
from esteira.store.measurements import Estimate, Measured
from esteira.text import ranges


@dataclass(frozen=True)
class Event:
    """A change in a model's life, as the ledger has it."""

    at: datetime
    day: date
    state: str
    version: int | None
    why: str
    by: str


@dataclass(frozen=True)
class Status:
    """What a person wants to know first; `outdated` are days whose predictions are not of the version published for them."""

    model: str
    champion: Serving | None
    versions: tuple[int, ...]
    last_scored: date | None
    last_checked: date | None
    metric: str
    limit: Limit
    last_window: Measured | None
    estimate: Estimate | None
    last_change: Event | None
    outdated: tuple[date, ...]


def status(spec: ModelSpec) -> Status:
    """Champion, versions, last scored and checked day, last metric, last change."""
    checked = measurements.days(spec)
    metric = spec.check.metric
    latest = _last_window(spec, checked)
    told = history(spec)
    return Status(
        model=spec.name,
        champion=champion(ledger.state(spec)),
        versions=tuple(each.number for each in versions(spec)),
        last_scored=max(lake.days_of("predictions", spec.name), default=None),
        last_checked=checked[-1] if checked else None,
        metric=metric,
        limit=spec.check.metrics[metric],
        last_window=latest,
        estimate=measurements.estimate(spec, checked[-1]) if checked else None,
        last_change=told[-1] if told else None,
        outdated=tuple(ledger.outdated(spec, ledger.state(spec))),
    )


def _last_window(spec: ModelSpec, checked: list[date]) -> Measured | None:
    """The last window that a check has recorded; checks without any lie before the first whole one."""
    for since in (checked[-1:] or [date.min])[0], date.min:
        found = measurements.history(spec, spec.check.metric, since=since)
        if found:
            return max(found, key=lambda each: (each.check_day, each.last))
    return None


def history(spec: ModelSpec) -> tuple[Event, ...]:
    """Every change in the model's life, in the order in which it was written; mails are not among them."""
    rows = ledger.rows(spec)
    rows = rows[~rows["to_state"].isin(ledger.MAILS)].sort_values("at", kind="stable")
    return tuple(
        Event(
            row["at"].to_pydatetime(),
            row["effective_day"].date(),
            str(row["to_state"]),
            None if row["version"] != row["version"] else int(row["version"]),
            str(row["why"] or ""),
            str(row["by"] or ""),
        )
        for row in rows.to_dict("records")
    )


@dataclass(frozen=True)
class Served:
    """Days on which a version was to serve, first and last (None: until now), and why."""

    first: date
    last: date | None
    why: str


@dataclass(frozen=True)
class Version:
    """A version: by which run it was made, when it served, and how its first window compared with what it replaced.

    `judged_for` is the version that serves in its place: of one that was judged, and fitted anew on everything that was known. `published` are the days
    whose predictions are its own now, in words, of which there are `published_days`. `engine` is what it is scored by, and where that is not compiled trees, `not_compiled` says why.
    """

    number: int
    run_id: str
    promotions: tuple[Promoted, ...]
    served: tuple[Served, ...]
    verified: Verified | None
    judged_for: int | None = None
    published: str = ""
    published_days: int = 0
    engine: str = ""
    not_compiled: str = ""

    @property
    def why(self) -> str:
        """Why it was promoted, or what it is for."""
        if self.promotions:
            return self.promotions[-1].why
        return (
            f"judged; version {self.judged_for} is the same, fitted on all that was known" if self.judged_for else "-"
        )


def versions(spec: ModelSpec) -> tuple[Version, ...]:
    """Every version that was registered, in order."""
    known = ledger.state(spec)
    held = ledger.held(spec, known)
    made = {each.version: each for each in known.of(Registered)}
    numbers = sorted({*made, *(each.version for each in known.changes)})
    return tuple(_version(known, number, made.get(number), held) for number in numbers)


@dataclass(frozen=True)
class Span:
    """Days on which one version was to serve without a break, `last` None: until now; `number` is that of the event by which it began."""

    version: int
    first: date
    last: date | None
    number: int


def spans(known: State) -> tuple[Span, ...]:
    """Who was to serve when: without changes that were replaced before their first day, and those to the same version as one."""
    found: list[Span] = []
    for place, each in enumerate(known.changes):
        end = min((later.effective_day for later in known.changes[place + 1 :]), default=None)
        last = _day_before(end)
        if last is not None and last < each.effective_day:
            continue
        if found and found[-1].version == each.version:
            found[-1] = replace(found[-1], last=last)
        else:
            found.append(Span(each.version, each.effective_day, last, each.number))
    return tuple(found)


def champion(known: State) -> Serving | None:
    """Who serves, and since when: a roll-back that was undone before its first day is no break."""
    return None if known.champion is None else replace(known.champion, effective_day=spans(known)[-1].first)


def _version(known: State, number: int, made: Registered | None, held: Mapping[date, int | None]) -> Version:
    why = {each.number: each.why for each in known.numbered}
    served = tuple(Served(each.first, each.last, why[each.number]) for each in spans(known) if each.version == number)
    promoted = next((each for each in known.promotions if each.twin == number), None)
    published = sorted(day for day, version in held.items() if version == number)
    verified = [each for each in known.of(Verified) if each.version == number]
    return Version(
        number,
        made.by if made else "",
        tuple(each for each in known.promotions if each.version == number),
        served,
        verified[-1] if verified else None,
        None if promoted is None else promoted.version,
        ranges(published),
        len(published),
        "" if made is None else "compiled" if made.compiled else "scikit-learn",
        "" if made is None else made.not_compiled,
    )


def _day_before(day: date | None) -> date | None:
    return None if day is None else date.fromordinal(day.toordinal() - 1)


@dataclass(frozen=True)
class ChampionAt:
    """Who was to serve a day, as it was then, and since when, and whose predictions are published for it now, with the reasons.

    `held` is the version that its predictions are of, None where it has none: where that is another one, they wait to be
    brought along.
    """

    day: date
    served: int | None
    since: date | None
    served_why: str
    published: int | None
    published_why: str
    held: int | None


def champion_at(spec: ModelSpec, day: date) -> ChampionAt:
    """The champion of a day, and why."""
    known = ledger.state(spec)
    serving, published = known.serving(day), known.published(day)
    why = next((each.why for each in known.numbered if serving and each.number == serving.number), "none was promoted")
    held = ledger.held(spec, known, [day]).get(day)
    version, since = (serving.version, serving.effective_day) if serving else (None, None)
    return ChampionAt(day, version, since, why, published.version, published.why, held)
