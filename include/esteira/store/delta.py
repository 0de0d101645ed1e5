"""The lake of Delta tables, in a folder or an object store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from esteira.errors import Conflict
from esteira.store import opened, parts
from esteira.store.backend import Filter, Marks, Part, PartWriter, Table
from esteira.store.schemas import LEDGER

PROPERTIES = {
    # A log entry that is cleaned away takes a version with it, which a model version may cite.
    "delta.enableExpiredLogCleanup": "false",
    # No value of anybody stands in the log as the smallest or the largest of its file; days are found by partition.
    "delta.dataSkippingNumIndexedCols": "0",
    # Opening a table, and writing to it, reads every log entry since the last checkpoint: 14 and 12 ms after 100, 5 and 6 after 20.
    "delta.checkpointInterval": "20",
}


class DeltaTableAt:
    """A Delta table as it is at one of its versions."""

    def __init__(self, place: str, table: DeltaTable) -> None:
        self.place, self.table = place, table

    @property
    def identity(self) -> str:
        """The table's own id."""
        return str(self.table.metadata().id)

    @property
    def version(self) -> int:
        """Delta's version."""
        return int(self.table.version())

    @property
    def schema(self) -> pa.Schema:
        """The columns, as Arrow has them."""
        return pa.schema(self.table.schema().to_arrow())

    def scan(self, columns: list[str] | None, filters: list[Filter]) -> pa.Table:
        """The rows that pass every filter."""
        return opened.scan(self.place, self.table, columns, filters)

    def batches(self, columns: list[str] | None, filters: list[Filter]) -> Iterator[pa.Table]:
        """The rows, file by file, of a large one a row group at a time."""
        return opened.batches(self.place, self.table, columns, filters)

    def holds(self, given: Iterable[Part]) -> bool:
        """Whether its log names the files."""
        with opened.reaching(self.place):
            return {part.path for part in given} <= opened.paths(self.place, self.table)

    def files(self, value: object) -> set[object]:
        """The paths in its log."""
        with opened.reaching(self.place):
            return {*opened.paths(self.place, self.table, value)}

    def partitions(self) -> set[Any]:
        """The values of the partition column, found in the log."""
        with opened.reaching(self.place):
            return opened.partitions(self.place, self.table)

    def sizes(self) -> dict[Any, tuple[int, int]]:
        """Rows and bytes by the value of the partition column, found in the log."""
        with opened.reaching(self.place):
            return opened.sizes(self.place, self.table)


