"""Histories over the pure lifecycle: promotions, roll-backs, their undoing, pins and releases, in random order, some of them twice.

With each goes a history of episodes (episodes.py): loops that help or not, blends, news.

`python -m tests.simulation.lifecycle 100000` checks as many; a history that breaks a rule is printed, with its seed.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

from esteira.errors import Refused
from esteira.lifecycle import changes
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Event
from esteira.lifecycle.rows import from_row
from esteira.lifecycle.sequence import Numbered, Pinned, Promoted, Released, RolledBack, Undone
from esteira.lifecycle.state import Published, State, fold

from tests.simulation import episodes

START = date(2026, 1, 1)
DAYS = [START + timedelta(days=n) for n in range(24)]
LENGTH = 15  # events at most
TWIN = 1_000  # what a twin's number is more than that of the version that serves


class Broken(AssertionError):
    """A rule does not hold; the text has the rule and the history."""


@dataclass
class World:
    """A ledger, the day that it is, the last day served, and what each event has changed."""

    random: random.Random
    rows: list[dict] = field(default_factory=list)
    today: int = 0
    versions: int = 0
    done: list[str] = field(default_factory=list)

    def state(self) -> State:
        return fold(from_row(row) for row in self.rows)

    @property
    def day(self) -> date:
        return DAYS[min(self.today, len(DAYS) - 1)]

    def write(self, event: Event | None) -> bool:
        """As the ledger does: an id is taken once."""
        if event is None or any(row["id"] == event.id for row in self.rows):
            return False
        self.rows.append(event.row())
        return True


def _promote(world: World, state: State) -> Numbered | None:
    now = state.champion
    world.versions += 1
    back = world.random.choice([None, None, world.day - timedelta(days=world.random.randrange(6))])
    measured = now.version if now else None
    if world.random.random() < 0.1:
        measured = 1  # another one was champion when it was measured
    by = f"check:{world.day}"
    proposal = Proposal(world.versions, world.day, measured=measured, why="better", by=by, replaces_from=back)
    draw = random.Random(world.versions + 100 * world.today)  # of its own: the histories stay what they were
    if draw.random() < 0.5:  # fitted again for serving, on all but the latest days
        seen = world.day - timedelta(days=draw.randrange(4))
        proposal = replace(proposal, twin=TWIN + world.versions, seen=seen)
    return changes.promote(state, proposal)


def _promote_again(world: World, state: State) -> Numbered | None:
    """The same task, run again after whatever has come since."""
    if not state.promotions:
        return None
    old = world.random.choice(state.promotions)
    as_of = old.day - timedelta(days=1)
    by = world.random.choice([old.by, f"another run {world.today}"])
    again = Proposal(old.version, as_of, measured=old.measured, why=old.why, by=by, replaces_from=old.replaces_from)
    return changes.promote(state, replace(again, twin=old.twin, seen=old.seen))


def _roll_back(world: World, state: State) -> Numbered | None:
    to = world.random.choice([None, None, world.random.randrange(1, max(2, world.versions + 1))])
    first = world.random.choice([None, None, world.day - timedelta(days=world.random.randrange(5))])
    return changes.roll_back(state, to=to, last_served=world.day, first_day=first, by="somebody")


def _undo(world: World, state: State) -> Numbered | None:
    return changes.undo(state, last_served=world.day, by="somebody")


def _pin(world: World, state: State) -> Numbered | None:
    first = world.day - timedelta(days=world.random.randrange(6))
    last = first + timedelta(days=world.random.randrange(3))
    return changes.pin(state, world.random.randrange(1, max(2, world.versions + 1)), first, last, by="somebody")


def _release(world: World, state: State) -> Numbered | None:
    first = world.day - timedelta(days=world.random.randrange(6))
    return changes.release(state, first, first + timedelta(days=world.random.randrange(3)), by="somebody")


KINDS: list[Callable[[World, State], Numbered | None]] = [
    *(_promote, _promote, _promote, _promote_again, _roll_back, _roll_back, _undo, _undo, _pin, _release),
]


def published(state: State) -> list[Published]:
    """What is published for each day."""
    return [state.published(day) for day in DAYS]


def check(seed: int) -> None:
    """Live through one history. Raises Broken where a rule does not hold."""
    world = World(random.Random(seed))
    undoable: dict[int, list[int | None]] = {}
    for _ in range(world.random.randrange(3, LENGTH + 1)):
        world.today += world.random.randrange(3)
        before = world.state()
        make = world.random.choice(KINDS)
        try:
            event = make(world, before)
        except Refused:
            world.done.append(f"{world.day}: {make.__name__[1:]}: refused")
            continue
        rival = None
        if world.random.random() < 0.15:  # two at once, from the same state
            try:
                rival = world.random.choice(KINDS)(world, before)
            except Refused:
                rival = None
        written = [each for each in (event, rival) if world.write(each)]
        world.done.append(f"{world.day}: " + ("; ".join(map(str, written)) or f"{make.__name__[1:]}: nothing"))
        after = world.state()
        _rules(world, before, after, written, undoable)


@dataclass(frozen=True)
class Step:
    """What one request has changed."""

    world: World
    before: State
    after: State
    written: list[Event]

    def require(self, held: bool, rule: str) -> None:
        """Raise Broken, with the history, where a rule does not hold."""
        if not held:
            raise Broken(rule + "\n  " + "\n  ".join(self.world.done))

    def pinned(self, day: date) -> bool:
        """Whether a person has chosen the day's version."""
        return self.after.pinned(day) is not None

    def is_unchanged(self, day: date) -> bool:
        """Whether what is published for the day is as before."""
        return self.before.published(day) == self.after.published(day)


