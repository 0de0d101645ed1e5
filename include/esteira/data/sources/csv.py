"""Text files with a header line. What is not a whole, regular table is refused by name; rows that are too short are marked."""

from __future__ import annotations

import codecs
import csv
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from itertools import islice
from typing import IO, Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
from pandas.io.common import get_handle, infer_compression  # type: ignore[import-not-found]

from esteira.data.kinds import SHORT
from esteira.data.sources.columns import once
from esteira.data.sources.errors import require_reachable, sentence
from esteira.data.sources.files import File, FileReader, length, opened
from esteira.data.sources.reader import BATCH
from esteira.errors import DataError, OutOfReach, Unfinished
from esteira.spec import ModelSpec
from esteira.spec.sources import CsvSource

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
    ImportError,
    OSError,
    ValueError,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)
WHOLE = r"\s*\+?(-?[0-9]+)(?:\.0*)?\s*"
INTEGER = r"-?(?:0|[1-9][0-9]*)"
ODD = "[!-*,/:-~]"  # no whole number, however it is written, has one of these
TRUTH = dict.fromkeys(["True", "TRUE", "true"], "1") | dict.fromkeys(["False", "FALSE", "false"], "0")  # read_csv's own
HEAD = 1 << 20  # bytes in which a header is looked for
LARGE = 64 << 20  # bytes of text, from which on a file is read bit by bit
PACKED = 8  # times as large a compressed file is taken to be
UNTOLD = "{}: how many fields its rows have can't be told; mend it, or deliver it as parquet"
BLANKS = r"\s+"  # the one separator of more than a character
FIELD = rb'"(?:[^"]|"")*"|[^ \t]+'  # between blanks


@dataclass(frozen=True)
class CsvReader(FileReader):
    """Reads files of text."""

    source: CsvSource

    def read(self, file: File, first: date, last: date) -> Iterator[pd.DataFrame]:
        """The rows of a file, as they are written: of what type a column is, all of them tell, and of a large file those read together."""
        with opened(file) as handle:
            if length(handle) * (1 if infer_compression(file.path, "infer") is None else PACKED) > LARGE:
                yield from _streamed(file, handle, self.source, self.spec)
            else:
                yield _read(file.path, handle.read(), self.source, self.spec)

    def header(self, path: str, handle: BinaryIO) -> list[str]:
        """The names in a file's header, of which no more is read than that needs."""
        content = handle.read() if infer_compression(path, "infer") else handle.read(HEAD).rpartition(b"\n")[0]
        try:
            return _header(_as_utf8(_decompressed(path, content), self.source.encoding), self.source)
        except (EOFError, UnicodeError, *UNREADABLE) as error:
            raise DataError(f"{path}: its header can't be read: {sentence(error)}") from None


def _read(path: str, content: bytes, source: CsvSource, spec: ModelSpec) -> pd.DataFrame:
    with _told(path, source):
        text = _as_utf8(_decompressed(path, content), source.encoding)
        _require_no_nul(path, text)
        if source.incomplete == "refuse":
            _require_last_line(path, text, source)
        rows = _parsed(path, io.BytesIO(text), _how(path, text, source, spec), spec)
        return rows if source.incomplete == "accept" else _with_short(path, text, rows, source)


@contextmanager
def _told(path: str, source: CsvSource) -> Iterator[None]:
    """What may go wrong while a file is read, in words."""
    try:
        yield
    except OutOfReach:
        raise
    except MemoryError:
        raise DataError(
            f"{path}: its content does not fit into memory; deliver a file for each day ({{day}} in source.path), or parquet"
        ) from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path}: the file is empty, without even a header; deliver it again") from None
    except pd.errors.ParserError as error:
        if "EOF inside string" in str(error) and source.incomplete == "refuse":
            raise Unfinished(
                f"{path}: {sentence(error)}: it is still being written or was cut off, or a quote is not closed; deliver it again"
            ) from None
        raise DataError(f"{path}: {sentence(error)}; mend the line, or deliver the file again") from None
    except (UnicodeDecodeError, UnicodeError) as error:
        raise DataError(
            f"{path}: its bytes are not {source.encoding} ({error}); set source.encoding in model.yaml, such as latin-1 or "
            "utf-16, or save the file as utf-8"
        ) from None
    except EOFError as error:
        raise Unfinished(
            f"{path}: can't be read: {sentence(error)}: it is still being written, or was cut off; deliver it again"
        ) from None
    except UNREADABLE as error:
        require_reachable(path, error)
        raise DataError(f"{path}: can't be read: {sentence(error)}; deliver it again") from None


