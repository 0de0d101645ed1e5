"""When a row happened, as clock time in the model's time zone."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pandas as pd

from esteira.data.kinds import masked
from esteira.errors import DataError
from esteira.spec import ModelSpec

# The years that every clock here holds. Years such as 1 and 9999 stand for 'never' in many databases.
EARLIEST, LATEST = pd.Timestamp("1678-01-01"), pd.Timestamp("2262-01-01")
OFFSET = r"(?::\d\d(?:[.,]\d+)?|[T ]\d\d(?:\d\d)*) ?(?:Z|[+-]\d\d(?::?\d\d)?)$"


def days(first: date, last: date) -> list[date]:
    """The days from `first` to `last`, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def event_time(spec: ModelSpec, rows: pd.DataFrame) -> pd.Series:
    """When each row happened, as clock time in the model's time zone; NaT where it can't be read, or no clock holds it."""
    moments = _parsed(spec, rows[spec.time.column], spec.time.format)
    if moments.dt.tz is not None:
        moments = _held(moments.dt.tz_convert("UTC")).dt.tz_convert(spec.time.timezone).dt.tz_localize(None)
    moments = _held(moments)
    if spec.time.hour:
        hours = pd.to_numeric(rows[spec.time.hour], errors="coerce")
        moments = moments + pd.to_timedelta(hours.where(hours.between(0, 24, inclusive="left")), unit="h")
    return moments.astype("datetime64[us]")


def as_times(spec: ModelSpec, given: pd.Series) -> pd.Series:
    """Times of a column, with a zone where they have an offset; NaT where one can't be read."""
    return _parsed(spec, given, spec.time.format if given.name == spec.time.column else None)


def _parsed(spec: ModelSpec, given: pd.Series, form: str | None) -> pd.Series:
    form = form or "ISO8601"
    if given.dtype == object:  # a file's dates among text: each as it is written
        given = given.map(str, na_action="ignore")
    has_times = pd.api.types.is_datetime64_any_dtype(given)  # among these none is looked for that is there twice
    try:
        return pd.to_datetime(given, format=form, errors="coerce", cache=not has_times)
    except ValueError:  # offsets that differ, as they do over a year with summer time
        moments = pd.to_datetime(given, format=form, errors="coerce", utc=True)
    zoned = moments.isna() | given.astype("str").str.contains(OFFSET).fillna(False).astype(bool)
    if not zoned.all():
        example = masked(spec, given[~zoned].head(1).to_frame())[given.name].iloc[0]
        raise DataError(
            f"model {spec.name}: {zoned.sum()} of {len(zoned)} times in {given.name!r} have an offset and the others "
            f"have none, such as {example!r}; mend the source so that all or none have one"
        )
    return moments


def has_offset(spec: ModelSpec, rows: pd.DataFrame) -> bool | None:
    """Whether times that are text, which event_time() has read, have an offset: all have one, or none; None where there is none."""
    given = rows[spec.time.column].dropna()
    if given.empty or pd.api.types.is_datetime64_any_dtype(given):
        return None
    return re.search(OFFSET, str(given.iloc[0])) is not None


def _held(moments: pd.Series) -> pd.Series:
    """The times without those that a clock of nanoseconds can't hold: converting one fails, and all others with it."""
    low, high = (edge.tz_localize(moments.dt.tz) for edge in (EARLIEST, LATEST))
    if low <= moments.min() and moments.max() < high:
        return moments
    return moments.where((moments >= low) & (moments < high))