class DeltaLake:
    """Tables by their address."""

    def open(self, place: str, version: int | None = None) -> Table | None:
        """The table; its log is followed, and not read anew."""
        try:
            with opened.reaching(place):
                table = (
                    opened.opened(place)
                    if version is None
                    else DeltaTable(place, version=version, storage_options=opened.options(place))
                )
        except TableNotFoundError:
            return None
        return None if table is None else DeltaTableAt(place, table)

    def marks(self, place: str, names: Iterable[str]) -> dict[str, int | None]:
        """Marks are Delta's application transactions."""
        with opened.reaching(place):
            return opened.marks(place, names)

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
        """Overwrite by a condition."""
        known = [Transaction(name, mark) for name, mark in marks.items()]
        table = seen.table if isinstance(seen, DeltaTableAt) else self._create(place, rows.schema, partition)
        before = int(table.version())
        try:
            with opened.reaching(place):
                write_deltalake(
                    table,
                    rows,
                    mode="overwrite",
                    predicate=condition(where),
                    partition_by=[partition],
                    schema_mode="merge",
                    configuration=PROPERTIES,
                    commit_properties=CommitProperties(app_transactions=known or None),
                )
        except Conflict:
            opened.forget(place)  # its log is listed anew: a network's file system may not show the next entry at once
            raise
        opened.remember(place, marks, before)

    def _create(self, place: str, schema: pa.Schema, partition: str) -> DeltaTable:
        """The table, made just now: a first write is compared with nothing, so it must find what nobody else has made.

        Raises Conflict where somebody has.
        """
        try:
            with opened.reaching(place):
                return DeltaTable.create(
                    place,
                    storage_options=opened.options(place),
                    schema=schema,
                    mode="error",
                    partition_by=[partition],
                    configuration=PROPERTIES,
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
        except DeltaError as error:
            opened.forget(place)
            if self.open(place) is None:
                raise
            raise Conflict(f"another writer has made {place}") from error

    def part(self, place: str, day: date, schema: pa.Schema, number: int) -> PartWriter:
        """A parquet file beside the table's own."""
        return parts.ParquetPart(place, day, schema, number)

    def has(self, place: str, part: Part) -> bool:
        """Whether the file is there."""
        return parts.exists(place, part)

    def rows(self, place: str, part: Part) -> Iterator[pa.Table]:
        """The row groups of the file."""
        return parts.rows_of(place, part)

    def link(self, place: str, part: Part, source: str, schema: pa.Schema) -> Part:
        """The same file by another name, or a copy of it; a table has the columns that its log names, whatever its files have."""
        return parts.link(place, part, source, schema)

    def remove(self, place: str, part: Part) -> None:
        """The file."""
        parts.remove(place, part)

    def publish(
        self, place: str, seen: Table | None, given: Iterable[Part], days: Iterable[date], *, marks: Marks, add: bool
    ) -> int:
        """One entry of the log, which names the files."""
        every = list(given)
        schema = pa.unify_schemas([part.schema for part in every]) if every else pa.schema({"day": pa.date32()})
        table = seen.table if isinstance(seen, DeltaTableAt) else self._create(place, schema, "day")
        wanted = parts.schema_with(table, every)
        try:
            with opened.reaching(place):
                parts.allow_times(table, wanted)
                if add:  # which takes no new columns along
                    parts.widen(table, wanted)
                before = int(table.version())
                table.create_write_transaction(
                    [parts.added(part) for part in every],
                    mode="append" if add else "overwrite",
                    schema=wanted,
                    partition_by=["day"],
                    partition_filters=None if add else [("day", "in", [str(day) for day in sorted(days)])],
                    commit_properties=CommitProperties(
                        app_transactions=[Transaction(name, mark) for name, mark in marks.items()]
                    ),
                )
        except Conflict:
            opened.forget(place)
            raise
        table.update_incremental()
        opened.remember(place, marks, before)
        return self._made(place, every, before + 1, int(table.version()))

    def _made(self, place: str, given: list[Part], first: int, last: int) -> int:
        """At which of some versions the files came: others may write at the same moment."""
        for version in range(first, last):
            found = self.open(place, version)
            if found is not None and found.holds(given):
                return version
        return last

    def append_once(self, place: str, rows: pa.Table) -> int:
        """Merge by `id`."""
        with opened.reaching(place):
            if self.open(place) is None:
                DeltaTable.create(
                    place,
                    storage_options=opened.options(place),
                    schema=LEDGER,
                    mode="ignore",
                    configuration=PROPERTIES,
                    commit_properties=CommitProperties(max_commit_retries=0),
                )
            merge = DeltaTable(place, storage_options=opened.options(place)).merge(
                rows, predicate="t.id = s.id", source_alias="s", target_alias="t"
            )
            return int(merge.when_not_matched_insert_all().execute()["num_target_rows_inserted"])

    def maintain(self, place: str, keep: Iterable[int], hours: int) -> tuple[int, int]:
        """Compaction, vacuum and a checkpoint."""
        with opened.reaching(place):
            compacted = int(
                DeltaTable(place, storage_options=opened.options(place)).optimize.compact()["numFilesRemoved"]
            )
            removed = _vacuum(place, keep, hours)
            DeltaTable(place, storage_options=opened.options(place)).create_checkpoint()
        return compacted, removed


def _vacuum(place: str, keep: Iterable[int], hours: int) -> int:
    table = DeltaTable(place, storage_options=opened.options(place))
    if not PROPERTIES.items() <= table.metadata().configuration.items():  # made by an older version of this module
        table.alter.set_table_properties(PROPERTIES)
        table = DeltaTable(place, storage_options=opened.options(place))
    oldest = int(table.history()[-1]["version"])
    options: dict[str, Any] = {
        "retention_hours": hours,
        "enforce_retention_duration": False,
        "full": True,
        "keep_versions": [number for number in sorted(keep) if number >= oldest],
    }
    # It names files that are long gone, too, and makes two versions even where there is nothing to do.
    unneeded = [name for name in table.vacuum(dry_run=True, **options) if "://" in place or Path(place, name).exists()]
    if unneeded:
        table.vacuum(dry_run=False, **options)
    return len(unneeded)


def condition(where: Mapping[str, object]) -> str:
    """An SQL condition of equalities and (for a list) memberships; values are quoted, names are the code's own."""

    def quoted(value: object) -> str:
        return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"

    def held(column: str, value: object) -> str:
        if not isinstance(value, list):
            return f"{column} = {quoted(value)}"
        return _either([f"{column} >= {quoted(run[0])} AND {column} <= {quoted(run[-1])}" for run in _runs(value)])

    return " AND ".join(held(column, value) for column, value in where.items())


def _runs(values: list[Any]) -> list[list[Any]]:
    """Sorted values, cut where a day is not the one after the day before."""
    runs: list[list[Any]] = []
    for value in values:
        follows = runs and isinstance(value, date) and value - runs[-1][-1] == timedelta(days=1)
        if follows:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


def _either(conditions: list[str]) -> str:
    """One of the conditions; in halves, for a long chain, as a long list, overflows Delta's stack."""
    if len(conditions) <= 2:
        return f"({' OR '.join(f'({each})' for each in conditions)})"
    half = len(conditions) // 2
    return f"({_either(conditions[:half])} OR {_either(conditions[half:])})"
