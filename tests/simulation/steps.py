"""Histories over the real steps, on a lake and a registry in memory: days come, tasks die, meet, and run again in any order.

`python -m tests.simulation.steps 1000` lives through as many, on two processes; one that breaks a rule is printed as the
calls that led to it, which can be kept as a test in tests/unit/test_simulation.py.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from datetime import date, timedelta
from email.message import EmailMessage
from functools import lru_cache
from pathlib import Path

from esteira import steps
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.policy import Outcome
from esteira.notify import delivery
from esteira.spec import ModelSpec
from esteira.steps import champions, checking, rollbacks, scoring, training
from esteira.steps.rollbacks import Asked
from esteira.steps.scoring import Request
from esteira.store import lake, ledger, runs
from esteira.store.memory import MemoryLake
from esteira.store.memory_tracking import MemoryTracking
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, rule, run_state_machine_as_test

from tests.simulation import world
from tests.simulation.rules import TOLD, Rules, Task
from tests.simulation.world import TRAINED, Source, Stepping


@dataclass(frozen=True)
class Past:
    """A model that has lived for a while: where a history begins."""

    lake: MemoryLake
    registry: MemoryTracking
    source: Source
    level: float


@lru_cache(maxsize=1)
def model() -> ModelSpec:
    """The model, and a state folder of this process's own."""
    logging.disable(logging.CRITICAL)
    os.environ["ESTEIRA_HOME"] = tempfile.mkdtemp(prefix="esteira-simulation-")
    atexit.register(shutil.rmtree, os.environ["ESTEIRA_HOME"], ignore_errors=True)
    return world.write(Path(os.environ["ESTEIRA_HOME"]) / "models")


@lru_cache(maxsize=1)
def pasts() -> dict[str, Past]:
    """The pasts by name, made once for a process."""
    spec = model()
    world.NOW = Source()
    first = Past(MemoryLake(), MemoryTracking(), world.NOW, 1.0)
    with lake.using(first.lake), runs.using(first.registry), world.ticking():
        steps.train(spec, TRAINED, "first")
    found = {"the first champion serves": first}

    def lived(name: str, begin: str, *, level: float = 1.0, days: int = 6, then: str = "") -> None:
        life = Life()
        life.live(found[begin])
        life.the_world_changes(level)
        life.days_come("all", days, False, ("once",), ("once",))
        if then == "promoted":
            life.promote(3, ("once",))
        if then == "checked":
            life.check(0, ("once",))
        life.stack.close()
        found[name] = Past(life.lake.inner, life.registry, world.NOW, level)

    lived("the second replaced days of the first", "the first champion serves", then="promoted")
    lived("the world has changed", "the first champion serves", level=3.0, days=8)
    lived("a check has promoted", "the world has changed", level=3.0, then="checked")
    lived("nothing explains it any more", "the first champion serves", level=0.0, days=8)
    lived("a third replaced days of the second", "a check has promoted", level=3.0, then="promoted")
    return found


PASTS = [
    "the first champion serves",
    "the second replaced days of the first",
    "the world has changed",
    "a check has promoted",
    "nothing explains it any more",
    "a third replaced days of the second",
]
OFFSETS = st.integers(0, 5)
# Of the tasks of two_meet those that are in each other's way: a score, a check, a roll-back, reconcile, an undoing, a choice by hand.
PAIRS = [(0, 1), (0, 2), (0, 4), (0, 5), (0, 2), (1, 2), (1, 0), (2, 0), (2, 1), (3, 2), (3, 5), (5, 4), (5, 2), (4, 0)]
WRITERS = [
    (0, 1),
    (0, 2),
    (0, 4),
    (0, 5),
    (5, 2),
    (1, 2),
]  # of these those that write predictions, and what changes them
ROWS = st.sampled_from(["all", "all", "some late", "some late", "none"])
NEVER = 999
MOMENTS = {"dies": world.ANY, "dies writing": world.WRITES, "dies recording": world.RECORDS}
HOWS = st.one_of(
    st.just(("once",)),
    st.just(("once",)),
    st.just(("twice",)),
    st.tuples(st.just("dies"), st.integers(0, 60)),
    st.tuples(st.just("dies writing"), st.integers(0, 30)),
    st.tuples(st.just("dies recording"), st.integers(0, 4)),
)