def _rules(
    world: World, before: State, after: State, written: list[Event], undoable: dict[int, list[int | None]]
) -> None:
    step = Step(world, before, after, written)
    step.require(len(written) <= 1, "of two events from one state one is written")
    numbers = [each.number for each in after.numbered]
    step.require(numbers == list(range(1, len(numbers) + 1)), "numbers have no gap")
    shuffled = [from_row(row) for row in world.rows]
    world.random.shuffle(shuffled)
    step.require(fold(shuffled) == after, "the order in which rows are read changes nothing")
    if not written:
        step.require(published(before) == published(after), "what writes nothing changes nothing")
        return
    event = written[0]
    if isinstance(event, Promoted | RolledBack | Undone):
        serves = after.champion is not None and after.champion.number == event.number
        step.require(serves, "the last change serves")
    for day in DAYS:
        serves = isinstance(event, Promoted | RolledBack | Undone) and day >= event.day
        step.require(serves or before.serving(day) == after.serving(day), "who served a day is history")
    if isinstance(event, Promoted):
        _of_a_promotion(step, event)
    elif isinstance(event, RolledBack):
        undoable[event.number] = [each.version for each in published(before)]
        _of_a_rollback(step, event)
    elif isinstance(event, Undone):
        _of_an_undoing(step, event, undoable[event.undoes])
    elif isinstance(event, Pinned):
        _of_a_pin(step, event)
    elif isinstance(event, Released):
        without = fold(each for each in after.numbered if not isinstance(each, Pinned))
        for day in DAYS:
            within = event.day <= day <= event.last
            step.require(within or step.is_unchanged(day), "a release touches only its days")
            free = after.published(day) == without.published(day)
            step.require(not within or free, "a day that was let go is as if no version had been chosen for it")


