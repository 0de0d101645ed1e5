"""A person goes back to an older version, or takes that back: what it would do is shown before it is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

from esteira.errors import EsteiraError, NoChampion, Refused
from esteira.learning import evaluation
from esteira.lifecycle import changes
from esteira.lifecycle.sequence import Promoted, RolledBack, Undone
from esteira.lifecycle.state import State
from esteira.spec import ModelSpec
from esteira.steps import champions, scoring
from esteira.steps.outcomes import as_predicted_by, served
from esteira.steps.scoring import Reconciled
from esteira.store import lake, ledger, measurements
from esteira.text import counted, shown_days

log = logging.getLogger(__name__)

# What going back comes to: to a version that was itself taken back is a promotion.
Change = RolledBack | Undone | Promoted


@dataclass(frozen=True)
class Worth:
    """What a version reaches on the days that would change: the gate's metric, where rows have labels that it has not seen."""

    version: int
    value: float | None
    in_range: bool | None
    days: int
    rows: int


@dataclass(frozen=True)
class Asked:
    """What a person asks for: to go back `to` a version (None: the one before), from a first day on, or to take that back.

    `seen` is the champion that the person saw, as the number of the event by which it serves.
    """

    by: str
    to: int | None = None
    first_day: date | None = None
    undo: bool = False
    reason: str = ""
    seen: int | None = None

    def event(self, spec: ModelSpec, known: State) -> Change | None:
        """The event that it makes of a state. Raises Refused, too where another champion than the one seen serves by now."""
        last = max(lake.days_of("served", spec.name), default=None)
        if self.undo:
            found: Change | None = changes.undo(known, last_served=last, reason=self.reason, by=self.by)
        else:
            found = changes.roll_back(
                known, to=self.to, last_served=last, first_day=self.first_day, reason=self.reason, by=self.by
            )
        now = known.champion
        if found is not None and now is not None and self.seen not in (None, now.number):
            raise Refused(
                f"its champion has changed meanwhile: version {now.version} serves from {now.effective_day}. Nothing was rolled "
                "back; look at what it would do now (--dry-run), and say it again"
            )
        return found


@dataclass(frozen=True)
class Plan:
    """What a roll-back, or its undoing, would do. `event` is None where that is how it stands.

    `asked` is what to perform to do just that; `rebuilt` are those of the days whose features are to be built anew first.
    """

    asked: Asked
    event: Change | None
    champion: int
    target: int
    days: tuple[date, ...] = ()
    rows: int = 0
    worth: tuple[Worth, ...] = ()
    last_window: measurements.Measured | None = None  # of the version gone to, when it last served
    rebuilt: tuple[date, ...] = ()


def plan(spec: ModelSpec, asked: Asked) -> Plan:
    """What would be done, without doing it. Raises Refused, NoChampion, or UnknownVersion for a version that is gone."""
    lake.require_all(spec.name)
    known = ledger.state(spec)
    if known.champion is None:
        raise NoChampion(f"model {spec.name} has no champion yet, so there is nothing to roll back")
    asked = replace(asked, seen=known.champion.number)
    event = ledger.asked(spec, lambda state: asked.event(spec, state))
    assert event is None or isinstance(event, Change), "nothing else is asked for"
    if event is None:
        return Plan(asked, None, known.champion.version, known.champion.version)
    scoring.require_usable(spec, event.version)
    after = replace(known, numbered=(*known.numbered, event))
    held = ledger.held(spec, known)
    days = [day for day, version in sorted(held.items()) if version != after.published(day).version]
    rows = lake.read("predictions", spec.name, columns=["day"], day=(days[0], days[-1])) if days else None
    versions = {held[day] for day in days} | {after.published(day).version for day in days}
    windows = [each for each in measurements.history(spec, spec.check.metric) if each.version == event.version]
    return Plan(
        asked,
        event,
        known.champion.version,
        event.version,
        tuple(days),
        0 if rows is None else int(rows["day"].dt.date.isin(days).sum()),
        tuple(_worth(spec, version, days) for version in sorted(version for version in versions if version)),
        windows[-1] if windows else None,
        tuple(scoring.lacking(spec, days)),
    )


def _worth(spec: ModelSpec, version: int, days: list[date]) -> Worth:
    rows = served(spec, None, days[0], days[-1])
    rows = rows[rows["day"].dt.date.isin(days)] if len(rows) else rows
    try:
        mine = as_predicted_by(spec, champions.load_judges(spec, version), rows)
    except EsteiraError:  # it can't be asked any more: its days are told when they are brought along
        mine = rows.head(0)
    metric = spec.check.metric
    value = evaluation.evaluate(spec, mine, (metric,))[metric]
    if value != value:
        return Worth(version, None, None, 0, 0)
    return Worth(version, value, spec.check.metrics[metric].holds(value), int(mine["day"].nunique()), len(mine))


def perform(spec: ModelSpec, asked: Asked) -> tuple[Change | None, Reconciled]:
    """Write the event, and bring predictions to what is published then; asked again it finishes what died, and else does nothing.

    Raises Refused where another champion than the one `seen`, or than the first one found, serves by now.
    """
    lake.require_all(spec.name)
    now = ledger.champion(spec)
    if asked.seen is None and now is not None:
        asked = replace(asked, seen=now.number)
    planned = ledger.asked(spec, lambda known: asked.event(spec, known))
    if isinstance(planned, Change):  # before it is written: a champion that can't score would stop each day's run
        scoring.require_usable(spec, planned.version)
    event = ledger.change(spec, lambda known: asked.event(spec, known))
    assert event is None or isinstance(event, Change), "nothing else is asked for"
    if event is not None:
        log.info("model %s: %s, by %s", spec.name, event.why, event.by)
    return event, scoring.reconcile(spec, f"rollback/{ledger.state(spec).number}")


def opposite(spec: ModelSpec, event: Change, before: int) -> str:
    """What is to be asked for to take back just what was done, in place of the champion `before`, on the command line."""
    if isinstance(event, RolledBack):
        return "--undo"
    undone = (
        each for each in ledger.state(spec).of(RolledBack) if isinstance(event, Undone) and each.number == event.undoes
    )
    first_day = next((each.first_day for each in undone), None)
    return f"--to {before}" + (f" --day {first_day}" if first_day else "")


def shown(spec: ModelSpec, found: Plan) -> Iterator[str]:
    """A plan in words, line by line."""
    if found.event is None:
        yield f"that is how it stands: version {found.champion} is the champion"
        return
    yield f"model {spec.name}: version {found.target} becomes the champion in place of version {found.champion}"
    span = f", {found.days[0]} to {found.days[-1]}" if found.days else ""
    yield f"{counted(len(found.days), 'day')} with {counted(found.rows, 'row')} of predictions would be scored again{span}"
    if found.rebuilt:
        yield f"  the features of {shown_days(found.rebuilt)} are gone, or of another model.yaml: they are built anew first, if they can be"
    metric = f"{spec.check.metric} ({spec.check.metrics[spec.check.metric]})"
    for each in found.worth:
        if each.value is None:
            yield f"  version {each.version}: no labels of these days that it has not seen"
            continue
        held = "in range" if each.in_range else "OUT OF RANGE"
        size = f"{counted(each.days, 'day')}, {counted(each.rows, 'row')}"
        yield f"  version {each.version}: {metric} = {each.value:.4g}, {held}, over {size} with labels"
    if found.last_window:
        last, held = found.last_window, "in range" if found.last_window.in_range else "OUT OF RANGE"
        yield f"  version {found.target} was {held} when it last served: {last.value:.4g} on {last.first} to {last.last}"
