"""Delta tables as this process has them open: their logs are followed, and what can't change is not read again."""

from __future__ import annotations

import errno
import json
import os
import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from cachetools import LRUCache
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from esteira.data import skip_instance_metadata
from esteira.data.sources.reader import BATCH
from esteira.errors import Conflict, Damaged, OutOfReach
from esteira.store.backend import Filter

MENDS = {
    errno.ENOSPC: "free space there",
    errno.EDQUOT: "free space there, or ask for more",
    errno.EROFS: "mount it writable",
    errno.EACCES: "let the user that runs the tasks read and write there",
    errno.EPERM: "let the user that runs the tasks read and write there",
}
OS_ERROR = r"(?:os error |Os \{ code: )(\d+)"
# Each version that an opened table follows makes it slower to ask and to write (deltalake 1.6: 0.9 ms to list its files
# as it is opened, 12 ms after 400 versions); reading the log anew, from its last checkpoint, takes 3 to 13 ms.
FOLLOWED = 8
MANY = 200  # marks, from which on reading all of them takes less time than asking for each
# A file of a table never changes, so a small one is kept as it was read: a check looks at the same days as the one before.
SMALL = 1 << 20  # bytes, on disk
KEPT = 128 << 20  # bytes of memory, for all of them
PATIENCE = {"timeout": "60s", "connect_timeout": "10s", "max_retries": "6", "retry_timeout": "60s"}
UNBUFFERED = pads.ParquetFragmentScanOptions(pre_buffer=False)
LARGE = KEPT // 8  # bytes of memory: a file that compresses well may be this much and more


@dataclass(frozen=True)
class File:
    """A file of a table: its path in the log, its partition's values, and its bytes."""

    path: str
    partition: Mapping[str, Any]
    size: int


@dataclass
class Opened:
    """A table that this process has open. `log` tells its log from that of a table that was made anew in its place."""

    table: DeltaTable
    log: int
    since: int
    marks: dict[str, int | None] = field(default_factory=dict)
    marks_at: int = -1
    files: pa.Table | None = None
    files_at: int = -1
    sizes: dict[Any, tuple[int, int]] = field(default_factory=dict)
    sizes_at: int = -1


_opened: dict[tuple[int, int, str], Opened] = {}  # by process and thread: a table is no one else's to change
_files: LRUCache[str, pa.Table] = LRUCache(KEPT, getsizeof=lambda table: table.nbytes + 1)
_files_lock = threading.Lock()


def options(place: str) -> dict[str, str] | None:
    """How deltalake's client is to reach a place: what fails for a moment is asked again, and the rest is for the task's retries."""
    if is_local(place):
        return None
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")  # which says that it is meant
    return PATIENCE | ({"allow_http": "true"} if plain else {})


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Say which table could not be reached, why, and how to mend it, where the storage fails. Raises Conflict where another writer was faster."""
    try:
        yield
    except OutOfReach:
        raise
    except CommitFailedError as error:
        raise Conflict(f"another writer of {place} was faster: {_plain(error)}") from error
    except (DeltaError, OSError) as error:
        found = re.search(OS_ERROR, str(error))
        if isinstance(error, TableNotFoundError) and not found:  # and it is not that its folder can't be made
            raise
        number = int(found[1]) if found else getattr(error, "errno", None) or 0
        if not _is_of_storage(error) or number == errno.ENOENT:
            raise  # not the storage's fault, or nothing that comes back by itself
        mend = MENDS.get(number, "see that it is there")
        raise OutOfReach(
            f"the table at {place} is out of reach: {_plain(error)}. To mend it: {mend}; nothing was half written, and the task can "
            "run again"
        ) from error


def _is_of_storage(error: Exception) -> bool:
    return isinstance(error, OSError) or bool(re.search(rf"{OS_ERROR}|Generic (?!delta)\w+ error", str(error)))


def _plain(error: Exception) -> str:
    """What the storage says, in a line of bounded length: clients of clouds draw trees of causes, in colour."""
    said = re.split(r"stack backtrace|\n\s*0: ", str(error))[0]  # where Rust was says nothing to anybody
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m|[↳├└│─]", " ", said).split())
    return text if len(text) <= 500 else f"{text[:500]}…"


def opened(place: str) -> DeltaTable | None:
    """The table at `place` as it is now; None where there is none."""
    if not is_local(place):
        skip_instance_metadata()
    found = _current(place)
    return None if found is None else found.table


def forget(place: str) -> None:
    """Open the table anew when it is asked for next."""
    _opened.pop(_key(place), None)


def _key(place: str) -> tuple[int, int, str]:
    return os.getpid(), threading.get_ident(), place


def _current(place: str) -> Opened | None:
    key, log = _key(place), _log_of(place)
    if log is None:  # never made, or gone since it was opened
        _opened.pop(key, None)
        return None
    known = _opened.get(key)
    try:
        if known is None or known.log != log or known.table.version() - known.since >= FOLLOWED:
            table = DeltaTable(place, storage_options=options(place))
            marks = (known.marks, known.marks_at) if known is not None and known.log == log else ({}, -1)
            known = _opened[key] = Opened(table, log, table.version(), *marks)
        elif _has_moved(place, known.table.version()):
            known.table.update_incremental()
    except TableNotFoundError:
        _opened.pop(key, None)
        return None
    except (DeltaError, OSError) as error:
        _opened.pop(key, None)
        if isinstance(error, DeltaError) and not _is_of_storage(error):
            last = max(Path(place, "_delta_log").glob("*.json"), default=None) if is_local(place) else None
            raise Damaged(
                f"the log of the table at {place} can't be read: {_plain(error)}. To mend it: restore the table from a backup, or the file of its "
                f"log that is damaged{f' (the newest is {last.name})' if last else ''}"
            ) from error
        raise
    return known


def is_local(place: str) -> bool:
    """Whether a table is a folder of this machine's."""
    return "://" not in place


