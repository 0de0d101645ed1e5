"""Blocks about rows: where they come from, when they happened, what they hold, what is expected of them."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from esteira.spec.policy import Limit
from esteira.spec.words import Block, Column, Days, Delay, Span, check_range, mistake, nearest

ORDER = ("kind", "path", "separator", "encoding", "incomplete")


class FileSource(Block):
    """What the sources of files share. `path` may be a glob, and `{day}` in it stands for YYYY-MM-DD.

    `ready` and `follow_links` say when a file is read, not what is in it: what was read before does not become stale.
    """

    path: str = Field(min_length=1)
    ready: str | None = Field(default=None, min_length=1, exclude=True)
    follow_links: bool = Field(default=False, exclude=True)

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that the block may have, those first that say what is read."""
        last = ("ready", "follow_links")
        return [*sorted(set(super().known_keys()) - {*last}, key=ORDER.index), *last]

    @field_validator("path")
    @classmethod
    def _path_is_of_files(cls, path: str) -> str:
        if "\0" in path:
            raise mistake(f"got {path!r}, which has a NUL; no file's name has one")
        if "://" in path:
            raise mistake(f"got {path!r}; csv and parquet are files of this machine: mount them, or use kind: delta")
        if path.endswith("/"):
            raise mistake(f"got {path!r}, which is a folder; name the files in it, such as {path}*")
        return path

    @model_validator(mode="after")
    def _marker_is_of_the_day(self) -> Self:
        if self.ready is None:
            return self
        *folders, name = self.ready.split("/")
        if not name or re.search(r"[*?\[]", name):
            raise mistake(f"got {self.ready!r}; a marker is one file: write its name, without *, ? or [", "ready")
        beside = self.path.rpartition("/")[0] if not folders else ""
        if "{day}" in self.path and "{day}" not in f"{beside}/{self.ready}":
            raise mistake(
                f"got {self.ready!r}, one marker for all days; source.path has {{day}}, so write {{day}} in it too",
                "ready",
            )
        return self


class CsvSource(FileSource):
    """Text files with a header line."""

    kind: Literal["csv"]
    separator: str = ","
    encoding: str = "utf-8"
    incomplete: Literal["refuse", "accept"] = Field(default="refuse", exclude_if=lambda given: given == "refuse")

    @field_validator("separator")
    @classmethod
    def _separator_is_one_sign(cls, sign: str) -> str:
        if sign in (r"\t", r"\s+"):
            return {r"\t": "\t"}.get(sign, sign)
        if len(sign) != 1 or sign in '"\r\n\0':
            raise mistake(
                rf"got {sign!r}; a separator is exactly one character, such as ',' or ';', or \t for a tab, or \s+ for blanks"
            )
        return sign

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        try:
            "".encode(name)  # which codecs that are none of text, such as base64, refuse
        except (LookupError, ValueError):
            usual = ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "ascii", "shift_jis", "gb18030"]
            raise mistake(f"unknown encoding {name!r}{nearest(name, usual)}; such as {', '.join(usual[:5])}") from None
        return name


class ParquetSource(FileSource):
    """Parquet files."""

    kind: Literal["parquet"]


class DeltaSource(Block):
    """A Delta table: a folder or an s3:// address."""

    kind: Literal["delta"]
    path: str


class SqlSource(Block):
    """A query through SQLAlchemy; `:first` and `:last` in it are the days wanted, both included, as YYYY-MM-DD."""

    kind: Literal["sql"]
    url: SecretStr
    query: str

    @field_validator("url", mode="before")
    @classmethod
    def _url_is_secret(cls, given: object) -> object:
        return SecretStr(given) if isinstance(given, str) else given

    @field_validator("query")
    @classmethod
    def _query_is_bounded(cls, query: str) -> str:
        if ":first" not in query or ":last" not in query:
            raise mistake("the query must use :first and :last, the days wanted, so that a day's run reads one day")
        return query


class PythonSource(Block):
    """`function: source.read` is read(first, last) of source.py in the model's folder; it returns a pandas DataFrame."""

    kind: Literal["python"]
    function: str = Field(pattern=r"^[A-Za-z_]\w*\.[A-Za-z_]\w*$")


Source = Annotated[CsvSource | ParquetSource | DeltaSource | SqlSource | PythonSource, Field(discriminator="kind")]