class Life(Rules):
    """A model's life. Every rule may be a task that is run, run twice, or dies at a read or write and is run again later."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()

    @initialize(past=st.sampled_from(PASTS))
    def begin(self, past: str) -> None:
        self.live(pasts()[past])

    def live(self, past: Past) -> None:
        """Go on from a past."""
        self.spec = model()
        world.NOW = deepcopy(past.source)
        self.level = past.level
        self.lake = Stepping(world.copied(past.lake))
        self.registry = past.registry.copied()
        self.stack.enter_context(world.ticking())
        self.stack.enter_context(lake.using(self.lake))
        self.stack.enter_context(runs.using(self.registry))
        ledger._folded.clear()

    def teardown(self) -> None:
        try:
            if hasattr(self, "spec"):
                self.settle()
        finally:  # else the lake would be put back when this is collected, in the middle of another history
            self.stack.close()

    # ------------------------------------------------------------------------------------------------ how a task is run

    def do(self, task: Task, how: tuple[object, ...]) -> None:
        if len(how) > 1:
            is_over = world.countdown(int(str(how[1])), MOMENTS[str(how[0])])
            try:
                died = world.dying(self.lake, is_over, task)
            except TOLD:
                return
            if died:
                self.dead.append(task)
            return
        for _ in range(2 if how[0] == "twice" else 1):
            self.told(task)

    def day(self, back: int) -> date:
        return max(world.NOW.today - timedelta(days=back), TRAINED + timedelta(days=1))

    # -------------------------------------------------------------------------------------------------------- the tasks

    def check_day(self, day: date) -> None:
        found = checking.check(self.spec, day, keep_notebook=False)
        failed = found.verdict.decision.trains and Outcome.RECOVERS not in found.outcomes
        now = ledger.champion(self.spec, day)
        if failed and found.warning is None and now is not None:
            self.was_told_of_late(day)

    # -------------------------------------------------------------------------------------------------------- the rules

    @rule(level=st.sampled_from([1.0, 3.0, 0.3, 0.0]))
    def the_world_changes(self, level: float) -> None:
        """From now on amounts are of another size, or of none that anything explains."""
        self.level = level

    @rule(rows=ROWS, count=st.sampled_from([1, 3, 5, 8]), checked=st.booleans(), how=HOWS, how_checked=HOWS)
    def days_come(
        self, rows: str, count: int, checked: bool, how: tuple[object, ...], how_checked: tuple[object, ...]
    ) -> None:
        """Days are over, and scored as one range; a check may follow."""
        new = [world.NOW.today + timedelta(days=n) for n in range(1, count + 1)]
        for day in new:
            world.NOW.level[day] = self.level
            if rows == "some late":
                world.NOW.late.add((day, 3))
            if rows == "none":
                world.NOW.empty.add(day)
        world.NOW.today = new[-1]
        self.do(lambda: self.score_days(new, f"score/{new[0]}"), how)
        if checked:
            self.do(lambda: self.check_day(new[-1]), how_checked)

    @rule(back=st.sampled_from([None, 1, 3]), how=HOWS)
    def promote(self, back: int | None, how: tuple[object, ...]) -> None:
        """A version is trained on what there is, and promoted, from a day of the past on or not."""
        day, since = world.NOW.today, None if back is None else self.day(back)
        now = ledger.champion(self.spec)
        assert now is not None
        number = len(runs.versions(self.spec))
        self.do(lambda: self.promote_of(day, now.version, since, f"by hand/{day}/{number}"), how)

    def promote_of(self, day: date, measured: int, since: date | None, run: str) -> None:
        version = training.retrained(self.spec, day, run)
        champions.promote(self.spec, Proposal(version, day, measured=measured, why="x", by=run, replaces_from=since))
        scoring.reconcile(self.spec, run)

    @rule(back=OFFSETS, how=HOWS)
    def score_again(self, back: int, how: tuple[object, ...]) -> None:
        day = self.day(back)
        self.do(lambda: self.score_days([day], f"again/{day}"), how)

    @rule(back=OFFSETS, how=HOWS)
    def late_rows_come(self, back: int, how: tuple[object, ...]) -> None:
        day = self.day(back)
        world.NOW.late.discard((day, 3))
        self.do(lambda: steps.requeue(self.spec, [day], f"requeue/{day}"), how)

    @rule(back=OFFSETS, number=st.integers(0, 3), value=st.floats(1, 100), how=HOWS)
    def a_label_is_corrected(self, back: int, number: int, value: float, how: tuple[object, ...]) -> None:
        day = self.day(back)
        world.NOW.corrected[day, number] = value
        self.do(lambda: steps.requeue(self.spec, [day], f"corrected/{day}"), how)

    @rule(back=st.sampled_from([0, 0, 0, 1, 2]), how=HOWS)
    def check(self, back: int, how: tuple[object, ...]) -> None:
        day = self.day(back)
        self.do(lambda: self.check_day(day), how)

    @rule(how=HOWS)
    def train(self, how: tuple[object, ...]) -> None:
        day = world.NOW.today
        self.do(lambda: training.train(self.spec, day, f"train/{day}"), how)

    @rule(to=st.sampled_from([None, None, 1, 2, 3]), back=st.sampled_from([None, None, 0, 2]), how=HOWS)
    def roll_back(self, to: int | None, back: int | None, how: tuple[object, ...]) -> None:
        asked = Asked(by="ana", to=to, first_day=None if back is None else self.day(back))
        self.do(lambda: rollbacks.perform(self.spec, asked), how)

    @rule(how=HOWS)
    def undo(self, how: tuple[object, ...]) -> None:
        self.do(lambda: rollbacks.perform(self.spec, Asked(by="ana", undo=True)), how)

    @rule(back=OFFSETS, version=st.integers(1, 3), how=HOWS)
    def choose_by_hand(self, back: int, version: int, how: tuple[object, ...]) -> None:
        day = self.day(back)
        if all(each.number != version for each in runs.versions(self.spec)):
            return
        self.do(lambda: scoring.score(self.spec, [day], f"hand/{day}", Request(version)), how)

    @rule(back=OFFSETS, how=HOWS)
    def let_go(self, back: int, how: tuple[object, ...]) -> None:
        day = self.day(back)
        self.do(lambda: scoring.score(self.spec, [day], f"let go/{day}", Request(champion=True)), how)

    @rule(how=HOWS)
    def reconcile(self, how: tuple[object, ...]) -> None:
        self.do(lambda: scoring.reconcile(self.spec, "reconcile"), how)

    @rule(answer=st.sampled_from(["takes", "is down", "refuses", "is silent"]), how=HOWS)
    def mails_are_sent(self, answer: str, how: tuple[object, ...]) -> None:
        self.do(lambda: delivery.deliver(self.spec, 0, server(answer), sender="a@b"), how)

    @rule(which=st.integers(0, 9))
    def a_dead_task_runs_again(self, which: int) -> None:
        if self.dead:
            self.told(self.dead.pop(which % len(self.dead)))

    @rule(
        which=st.sampled_from(PAIRS),
        back=OFFSETS,
        first=st.integers(0, 50),
        then=st.sampled_from([NEVER, NEVER, 10, 25]),
    )
    def two_meet(self, which: tuple[int, int], back: int, first: int, then: int) -> None:
        """Two tasks are at work at once: after so many reads and writes of the first it is the other's turn, and so on."""
        is_turn = world.after_each([first, then, 20, 20], world.ANY)
        self.meet(which, back, is_turn, dies=NEVER)

    @rule(which=st.sampled_from(WRITERS), back=OFFSETS, first=st.integers(0, 5), dies=st.sampled_from([0, 1, 1, NEVER]))
    def one_is_slow_to_write(self, which: tuple[int, int], back: int, first: int, dies: int) -> None:
        """Before one of its first writes a task waits until another one has ended; it may die soon after."""
        self.meet(which, back, world.after_each([first, NEVER], world.WRITES), dies)

    def meet(self, which: tuple[int, int], back: int, is_turn: Callable[[world.Moment], bool], dies: int) -> None:
        day, today = self.day(back), world.NOW.today
        choices: list[Task] = [
            lambda: self.score_days([day], f"meets/{day}"),
            lambda: self.check_day(today),
            lambda: rollbacks.perform(self.spec, Asked(by="bob")),
            lambda: scoring.reconcile(self.spec, "meets"),
            lambda: rollbacks.perform(self.spec, Asked(by="bob", undo=True)),
            lambda: scoring.score(self.spec, [day], f"meets by hand/{day}", Request(1)),
        ]
        one, other = (choices[each] for each in which)
        tasks = (lambda: self.told(one)), (lambda: self.told(other))
        world.meeting(self.lake, tasks, is_turn, world.countdown(dies, world.WRITES))