def _log_of(place: str) -> int | None:
    """What tells a table's log from another's: a folder's inode (0 for an object store); None where there is none."""
    if not is_local(place):
        return 0
    try:
        return os.stat(f"{place}/_delta_log").st_ino  # noqa: PTH116  # asked for at every read: Path takes five times as long
    except (FileNotFoundError, NotADirectoryError):
        return None


def _has_moved(place: str, version: int) -> bool:
    """Whether the table has a version after this one. A log has an entry for each version, and none is ever removed."""
    return not is_local(place) or os.path.exists(f"{place}/_delta_log/{version + 1:020}.json")  # noqa: PTH110  # as above


# ------------------------------------------------------------------------------------------------------------- marks


def marks(place: str, names: Iterable[str]) -> dict[str, int | None]:
    """The mark (Delta's application transaction) under which each name was last written; None for one that never was."""
    found = _current(place)
    if found is None:
        return dict.fromkeys(names)
    if found.marks_at != found.table.version():  # another process has written since: any of them may be another
        found.marks, found.marks_at = {}, found.table.version()
    asked = list(names)
    unknown = [name for name in asked if name not in found.marks]
    every = _every_mark(place, found.table) if len(unknown) > MANY else None
    for name in unknown:
        found.marks[name] = found.table.transaction_version(name) if every is None else every.get(name)
    return {name: found.marks[name] for name in asked}


def _every_mark(place: str, table: DeltaTable) -> dict[str, int] | None:
    """All marks of a table, from its log; None where it is not of this machine, or not as deltalake writes it.

    deltalake tells of one name at a time, and looks through all of them each time: years of days would take minutes.
    """
    if not is_local(place):
        return None
    log, last = Path(place, "_delta_log"), -1
    found: dict[str, int] = {}
    try:
        pointer = log / "_last_checkpoint"
        if pointer.exists():
            last = int(json.loads(pointer.read_text(encoding="utf-8"))["version"])
            kept = pq.read_table(log / f"{last:020}.checkpoint.parquet", columns=["txn"])["txn"].drop_null()
            found = {each["appId"]: each["version"] for each in kept.to_pylist() if each["appId"] is not None}
        for version in range(last + 1, table.version() + 1):
            for line in (log / f"{version:020}.json").read_text(encoding="utf-8").splitlines():
                if line.startswith('{"txn"'):
                    each = json.loads(line)["txn"]
                    found[each["appId"]] = each["version"]
    except (OSError, ValueError, LookupError, pa.ArrowInvalid):
        return None
    return found if last <= table.version() else None


def remember(place: str, written: Mapping[str, int], before: int) -> None:
    """Note the marks of a commit of this thread's, made when the table was at version `before`; asking the log takes longer."""
    found = _opened.get(_key(place))
    if found is not None and found.marks_at == before and found.table.version() == before + 1:
        found.marks.update(written)
        found.marks_at = before + 1


# -------------------------------------------------------------------------------------------------------------- rows


