"""Sources: the rows that they hold for some days, with their time. A file that can't be used is refused by name."""

from __future__ import annotations

import errno
import glob
import importlib.util
import logging
import lzma
import mmap
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from esteira.data.kinds import EXACT, ZERO_LED, masked
from esteira.spec import (
    CsvSource,
    DeltaSource,
    EsteiraError,
    ModelSpec,
    OutOfReach,
    ParquetSource,
    PythonSource,
    Source,
    SqlSource,
)

# What a CSV file has in place of a value: read_csv's own list, which can't be left out for some columns only.
EMPTY = [
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "-1.#QNAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "<NA>",
    "N/A",
    "NA",
    "NULL",
    "NaN",
    "None",
    "n/a",
    "nan",
    "null",
    "",
]
UNREADABLE = (
    EOFError,
    ImportError,
    OSError,
    ValueError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
COMPRESSED = (".gz", ".bz2", ".zip", ".xz", ".zst", ".tar")  # endings by which pandas knows it


log = logging.getLogger(__name__)


class DataError(EsteiraError):
    """A source can't be used as it is. The text says what was wrong, where, and how to mend it."""


def days(first: date, last: date) -> list[date]:
    """The days from `first` to `last`, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def read(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """The source's rows of the days `first` to `last`, both included, with their `event_time` and `day`.

    With them come rows of the day before, where the file named for `first` has any: that day may have been read without.

    A row whose time can't be read has no day of its own: it is kept under its file's day, or `first`, with an empty
    `event_time`; one of a file named for a day, whose time is far from that day, is kept under the file's. Validation puts
    both into quarantine. Raises DataError where the source lacks a column that the model needs, or can't be read.
    """
    parts = []
    for rows, of in _parts(spec.source, spec, first, last):
        try:
            parts.append(_timed(spec, rows, of, first, last))
        except DataError as error:
            _require_beside(of[1], first, last, error)
    parts = [part for part in parts if len(part.columns)]
    if not parts:
        return pd.DataFrame({"event_time": pd.Series(dtype="datetime64[us]"), "day": pd.Series(dtype="datetime64[s]")})
    return pd.concat(parts, ignore_index=True)


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
    moments = event_time(spec, rows)
    event_days = moments.dt.normalize().astype("datetime64[s]")
    wanted = event_days.between(pd.Timestamp(first), pd.Timestamp(last)) | moments.isna()
    if file_day is not None:
        own = first <= file_day <= last
        far = (event_days - pd.Timestamp(file_day)).abs() > pd.Timedelta(days=1)
        event_days = event_days.mask(far, pd.Timestamp(file_day)).fillna(pd.Timestamp(file_day))
        early = (file_day == first) & (event_days == pd.Timestamp(first - timedelta(days=1)))
        wanted = ((wanted | early) & ~(far | moments.isna())) | ((far | moments.isna()) & own)
    rows = rows.drop(
        columns=[name for name in ("event_time", "day") if name in rows.columns and name != spec.time.column]
    )
    rows = rows.assign(event_time=moments, day=event_days.fillna(pd.Timestamp(first)))
    chosen: pd.DataFrame = rows.loc[wanted]
    return chosen


def _columns_there(spec: ModelSpec, rows: pd.DataFrame) -> str:
    """The columns of a source; where some are personal only those that are known, for without its header a file has values there."""
    known = {*spec.source_columns, *spec.features.all, spec.target, *spec.expect}
    names = [str(name) for name in rows.columns if not spec.personal or name in known]
    others = len(rows.columns) - len(names)
    return ", ".join([*names, *([f"{others} that model.yaml does not name"] if others else [])])


def _separator_hint(rows: pd.DataFrame, missing: list[str]) -> str:
    """A word on the separator, where the header is one field that another one would part into the columns missed."""
    if len(rows.columns) != 1:
        return ""
    header = str(rows.columns[0])
    parts = {sign: [part.strip() for part in header.split(sign)] for sign in (",", ";", "\t", "|")}
    fits = [sign for sign, names in parts.items() if set(missing) <= set(names)]
    return f" (set source.separator to {fits[0]!r}?)" if fits else ""


def event_time(spec: ModelSpec, rows: pd.DataFrame) -> pd.Series:
    """When each row happened, as clock time in the model's time zone; NaT where it can't be read."""
    given, form = rows[spec.time.column], spec.time.format or "ISO8601"
    if given.dtype == object:  # a file's dates among text: each as it is written
        given = given.map(str, na_action="ignore")
    try:
        moments = pd.to_datetime(given, format=form, errors="coerce")
    except ValueError:  # offsets that differ, as they do over a year with summer time
        moments = pd.to_datetime(given, format=form, errors="coerce", utc=True)
        offset = given.astype("str").str.contains(r"(?::\d\d(?:[.,]\d+)?|[T ]\d\d(?:\d\d)*)(?:Z|[+-]\d\d(?::?\d\d)?)$")
        zoned = moments.isna() | offset.fillna(False).astype(bool)
        if not zoned.all():
            raise DataError(
                f"model {spec.name}: {zoned.sum()} of {len(zoned)} times in {spec.time.column!r} have an offset and the others "
                f"have none, such as {masked(spec, rows[~zoned].head(1))[spec.time.column].iloc[0]!r}; mend the source so that all or none have one"
            ) from None
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert(spec.time.timezone).dt.tz_localize(None)
    if spec.time.hour:
        hours = pd.to_numeric(rows[spec.time.hour], errors="coerce")
        moments = moments + pd.to_timedelta(hours.where(hours.between(0, 24, inclusive="left")), unit="h")
    return moments.astype("datetime64[us]")


Part = tuple[pd.DataFrame, tuple[str, date | None]]


def _parts(source: Source, spec: ModelSpec, first: date, last: date) -> Iterator[Part]:
    """What a source gives for the days asked (or more than those): the rows of each file or query, its name and its day."""
    match source:
        case CsvSource() | ParquetSource():
            for path, day in _files(source.path, spec.folder, first, last):
                yield _read_file(path, day, source, spec, first, last), (path, day)
        case DeltaSource():
            path = source.path if "://" in source.path else str(spec.folder / source.path)
            yield _read_delta(path, spec, first, last), (path, None)
        case SqlSource():
            yield _once(_read_sql(source, first, last), "the query"), ("the query's result", None)
        case PythonSource():
            where = f"{spec.folder / source.function.partition('.')[0]}.py"
            yield _once(call(spec.folder, source.function)(first, last), where), (source.function, None)


def _read_file(
    path: str, day: date | None, source: CsvSource | ParquetSource, spec: ModelSpec, first: date, last: date
) -> pd.DataFrame:
    """The rows of a file; none where it is of a day beside those asked, and can't be used."""
    try:
        if isinstance(source, CsvSource):
            return _once(_read_csv(path, source, spec), path)
        return _once(_read_parquet(path, spec, first, last, whole=day is not None), path)
    except DataError as error:
        _require_beside(day, first, last, error)
        return pd.DataFrame()


def _require_beside(day: date | None, first: date, last: date, error: DataError) -> None:
    """Raise the error, unless the file that it is about is of a day beside those asked: then it is that day's own matter."""
    if day is None or first <= day <= last:
        raise error
    log.warning("left out, for it is of another day: %s", error)


def rows_of(source: Source, spec: ModelSpec, first: date, last: date) -> pd.DataFrame | None:
    """All that a source gives for the days asked (or more than those), as it comes; None where it has nothing."""
    frames = [rows for rows, _ in _parts(source, spec, first, last)]
    return pd.concat(frames, ignore_index=True) if frames else None


def _files(pattern: str, folder: Path, first: date, last: date) -> list[tuple[str, date | None]]:
    """The files that match, and where the pattern has a day, each one's."""
    if "{day}" in pattern:  # with a day of slack: files may be cut by another clock than the model's
        around = days(first - timedelta(days=1), last + timedelta(days=1))
        return [(path, day) for day in around for path in _matching(folder, pattern.replace("{day}", day.isoformat()))]
    found = _matching(folder, pattern)
    if not found:
        raise DataError(f"no file matches {folder / pattern}; put it there, or correct source.path in model.yaml")
    return [(path, None) for path in found]


def _matching(folder: Path, pattern: str) -> list[str]:
    return sorted(glob.glob(str(folder / pattern)))  # noqa: PTH207  # patterns may be absolute


def _once(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows, where no two columns have one name."""
    counts = Counter(str(name).casefold() for name in rows.columns)  # a table does not tell A from a
    twice = [str(name) for name in rows.columns if counts[str(name).casefold()] > 1]
    if twice:
        raise DataError(
            f"{where}: the column {twice[0]!r} is there {counts[twice[0].casefold()]} times; rename or remove one"
        )
    return rows


def _read_csv(path: str, source: CsvSource, spec: ModelSpec) -> pd.DataFrame:
    options: dict[str, Any] = {"sep": source.separator, "encoding": source.encoding}
    try:
        _require_no_nul(path, source.encoding)
        header = pd.read_csv(path, nrows=1, header=None, dtype=str, **options)
        _once(pd.DataFrame(columns=header.iloc[0].dropna()), path)  # read_csv would give the second one another name
        text = [name for name, asked in spec.expect.items() if asked.type == "text"]
        keys = [name for name in spec.key if name not in text]
        if text:  # NA, None and True are words there
            names = [str(name) for name in pd.read_csv(path, nrows=0, **options).columns]
            options |= {
                "keep_default_na": False,
                "na_values": {name: [""] if name in text else EMPTY for name in names},
            }
        rows: pd.DataFrame = pd.read_csv(path, low_memory=False, dtype=dict.fromkeys([*text, *keys], "str"), **options)
        if not isinstance(rows.index, pd.RangeIndex):  # read_csv takes the surplus for an index, and moves the names on
            raise DataError(
                f"{path}: its rows have more fields than its header has names; mend it, or deliver it again"
            )
        rows = rows.assign(**{name: _key(rows[name]) for name in keys if name in rows.columns})
        texts = [name for name in spec.key if name in rows.columns and not pd.api.types.is_numeric_dtype(rows[name])]
        return rows.assign(**{name: rows[name].mask(rows[name].isin([""])) for name in texts})
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty, without even a header; deliver it again") from None
    except pd.errors.ParserError as error:
        raise DataError(f"{path}: {_sentence(error)}; mend the line, or deliver the file again") from None
    except (UnicodeDecodeError, UnicodeError) as error:
        raise DataError(
            f"{path}: its bytes are not {source.encoding} ({error}); set source.encoding in model.yaml, such as latin-1 or "
            "utf-16, or save the file as utf-8"
        ) from None
    except LookupError as error:
        raise DataError(f"{path}: {_sentence(error)}; correct source.encoding in model.yaml") from None
    except UNREADABLE as error:
        _require_reachable(path, error)
        raise DataError(f"{path}: can't be read: {_sentence(error)}; deliver it again") from None


def _require_reachable(path: str, error: Exception) -> None:
    """Raise OutOfReach where it is the storage that failed, and not what is in the file."""
    number = getattr(error, "errno", None)
    if number and number not in (errno.ENOENT, errno.EISDIR):
        raise OutOfReach(
            f"{path}: can't be read: {error}; see that its volume is there, and run the task again"
        ) from error


def _key(text: pd.Series) -> pd.Series:
    """A key as what it looks like: numbers, whole ones to the last digit though some are empty; but 007 is text."""
    given = text.dropna()
    if given.str.match(ZERO_LED).any():
        return text
    try:
        numbers = pd.to_numeric(given)
    except ValueError:
        return text
    if not (numbers.abs() <= EXACT).all() and not pd.api.types.is_signed_integer_dtype(numbers):
        return text  # as a float it would lose its last digits
    whole = not (numbers % 1).any()
    return pd.Series((numbers.astype("Int64") if whole else numbers).reindex(text.index))


def _require_no_nul(path: str, encoding: str) -> None:
    """Refuse a text file with a NUL byte: a number with one in it would be read up to there, and no further."""
    if Path(path).stat().st_size == 0 or re.search("16|32", encoding) or path.endswith(COMPRESSED):
        return
    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at = text.find(b"\0")
    if at >= 0:
        raise DataError(
            f"{path}: byte {at} is NUL, which no text has: the file is damaged, or it is utf-16 (then set source.encoding in "
            "model.yaml); deliver it again"
        )


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())


def _read_parquet(path: str, spec: ModelSpec, first: date, last: date, *, whole: bool) -> pd.DataFrame:
    try:
        if Path(path).is_file():  # reading would fail in words about schemas
            _once(pd.DataFrame(columns=pq.read_schema(path).names), path)
        return _between(pads.dataset(path), spec, first, last, whole=whole)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        _require_reachable(path, error)
        raise DataError(f"{path}: is not a whole parquet file: {_sentence(error)[:200]}; deliver it again") from None


def _read_delta(path: str, spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    try:
        table = DeltaTable(path)
    except TableNotFoundError:
        raise DataError(f"{path}: there is no Delta table; make it, or correct source.path in model.yaml") from None
    return _between(table.to_pyarrow_dataset(), spec, first, last)


def _between(dataset: pads.Dataset, spec: ModelSpec, first: date, last: date, *, whole: bool = False) -> pd.DataFrame:
    """The rows around the days; where the time is a date or a time, the others are not even read (a day of slack: zones).

    Those without a time are read, too. `whole`: all of them, as of a file of one day.
    """
    column = spec.time.column
    names = dataset.schema.names
    kind = dataset.schema.field(column).type if names.count(column) == 1 else None
    wanted = None
    if not whole and kind is not None and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        low, high = (pa.scalar(day).cast(kind) for day in (first - timedelta(days=1), last + timedelta(days=2)))
        wanted = (pads.field(column) >= low) & (pads.field(column) < high) | pads.field(column).is_null()
    # Whole numbers stay whole where some are empty: a key beyond 2^53 would lose its last digits.
    table = dataset.to_table(filter=wanted)
    rows = pd.DataFrame(table.to_pandas(integer_object_nulls=True))
    # A column of numbers that are all empty is one of numbers still.
    empty = [
        field.name
        for field in (table.schema if len(set(names)) == len(names) else ())
        if (pa.types.is_integer(field.type) or pa.types.is_decimal(field.type)) and rows[field.name].isna().all()
    ]
    return rows.astype(dict.fromkeys(empty, "float64"))


def _read_sql(source: SqlSource, first: date, last: date) -> pd.DataFrame:
    import sqlalchemy

    engine = sqlalchemy.create_engine(source.url.get_secret_value())
    try:
        with engine.connect() as connection:
            bounds = {"first": first.isoformat(), "last": last.isoformat()}
            found: pd.DataFrame = pd.read_sql(sqlalchemy.text(source.query), connection, params=bounds)
            return found
    finally:
        engine.dispose()


def function(folder: Path, dotted: str) -> Callable[..., Any]:
    """`module.function` of a model's own folder."""
    module_name, _, function_name = dotted.partition(".")
    path = folder / f"{module_name}.py"
    place = importlib.util.spec_from_file_location(f"esteira_model_{folder.name}_{module_name}", path)
    assert place is not None, f"{path} is not a Python file"
    assert place.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)
    found: Callable[..., Any] = getattr(module, function_name)
    return found


def call(folder: Path, dotted: str) -> Callable[..., pd.DataFrame]:
    """A function of a model's own folder, wrapped to say whose it is when it does not return a DataFrame."""

    def checked(*args: Any) -> pd.DataFrame:
        result = function(folder, dotted)(*args)
        if not isinstance(result, pd.DataFrame):
            raise DataError(f"{folder}: {dotted} must return a pandas DataFrame, got {type(result).__name__}")
        return result

    return checked