def server(answer: str) -> Callable[[], AbstractContextManager[delivery.Send]]:
    """A mail server that answers so."""

    def send(mail: EmailMessage, receiver: str) -> None:
        if answer == "refuses":
            raise delivery.Undeliverable("550 no such user")
        if answer == "is silent":
            raise delivery.Unknown("no answer")

    def connect() -> AbstractContextManager[delivery.Send]:
        if answer == "is down":
            raise delivery.Unreachable("nobody listens")
        return nullcontext(send)

    return connect


def relive(past: str, events: Iterable[tuple[str, Mapping[str, object]]]) -> None:
    """Live through a history that is known: the rules by name, with what each was given."""
    life = Life()
    try:
        life.begin(past=past)
        for name, given in events:
            life.look()
            getattr(life, name)(**given)
        life.look()
        life.settle()
    finally:
        life.stack.close()


def check_many(number: int, count: int, *, shrink: bool = True) -> int:
    """Live through so many histories that follow from a seed; returns how many. One that breaks a rule is made short, or not."""
    options = settings(
        max_examples=count,
        stateful_step_count=15,
        deadline=None,
        database=None,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    run_state_machine_as_test(seed(number)(Life), settings=options)
    return count


def main() -> None:
    """Live through as many histories as asked for, on two processes."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    began, size = time.monotonic(), 25
    parts = range(0, count, size)
    with ProcessPoolExecutor(2) as pool:
        found = sum(pool.map(check_many, parts, [min(size, count - at) for at in parts]))
    print(f"{found:,} histories over the steps: every rule held, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
