"""The ledger: a model's events, each written once under an id of its own, and what they come to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, Literal, get_args

import pandas as pd

from esteira.errors import EsteiraError, NoChampion, Refused, UnknownEvent
from esteira.lifecycle.events import CHECK, Dated, Event, Registered
from esteira.lifecycle.rows import from_row
from esteira.lifecycle.sequence import Numbered, Promoted
from esteira.lifecycle.state import Serving, State, fold
from esteira.spec import ModelSpec
from esteira.store import lake

Fate = Literal["sending", "postponed", "delivered", "refused", "lost"]  # what came of a try to send a mail
# The states of the outbox's rows, which are no part of a model's life.
MAILS = ("queued", *get_args(Fate))
OLD = 1  # the mark of days of predictions of version 0.1
TRIES = 20  # to make an event while others make theirs


def state(spec: ModelSpec) -> State:
    """What the events of the model's life come to. A step asks several times, and the ledger seldom changes."""
    place, written = lake.path("ledger", spec.name), lake.state("ledger", spec.name)
    if place not in _folded or _folded[place][0] != written:
        events = _events(spec)
        _folded[place] = (written, fold(events, _since(spec, fold(events))))
    return _folded[place][1]


_folded: dict[str, tuple[tuple[str, int, int], State]] = {}


def _events(spec: ModelSpec) -> list[Event]:
    rows = lake.read("ledger", spec.name)
    rows = rows[~rows["to_state"].isin(MAILS)]
    version = rows["version"].astype("Int64").astype(object).where(rows["version"].notna(), None)
    texts = rows[["from_state", "why", "evidence", "by"]].astype(object).fillna("")
    rows = rows.assign(effective_day=rows["effective_day"].dt.date, version=version, **texts)
    try:
        return [from_row({str(name): value for name, value in row.items()}) for row in rows.to_dict("records")]
    except UnknownEvent as error:
        raise EsteiraError(f"model {spec.name}: {error}") from None


def _since(spec: ModelSpec, known: State) -> dict[int, date]:
    """From which day on promotions of 0.1 had replaced predictions: their rows don't say it, the predictions do."""
    asked = [each for each in undated(known) if each.by.startswith(CHECK)]
    if not asked:
        return {}
    rows = lake.read("predictions", spec.name, columns=["day", "version", "run", "replaces"])
    found = {}
    for each in asked:
        mine = rows["run"] == each.by
        if "replaces" in rows:  # another version has taken their place since
            mine |= (rows["replaces"] == each.version) & (rows["version"] != each.version)
        days = rows.loc[mine, "day"]
        if len(days):
            found[each.number] = min(each.day, days.min().date())
    return found


def undated(known: State) -> list[Promoted]:
    """The promotions of 0.1 of which it is not written yet from which day on they had replaced predictions."""
    dated = {each.promotion for each in known.of(Dated)}
    return [each for each in known.promotions if each.replaces_from is None and each.number not in dated]


def settle(spec: ModelSpec) -> None:
    """Write what only the predictions of 0.1 tell of its promotions, before those predictions are written anew."""
    known = state(spec)
    rows = [
        Dated(
            promotion=each.number,
            version=each.version,
            day=known.replaces_from(each),
            by="migration",
            why=f"version {each.version} replaced predictions from {known.replaces_from(each)} on",
        )
        for each in undated(known)
    ]
    if rows:
        write(spec, *rows)


def write(spec: ModelSpec, *events: Event) -> int:
    """Write events, all in one transaction; returns how many were written: none whose id was taken already."""
    if not exists(spec):
        lake.require_all(spec.name)
    now = lake.clock()
    return lake.append_once(spec.name, *({**each.row(), "at": now} for each in events))


def change(spec: ModelSpec, make: Callable[[State], Numbered | None]) -> Numbered | None:
    """Write the event that a request makes of the state; where another took its number, made anew of the state as it is then.

    Returns None where there is nothing to change. Raises Refused, which says why, for the model.
    """
    for _ in range(TRIES):
        event = asked(spec, make)
        if event is None or write(spec, event):
            return event
    raise Refused(f"model {spec.name}: its state was changed by others {TRIES} times meanwhile; try again")