def _streamed(file: File, handle: BinaryIO, source: CsvSource, spec: ModelSpec) -> Iterator[pd.DataFrame]:
    """The rows of a large file, BATCH at a time, after a look at all of it: is it whole, may rows be too short, what are its types?"""
    path = file.path
    with _told(path, source):
        head, are_whole = _looked_through(path, handle, source)
        width = _width(head, source)
        lengths = None if are_whole or width == 1 else _lengths(file, source)
        how = _how(path, head, source, spec)
        handle.seek(0)
        with _text(path, handle, source) as text:
            types = _types_of_all(text, head, how, spec)
        handle.seek(0)
        with _text(path, handle, source) as text:
            for rows in _parsed_by_batch(path, text, how, types, spec):
                if lengths is None:
                    yield rows
                    continue
                fields = _counted(path, [*islice(lengths, len(rows))], rows)
                short = fields.where(fields < width)
                is_told = source.incomplete != "accept" and short.notna().any()
                yield pd.concat([rows, short.rename(SHORT)], axis=1) if is_told else rows
        if lengths is not None and next(lengths, None) is not None:  # what was told of rows is of others
            raise DataError(UNTOLD.format(path))


def _counted(path: str, lengths: list[int], rows: pd.DataFrame) -> pd.Series:
    """How many fields each of the rows has. Raises DataError where one has more than the header: read_csv does so by itself, but not
    for the first of those that it reads together.
    """
    if len(lengths) < len(rows):
        raise DataError(UNTOLD.format(path))
    fields = pd.Series(lengths, rows.index, dtype="float64")
    if (fields > len(rows.columns)).any():
        raise DataError(
            f"{path}: row {rows.index[int(fields.to_numpy().argmax())] + 1} has {fields.max():.0f} fields, more than the header; mend it, or deliver the file again"
        )
    return fields


def _lengths(file: File, source: CsvSource) -> Iterator[int]:
    """How many fields each row has, the header's left out; by a handle of its own, for another reader goes along."""
    with opened(file) as again, _text(file.path, again, source) as text:
        yield from islice(_fields(text, source), 1, None)


def _looked_through(path: str, handle: BinaryIO, source: CsvSource) -> tuple[bytes, bool]:
    """How it begins, and whether it is plain that each row has as many fields as the header: no quotes, as many separators a line."""
    sign, done, left, end, head = source.separator.encode(), 0, 0, b"", b""
    returns = 0  # that end a line by themselves: such lines are counted one by one
    plain, width = len(sign) == 1, 0
    with _text(path, handle, source) as text:
        while block := text.read(HEAD):
            _require_no_nul(path, block, done)
            if not head:
                head, width = block, _width(block, source)
            returns += block.count(b"\r") - block.count(b"\r\n") - (end.endswith(b"\r") and block.startswith(b"\n"))
            plain = plain and b'"' not in block
            if plain:
                counts, left = _separators(block, sign, left)
                plain = bool((counts == width - 1).all())
            done, end = done + len(block), (end + block)[-4096:]
    if source.incomplete == "refuse":
        _require_last_line(path, end, source)
    return head, plain and not returns and left in (0, width - 1)


def _separators(block: bytes, sign: bytes, left: int) -> tuple[np.ndarray[Any, np.dtype[np.intp]], int]:
    """How many separators each line that ends in a block has, the first one with what is `left` of the block before; and what is left."""
    signs = np.frombuffer(block, dtype="uint8")
    at, ends = np.flatnonzero(signs == sign[0]), np.flatnonzero(signs == ord("\n"))
    through = np.searchsorted(at, ends)
    counts = np.diff(through, prepend=0)
    counts[:1] += left
    return counts, len(at) - int(through[-1]) if len(ends) else left + len(at)


@contextmanager
def _text(path: str, handle: BinaryIO, source: CsvSource) -> Iterator[IO[bytes]]:
    """A file's text, decompressed, in UTF-8, to be read bit by bit."""
    method = infer_compression(path, "infer")
    with get_handle(handle, "rb", compression=method, is_text=False) as handles:
        plain = codecs.lookup(source.encoding).name in ("utf-8", "ascii")
        if plain:
            yield handles.handle
            return
        text = io.TextIOWrapper(handles.handle, source.encoding, newline="")
        yield io.BufferedReader(_Recoded(text))
        text.detach()  # else it would close what others go on with


