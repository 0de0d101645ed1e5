"""A small world for the simulation: a source whose rows arrive late and whose labels are corrected, tasks that die or meet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from esteira.spec import ModelSpec, load
from esteira.store import lake
from esteira.store.backend import Marks, Part, PartWriter, Table
from esteira.store.memory import MemoryLake

BEGIN = date(2026, 1, 1)
TRAINED = BEGIN + timedelta(days=11)  # the first champion is of this day
YAML = """\
name: sim
owner: team@example.com
task: regression
source: {kind: python, function: source.read}
time: {column: at}
key: [id]
target: amount
label_delay: 1d
features: {numeric: [x]}
quality: {max_quarantined: 1.0}
train: {window: 10d, candidates: [{estimator: sklearn.linear_model.LinearRegression}]}
check:
  every: 2d
  slice: 4d
  min_days: 1
  violated: {at_least: 1, of_last: 1}
  estimate: false
  metrics: {mae_over_mean: {max: 0.3}}
retrain: [{window: 6d}, {window: 3d}]
promote: {min_gain: 0.001}
alerts: {email: [ops@example.com]}
"""
SOURCE = """\
from tests.simulation import world


def read(first, last):
    return world.NOW.rows(first, last)
"""


class Died(BaseException):
    """A task's process is gone."""


@dataclass
class Source:
    """What the source has: the level of each day, rows that have not come yet, and labels as they are said to be now."""

    today: date = TRAINED
    level: dict[date, float] = field(default_factory=dict)
    late: set[tuple[date, int]] = field(default_factory=set)
    empty: set[date] = field(default_factory=set)
    corrected: dict[tuple[date, int], float] = field(default_factory=dict)

    def rows(self, first: date, last: date) -> pd.DataFrame:
        """The rows of the days that are over; four a day, of which the last one may be late."""
        days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
        found = [self._of(day, number) for day in days if day <= self.today for number in range(4)]
        frame = pd.DataFrame([row for row in found if row is not None], columns=["id", "at", "x", "amount"])
        return frame.astype({"at": "datetime64[us]"})

    def _of(self, day: date, number: int) -> dict[str, Any] | None:
        if (day, number) in self.late or day in self.empty:
            return None
        x = 1.0 + number + (day.toordinal() % 3)
        level = self.level.get(day, 1.0)
        # A level of 0 is a day that nothing explains.
        amount = level * 10 * x if level else float(np.random.default_rng(day.toordinal() + number).uniform(1, 200))
        amount = self.corrected.get((day, number), amount)
        return {"id": number, "at": pd.Timestamp(day) + pd.Timedelta(hours=number), "x": x, "amount": amount}


NOW = Source()


def write(folder: Path) -> ModelSpec:
    """The model, in a folder."""
    place = folder / "sim"
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.yaml").write_text(YAML)
    (place / "source.py").write_text(SOURCE)
    return load(place / "model.yaml")


@contextmanager
def ticking() -> Iterator[None]:
    """A clock that moves on by itself whenever it is asked, and pauses that take no time."""
    ticks = iter(range(10**9))
    before = lake.clock, lake.pause
    lake.clock = lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=next(ticks))
    lake.pause = lambda _: None
    try:
        yield
    finally:
        lake.clock, lake.pause = before


# ------------------------------------------------------------------------------------------------------ what can happen


Moment = Literal[
    "read", "write", "written", "record", "recorded"
]  # before a read; before and after a write, or one of the ledger
RECORDS: tuple[Moment, ...] = ("record", "recorded")
WRITES: tuple[Moment, ...] = ("write", "written", *RECORDS)
ANY: tuple[Moment, ...] = ("read", *WRITES)


