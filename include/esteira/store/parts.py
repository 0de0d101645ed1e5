"""Files of a Delta table that are written batch by batch, and that no version of it has until they are published."""

from __future__ import annotations

import io
import json
import os
import posixpath
import shutil
from collections.abc import Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema, TableFeatures
from deltalake.fs import DeltaStorageHandler
from deltalake.transaction import AddAction

from esteira.store import opened
from esteira.store.backend import Part

MAGIC = b"PAR1"  # with which a whole file ends


class ParquetPart:
    """A file of a day, open for writing: a row group for each batch, so that no more than one is in memory."""

    def __init__(self, place: str, day: date, schema: pa.Schema, number: int) -> None:
        self.place, self.day, self.schema = place, day, schema
        self.path = _new_path(day, number)
        self.rows = 0
        kept = pa.schema([field for field in schema if field.name != "day"])  # which the path says
        # Numbers repeat too seldom for a dictionary to be worth its time.
        texts = [field.name for field in kept if pa.types.is_string(field.type)]
        self._system = file_system(place)
        with opened.reaching(place):
            self._system.create_dir(posixpath.dirname(self.path), recursive=True)
            self._sink = self._system.open_output_stream(self.path)
            self._writer = pq.ParquetWriter(self._sink, kept, compression="snappy", use_dictionary=texts or False)

    def write(self, rows: pa.Table) -> None:
        """Add a row group."""
        if not len(rows):
            return
        with opened.reaching(self.place):
            self._writer.write_table(rows.drop_columns("day"), row_group_size=len(rows))
        self.rows += len(rows)

    def close(self) -> Part:
        """The file, with its end."""
        with opened.reaching(self.place):
            self._writer.close()
            self._sink.close()
            size = self._system.get_file_info(self.path).size
        return Part(self.day, self.path, size, self.rows, self.schema)

    def drop(self) -> None:
        """Close the file, and remove it."""
        with suppress(OSError, pa.ArrowException):  # what is left of it is nobody's, and goes with the next maintenance
            self._writer.close()
            self._sink.close()
            self._system.delete_file(self.path)


def _new_path(day: date, number: int) -> str:
    return f"day={day}/part-{number:05}-{uuid4()}-c000.snappy.parquet"


def link(place: str, part: Part, source: str, schema: pa.Schema) -> Part:
    """A part of another table as one of this: the same file where a file can have two names, else a copy."""
    path = _new_path(part.day, 0)
    with opened.reaching(place):
        if opened.is_local(place):
            target = Path(place, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.hardlink_to(Path(source, part.path))
            except OSError:  # not every file system can
                shutil.copyfile(Path(source, part.path), target)
        else:
            system = file_system(posixpath.dirname(posixpath.dirname(place)))
            below = len(posixpath.dirname(posixpath.dirname(place))) + 1
            system.copy_file(f"{source[below:]}/{part.path}", f"{place[below:]}/{path}")
    return Part(part.day, path, part.size, part.rows, schema)


def exists(place: str, part: Part) -> bool:
    """Whether the file of a part is there, whole: a machine that stops may leave a part of it."""
    with opened.reaching(place):
        found = file_system(place).get_file_info(part.path)
        is_whole = found.type == pafs.FileType.File and found.size == part.size
        if not is_whole or not opened.is_local(place):
            return bool(is_whole)
        with Path(place, part.path).open("rb") as file:  # the right size, and nothing but zeros
            file.seek(-len(MAGIC), os.SEEK_END)
            return bool(file.read() == MAGIC)


def rows_of(place: str, part: Part) -> Iterator[pa.Table]:
    """The rows of a part, a row group at a time, with the day that its path says."""
    with opened.reaching(place), pq.ParquetFile(file_system(place).open_input_file(part.path)) as file:
        for group in range(file.num_row_groups):
            rows = file.read_row_group(group)
            at = part.schema.get_field_index("day")
            days = pa.repeat(pa.scalar(part.day, part.schema.field(at).type), len(rows))
            yield rows.add_column(at, part.schema.field(at), days)


def remove(place: str, part: Part) -> None:
    """Remove a file that no table names; where it can't be reached, it goes with the next maintenance."""
    with suppress(OSError, pa.ArrowException):
        file_system(place).delete_file(part.path)


def added(part: Part) -> AddAction:
    """The entry of a part in a table's log."""
    stats = json.dumps({"numRecords": part.rows})
    return AddAction(part.path, part.size, {"day": str(part.day)}, 0, True, stats)


def schema_with(table: DeltaTable, parts: list[Part]) -> pa.Schema:
    """The table's schema, and after it the columns that only parts have."""
    known = pa.schema(table.schema().to_arrow())
    names = set(known.names)
    for part in parts:
        for field in part.schema:
            if field.name not in names:
                known = known.append(field.with_nullable(True))
                names.add(field.name)
    return known


def allow_times(table: DeltaTable, wanted: pa.Schema) -> None:
    """Let a table have times without a zone: one that was made without any, as for an empty day, can't be read once it has."""
    has_times = any(pa.types.is_timestamp(field.type) and field.type.tz is None for field in wanted)
    if has_times and "timestampNtz" not in (table.protocol().writer_features or ()):
        table.alter.add_feature(TableFeatures.TimestampWithoutTimezone, allow_protocol_versions_increase=True)
        table.update_incremental()


def widen(table: DeltaTable, wanted: pa.Schema) -> None:
    """Give a table the columns that it lacks."""
    known = set(pa.schema(table.schema().to_arrow()).names)
    lacking = pa.schema([field for field in wanted if field.name not in known])
    if len(lacking):
        table.alter.add_columns(Schema.from_arrow(lacking).fields)
        table.update_incremental()


class _Storage(DeltaStorageHandler):
    """deltalake's client, whose files take bytes only, and Arrow gives what it has."""

    def open_output_stream(self, path: str, metadata: dict[str, str] | None = None) -> pa.PythonFile:
        """A file to write to."""
        return pa.PythonFile(_Sink(self._handler.open_output_stream(path, metadata)), mode="w")

    def copy_file(self, src: str, dst: str) -> None:
        """Copy a file where it is; the handler below does not know the names by which Arrow's gives the two (deltalake 1.6)."""
        self._handler.copy_file(src, dst)


class _Sink(io.RawIOBase):
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, given: Any) -> int:
        self._stream.write(bytes(given))
        return len(given)

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def file_system(place: str) -> pafs.FileSystem:
    """The file system under a table's place: Arrow's own for a folder, deltalake's client for an object store."""
    if opened.is_local(place):
        with opened.reaching(place):
            Path(place).mkdir(parents=True, exist_ok=True)
        return pafs.SubTreeFileSystem(place, pafs.LocalFileSystem())
    return pafs.PyFileSystem(_Storage(place, opened.options(place)))
