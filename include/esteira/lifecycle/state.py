"""What a model's events come to: who serves a day, whose predictions are published for it, what is void."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import TypeVar

from esteira.lifecycle.events import Dated, Event
from esteira.lifecycle.sequence import Numbered, Pinned, Promoted, Released, RolledBack, Undone

E = TypeVar("E", bound=Event)
ONLY_MEASURED = "only measured: "  # how the reason of a check begins that decides nothing


@dataclass(frozen=True)
class Serving:
    """The version that serves from `effective_day` on; `number` is that of the event by which it does."""

    version: int
    effective_day: date
    number: int


@dataclass(frozen=True)
class Published:
    """The version of which a day's predictions must be (None: of none), and why."""

    version: int | None
    why: str


@dataclass(frozen=True)
class State:
    """A model's life so far. `since` says from which day on a promotion replaced, of those whose rows do not say it."""

    numbered: tuple[Numbered, ...]
    others: tuple[Event, ...]
    since: Mapping[int, date]

    def at(self, number: int) -> State:
        """The state as it was when the sequence had come to a number: what was computed then was computed from it."""
        return self if number >= self.number else self._at(number)

    @cached_property
    def _known(self) -> dict[int, State]:
        return {}

    def _at(self, number: int) -> State:
        if number not in self._known:
            until = tuple(each for each in self.numbered if each.number <= number)
            self._known[number] = State(until, self.others, self.since)
        return self._known[number]

    @cached_property
    def old(self) -> int:
        """The last number that version 0.1 wrote, whose promotions do not say what they replace; 0 where there is none."""
        return max(
            (
                each.number
                for each in self.numbered
                if (isinstance(each, Promoted) and each.replaces_from is None)
                or (isinstance(each, RolledBack) and each.voids is None)
            ),
            default=0,
        )

    @property
    def number(self) -> int:
        """The last number of the sequence: what is computed from this state carries it. 0 before the first event."""
        return self.numbered[-1].number if self.numbered else 0

    def of(self, kind: type[E]) -> tuple[E, ...]:
        """Every event of a kind, in order."""
        return tuple(each for each in (*self.numbered, *self.others) if isinstance(each, kind))

    @cached_property
    def promotions(self) -> tuple[Promoted, ...]:
        """Every promotion, in order, void or not."""
        return self.of(Promoted)

    @cached_property
    def changes(self) -> tuple[Serving, ...]:
        """Every change of who serves, in order."""
        serving = ((each, each.of_version) for each in self.numbered if each.serves)
        return tuple(Serving(version, each.day, each.number) for each, version in serving if version is not None)

    @property
    def champion(self) -> Serving | None:
        """The version that serves now."""
        return self.changes[-1] if self.changes else None

    def serving(self, day: date) -> Serving | None:
        """Who was to serve the day, as it was then: history, that no later event changes. None before the first."""
        until = [each for each in self.changes if each.effective_day <= day]
        return until[-1] if until else None

    def published(self, day: date) -> Published:
        """Whose predictions a day's must be: a pin's, else those of the last promotion that replaces it and is not void."""
        pin = self.pinned(day)
        if pin is not None:
            return Published(pin.version, f"pinned by {pin.by}")
        for promoted in reversed(self.promotions):
            if self.replaces_from(promoted) <= day and not self.is_void(promoted, day):
                return Published(promoted.of(day), promoted.why)
        return Published(None, "no version was promoted for it")

    def replaces_from(self, promoted: Promoted) -> date:
        """The first day of which a promotion replaces what was published."""
        return promoted.replaces_from or min(promoted.day, self.since.get(promoted.number, promoted.day))

    def is_void(self, promoted: Promoted, day: date) -> bool:
        """Whether a roll-back that stands has voided the promotion for the day."""
        return any(
            promoted.number in self.voided(each) and (each.first_day is None or each.first_day <= day)
            for each in self.rollbacks
        )

    @cached_property
    def rollbacks(self) -> tuple[RolledBack, ...]:
        """The roll-backs that stand: those that were not undone."""
        undone = {each.undoes for each in self.of(Undone)}
        return tuple(each for each in self.of(RolledBack) if each.number not in undone)

    @property
    def standing_back(self) -> RolledBack | None:
        """The roll-back by which the champion serves; where one that went further was undone, the one before it."""
        undone = {each.undoes for each in self.of(Undone)}
        kept = (each for each in reversed(self.numbered) if each.serves and not isinstance(each, Undone))
        last = next((each for each in kept if each.number not in undone), None)
        return last if isinstance(last, RolledBack) else None

    def voided_by(self, version: int) -> RolledBack | None:
        """The roll-back that voids a version: the last one that does, where no promotion of the version stands."""
        mine = {each.number for each in self.promotions if each.version == version}
        if any(each.version == version for each in self.standing()):
            return None
        return next((each for each in reversed(self.rollbacks) if mine & self.voided(each)), None)

    def pinned(self, day: date) -> Pinned | None:
        """The pin that holds a day: the last one for it, unless it was released since."""
        of_it = (each for each in reversed(self._by_hand) if each.day <= day <= each.last)
        last = next(of_it, None)
        return last if isinstance(last, Pinned) else None

    @cached_property
    def _by_hand(self) -> tuple[Pinned | Released, ...]:
        return tuple(each for each in self.numbered if isinstance(each, Pinned | Released))

    def voided(self, rollback: RolledBack) -> frozenset[int]:
        """The numbers of the promotions that a roll-back voids; of one of 0.1 those since its version was last promoted."""
        if rollback.voids is not None:
            return frozenset(rollback.voids)
        before = [each for each in self.promotions if each.number < rollback.number]
        target = max((each.number for each in before if each.version == rollback.version), default=0)
        return frozenset(each.number for each in before if each.number > target)

    def standing(self) -> tuple[Promoted, ...]:
        """The promotions that are void on no day, in order."""
        void = {number for each in self.rollbacks for number in self.voided(each)}
        return tuple(each for each in self.promotions if each.number not in void)

    def before(self, promoted: Promoted) -> Promoted | None:
        """The last promotion before one that is not void: what it is verified against."""
        return next((each for each in reversed(self.standing()) if each.number < promoted.number), None)

    def promotion_of(self, serving: Serving) -> Promoted | None:
        """The promotion by which a version serves, though it was rolled back and that undone; None where it does by a roll-back."""
        event = next(each for each in self.numbered if each.number == serving.number)
        if isinstance(event, Undone):
            before = self.at(event.undoes - 1)
            return before.promotion_of(before.champion) if before.champion else None
        return event if isinstance(event, Promoted) else None

    def only_measured(self, day: date, newest: date | None) -> str:
        """Why the check of a day only measures: the day `newest` was checked already, or another champion serves; else empty."""
        if newest is not None and newest > day:
            return f"{ONLY_MEASURED}{newest} was checked already"
        now, latest = self.serving(day), self.champion
        if now is not None and latest is not None and latest.number != now.number:
            return f"{ONLY_MEASURED}version {latest.version} serves from {latest.effective_day} on"
        return ""


def fold(events: Iterable[Event], since: Mapping[int, date] | None = None) -> State:
    """The state that the events come to, in whatever order they are given."""
    every = list(events)
    dated = {each.promotion: each.day for each in every if isinstance(each, Dated)}
    numbered = sorted((each for each in every if isinstance(each, Numbered)), key=lambda each: each.number)
    others = (each for each in every if not isinstance(each, Numbered))
    return State(tuple(numbered), tuple(others), {**(since or {}), **dated})