class _Recoded(io.RawIOBase):
    """A text as bytes of UTF-8."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._left = text, b""

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Some of it: a character has four bytes at most."""
        self._left = self._left or self._text.read(len(buffer) // 4).encode()
        taken, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


def _decompressed(path: str, content: bytes) -> bytes:
    method = infer_compression(path, "infer")
    if method is None:
        return content
    try:
        with get_handle(io.BytesIO(content), "rb", compression=method, is_text=False) as handles:
            text: bytes = handles.handle.read()
    except zipfile.BadZipFile as error:  # its end says what is in it
        raise EOFError(error) if content.startswith(b"PK") else error from None
    return text


def _as_utf8(content: bytes, encoding: str) -> bytes:
    """The text in one encoding, in which a comma and a line's end are one byte, and part of no other character."""
    if codecs.lookup(encoding).name in ("utf-8", "ascii"):
        return content
    return content.decode(encoding).encode()


def _require_no_nul(path: str, text: bytes, before: int = 0) -> None:
    """Refuse a NUL byte: a number with one in it would be read up to there, and no further."""
    at = text.find(b"\0")
    if at >= 0:
        raise DataError(
            f"{path}: byte {before + at} is NUL, which no text has: the file is damaged, or it is utf-16 (then set source.encoding in "
            "model.yaml); deliver it again"
        )


def _require_last_line(path: str, text: bytes, source: CsvSource) -> None:
    """Refuse a file whose last line does not end: its last value may be half of one."""
    if not text:
        raise Unfinished(
            f"{path}: the file is empty, without even a header; deliver it again, unless it is still being written"
        )
    blanks = " \t".replace(source.separator, "").encode()
    if not text[-4096:].rstrip(blanks).endswith((b"\n", b"\r")):
        raise Unfinished(
            f"{path}: its last line has no line end: it is still being written, or was cut off; deliver it again, or set "
            "source.incomplete: accept in model.yaml"
        )


@dataclass(frozen=True)
class _How:
    """How read_csv is to read a text: `keys` and `plain` are columns whose texts are looked at by themselves afterwards."""

    options: dict[str, Any]
    keys: list[str]
    plain: list[str]


def _how(path: str, head: bytes, source: CsvSource, spec: ModelSpec) -> _How:
    options: dict[str, Any] = {"sep": source.separator, "encoding": "ascii" if _is_ascii(source) else "utf-8"}
    options |= {"low_memory": False} if source.separator.isascii() else {"engine": "python"}
    _require_no_surplus(path, head, source)
    once(pd.DataFrame(columns=_header(head, source)), path)  # read_csv would give the second one another name
    texts = [name for name, asked in spec.expect.items() if asked.type == "text"]
    keys = [name for name in spec.key if name not in texts]
    plain = [name for name in _by_value(spec) if name not in (*texts, *keys)]
    if texts:  # NA, None and True are words there
        names = [str(name) for name in pd.read_csv(io.BytesIO(head), nrows=0, **options).columns]
        empty = {name: [""] if name in texts else EMPTY for name in names}
        options |= {"keep_default_na": False, "na_values": empty}
    return _How(options | {"dtype": dict.fromkeys([*texts, *keys, *plain], "str")}, keys, plain)


def _types_of_all(text: IO[bytes], head: bytes, how: _How, spec: ModelSpec) -> dict[str, str]:
    """The types that read_csv would give to columns if it saw all rows at once, where a look at some of them could mislead.

    Without a features.py numbers and truth values need none: each is what it is.
    """
    safe = () if spec.has_features_code else (*spec.features.numeric, *spec.features.boolean)
    names = pd.read_csv(io.BytesIO(head), nrows=0, **how.options).columns
    asked = [name for name in names if name not in {*how.options["dtype"], *safe}]
    kinds, gaps = defaultdict[str, set[str]](set), set[str]()
    if not asked:
        return {}
    with pd.read_csv(text, usecols=asked, chunksize=BATCH, **how.options) as chunks:
        for rows in chunks:
            for name, values in rows.items():
                there = values.dropna()
                kinds[str(name)] |= {_kind_of(there)} if len(there) else set()
                gaps |= {str(name)} if len(there) < len(values) else set()
    found = {name: _joint(seen, gaps=name in gaps) for name, seen in kinds.items()}
    return {name: kind for name, kind in found.items() if kind}


def _kind_of(values: pd.Series) -> str:
    """The type of a column's values, empty ones left out: bool, int64, negative (int64, too), uint64, float64, str, object."""
    kind = pd.Series(values.to_list()).dtype.name if values.dtype == object else values.dtype.name
    return "negative" if kind == "int64" and values.min() < 0 else kind


def _joint(kinds: set[str], *, gaps: bool) -> str:
    """The type of a column that has these in some of its rows; empty where read_csv says the same of whatever rows."""
    if "str" in kinds or ("bool" in kinds and len(kinds) > 1) or {"negative", "uint64"} <= kinds:
        return "str"
    if kinds == {"bool"}:
        return "object" if gaps else ""
    if "float64" in kinds or (gaps and kinds <= {"int64", "negative", "uint64"}):
        return "float64"
    return "uint64" if kinds == {"int64", "uint64"} else ""


def _parsed(path: str, text: IO[bytes], how: _How, spec: ModelSpec) -> pd.DataFrame:
    """The rows of a text."""
    return _typed(path, pd.read_csv(text, **how.options), how, spec)


def _parsed_by_batch(
    path: str, text: IO[bytes], how: _How, types: Mapping[str, str], spec: ModelSpec
) -> Iterator[pd.DataFrame]:
    """BATCH rows at a time, of the types given."""
    truths = [name for name, kind in types.items() if kind == "object"]  # with gaps: read_csv can't be told
    told = {name: kind for name, kind in types.items() if kind != "object"}
    options = how.options | {"dtype": how.options["dtype"] | told}
    with pd.read_csv(text, chunksize=BATCH, **options) as chunks:
        for rows in chunks:
            yield _typed(path, rows.assign(**{name: rows[name].astype(object) for name in truths}), how, spec)


def _require_no_surplus(path: str, head: bytes, source: CsvSource) -> None:
    """Refuse a first row with more fields than the header: read_csv takes the surplus for an index, and moves the names on."""
    header, first = [*islice(_fields(io.BytesIO(head), source), 2), 0, 0][:2]
    if first > header:
        raise DataError(
            f"{path}: its rows have more fields than its header has names ({first} and {header}), such as one after a last "
            "separator; mend it, or deliver it again"
        )


def _typed(path: str, rows: pd.DataFrame, how: _How, spec: ModelSpec) -> pd.DataFrame:
    if not isinstance(rows.index, pd.RangeIndex):  # it has taken a surplus after all
        raise DataError(f"{path}: its rows have more fields than its header has names; mend it, or deliver it again")
    own = {name: _key(rows[name]) if name in how.keys else rows[name] for name in spec.key if name in rows.columns}
    own = {name: _without_empty(values) for name, values in own.items()}
    words = {name: _word(rows[name]) for name in how.plain if name in rows.columns}
    return rows.assign(**words, **own)


def _by_value(spec: ModelSpec) -> list[str]:
    """The columns of which each value is what is written, whatever the file's other rows are: times, categories, classes.

    What a features.py may read keeps the type that read_csv gives it.
    """
    categories = () if spec.has_features_code else spec.features.categorical
    classes = () if spec.task == "regression" else (spec.target,)
    return [spec.time.column, *categories, *classes]


def _word(values: pd.Series) -> pd.Series:
    """Each value as it is written; but 1.0 is 1, as other rows of it would be, and True is 1, as in every kind of source."""
    return _each(values, lambda text: TRUTH.get(text, _whole(text)))


def _whole(text: str) -> str:
    """A whole number without what a table with empty cells writes after it; any other text as it is."""
    number = re.fullmatch(WHOLE, text)
    return number[1] if number else text


def _each(values: pd.Series, change: Callable[[str], str]) -> pd.Series:
    """The texts, changed: those only that look as if they might be, each different one once."""
    texts = pa.array(values, pa.large_string(), from_pandas=True)
    maybe = pc.and_not(pc.invert(pc.match_substring_regex(texts, "^-?[0-9]+$")), pc.match_substring_regex(texts, ODD))
    maybe = pc.fill_null(pc.or_(maybe, pc.is_in(texts, pa.array(TRUTH, pa.large_string()))), False).to_numpy(False)
    if not maybe.any():
        return values.astype("str")
    codes, different = pd.factorize(values[maybe])
    found = values.astype(object).to_numpy(copy=True)
    found[maybe] = np.array([*map(change, different)], dtype=object)[codes]
    return pd.Series(found, values.index, dtype="str")


def _header(text: bytes, source: CsvSource) -> list[str]:
    """The names in a file's header, as they are written, without empty ones."""
    if source.separator == BLANKS:
        return list(pd.read_csv(io.BytesIO(text), nrows=1, header=None, dtype=str, sep=BLANKS).iloc[0].dropna())
    lines = csv.reader(_lines(io.BytesIO(text)), delimiter=source.separator)
    return [name for name in next(filter(_is_row, lines), list[str]()) if name not in EMPTY]


def _width(head: bytes, source: CsvSource) -> int:
    """How many columns a file has, those without a name among them."""
    return next(_fields(io.BytesIO(head), source), 0)


def _lines(text: IO[bytes]) -> io.TextIOWrapper:
    csv.field_size_limit(2**31 - 1)  # a value may be longer than the 128 KiB that csv expects
    return io.TextIOWrapper(text, "utf-8-sig", newline="")


def _is_row(row: list[str]) -> bool:
    """Whether a line is one that read_csv takes for a row: empty ones, and those of blanks and tabs, are none."""
    return bool(row) and (len(row) > 1 or row[0] == "" or row[0].strip(" \t") != "")


def _without_empty(key: pd.Series) -> pd.Series:
    return key if pd.api.types.is_numeric_dtype(key) else key.mask(key.isin([""]))


def _is_ascii(source: CsvSource) -> bool:
    return codecs.lookup(source.encoding).name == "ascii"


def _key(text: pd.Series) -> pd.Series:
    """A key as it is written; whole numbers, where all of a file are such, as numbers. 007, 1E5 and 1.50 are text."""
    plain = _each(text, _whole)
    given = pa.array(plain, pa.string(), from_pandas=True)
    if given.null_count == len(given) or not pc.all(pc.match_substring_regex(given, f"^{INTEGER}$")).as_py():
        return plain
    try:
        numbers = given.cast(pa.int64())
    except pa.ArrowInvalid:  # beyond 64 bits
        return plain
    held = pd.arrays.IntegerArray(numbers.fill_null(0).to_numpy().copy(), numbers.is_null().to_numpy(False))
    return pd.Series(held, text.index)


def _with_short(path: str, text: bytes, rows: pd.DataFrame, source: CsvSource) -> pd.DataFrame:
    """The rows; those with fewer fields than the header have the number of them in a column of its own.

    read_csv fills them up without a word, and refuses longer ones; so where no value is quoted, and there are as many
    separators as the rows must have, none is short.
    """
    width = len(rows.columns)
    if width == 1 or _are_all_whole(text, rows, source):
        return rows
    fields = pd.Series(list(_fields(io.BytesIO(text), source)), dtype="float64")
    if not (fields < width).any():
        return rows
    if len(fields) != len(rows) + 1:
        raise DataError(
            f"{path}: {int((fields < width).sum())} rows have fewer fields than the header, which has {width}; fix them, or "
            "set source.incomplete: accept in model.yaml"
        )
    short = fields.iloc[1:].set_axis(rows.index)
    return pd.concat([rows, short.where(short < width).rename(SHORT)], axis=1)


def _are_all_whole(text: bytes, rows: pd.DataFrame, source: CsvSource) -> bool:
    """Whether it is plain that no row is short; else each must be looked at."""
    sign, width = source.separator.encode(), len(rows.columns)
    if source.separator == BLANKS:
        return False
    if b'"' not in text:
        return text.count(sign) == (len(rows) + 1) * (width - 1)
    return len(sign) == 1 and _as_many_by_arrow(text, source.separator, width) == len(rows) + 1


def _as_many_by_arrow(text: bytes, separator: str, width: int) -> int:
    """How many lines have as many fields as the header, by Arrow's parser, which is fast and tells; -1 where any has not."""
    odd: list[object] = []

    def skip(row: object) -> str:
        odd.append(row)
        return "skip"

    try:
        table = arrow_csv.read_csv(
            io.BytesIO(text),
            read_options=arrow_csv.ReadOptions(column_names=[str(n) for n in range(width)], use_threads=False),
            parse_options=arrow_csv.ParseOptions(
                delimiter=separator,
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            convert_options=arrow_csv.ConvertOptions(include_columns=["0"], column_types={"0": pa.binary()}),
        )
    except pa.ArrowInvalid:
        return -1
    return -1 if odd else int(table.num_rows)


def _fields(text: IO[bytes], source: CsvSource) -> Iterator[int]:
    """How many fields each line has that is not blank."""
    if source.separator == BLANKS:
        yield from (len(re.findall(FIELD, line)) for block in text for line in block.splitlines() if line.strip())
        return
    lines = _lines(text)
    yield from map(len, filter(_is_row, csv.reader(lines, delimiter=source.separator)))
    lines.detach()  # or it would close the text, which is another's