def scan(place: str, table: DeltaTable, columns: list[str] | None, filters: list[Filter]) -> pa.Table:
    """The rows of the table at `place` that pass every filter (=, >=, <=)."""
    with reaching(place):
        files = _files_of(place, table, filters)
        if files is None:
            return _streamed(place, table, columns, filters)
        schema = pa.schema(table.schema().to_arrow())
        parts = [_read(place, file, schema) for file in files]
    rows = pa.concat_tables(parts) if parts else schema.empty_table()
    late = [each for each in filters if each[0] not in table.metadata().partition_columns]
    asked = _with(columns, late)
    return _kept(rows if asked is None else rows.select(asked), late, columns)


def batches(place: str, table: DeltaTable, columns: list[str] | None, filters: list[Filter]) -> Iterator[pa.Table]:
    """The rows of the table that pass every filter, file by file; of a large file a row group at a time."""
    with reaching(place):
        files = _files_of(place, table, filters, large=True)
        if files is None:
            yield from _dataset_batches(table, columns, filters)
            return
        schema = pa.schema(table.schema().to_arrow())
        keys = table.metadata().partition_columns
        late = [each for each in filters if each[0] not in keys]
        for file in files:
            for rows in _pieces(place, file, schema, _with(columns, late)):
                yield _kept(rows, late, columns)


def _with(columns: list[str] | None, late: list[Filter]) -> list[str] | None:
    """The columns to read: those of the filters, too, by which rows are kept once they are read."""
    return None if columns is None else list(dict.fromkeys([*columns, *(name for name, _, _ in late)]))


def _kept(rows: pa.Table, late: list[Filter], columns: list[str] | None) -> pa.Table:
    """Those of the rows that pass the filters, and of them the columns."""
    found = rows.filter(pq.filters_to_expression(late)) if late else rows
    return found if columns is None else found.select(columns)


def _pieces(place: str, file: File, schema: pa.Schema, columns: list[str] | None) -> Iterator[pa.Table]:
    """A file's rows with the columns that the table has; a small one is read whole, and kept."""
    if file.size <= SMALL:
        found = _read(place, file, schema)
        yield found if columns is None else found.select(columns)
        return
    fields = list(schema) if columns is None else [schema.field(name) for name in columns]
    source = pq.ParquetFile(f"{place}/{unquote(file.path)}", pre_buffer=False)
    names = [field.name for field in fields if field.name in source.schema_arrow.names]
    for group in range(source.num_row_groups):
        count = source.metadata.row_group(group).num_rows
        kept = source.read_row_group(group, columns=names, use_threads=False)
        parts = [_column(kept, field, file.partition, count) for field in fields]
        yield pa.table(parts, schema=pa.schema(fields))


def _dataset_batches(table: DeltaTable, columns: list[str] | None, filters: list[Filter]) -> Iterator[pa.Table]:
    dataset, condition, late = _dataset(table, filters, None)
    options = {"batch_size": BATCH, "use_threads": False, "fragment_scan_options": UNBUFFERED}
    for fragment in dataset.get_fragments(condition):
        for group in fragment.split_by_row_group(condition, dataset.schema):  # a scan of more reads ahead without end
            batches = group.to_batches(schema=dataset.schema, columns=_with(columns, late), filter=condition, **options)
            for batch in batches:
                yield _kept(pa.Table.from_batches([batch]), late, columns)


def _dataset(
    table: DeltaTable, filters: list[Filter], system: pafs.FileSystem | None
) -> tuple[pads.Dataset, pads.Expression | None, list[Filter]]:
    """The table for pyarrow's scanner, what the scanner is to compare, and the filters that are left for after it."""
    # Pruning by day while the log is read spares a fragment for each of the other days' files.
    days = [(name, sign, str(value)) for name, sign, value in filters if isinstance(value, date)]
    dataset = table.to_pyarrow_dataset(filesystem=system, file_pruning_predicate=days or None)
    # What Delta merges or rewrites it writes as string views, which the scanner can't compare with the bounds of a file.
    late = [each for each in filters if isinstance(each[2], str)]
    early = [each for each in filters if each not in late]
    return dataset, pq.filters_to_expression(early) if early else None, late


def _files_of(place: str, table: DeltaTable, filters: list[Filter], *, large: bool = False) -> list[File] | None:
    """The table's files whose partition passes the filters; None where one is not of this machine's, or, unless `large`, is large."""
    if not is_local(place):
        return None
    keys = table.metadata().partition_columns
    asked = [(f"partition.{name}", sign, value) for name, sign, value in filters if name in keys]
    every = _listed(place, table)
    chosen = (every.filter(pq.filters_to_expression(asked)) if asked and len(every) else every).to_pydict()
    if not large and any(size > SMALL for size in chosen["size_bytes"]):
        return None
    return [
        File(path, {name: chosen[f"partition.{name}"][number] for name in keys}, chosen["size_bytes"][number])
        for number, path in enumerate(chosen["path"])
    ]


