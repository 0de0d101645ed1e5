"""What a source of any kind can be asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

import pandas as pd

from esteira.data.sources.times import event_time
from esteira.spec import ModelSpec

BATCH = 100_000  # rows that are looked at together
T = TypeVar("T", bound=Sized)


def in_batches(
    parts: Iterable[T], size: int, cut: Callable[[T, int], T], joined: Callable[[list[T]], T]
) -> Iterator[T]:
    """Rows that come in parts, in batches of `size` at most: small parts are joined, and of a larger one `cut` gives `size` rows from one on."""
    held: list[T] = []
    for part in parts:
        for start in range(0, max(len(part), 1), size):
            rows = cut(part, start) if len(part) > size else part
            if held and sum(map(len, held)) + len(rows) > size:
                yield joined(held)
                held = []
            held.append(rows)
    if held:
        yield joined(held)


@dataclass(frozen=True)
class Share:
    """One of so many equal shares of a source's rows, counted from 0."""

    number: int
    of: int


ALL = Share(0, 1)
Part = tuple[pd.DataFrame, tuple[str, date | None]]


@dataclass(frozen=True)
class Reader(ABC):
    """Reads a source of a model. Of one that would have to be run, such as a query, nothing is known before."""

    spec: ModelSpec

    @abstractmethod
    def parts(self, first: date, last: date) -> Iterator[Part]:
        """What it gives for the days asked (or more than those): the rows of each file or query, its name and its day."""

    def shared(self, share: Share) -> Reader | None:
        """A reader of a share of what it gives; None where it can't read less than all."""
        return None

    def state(self, first: date, last: date) -> str:
        """What changes when what it gives does; empty where nothing tells."""
        return ""

    def size(self, first: date, last: date) -> int:
        """About how many bytes a reader of shares has of the days; 0 of another."""
        return 0

    def columns(self) -> tuple[str, list[str]] | None:
        """The newest file, or the table, and its columns. Raises DataError where there is none."""
        return None

    def last_day(self) -> date | None:
        """The last day that it has."""
        return None

    def rows(self, first: date, last: date) -> pd.DataFrame | None:
        """All that it gives for the days asked (or more than those), as it comes; None where it has nothing."""
        frames = [rows for rows, _ in self.parts(first, last)]
        return pd.concat(frames, ignore_index=True) if frames else None

    def last_day_of_rows(self) -> date | None:
        """The last day that any of its rows has, of which each is read."""
        rows = self.rows(date(1900, 1, 1), date(2200, 1, 1))
        moments = event_time(self.spec, rows).dropna() if rows is not None and len(rows) else None
        return None if moments is None or moments.empty else moments.max().date()
