"""Blocks about rows: when they happened, what they hold, where their labels come from, what is expected of them."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from esteira.spec.policy import Limit
from esteira.spec.sources import Source
from esteira.spec.words import Block, Column, Days, Delay, Span, check_range, mistake, nearest


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
    """The columns that a model learns from, by kind. `whole_day`: a features.py must see all rows of a day at once."""

    numeric: tuple[Column, ...] = ()
    categorical: tuple[Column, ...] = ()
    boolean: tuple[Column, ...] = ()
    whole_day: bool = False

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
        kinds = ("numeric", "categorical", "boolean")
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
