"""A table of the lake that lives in memory: the few operations that tables.py asks of Delta, for simulations by the thousand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from functools import reduce
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc

Parts = dict[object, pa.Table]


class MemoryTable:
    """Rows in partitions by one column, every version of them, and the marks of what was written."""

    def __init__(self, partition: str, versions: list[Parts] | None = None, schema: pa.Schema | None = None) -> None:
        self.id = uuid4().hex
        self.partition = partition
        self.schema = schema if schema is not None else pa.schema([])
        self._versions = versions or []
        self._marks: dict[str, int] = {}

    def version(self) -> int:
        """The number of the last version; -1 where nothing was written."""
        return len(self._versions) - 1

    def at(self, version: int) -> MemoryTable:
        """The table as it was at a version."""
        return MemoryTable(self.partition, self._versions[: version + 1], self.schema)

    def transaction_version(self, name: str) -> int | None:
        """The mark under which `name` was last written."""
        return self._marks.get(name)

    def partitions(self) -> set[Any]:
        """The values of the column by which it is partitioned, of which it has rows."""
        return {key for key, part in self._now().items() if len(part)}

    def scan(self, columns: list[str] | None, filters: list[tuple[str, str, object]]) -> pa.Table:
        """The rows that pass every filter (=, >=, <=)."""
        parts = [part for key, part in self._now().items() if self._may_hold(key, filters)]
        rows = pa.concat_tables([self.schema.empty_table(), *parts], promote_options="default")
        rest = [each for each in filters if each[0] != self.partition]
        for name, sign, value in rest:
            rows = rows.filter(_masks(rows, name, sign, value))
        return rows.select(columns) if columns is not None else rows

    def replace(self, rows: pa.Table, where: Mapping[str, object], marks: Mapping[str, int]) -> None:
        """Replace the rows for which `where` (which names partitions) holds."""
        parts = dict(self._now())
        named = where[self.partition]
        for key in named if isinstance(named, list) else [named]:
            part = parts.pop(key, None)
            rest = [(name, value) for name, value in where.items() if name != self.partition]
            if part is not None and rest:
                mask = reduce(pc.and_, (_masks(part, name, "=", value) for name, value in rest))
                part = part.filter(pc.invert(mask))
                if len(part):
                    parts[key] = part
        self._add(parts, rows)
        self._marks.update(marks)

    def append(self, rows: pa.Table, key: str) -> bool:
        """Add the row unless its `key` is there; returns whether it was added."""
        if rows[key][0].as_py() in self._now():
            return False
        self._add(dict(self._now()), rows)
        return True

    def _now(self) -> Parts:
        return self._versions[-1] if self._versions else {}

    def _add(self, parts: Parts, rows: pa.Table) -> None:
        self.schema = pa.unify_schemas([self.schema, rows.schema], promote_options="default")
        for key in pc.unique(rows[self.partition]) if len(rows) else ():
            new = rows.filter(pc.equal(rows[self.partition], key))
            had = parts.get(key.as_py())
            parts[key.as_py()] = new if had is None else pa.concat_tables([had, new], promote_options="default")
        self._versions.append(parts)

    def _may_hold(self, key: object, filters: list[tuple[str, str, object]]) -> bool:
        return all(_holds(key, sign, value) for name, sign, value in filters if name == self.partition)


def _masks(rows: pa.Table, name: str, sign: str, value: object) -> pa.ChunkedArray:
    compare = {"=": pc.equal, ">=": pc.greater_equal, "<=": pc.less_equal}[sign]
    return pc.fill_null(compare(rows[name], pa.scalar(value, rows.schema.field(name).type)), False)


def _holds(key: object, sign: str, value: object) -> bool:
    if isinstance(value, datetime) and isinstance(key, date):
        value = value.date()
    if sign == "=":
        return key == value
    return key >= value if sign == ">=" else key <= value  # type: ignore[operator, no-any-return]