class Time(Block):
    """When a row happened: a column of dates or times, with the hour beside it where it has a column of its own."""

    column: Column
    hour: Column | None = None
    format: str | None = None
    timezone: str = "UTC"

    @field_validator("format")
    @classmethod
    def _format_is_one(cls, form: str | None) -> str | None:
        stray = re.search(r"%(?![a-zA-Z%])", form or "")
        if stray:
            raise mistake(
                f"got {form!r}, in which a % stands alone; a format is such as %Y-%m-%d %H:%M, and %% is a percent sign"
            )
        if form in (None, "ISO8601"):
            return form
        moment = datetime(2026, 11, 30, 21, 45, 59, tzinfo=UTC)
        try:
            read = datetime.strptime(moment.strftime(form), form)  # noqa: DTZ007  # only its year is looked at
        except ValueError as error:
            raise mistake(f"got {form!r}: {error}; a format is such as %Y-%m-%d %H:%M") from None
        if read.year != moment.year:
            raise mistake(f"got {form!r}, which holds no year; a format is such as %Y-%m-%d, or %d/%m/%Y %H:%M")
        return form

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, name: str) -> str:
        from zoneinfo import ZoneInfo, available_timezones

        try:
            ZoneInfo(name)
        except (KeyError, OSError, ValueError):
            zones = available_timezones()
            raise mistake(
                f"unknown time zone {name!r}{nearest(name, sorted(zones))}; such as America/Sao_Paulo"
            ) from None
        return name


class Features(Block):
    """The columns that a model learns from, by kind."""

    numeric: tuple[Column, ...] = ()
    categorical: tuple[Column, ...] = ()
    boolean: tuple[Column, ...] = ()

    @field_validator("numeric", "categorical", "boolean", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @property
    def all(self) -> tuple[str, ...]:
        """Every feature, in the order in which the model gets them."""
        return self.numeric + self.categorical + self.boolean

    def only(self, names: tuple[str, ...]) -> Features:
        """Those of the features that are among `names`."""
        kinds = type(self).model_fields
        return self.model_copy(
            update={kind: tuple(name for name in getattr(self, kind) if name in names) for kind in kinds}
        )

    @model_validator(mode="after")
    def _once(self) -> Self:
        if not self.all:
            raise mistake("no feature is named; list columns under numeric, categorical or boolean")
        name, times = Counter(self.all).most_common(1)[0]
        if times > 1:
            raise mistake(f"{name!r} is named {times} times; name each feature once")
        alike = Counter(name.casefold() for name in self.all)
        two = [name for name in self.all if alike[name.casefold()] > 1]
        if two:
            raise mistake(f"{two[0]!r} and {two[1]!r} are one column to a table; rename one")
        return self


class Labels(Block):
    """Where labels come from, when it is not the source's own target column, and for how long they are corrected there.

    Labels are read again for `settle` after they came; training, gate and decisions use days that are older.
    """

    source: Source | None = None
    key: tuple[Column, ...] | None = None
    settle: Delay = 0

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.source is None and self.key is not None:
            raise mistake("'key' is of another source's rows: give labels.source, too", "key")
        if self.source is None and not self.settle:
            raise mistake("says nothing: give a source, or settle, such as 7d")
        return self

    @field_validator("key", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given


class Expectation(Block):
    """What a value of a column must be; a row that is not so goes to the quarantine table.

    `max_null` is the share of a day's rows that may lack it: above it the day is refused.
    """

    declared: Literal["number", "integer", "text", "boolean", "time"] | None = Field(default=None, alias="type")
    min: float | None = None
    max: float | None = None
    values: tuple[str | int | float | bool, ...] | None = Field(default=None, alias="in")
    matches: str | None = None
    required: bool = False
    max_null: float | None = Field(default=None, ge=0, lt=1)

    @property
    def type(self) -> str | None:
        """The type of the column's values; a range is one of numbers."""
        bounded = self.min is not None or self.max is not None
        return self.declared or ("number" if bounded else None)

    @field_validator("matches")
    @classmethod
    def _is_a_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except RecursionError:
            raise mistake(
                "got a regular expression with too many brackets within each other; write it simpler"
            ) from None
        except re.error as error:
            raise mistake(f"got {pattern!r}, which is no regular expression: {error}") from None
        if pattern is not None:
            _require_linear(pattern)
        return pattern

    @field_validator("values", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_range(self.min, self.max)
        if (self.min is not None or self.max is not None) and self.declared not in (None, "number", "integer"):
            raise mistake(f"min and max are of numbers, and the type is {self.declared}; remove one", "type")
        if self.values is not None and not self.values:
            raise mistake("'in' is empty, so no row could pass; list the values that are allowed")
        return self


def _require_linear(pattern: str) -> None:
    """Refuse what RE2 does not take: it matches any text in a time that grows with its length, where re may take for ever."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        pc.match_substring_regex(pa.array([""]), pattern)
    except pa.ArrowInvalid as error:
        why = str(error).partition("Invalid regular expression: ")[2] or str(error)
        raise mistake(
            f"got {pattern!r}, which RE2 can't match: {why}; it has no lookaround (?=…), (?<!…), backreference \\1, nor repeats "
            "above 1000: write it without, or check it in features.py"
        ) from None


class Volume(Limit):
    """How many rows a day may have, as a share of the median of the days before it that had any."""

    of_last: Days = 28


class Quality(Block):
    """When a day that is to be scored is refused whole: nothing of it is published."""

    max_quarantined: float = Field(default=0.5, ge=0, le=1)
    volume: Volume | None = None
    freshness: Span | None = None