def _of_a_promotion(step: Step, event: Promoted) -> None:
    for day in DAYS:
        if day < (event.replaces_from or event.day):
            step.require(step.is_unchanged(day), "a promotion touches only the days that it replaces")
        elif not step.pinned(day):
            published = step.after.published(day).version
            step.require(published == event.of(day), "a promotion replaces every day that it says")
            step.require(
                event.twin is None or event.seen is None or (published == event.twin) == (day <= event.seen),
                "a day that the version has seen is its twin's",
            )
    by = [(each.by, each.version) for each in step.after.promotions if each.by != "somebody"]
    step.require(len(by) == len(set(by)), "what a run has promoted it promotes once")
    mine = [each for each in step.before.promotions if each.version == event.version]
    void = {number for each in step.before.rollbacks for number in step.before.voided(each)}
    stands = any(each.number not in void for each in mine)
    by_hand = event.by == "somebody"  # who may take again what was rolled back
    step.require(by_hand or stands or not mine, "what was rolled back is not promoted again")
    serves = step.after.champion is not None and step.after.champion.version == event.version
    step.require(serves, "the version promoted serves")


def _of_a_rollback(step: Step, event: RolledBack) -> None:
    void = set(event.voids or ())
    for day in DAYS:
        if event.first_day and day < event.first_day:
            step.require(step.is_unchanged(day), "a roll-back touches only the days that it is told to")
        elif not step.pinned(day):
            shown = step.after.published(day)
            good = {each.of(day) for each in step.after.promotions if each.number not in void}
            step.require(shown.version in {*good, None}, "what is void is not published")
            was_void = step.before.published(day).version in {
                each.of(day) for each in step.before.promotions if each.number in void
            }
            step.require(
                was_void or step.is_unchanged(day), "a roll-back leaves the days of other versions as they are"
            )
    target = step.after.standing()[-1]
    shown = {(day, step.after.published(day).version) for day in DAYS if not step.pinned(day)}
    since = {(day, each.of(day)) for each in step.after.promotions if each.number > target.number for day in DAYS}
    rest = {(day, each.of(day)) for each in step.after.promotions if each.number <= target.number for day in DAYS}
    step.require(
        bool(event.first_day) or not shown & (since - rest), "what came since the version gone back to is gone"
    )
    standing = step.after.standing()
    step.require(not void & {each.number for each in standing}, "a promotion that was voided does not stand")
    last = standing[-1] if standing else None
    step.require(
        last is not None and last.version == event.version, "the last promotion that stands is that gone back to"
    )
    step.require(last is not None and min(void, default=event.number) > last.number, "only what came after it is void")
    serves = step.after.champion is not None and step.after.champion.version == event.version
    step.require(serves, "the version gone back to serves")


def _of_an_undoing(step: Step, event: Undone, before: list[int | None]) -> None:
    between = [each for each in step.after.numbered if event.undoes < each.number < event.number]
    if not between:  # pins and releases have an effect of their own
        step.require([each.version for each in published(step.after)] == before, "an undoing is exact")
    bad = next(each.bad for each in step.after.numbered if isinstance(each, RolledBack) and each.number == event.undoes)
    serves = step.after.champion is not None and step.after.champion.version == bad
    step.require(serves, "the version undone serves")


def _of_a_pin(step: Step, event: Pinned) -> None:
    for day in DAYS:
        within = event.day <= day <= event.last
        step.require(within or step.is_unchanged(day), "a pin touches only its days")
        held = step.after.published(day).version == event.version
        step.require(not within or held, "a pin holds for its days")


def check_many(first: int, count: int) -> int:
    """Live through histories; returns how many."""
    for seed in range(first, first + count):
        try:
            check(seed)
            episodes.check(seed)
        except (Broken, episodes.Broken) as error:
            raise Broken(f"seed {seed}: {error}") from None
    return count


def main() -> None:
    """Check as many histories as asked for, on two processes."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    began, size = time.monotonic(), 2_000
    with ProcessPoolExecutor(2) as pool:
        found = sum(
            pool.map(check_many, range(0, count, size), [min(size, count - at) for at in range(0, count, size)])
        )
    print(f"{found:,} histories over the lifecycle: every rule held, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
