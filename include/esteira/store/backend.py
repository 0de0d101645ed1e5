"""What a lake has to do, whatever it keeps its tables in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Protocol

import pyarrow as pa

Filter = tuple[str, str, object]  # a column, one of =, >=, <=, and a value
Marks = Mapping[str, int]


@dataclass(frozen=True)
class Part:
    """Rows of a day that lie in a table's place, and are in none of its versions until they are published.

    `path` is in the table's place, `size` in bytes; `schema` is that of the rows, with their day.
    """

    day: date
    path: str
    size: int
    rows: int
    schema: pa.Schema


class PartWriter(Protocol):
    """Writes a part, batch by batch."""

    def write(self, rows: pa.Table) -> None:
        """Add rows, of the same columns each time."""

    def close(self) -> Part:
        """The part, whole."""

    def drop(self) -> None:
        """Nothing is to be of it."""


class Table(Protocol):
    """A table as it is at one of its versions."""

    @property
    def identity(self) -> str:
        """What tells it from a table that was made anew in its place."""

    @property
    def version(self) -> int:
        """The number of the version."""

    @property
    def schema(self) -> pa.Schema:
        """Its columns."""

    def scan(self, columns: list[str] | None, filters: list[Filter]) -> pa.Table:
        """The rows that pass every filter."""

    def batches(self, columns: list[str] | None, filters: list[Filter]) -> Iterator[pa.Table]:
        """The same rows, some at a time."""

    def holds(self, parts: Iterable[Part]) -> bool:
        """Whether the parts were published, and are all still as they were."""

    def files(self, value: object) -> set[object]:
        """What the rows of a value of the partition column are kept in: while that is the same, so are they."""

    def partitions(self) -> set[Any]:
        """The values of the column by which it is partitioned, of which it has rows."""

    def sizes(self) -> dict[Any, tuple[int, int]]:
        """By the value of that column how many rows and bytes there are; found without reading any row."""


class Lake(Protocol):
    """Where tables are kept, each under a place of its own. A write is one transaction."""

    def open(self, place: str, version: int | None = None) -> Table | None:
        """The table, at a version where one is given; None where there is none."""

    def marks(self, place: str, names: Iterable[str]) -> dict[str, int | None]:
        """The mark under which each name was last written; None for one that never was."""

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
        """Replace the rows for which `where` (equality, or membership of a list) holds, and write the marks.

        `seen` is the table that the rows were computed from, None where there was none. Raises Conflict where
        another writer has written rows of the same partitions, or the same marks, since.
        """

    def part(self, place: str, day: date, schema: pa.Schema, number: int) -> PartWriter:
        """Write a part of a day; `number` tells its place among those of the day. Nobody sees it before it is published."""

    def has(self, place: str, part: Part) -> bool:
        """Whether a part is there still."""

    def rows(self, place: str, part: Part) -> Iterator[pa.Table]:
        """The rows of a part, with their day, some at a time."""

    def link(self, place: str, part: Part, source: str, schema: pa.Schema) -> Part:
        """The rows of a part of another place, of which the columns of the schema are, as a part of this one; nothing is written anew
        where the storage can name a file twice.
        """

    def remove(self, place: str, part: Part) -> None:
        """Remove a part that is not published; one that is gone already is."""

    def publish(
        self, place: str, seen: Table | None, parts: Iterable[Part], days: Iterable[date], *, marks: Marks, add: bool
    ) -> int:
        """Replace all rows of the days by the parts, or `add` them to what is there, and write the marks, as replace() does; returns
        the version that this made.

        One of the marks at least must be of what is written, or two writers would not see each other.
        """

    def append_once(self, place: str, rows: pa.Table) -> int:
        """Add those of the rows whose `id` is not there yet, in one transaction; returns how many. Raises Conflict."""

    def maintain(self, place: str, keep: Iterable[int], hours: int) -> tuple[int, int]:
        """Compact a table, remove the files that nothing needs, write a checkpoint; returns files compacted and removed.

        Files that a later version has replaced, or that no version has (a writer died), are kept for `hours`, and for good
        where one of the versions `keep` has them.
        """
