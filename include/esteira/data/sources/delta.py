"""A Delta table, read right or refused by name: what its writer may use is on a list, and each entry is tested."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date

import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, DeltaProtocolError, TableNotFoundError

from esteira.data.environment import skip_instance_metadata
from esteira.data.sources.columns import plain
from esteira.data.sources.errors import sentence
from esteira.data.sources.parquet import HELD, around, as_frame, edges, frames, weight
from esteira.data.sources.reader import ALL, Part, Reader, Share
from esteira.errors import DataError, OutOfReach
from esteira.spec import ModelSpec
from esteira.spec.sources import DeltaSource

PLAIN = frozenset(["timestampNtz"])  # features that a reader need not know of
MAPPED = PLAIN | {"columnMapping", "deletionVectors"}  # those that deltalake's own engine reads, and Arrow's does not
MODES = ("none", "name")  # of column mapping; by id the engine gives empty columns
FIXES = {
    "columnMapping": "write it anew with delta.columnMapping.mode = name, or none",
    "deletionVectors": "REORG TABLE … APPLY (PURGE), and set delta.enableDeletionVectors = false",
}


@dataclass(frozen=True)
class DeltaReader(Reader):
    """Reads a table."""

    source: DeltaSource
    share: Share = ALL

    @property
    def path(self) -> str:
        """Where the table is: an address, or a folder, which starts at the model's."""
        return self.source.path if "://" in self.source.path else str(self.spec.folder / self.source.path)

    def parts(self, first: date, last: date) -> Iterator[Part]:
        """The rows around the days."""
        for rows in _read(self.path, self.spec, first, last, self.share):
            yield plain(rows, self.path, self.spec), (self.path, None)

    def shared(self, share: Share) -> DeltaReader | None:
        """A reader of other row groups than those of the other shares, where the table can be read file by file."""
        return replace(self, share=share) if _is_plain(self.path, _opened(self.path)) else None

    def state(self, first: date, last: date) -> str:
        """The table, and its version."""
        table = _opened(self.path)
        return f"{table.metadata().id} {table.version()}"

    def size(self, first: date, last: date) -> int:
        """The bytes of the row groups around the days, before they were compressed."""
        table = _opened(self.path)
        if not _is_plain(self.path, table):
            return 0
        dataset = table.to_pyarrow_dataset()
        return weight(dataset, around(dataset.schema, self.spec, first, last))

    def columns(self) -> tuple[str, list[str]]:
        """The table and its columns. Raises DataError where there is no table."""
        return self.path, list(pa.schema(_opened(self.path).schema().to_arrow()).names)

    def last_day(self) -> date | None:
        """The last day of its rows."""
        return self.last_day_of_rows()


def _read(path: str, spec: ModelSpec, first: date, last: date, share: Share) -> Iterator[pd.DataFrame]:
    """The rows around the days. Raises DataError where there is no table, or one that can't be read right."""
    table = _opened(path)
    try:
        if _is_plain(path, table):
            dataset = table.to_pyarrow_dataset()
            yield from frames(dataset, around(dataset.schema, spec, first, last), share)
        else:
            yield from (as_frame(rows) for rows in _scanned(table, spec, first, last))
    except (DeltaError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: the Delta table can't be read: {sentence(error)[:300]}; restore it, or write it anew"
        ) from None
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: a file of the Delta table is gone: {sentence(error)[:300]}; restore it, or write the table anew"
        ) from None
    except OSError as error:
        raise _out_of_reach(path, error) from None


def _opened(path: str) -> DeltaTable:
    if "://" in path:
        skip_instance_metadata()
    else:
        _require_folder(path)
    try:
        return DeltaTable(path)
    except TableNotFoundError:
        raise DataError(f"{path}: there is no Delta table; make it, or correct source.path in model.yaml") from None
    except (DeltaProtocolError, DeltaError) as error:
        why = sentence(error)[:300]
        raise DataError(
            f"{path}: the Delta table can't be opened: {why}. Its log lacks files, or it uses a feature that is not read here "
            f"(read are: {', '.join(sorted(MAPPED))}): restore _delta_log, or write the table anew without it"
        ) from None
    except OSError as error:
        raise _out_of_reach(path, error) from None


def _out_of_reach(path: str, error: OSError) -> OutOfReach:
    why = sentence(error)[:300]
    return OutOfReach(
        f"{path}: the Delta table can't be reached: {why}; see that its storage is there, and run the task again"
    )


def _require_folder(path: str) -> None:
    """Where the table's folder is gone, its volume may be; a folder without a log is no table, and deltalake says so."""
    try:
        os.stat(path)  # noqa: PTH116
    except OSError as error:
        why = (
            "there is no Delta table; make it"
            if isinstance(error, FileNotFoundError)
            else f"can't be read: {error.strerror}"
        )
        raise OutOfReach(f"{path}: {why}, mount its volume, or correct source.path in model.yaml") from None


def _is_plain(path: str, table: DeltaTable) -> bool:
    """Whether the table can be read file by file. Raises DataError where it can't be read right at all."""
    protocol, mode = table.protocol(), table.metadata().configuration.get("delta.columnMapping.mode") or "none"
    used = set(protocol.reader_features or ()) if protocol.min_reader_version >= 3 else set()
    unknown = sorted(used - MAPPED)
    if protocol.min_reader_version > 3 or unknown:
        what = f"the feature {unknown[0]}" if unknown else f"the reader version {protocol.min_reader_version}"
        raise _refused(path, what, unknown[0] if unknown else "")
    if mode not in MODES:
        raise _refused(path, f"delta.columnMapping.mode = {mode}", "columnMapping")
    return mode == "none" and used <= PLAIN


def _refused(path: str, what: str, feature: str) -> DataError:
    fix = FIXES.get(feature, f"write it anew without it (ALTER TABLE … DROP FEATURE {feature or '…'})")
    return DataError(
        f"{path}: the Delta table uses {what}, which is not read here (read are: {', '.join(sorted(MAPPED))}); {fix}"
    )


def _scanned(table: DeltaTable, spec: ModelSpec, first: date, last: date) -> Iterator[pa.Table]:
    """The rows around the days by deltalake's own engine, which knows other names of columns and rows that are deleted."""
    column, schema = spec.time.column, pa.schema(table.schema().to_arrow())
    kind = schema.field(column).type if schema.names.count(column) == 1 else None
    wanted = None
    if kind is not None and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        low, high = edges(first, last)
        name = '"' + column.replace('"', '""') + '"'
        wanted = f"({name} >= '{low}' AND {name} < '{high}') OR {name} IS NULL OR {name} < '{HELD[0]}' OR {name} >= '{HELD[1]}'"
    found = pa.RecordBatchReader.from_stream(table.scan(predicate=wanted))
    plain_texts = pa.schema([_plain_text(field) for field in found.schema])
    empty = True
    for batch in found:
        if len(batch):
            empty = False
            yield pa.Table.from_batches([batch]).cast(plain_texts)
    if empty:
        yield plain_texts.empty_table()


def _plain_text(field: pa.Field) -> pa.Field:
    return field.with_type(pa.string()) if pa.types.is_string_view(field.type) else field
