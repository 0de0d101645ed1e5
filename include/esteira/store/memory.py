"""A lake in this process's memory, for simulations by the thousand: it keeps, and refuses, what Delta does."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import reduce
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

from esteira.errors import Conflict
from esteira.store.backend import Filter, Marks, Part, PartWriter, Table

Parts = Mapping[object, pa.Table]


@dataclass(frozen=True)
class MemoryTable:
    """Rows in partitions by one column, as they are at one version; `touched` are the partitions and marks that it wrote."""

    identity: str
    version: int
    partition: str
    schema: pa.Schema
    parts: Parts
    touched: frozenset[object]

    def scan(self, columns: list[str] | None, filters: list[Filter]) -> pa.Table:
        """The rows that pass every filter."""
        keys: Collection[Any] = self.parts.keys()
        for name, sign, value in filters:
            if name == self.partition:
                keys = _held(keys, sign, value)
        parts = [self.parts[key] for key in keys]
        rows = pa.concat_tables([self.schema.empty_table(), *parts], promote_options="default")
        for name, sign, value in filters:
            if name != self.partition:
                rows = rows.filter(_mask(rows, name, sign, value))
        return rows.select(columns) if columns is not None else rows

    def batches(self, columns: list[str] | None, filters: list[Filter]) -> Iterator[pa.Table]:
        """All of them at once."""
        yield self.scan(columns, filters)

    def holds(self, parts: Iterable[Part]) -> bool:
        """Never: nothing outlives the process that publishes it."""
        return False

    def files(self, value: object) -> set[object]:
        """The table in memory."""
        return {id(self.parts[value])} if value in self.parts else set()

    def partitions(self) -> set[Any]:
        """The partitions that have rows."""
        return {key for key, part in self.parts.items() if len(part)}

    def sizes(self) -> dict[Any, tuple[int, int]]:
        """Rows and bytes by partition."""
        return {key: (len(part), part.nbytes) for key, part in self.parts.items() if len(part)}


@dataclass
class MemoryPart:
    """A part that is being written; `kept` are those that are whole, by their path."""

    path: str
    day: date
    schema: pa.Schema
    kept: dict[str, pa.Table]
    _written: list[pa.Table] = field(default_factory=list)

    def write(self, rows: pa.Table) -> None:
        """Add rows."""
        self._written.append(rows)

    def close(self) -> Part:
        """The part."""
        rows = pa.concat_tables([self.schema.empty_table(), *self._written])
        self.kept[self.path] = rows
        return Part(self.day, self.path, rows.nbytes, len(rows), rows.schema)

    def drop(self) -> None:
        """Nothing is to be of it."""


@dataclass
class MemoryLake:
    """Tables by their place, with every version of each, and the marks of what was written."""

    _tables: dict[str, list[MemoryTable]] = field(default_factory=dict)
    _marks: dict[str, dict[str, int]] = field(default_factory=dict)
    _kept: dict[str, pa.Table] = field(default_factory=dict)

    def open(self, place: str, version: int | None = None) -> Table | None:
        """The table; what was opened stays as it was."""
        versions = self._tables.get(place)
        if not versions:
            return None
        return versions[-1] if version is None else versions[version]

    def marks(self, place: str, names: Iterable[str]) -> dict[str, int | None]:
        """Marks, by name."""
        known = self._marks.get(place, {})
        return {name: known.get(name) for name in names}

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
        """Replace partitions, or of them the rows for which the rest of `where` holds."""
        named = where[partition]
        keys = list(named) if isinstance(named, list) else [named]
        now = self._last(place)
        since = (self._tables.get(place) or [])[(seen.version + 1 if seen else 0) :]
        if any(each.touched & {*keys, *marks} for each in since) or (seen is None and now is not None):
            raise Conflict(f"another writer was faster at {place}")
        parts = dict(now.parts) if now else {}
        rest = [(name, value) for name, value in where.items() if name != partition]
        for key in keys:
            part = parts.pop(key, None)
            if part is not None and rest:
                mask = reduce(pc.and_, (_mask(part, name, "=", value) for name, value in rest))
                part = part.filter(pc.invert(mask))
                if len(part):
                    parts[key] = part
        self._write(place, partition, parts, rows, frozenset([*keys, *marks]))
        self._marks.setdefault(place, {}).update(marks)

    def part(self, place: str, day: date, schema: pa.Schema, number: int) -> PartWriter:
        """A part in memory."""
        return MemoryPart(f"{place}/{uuid4().hex}", day, schema, self._kept)

    def has(self, place: str, part: Part) -> bool:
        """Whether it is known."""
        return part.path in self._kept

    def rows(self, place: str, part: Part) -> Iterator[pa.Table]:
        """The rows of a part."""
        yield self._kept[part.path]

    def link(self, place: str, part: Part, source: str, schema: pa.Schema) -> Part:
        """The columns of a part."""
        rows = self._kept[part.path].select(schema.names)
        path = f"{place}/{uuid4().hex}"
        self._kept[path] = rows
        return Part(part.day, path, rows.nbytes, len(rows), schema)

    def remove(self, place: str, part: Part) -> None:
        """Forget it."""
        self._kept.pop(part.path, None)

    def publish(
        self, place: str, seen: Table | None, parts: Iterable[Part], days: Iterable[date], *, marks: Marks, add: bool
    ) -> int:
        """Replace partitions, or add to them."""
        every, paths = sorted(days), [part.path for part in parts]
        empty = pa.table({"day": pa.array([], pa.date32())})
        rows = pa.concat_tables([self._kept[path] for path in paths] or [empty], promote_options="default")
        if add and seen is not None:
            held = [seen.scan(None, [("day", "=", day)]) for day in every]
            rows = pa.concat_tables([*held, rows], promote_options="default")
        self.replace(place, seen, rows, {"day": every}, marks=marks, partition="day")
        for path in paths:
            del self._kept[path]
        return len(self._tables[place]) - 1

    def append_once(self, place: str, rows: pa.Table) -> int:
        """Add rows by `id`, which here is the partition, too."""
        now = self._last(place)
        parts = dict(now.parts) if now else {}
        new = rows.filter(pa.array([each not in parts for each in rows["id"].to_pylist()]))
        if len(new):
            self._write(place, "id", parts, new, frozenset(new["id"].to_pylist()))
        return len(new)

    def maintain(self, place: str, keep: Iterable[int], hours: int) -> tuple[int, int]:
        """Nothing: there are no files."""
        return 0, 0

    def _last(self, place: str) -> MemoryTable | None:
        versions = self._tables.get(place)
        return versions[-1] if versions else None

    def _write(
        self, place: str, partition: str, parts: dict[object, pa.Table], rows: pa.Table, touched: frozenset[object]
    ) -> None:
        versions = self._tables.setdefault(place, [])
        before = versions[-1] if versions else None
        known = before.schema if before else pa.schema([])
        schema = pa.unify_schemas([known, rows.schema], promote_options="default")
        for key in pc.unique(rows[partition]) if len(rows) else ():
            new = rows.filter(pc.equal(rows[partition], key))
            had = parts.get(key.as_py())
            parts[key.as_py()] = new if had is None else pa.concat_tables([had, new], promote_options="default")
        identity = before.identity if before else uuid4().hex
        versions.append(MemoryTable(identity, len(versions), partition, schema, parts, touched))


def _mask(rows: pa.Table, name: str, sign: str, value: object) -> pa.ChunkedArray:
    compare = {"=": pc.equal, ">=": pc.greater_equal, "<=": pc.less_equal}[sign]
    return pc.fill_null(compare(rows[name], pa.scalar(value, rows.schema.field(name).type)), False)


def _held(keys: Collection[Any], sign: str, value: Any) -> Collection[Any]:
    """The keys that a filter lets through: a walk over years asks this of thousands, many times a day."""
    if isinstance(value, datetime):  # as Delta does with a partition of dates
        value = value.date()
    if sign == "=":
        return [value] if value in keys else []
    compare = operator.ge if sign == ">=" else operator.le
    return [key for key in keys if compare(key, value)]