class Stepping:
    """A lake that asks at each read and each write whether the task goes on: it may die there, or another's turn come."""

    def __init__(self, inner: MemoryLake) -> None:
        self.inner = inner
        self.ask: Callable[[Moment], None] = lambda _: None

    def open(self, place: str, version: int | None = None) -> Table | None:
        self.ask("read")
        return self.inner.open(place, version)

    def marks(self, place: str, names: Any) -> dict[str, int | None]:
        self.ask("read")
        return self.inner.marks(place, names)

    def replace(
        self,
        place: str,
        seen: Table | None,
        rows: pa.Table,
        where: Mapping[str, object],
        *,
        marks: Marks,
        partition: str,
    ) -> None:
        with self._written(place, marks):
            self.inner.replace(place, seen, rows, where, marks=marks, partition=partition)

    def part(self, place: str, day: date, schema: pa.Schema, number: int) -> PartWriter:
        return self.inner.part(place, day, schema, number)  # which nobody sees

    def has(self, place: str, part: Part) -> bool:
        return self.inner.has(place, part)

    def publish(
        self, place: str, seen: Table | None, parts: Iterable[Part], days: Iterable[date], *, marks: Marks, add: bool
    ) -> None:
        with self._written(place, marks):
            self.inner.publish(place, seen, parts, days, marks=marks, add=add)

    @contextmanager
    def _written(self, place: str, marks: Marks) -> Iterator[None]:
        self.ask("write")
        before = self.inner.marks(place, marks)
        yield
        if "/predictions/" in place:  # looked at here: a task soon writes again what it should not have written
            older = [name for name, mark in marks.items() if mark < (before[name] or 0)]
            assert not older, f"what is newer is not written over: {older} of {place}"
        self.ask("written")

    def append_once(self, place: str, rows: pa.Table) -> int:
        self.ask("record")
        found = self.inner.append_once(place, rows)
        self.ask("recorded")
        return found

    def maintain(self, place: str, keep: Any, hours: int) -> tuple[int, int]:
        self.ask("write")
        return self.inner.maintain(place, keep, hours)


def copied(given: MemoryLake) -> MemoryLake:
    """The same tables; what is written to one is not seen by the other."""
    tables = {place: list(versions) for place, versions in given._tables.items()}
    return MemoryLake(tables, {place: dict(marks) for place, marks in given._marks.items()})


def countdown(after: int, moments: Container[Moment]) -> Callable[[Moment], bool]:
    """A function of a task's moments that is true from the one number `after` of those given on."""
    left = iter(range(after))
    return lambda moment: moment in moments and next(left, None) is None


def dying(stepping: Stepping, is_over: Callable[[Moment], bool], task: Callable[[], object]) -> bool:
    """Run a task that dies when it is over; returns whether it came to that."""

    def ask(moment: Moment) -> None:
        if is_over(moment):
            raise Died

    stepping.ask = ask
    try:
        task()
    except Died:
        return True
    finally:
        stepping.ask = lambda _: None
    return False


def after_each(counts: list[int], moments: Container[Moment]) -> Callable[[Moment], bool]:
    """A function of moments that is false for so many of those given, then true once; for each of the counts."""
    turns = iter([turn for count in counts for turn in [*[False] * count, True]])
    return lambda moment: moment in moments and next(turns, False)


def meeting(
    stepping: Stepping,
    tasks: tuple[Callable[[], object], Callable[[], object]],
    is_turn: Callable[[Moment], bool],
    is_over: Callable[[Moment], bool],
) -> None:
    """Run two tasks; at a moment that `is_turn` it is the other's turn. The first dies when it is over, once it had to wait."""
    turn, ended, waited = [0], [False, False], [False]
    baton = threading.Condition()
    errors: list[BaseException] = []

    def ask(moment: Moment) -> None:
        me = int(threading.current_thread().name)
        with baton:
            if me == 0 and waited[0] and is_over(moment):
                raise Died
            if not ended[1 - me] and is_turn(moment):
                waited[0], turn[0] = True, 1 - me
                baton.notify_all()
                baton.wait_for(lambda: turn[0] == me, timeout=60)

    def run(me: int) -> None:
        with baton:
            baton.wait_for(lambda: turn[0] == me, timeout=60)
        try:
            tasks[me]()
        except Died:
            pass
        except BaseException as error:  # told to whoever started the two
            errors.append(error)
        with baton:
            ended[me], turn[0] = True, 1 - me
            baton.notify_all()

    stepping.ask = ask
    threads = [threading.Thread(target=run, args=(number,), name=str(number)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    stepping.ask = lambda _: None
    if errors:
        raise errors[0]