def paths(place: str, table: DeltaTable, value: object = None) -> set[str]:
    """The files of the table, or of a value of the column by which it is partitioned, as they were written."""
    every = _listed(place, table)
    if value is not None and len(every):
        every = every.filter(pads.field(f"partition.{table.metadata().partition_columns[0]}") == value)
    return {unquote(path) for path in every["path"].to_pylist()} if len(every) else set()


def partitions(place: str, table: DeltaTable) -> set[Any]:
    """The values of the (only) column by which a table is partitioned, of which it has rows."""
    every = _listed(place, table)
    if not len(every):
        return set()
    name = table.metadata().partition_columns[0]
    return set(every.filter(pads.field("num_records") > 0)[f"partition.{name}"].to_pylist())


def sizes(place: str, table: DeltaTable) -> dict[Any, tuple[int, int]]:
    """By the value of the (only) column by which a table is partitioned, or None where by none, how many rows and bytes it has."""
    known = _opened.get(_key(place))
    if known is None or known.table is not table:
        return _sizes(place, table)
    if known.sizes_at != table.version():
        known.sizes, known.sizes_at = _sizes(place, table), table.version()
    return dict(known.sizes)


def _sizes(place: str, table: DeltaTable) -> dict[Any, tuple[int, int]]:
    every = _listed(place, table)
    keys = table.metadata().partition_columns
    values = every[f"partition.{keys[0]}"].to_pylist() if keys and len(every) else [None] * len(every)
    found: dict[Any, tuple[int, int]] = {}
    for value, rows, size in zip(
        values, every["num_records"].to_pylist(), every["size_bytes"].to_pylist(), strict=True
    ):
        known = found.get(value, (0, 0))
        found[value] = known[0] + (rows or 0), known[1] + size
    return {value: (rows, size) for value, (rows, size) in found.items() if rows}


def _listed(place: str, table: DeltaTable) -> pa.Table:
    """The table's files, listed once for each version of it that is opened."""
    known = _opened.get(_key(place))
    if known is None or known.table is not table:  # an older version of it
        return pa.table(table.get_add_actions(flatten=True))
    if known.files_at != table.version():
        known.files, known.files_at = pa.table(table.get_add_actions(flatten=True)), table.version()
    return known.files


def _read(place: str, file: File, schema: pa.Schema) -> pa.Table:
    path = f"{place}/{unquote(file.path)}"  # a log writes paths as parts of an address
    with _files_lock:
        known = _files.get(path)
    if known is None or known.schema != schema:  # a column was added to the table since
        # A quarter of the time that a dataset's fragment takes, which matters where a check reads two hundred.
        try:
            kept = pq.ParquetFile(path, pre_buffer=False).read(use_threads=False)
        except pa.ArrowInvalid as error:
            raise Damaged(
                f"{path} can't be read: {_plain(error)}. To mend it: restore that file, or its table, from a backup"
            ) from error
        known = pa.table([_column(kept, field, file.partition, len(kept)) for field in schema], schema=schema)
        if known.nbytes <= LARGE:
            with _files_lock:
                _files[path] = known
    return known


def _column(kept: pa.Table, field: pa.Field, partition: Mapping[str, Any], rows: int) -> pa.ChunkedArray | pa.Array:
    """A column as the table has it now: its partition's, of another type, or younger than the file."""
    if field.name in partition:
        return pa.repeat(pa.scalar(partition[field.name], field.type), rows)
    if field.name not in kept.schema.names:
        return pa.nulls(rows, field.type)
    found = kept[field.name]
    return found if found.type == field.type else found.cast(field.type)


def _streamed(place: str, table: DeltaTable, columns: list[str] | None, filters: list[Filter]) -> pa.Table:
    # Arrow's own file system: the default asks through Python for every read.
    folder = pafs.SubTreeFileSystem(place, pafs.LocalFileSystem()) if is_local(place) else None
    dataset, condition, late = _dataset(table, filters, folder)
    if not late:
        return dataset.to_table(columns=columns, filter=condition)
    # Batch by batch, so that what is compared late is not all in memory before.
    batches = dataset.to_batches(columns=_with(columns, late), filter=condition)
    parts = [_kept(pa.Table.from_batches([batch]), late, columns) for batch in batches]
    return pa.concat_tables(parts) if parts else _kept(dataset.schema.empty_table(), [], columns)
