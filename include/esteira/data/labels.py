"""Labels: read from wherever they come, and brought to the keys of the rows that they belong to."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date

import pandas as pd
import pyarrow as pa

from esteira.data import kinds
from esteira.data.sources import as_times, batches, event_time, rows_of
from esteira.data.validating import typed
from esteira.errors import DataError
from esteira.spec import ModelSpec, canonical


def read_labels(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """The labels that the source has for the days: the key, `day` where the source knows it, and `label`.

    From `labels.source` where the model has one, else from the source's own target. `disputed` says that the same key has
    another label, too. Without a day a key must be the only one of its kind. Raises DataError where it is not, or where a
    column is missing.
    """
    elsewhere = spec.labels if spec.labels is not None and spec.labels.source is not None else None
    if elsewhere is None or elsewhere.source is None:
        rows = _own_rows(spec, first, last)
    else:
        found = rows_of(elsewhere.source, spec, first, last)
        rows = _with_day(spec, found) if found is not None else pd.DataFrame()
    key = list(elsewhere.key or spec.key if elsewhere else spec.key)
    if rows.empty:
        return pd.DataFrame(columns=[*key, "label", "disputed"])
    _require_columns(spec, rows, key)
    rows = rows.dropna(subset=[name for name in ("day", "event_time", *key) if name in rows.columns])
    key = [*(["day"] if "day" in rows.columns else []), *key]
    columns = {name: typed(spec, name, rows[name]) for name in key}
    labels = pd.DataFrame(columns).assign(label=rows[spec.target])
    if kinds.SHORT in rows.columns:
        labels = labels.assign(**{kinds.SHORT: rows[kinds.SHORT]})
        labels = labels.sort_values(
            kinds.SHORT, na_position="first", kind="stable"
        )  # the same label of a whole row is good
    twice = labels.duplicated(key, keep=False)
    if "day" not in key and twice.any():
        example = kinds.masked(spec, labels.loc[twice, key].head(1)).iloc[0].to_dict()
        raise DataError(
            f"model {spec.name}: its labels' source has {twice.sum()} rows whose key is not the only one of its kind, such as "
            f"{example}; add the time column {spec.time.column!r} to it, or a key that is"
        )
    labels = labels.drop_duplicates([*key, "label"])
    return labels.assign(disputed=labels.duplicated(key, keep=False)).drop_duplicates(key)


def _own_rows(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """What labels are made of in the model's own source: its other columns are never all in memory."""
    wanted, parts = {*spec.key, spec.target, kinds.SHORT, "event_time", "day"}, []
    for rows in batches(spec, first, last):
        _require_columns(spec, rows, spec.key)
        asked = rows["day"].between(pd.Timestamp(first), pd.Timestamp(last))
        of_its_day = (rows["event_time"].dt.normalize() == rows["day"]) & asked
        parts.append(rows.loc[of_its_day, [name for name in rows.columns if name in wanted]])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _require_columns(spec: ModelSpec, rows: pd.DataFrame, key: Iterable[str]) -> None:
    missing = [name for name in (*key, spec.target) if name not in rows.columns]
    if missing:
        raise DataError(
            f"model {spec.name}: its labels' source has no column {missing}; it has: {', '.join(map(str, rows.columns))}"
        )


def _with_day(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The labels' rows with their day, where they have the model's time column."""
    if spec.time.column not in rows.columns or (spec.time.hour and spec.time.hour not in rows.columns):
        return rows
    return rows.assign(day=event_time(spec, rows).dt.normalize())


def like(spec: ModelSpec, values: pd.Series, wanted: pd.Series) -> pd.Series:
    """`values` of a column with the type of `wanted`, so that two sources' keys can be joined; what does not fit becomes empty.

    Times are joined on the model's clock, and read by its `time.format` where they are of its time column.
    """
    if pd.api.types.is_datetime64_any_dtype(wanted):
        return _on_one_clock(spec, as_times(spec, values), wanted).astype(wanted.dtype)
    if pd.api.types.is_integer_dtype(wanted):
        return kinds.fitted(values, pa.int64(), key=True)
    if pd.api.types.is_numeric_dtype(wanted):
        return kinds.as_number(values)
    return values.map(canonical, na_action="ignore").astype(wanted.dtype)


def _on_one_clock(spec: ModelSpec, times: pd.Series, wanted: pd.Series) -> pd.Series:
    """Times with a zone where the wanted ones have one, else as the model's clock shows them."""
    if wanted.dt.tz is None:
        return times if times.dt.tz is None else times.dt.tz_convert(spec.time.timezone).dt.tz_localize(None)
    zoned = times
    if times.dt.tz is None:
        zoned = times.dt.tz_localize(spec.time.timezone, ambiguous="NaT", nonexistent="NaT")
    converted: pd.Series = zoned.dt.tz_convert(wanted.dt.tz)
    return converted


def as_label(spec: ModelSpec, values: pd.Series) -> pd.Series:
    """Labels as they are stored: float64 for a regression, text for classes."""
    return kinds.as_number(values) if spec.task == "regression" else values.map(canonical).astype("str")
