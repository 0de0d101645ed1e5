"""Parquet files, and what they share with Delta tables: rows around some days, from Arrow."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from esteira.data.sources import objects
from esteira.data.sources.columns import once, plain
from esteira.data.sources.errors import require_reachable, sentence
from esteira.data.sources.files import File, FileReader, find, length, opened
from esteira.data.sources.reader import ALL, BATCH, Share
from esteira.data.sources.times import EARLIEST, LATEST
from esteira.errors import DataError, Unfinished
from esteira.spec import ModelSpec
from esteira.spec.sources import ParquetSource

HELD = (EARLIEST.date(), LATEST.date())
FIRST_DATE, LAST_DATE = (
    int((np.datetime64(day) - np.datetime64("1970-01-01")).astype(int)) for day in ("0001-01-01", "9999-12-31")
)
# A scan of more than a row group reads ahead as far as the file goes, whatever it is told; so does buffering.
FRUGAL: dict[str, Any] = {
    "use_threads": False,
    "fragment_scan_options": pads.ParquetFragmentScanOptions(pre_buffer=False),
}
MAGIC = b"PAR1"  # a whole file starts and ends with it


@dataclass(frozen=True)
class ParquetReader(FileReader):
    """Reads parquet files."""

    source: ParquetSource
    share: Share = ALL

    def read(self, file: File, first: date, last: date) -> Iterator[pd.DataFrame]:
        """The rows of a file around the days, some at a time."""
        with _opened(file, self.spec, first, last) as (dataset, wanted):
            for rows in frames(dataset, wanted, self.share):
                yield plain(rows, file.path, self.spec)

    def shared(self, share: Share) -> ParquetReader:
        """A reader of other row groups than those of the other shares."""
        return replace(self, share=share)

    def size(self, first: date, last: date) -> int:
        """The bytes of the row groups around the days, before they were compressed."""
        found = 0
        for file in find(self.source, self.spec, first, last):
            with _opened(file, self.spec, first, last) as (dataset, wanted):
                found += weight(dataset, wanted)
        return found

    def header(self, path: str, handle: BinaryIO) -> list[str]:
        """The columns of a file."""
        try:
            return list(pq.read_schema(handle).names)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"{path}: is not a whole parquet file: {sentence(error)[:200]}") from None


@contextmanager
def _opened(
    file: File, spec: ModelSpec, first: date, last: date
) -> Iterator[tuple[pads.Dataset, pads.Expression | None]]:
    """A file, and which of its rows are around the days; all of them where it is a day's own.

    What fails within is told by a DataError, or Unfinished if the file is cut off.
    """
    with opened(file) as handle:
        _require_end(file.path, handle)
        try:
            once(
                pd.DataFrame(columns=pq.read_schema(handle).names), file.path
            )  # reading would fail in words about schemas
            dataset = _dataset(file.path)
            if file.day is not None and first <= file.day <= last:
                yield dataset, None
            else:
                yield dataset, around(dataset.schema, spec, first, last, beside=file.day is not None)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{file.path}: a text in it is no UTF-8 ({error}); write it as binary, or deliver it again"
            ) from None
        except (pa.ArrowException, OSError) as error:
            require_reachable(file.path, error)
            raise DataError(
                f"{file.path}: is not a whole parquet file: {sentence(error)[:200]}; deliver it again"
            ) from None


def _dataset(path: str) -> pads.Dataset:
    if objects.is_object(path):
        return pads.dataset(objects.key(path), filesystem=objects.file_system(), format="parquet")
    return pads.dataset(os.path.realpath(path), format="parquet")


def _require_end(path: str, handle: BinaryIO) -> None:
    """Refuse a file that starts as parquet, and has no end: it may get one yet."""
    size, start = length(handle), handle.read(4)
    handle.seek(max(size - 4, 0))
    end = handle.read(4)
    handle.seek(0)
    if not size or (start == MAGIC and (end != MAGIC or size < 12)):
        raise Unfinished(
            f"{path}: is not a whole parquet file: it has no end: it is still being written, or was cut off; deliver it again"
        )


def around(
    schema: pa.Schema, spec: ModelSpec, first: date, last: date, *, beside: bool = False
) -> pads.Expression | None:
    """Which rows are around the days, where the time is a date or a time: the others are not even read (a day of slack: zones).

    Those without a time that a clock holds are read, too: they are no day's own; but not of a file of a day `beside`.
    """
    column = spec.time.column
    kind = schema.field(column).type if schema.names.count(column) == 1 else None
    if kind is None or not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return None
    at = pads.field(column)
    exact = beside and not spec.time.hour and getattr(kind, "tz", None) is None
    bounds = (first, last + timedelta(days=1)) if exact else edges(first, last)
    low, high, earliest, latest = (pa.scalar(day).cast(kind) for day in (*bounds, *HELD))
    wanted = (at >= low) & (at < high)
    return wanted if beside else wanted | at.is_null() | (at < earliest) | (at >= latest)


def frames(dataset: pads.Dataset, wanted: pads.Expression | None, share: Share) -> Iterator[pd.DataFrame]:
    """The rows of a dataset, or of a share of its row groups, some at a time; one frame without rows where there are none."""
    empty = True
    for group in _groups(dataset, wanted, share):
        for batch in group.to_batches(schema=dataset.schema, filter=wanted, batch_size=BATCH, **FRUGAL):
            if len(batch):
                empty = False
                yield as_frame(pa.Table.from_batches([batch]))
    if empty:
        yield as_frame(dataset.schema.empty_table())


def weight(dataset: pads.Dataset, wanted: pads.Expression | None) -> int:
    """The bytes of the row groups that may have rows that are wanted, before they were compressed."""
    return sum(group.row_groups[0].total_byte_size for group in _groups(dataset, wanted, ALL))


def _groups(dataset: pads.Dataset, wanted: pads.Expression | None, share: Share) -> Iterator[pads.ParquetFileFragment]:
    for fragment in dataset.get_fragments(wanted):
        first = zlib.crc32(fragment.path.encode())  # so that files of one group each are not all the first share's
        for number, group in enumerate(fragment.split_by_row_group(wanted, dataset.schema)):
            if (first + number) % share.of == share.number:
                yield group


def edges(first: date, last: date) -> tuple[date, date]:
    """The first day to read and the one after the last, with a day of slack."""
    return first - timedelta(days=1), last + timedelta(days=2)


def as_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as pandas has it; whole numbers stay whole where some are empty: a key beyond 2^53 would lose digits."""
    # By Arrow's types: what pandas noted beside them may be of another table, and an index is columns to the file.
    rows = pd.DataFrame(_showable(table).to_pandas(integer_object_nulls=True, ignore_metadata=True, split_blocks=True))
    unnamed = [name for name in rows.columns if re.fullmatch(r"__index_level_\d+__", str(name))]
    rows = rows.drop(columns=unnamed) if unnamed else rows
    if len(set(table.schema.names)) < len(table.schema.names):
        return rows
    # A column of numbers that are all empty is one of numbers still.
    numbers = [
        field.name for field in table.schema if pa.types.is_integer(field.type) or pa.types.is_decimal(field.type)
    ]
    empty = [name for name in numbers if len(rows) and rows[name].isna().all()]
    return rows.astype(dict.fromkeys(empty, "float64")) if empty else rows


def _showable(table: pa.Table) -> pa.Table:
    """The table; dates of years that Python has none of are text, for one of them would fail the others; halves of floats are floats."""
    for index, field in enumerate(table.schema):
        if pa.types.is_float16(field.type):  # which no Delta table has
            table = table.set_column(index, field.name, table.column(index).cast(pa.float32()))
        if not pa.types.is_date(field.type):
            continue
        edges = pc.min_max(table.column(index).cast(pa.int64() if pa.types.is_date64(field.type) else pa.int32()))
        scale = 86_400_000 if pa.types.is_date64(field.type) else 1
        low, high = edges["min"].as_py(), edges["max"].as_py()
        if low is not None and not (FIRST_DATE * scale <= low <= high < LAST_DATE * scale):
            table = table.set_column(index, field.name, table.column(index).cast(pa.string()))
    return table
