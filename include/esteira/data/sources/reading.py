"""The rows that a source holds for some days, each with its time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from datetime import date, timedelta
from typing import assert_never

import numpy as np
import pandas as pd

from esteira.data.kinds import EXACT, SHORT
from esteira.data.sources.columns import named
from esteira.data.sources.csv import CsvReader
from esteira.data.sources.delta import DeltaReader
from esteira.data.sources.files import require_beside
from esteira.data.sources.parquet import ParquetReader
from esteira.data.sources.python import PythonReader
from esteira.data.sources.reader import ALL, BATCH, Reader, Share, in_batches
from esteira.data.sources.sql import SqlReader
from esteira.data.sources.times import event_time, has_offset
from esteira.errors import DataError
from esteira.spec import ModelSpec, canonical
from esteira.spec.sources import CsvSource, DeltaSource, ParquetSource, PythonSource, Source, SqlSource


def read(spec: ModelSpec, first: date, last: date, files: set[date] | None = None) -> pd.DataFrame:
    """The source's rows of the days `first` to `last`, both included, with their `event_time` and `day`.

    With them come rows of the day before, where the file named for `first` has any, and of the day after, where that of `last` has:
    those days may have been read without.

    A row whose time can't be read has no day of its own: it is kept under its file's day, or `first`, with an empty
    `event_time`; one of a file named for a day, whose time is far from that day, is kept under the file's. Validation puts
    both into quarantine. The days of the files that were read are added to `files`. Raises DataError where the source lacks a
    column that the model needs, or can't be read.
    """
    parts = [*_parts(spec, first, last, files=files)]
    if not parts:
        return pd.DataFrame({"event_time": pd.Series(dtype="datetime64[us]"), "day": pd.Series(dtype="datetime64[us]")})
    return _joined(parts)


def batches(
    spec: ModelSpec,
    first: date,
    last: date,
    share: Share = ALL,
    see: Callable[[pd.DataFrame], None] | None = None,
    files: set[date] | None = None,
) -> Iterator[pd.DataFrame]:
    """The rows that read() gives, some at a time: BATCH at most, and all at once where there are no more than those.

    A share of them has other row groups of parquet than the other shares, or else other keys; of a source that each share reads
    whole, `see` is shown all rows.
    """
    yield from in_batches(
        _parts(spec, first, last, share, see, files),
        BATCH,
        lambda rows, start: rows.iloc[start : start + BATCH],
        _joined,
    )


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    if len(parts) == 1:
        return parts[0].reset_index(drop=True)
    rounded = set[Hashable]().union(*map(_beyond_floats, parts))  # where another part has floats
    exact = [part.astype({name: object for name in rounded if name in part}) for part in parts] if rounded else parts
    return pd.concat(exact, ignore_index=True)


def _beyond_floats(rows: pd.DataFrame) -> set[Hashable]:
    """The columns of whole numbers of which some have more digits than a float."""
    whole = [name for name, kind in rows.dtypes.items() if isinstance(kind, np.dtype) and kind.kind in "iu"]
    return {name for name in whole if len(rows) and max(-int(rows[name].min()), int(rows[name].max())) > EXACT}


def _parts(
    spec: ModelSpec,
    first: date,
    last: date,
    share: Share = ALL,
    see: Callable[[pd.DataFrame], None] | None = None,
    files: set[date] | None = None,
) -> Iterator[pd.DataFrame]:
    """What the source gives, each with its time, that is of the days."""
    left_out: set[date | None] = set()
    whole = reader_of(spec.source, spec)
    reader = whole if share == ALL else whole.shared(share)
    offsets: dict[str, bool] = {}
    for rows, of in (reader or whole).parts(first, last):
        try:
            timed = _timed(spec, rows, of, first, last)
            _require_one_kind_of_times(spec, rows, of[0], offsets)
            if reader is None:
                see(timed) if see else None
                timed = timed[_mine(spec, timed, share)]
        except DataError as error:
            require_beside(of[1], first, last, error)
            left_out.add(of[1])
            continue
        if files is not None and of[1] is not None:
            files.add(of[1])
        if len(timed.columns):
            yield timed
    if files is not None:
        files -= left_out


def _timed(spec: ModelSpec, rows: pd.DataFrame, of: tuple[str, date | None], first: date, last: date) -> pd.DataFrame:
    """The rows of one file (or query) that are of the days."""
    where, file_day = of
    if rows.columns.empty:
        return rows
    missing = [name for name in spec.source_columns if name not in rows.columns]
    if missing:
        raise DataError(
            f"model {spec.name}: {where} has no column {', '.join(map(repr, missing))}; it has: "
            f"{_columns_there(spec, rows)}{_separator_hint(rows, missing)}. Correct model.yaml, or the source"
        )
    rows = rows if rows.index.is_unique else rows.reset_index(drop=True)  # as of frames of a source.py that were joined
    moments = event_time(spec, rows)
    event_days = moments.dt.normalize()
    wanted = event_days.between(pd.Timestamp(first), pd.Timestamp(last)) | moments.isna()
    if file_day is not None:
        own = first <= file_day <= last
        far = (event_days - pd.Timestamp(file_day)).abs() > pd.Timedelta(days=1)
        event_days = event_days.mask(far, pd.Timestamp(file_day)).fillna(pd.Timestamp(file_day))
        edges = [(first, first - timedelta(days=1)), (last, last + timedelta(days=1))]
        beside = event_days.isin(pd.to_datetime([day for edge, day in edges if edge == file_day]))
        wanted = ((wanted | beside) & ~(far | moments.isna())) | ((far | moments.isna()) & own)
    chosen = rows if wanted.all() else rows.loc[wanted]
    times = pd.DataFrame({"event_time": moments, "day": event_days.fillna(pd.Timestamp(first))}).loc[chosen.index]
    own_names = [name for name in times.columns if name in rows.columns]
    timed: pd.DataFrame = pd.concat([chosen.drop(columns=own_names) if own_names else chosen, times], axis=1)
    return timed


def _require_one_kind_of_times(spec: ModelSpec, rows: pd.DataFrame, where: str, offsets: dict[str, bool]) -> None:
    """That of rows of one file, which are read bit by bit, all or none have times with an offset."""
    has = None if rows.columns.empty else has_offset(spec, rows)
    if has is not None and offsets.setdefault(where, has) != has:
        raise DataError(
            f"model {spec.name}: {where}: some times in {spec.time.column!r} have an offset and the others have none; mend the "
            "source so that all or none have one"
        )


def _mine(spec: ModelSpec, rows: pd.DataFrame, share: Share) -> pd.Series:
    """Which rows are of a share: the same ones, in whatever order a query gives them."""
    written = pd.DataFrame({name: rows[name].map(canonical, na_action="ignore").astype("str") for name in spec.key})
    return pd.util.hash_pandas_object(written, index=False) % share.of == share.number


def _columns_there(spec: ModelSpec, rows: pd.DataFrame) -> str:
    """The columns of a source; where some are personal only those that are known, for without its header a file has values there."""
    known = named(spec)
    there = [name for name in rows.columns if name != SHORT]
    names = [str(name) for name in there if not spec.personal or name in known]
    others = len(there) - len(names)
    return ", ".join([*names, *([f"{others} that model.yaml does not name"] if others else [])])


def _separator_hint(rows: pd.DataFrame, missing: list[str]) -> str:
    """A word on the separator, where the header is one field that another one would part into the columns missed."""
    if len(rows.columns) != 1:
        return ""
    header = str(rows.columns[0])
    parts = {sign: [part.strip() for part in header.split(sign)] for sign in (",", ";", "\t", "|")}
    fits = [sign for sign, names in parts.items() if set(missing) <= set(names)]
    return f" (set source.separator to {fits[0]!r}?)" if fits else ""


def rows_of(source: Source, spec: ModelSpec, first: date, last: date) -> pd.DataFrame | None:
    """All that a source gives for the days asked (or more than those), as it comes; None where it has nothing."""
    return reader_of(source, spec).rows(first, last)


def reader_of(source: Source, spec: ModelSpec) -> Reader:
    """What reads a source of its kind."""
    match source:
        case CsvSource():
            return CsvReader(spec, source)
        case ParquetSource():
            return ParquetReader(spec, source)
        case DeltaSource():
            return DeltaReader(spec, source)
        case SqlSource():
            return SqlReader(spec, source)
        case PythonSource():
            return PythonReader(spec, source)
        case _ as unknown:
            assert_never(unknown)