def asked(spec: ModelSpec, make: Callable[[State], Numbered | None]) -> Numbered | None:
    """The event that a request makes of the state, not written. Raises Refused, which says why, for the model."""
    try:
        return make(state(spec))
    except Refused as error:
        raise Refused(f"model {spec.name}: {error}") from None


def mark_of(known: State) -> int:
    """The mark of days of predictions that are computed from a state: above that of 0.1, which knew no numbers."""
    return known.number + OLD


def held(spec: ModelSpec, known: State, days: Iterable[date] | None = None) -> dict[date, int]:
    """The version that the predictions of the days (none given: of all) are of, where they have rows.

    The rows are not read: each day's mark says of which state they are. Days of version 0.1, which wrote no such marks, are
    as its events have left them.
    """
    every = lake.days_of("predictions", spec.name)
    asked = every if days is None else sorted(set(every) & set(days))
    found = {}
    for day, mark in lake.marks("predictions", spec.name, asked).items():
        then = known.at(known.old if mark in (None, OLD) else int(mark or 0) - OLD).published(day).version
        if then is not None:
            found[day] = then
    return found


def outdated(spec: ModelSpec, known: State, days: Iterable[date] | None = None) -> dict[date, int]:
    """The days whose predictions are of another version than is published for them, and the version that they are of."""
    return {day: then for day, then in held(spec, known, days).items() if then != known.published(day).version}


def champion(spec: ModelSpec, day: date = date.max) -> Serving | None:
    """The champion of a day: the last promotion effective on it or before; None before the first."""
    return state(spec).serving(day)


def require_champion(spec: ModelSpec, day: date) -> Serving:
    """The champion of a day. Raises NoChampion that says what to do."""
    now = champion(spec, day)
    if now is None:
        raise no_champion(spec, day)
    return now


def require_published(spec: ModelSpec, days: Iterable[date], known: State | None = None) -> dict[date, int]:
    """The version whose predictions are to be published for each day, by a state, or else as it is now.

    Raises NoChampion that says what to do where a day has none.
    """
    known, found = known or state(spec), {}
    for day in days:
        version = known.published(day).version
        if version is None:
            raise no_champion(spec, day)
        found[day] = version
    return found


def no_champion(spec: ModelSpec, day: date) -> NoChampion:
    """The error that says that a day has no champion, and what to do."""
    every = state(spec).changes
    since = f"the first serves from {every[0].effective_day}" if every else "none was promoted yet"
    return NoChampion(
        f"model {spec.name} has no champion for {day}: {since}. "
        "Train and promote one as of an earlier day, or say which version is to score (`--version 1`, or *Version* in the form)"
    )


def promoted_by(spec: ModelSpec, by: str) -> int | None:
    """The version that a run, or a day's check, made champion; None where it made none."""
    return next((each.version for each in state(spec).promotions if each.by == by), None)


def twin(spec: ModelSpec, version: int) -> int | None:
    """The version that was measured in place of one that was fitted again for serving; None where it was measured itself."""
    made = [each.twin for each in state(spec).promotions if each.version == version]
    return made[-1] if made else None


def registered(spec: ModelSpec, version: int) -> Registered | None:
    """The registration of a version; None where the ledger knows none."""
    found = (each for each in state(spec).of(Registered) if each.version == version)
    return next(found, None)


def by_id(spec: ModelSpec, key: str) -> Event | None:
    """The event of an id; None where there is none."""
    return next((each for each in state(spec).others if each.id == key), None)


def by_run(spec: ModelSpec, run: str) -> list[Event]:
    """The events that a run, or a day's check, has written."""
    known = state(spec)
    return [each for each in (*known.numbered, *known.others) if each.by == run]


def exists(spec: ModelSpec) -> bool:
    """Whether there is a ledger at all."""
    return lake.version("ledger", spec.name) >= 0


def rows(spec: ModelSpec, columns: list[str] | None = None, **where: Any) -> pd.DataFrame:
    """The rows as they are, those of mails too; for the outbox and for views."""
    return lake.read("ledger", spec.name, columns=columns, **where)
