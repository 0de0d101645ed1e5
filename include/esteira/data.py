"""Rows: read a source, give each its time, part the good from the bad, split by time. Nothing here writes."""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import DeltaTable

from esteira.spec import (
    CsvSource,
    DeltaSource,
    Expectation,
    ModelSpec,
    ParquetSource,
    PythonSource,
    Source,
    SqlSource,
    canonical,
)


class DataError(ValueError):
    """A source can't be used as it is. The text says what was wrong, where, and how to mend it."""


def days(first: date, last: date) -> list[date]:
    """The days from `first` to `last`, both included."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def read(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """The source's rows of the days `first` to `last`, both included, with their `event_time` and `day`.

    A row whose time can't be read has no day of its own: it is kept under `first` with an empty `event_time`, so that
    validation can put it into quarantine. Raises DataError where the source lacks a column that the model needs.
    """
    rows = _read(spec.source, spec, first, last)
    if rows is None:
        return pd.DataFrame({"event_time": pd.Series(dtype="datetime64[us]"), "day": pd.Series(dtype="datetime64[s]")})
    missing = [name for name in spec.source_columns if name not in rows.columns]
    if missing:
        raise DataError(
            f"model {spec.name}: its {spec.source.kind} source has no column {', '.join(map(repr, missing))}; it has: "
            f"{', '.join(map(str, rows.columns))}. Correct model.yaml, or the source"
        )
    moments = event_time(spec, rows)
    event_days = moments.dt.normalize().astype("datetime64[s]")
    wanted = event_days.between(pd.Timestamp(first), pd.Timestamp(last)) | moments.isna()
    rows = rows.drop(
        columns=[name for name in ("event_time", "day") if name in rows.columns and name != spec.time.column]
    )
    rows = rows.assign(event_time=moments, day=event_days.fillna(pd.Timestamp(first)))
    chosen: pd.DataFrame = rows.loc[wanted]
    return chosen.reset_index(drop=True)


def event_time(spec: ModelSpec, rows: pd.DataFrame) -> pd.Series:
    """When each row happened, as clock time in the model's time zone; NaT where it can't be read."""
    moments = pd.to_datetime(rows[spec.time.column], format=spec.time.format or "ISO8601", errors="coerce")
    if moments.dt.tz is not None:
        moments = moments.dt.tz_convert(spec.time.timezone).dt.tz_localize(None)
    if spec.time.hour:
        moments = moments + pd.to_timedelta(pd.to_numeric(rows[spec.time.hour], errors="coerce"), unit="h")
    return moments.astype("datetime64[us]")


def _read(source: Source, spec: ModelSpec, first: date, last: date) -> pd.DataFrame | None:
    """The rows that a source gives for the days asked (or more than those), or None where it has nothing."""
    match source:
        case CsvSource():
            paths = _files(source.path, spec.folder, first, last)
            frames = [pd.read_csv(path, sep=source.separator, encoding=source.encoding) for path in paths]
        case ParquetSource():
            paths = _files(source.path, spec.folder, first, last)
            frames = [_between(pads.dataset(path), spec.time.column, first, last) for path in paths]
        case DeltaSource():
            path = source.path if "://" in source.path else str(spec.folder / source.path)
            frames = [_between(DeltaTable(path).to_pyarrow_dataset(), spec.time.column, first, last)]
        case SqlSource():
            frames = [_read_sql(source, first, last)]
        case PythonSource():
            frames = [_call(spec.folder, source.function)(first, last)]
    return pd.concat(frames, ignore_index=True) if frames else None


def _files(pattern: str, folder: Path, first: date, last: date) -> list[str]:
    names = (
        [pattern.replace("{day}", day.isoformat()) for day in days(first, last)] if "{day}" in pattern else [pattern]
    )
    found = [path for name in names for path in sorted(glob.glob(str(folder / name)))]  # noqa: PTH207  # patterns may be absolute
    if not found and "{day}" not in pattern:
        raise DataError(f"no file matches {folder / pattern}; put it there, or correct source.path in model.yaml")
    return found


def _between(dataset: pads.Dataset, column: str, first: date, last: date) -> pd.DataFrame:
    """The rows around the days; where `column` is a date or a time, the others are not even read (a day of slack: zones)."""
    kind = dataset.schema.field(column).type if column in dataset.schema.names else None
    if kind is None or not (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return pd.DataFrame(dataset.to_table().to_pandas())
    low, high = (pa.scalar(day).cast(kind) for day in (first - timedelta(days=1), last + timedelta(days=2)))
    wanted = (pads.field(column) >= low) & (pads.field(column) < high)
    return pd.DataFrame(dataset.to_table(filter=wanted).to_pandas())


def _read_sql(source: SqlSource, first: date, last: date) -> pd.DataFrame:
    import sqlalchemy

    engine = sqlalchemy.create_engine(source.url.get_secret_value())
    try:
        with engine.connect() as connection:
            bounds = {"first": first.isoformat(), "last": last.isoformat()}
            return pd.read_sql(sqlalchemy.text(source.query), connection, params=bounds)
    finally:
        engine.dispose()


def _call(folder: Path, dotted: str) -> Callable[..., pd.DataFrame]:
    """`module.function` of a model's own folder, wrapped to say whose it is when it does not return a DataFrame."""
    module_name, _, function_name = dotted.partition(".")
    path = folder / f"{module_name}.py"
    place = importlib.util.spec_from_file_location(f"esteira_model_{folder.name}_{module_name}", path)
    assert place is not None, f"{path} is not a Python file"
    assert place.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(place)
    place.loader.exec_module(module)

    def checked(*args: Any) -> pd.DataFrame:
        result = getattr(module, function_name)(*args)
        if not isinstance(result, pd.DataFrame):
            raise DataError(f"{path}: {function_name} must return a pandas DataFrame, got {type(result).__name__}")
        return result

    return checked


def validate(spec: ModelSpec, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that are as expected, and the others with `rule` and `reason`: each row is in exactly one of the two.

    The target's expectation is not looked at: it belongs to the labels, which scoring must not read.
    """
    failures = [*_structural(spec, rows)]
    for column, expectation in spec.expect.items():
        if column in rows.columns and column != spec.target:
            failures += _unexpected(column, rows[column], expectation)
    return _part(rows, failures)


def validate_labels(spec: ModelSpec, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Like `validate`, of rows with a `label`: it must be there, be a number for a regression, and be as expected."""
    label = rows["label"]
    failures = [("label", label.isna(), "the label is empty")]
    if spec.task == "regression":
        number = pd.to_numeric(label, errors="coerce")
        failures.append(("label", number.isna() | np.isinf(number), "the label is not a finite number"))
    if spec.target in spec.expect:
        failures += _unexpected(spec.target, label, spec.expect[spec.target])
    return _part(rows, failures)


Failure = tuple[str, pd.Series, str]


def _structural(spec: ModelSpec, rows: pd.DataFrame) -> Iterator[Failure]:
    yield "time", rows["event_time"].isna(), f"the time in {spec.time.column!r} can't be read"
    for name in spec.key:
        yield "key", rows[name].isna(), f"the key {name!r} is empty"
    yield "unique_key", rows.duplicated(["day", *spec.key]), "another row of the day has the same key"
    if not spec.has_features_code:
        for name in (*spec.features.numeric, *spec.features.boolean):
            number = pd.to_numeric(rows[name], errors="coerce")
            yield "number", rows[name].notna() & (number.isna() | np.isinf(number)), f"{name!r} is not a finite number"


def _unexpected(column: str, values: pd.Series, expectation: Expectation) -> Iterator[Failure]:
    given = values.notna()
    number = pd.to_numeric(values, errors="coerce")
    if expectation.min is not None:
        yield "min", given & ~(number >= expectation.min), f"{column!r} is below {expectation.min:g}"
    if expectation.max is not None:
        yield "max", given & ~(number <= expectation.max), f"{column!r} is above {expectation.max:g}"
    if expectation.values is not None:
        allowed = {canonical(value) for value in expectation.values}
        yield "in", given & ~values.map(canonical).isin(allowed), f"{column!r} is not one of {list(expectation.values)}"
    if expectation.required:
        yield "required", ~given, f"{column!r} is empty"


def _part(rows: pd.DataFrame, failures: list[Failure]) -> tuple[pd.DataFrame, pd.DataFrame]:
    rule = pd.Series("", index=rows.index, dtype=object)
    reason = rule.copy()
    for name, failed, why in failures:
        first = failed.astype(bool) & (rule == "")
        rule[first], reason[first] = name, why
    bad = rule != ""
    return rows.loc[~bad], rows.loc[bad].assign(rule=rule[bad], reason=reason[bad])


def build_features(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The feature rows of good raw rows: key, event_time, day, and each feature as float64 or text.

    Where the model's folder has a features.py, its build(rows) gives the features; it must return one row for each row.
    """
    built = rows
    if spec.has_features_code and len(rows):
        built = _call(spec.folder, "features.build")(rows.drop(columns=[spec.target], errors="ignore").copy())
        if len(built) != len(rows):
            raise DataError(
                f"{spec.folder / 'features.py'}: build must return a row for each of the {len(rows)} rows, got {len(built)}"
            )
    if len(rows) == 0:
        return pd.DataFrame()
    missing = [name for name in (*spec.key, *spec.features.all) if name not in built.columns]
    if missing:
        raise DataError(
            f"model {spec.name}: {missing} neither come from the source nor from features.py; it gave {list(built.columns)}"
        )
    columns = {name: rows[name].set_axis(built.index) for name in ("event_time", "day")}
    columns |= {name: _typed(spec, name, built[name]) for name in (*spec.key, *spec.features.all)}
    return pd.DataFrame(columns).sort_values(["day", "event_time", *spec.key], kind="stable", ignore_index=True)


def _typed(spec: ModelSpec, name: str, values: pd.Series) -> pd.Series:
    if name in spec.features.categorical:
        return values.map(canonical, na_action="ignore").astype("str")
    return _number(values) if name in spec.features.all else values


def _number(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype("float64")


def read_labels(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """The labels that the source has for the days: the key, `day` where the source knows it, and `label`.

    From `labels.source` where the model has one (joined to the served rows by key), else from the source's target.
    """
    if spec.labels is None:
        rows = read(spec, first, last)
        key = ["day", *spec.key]
    else:
        read_rows = _read(spec.labels.source, spec, first, last)
        rows = read_rows if read_rows is not None else pd.DataFrame()
        key = list(spec.labels.key or spec.key)
    if rows.empty:
        return pd.DataFrame(columns=[*key, "label"])
    missing = [name for name in (*key, spec.target) if name not in rows.columns]
    if missing:
        raise DataError(
            f"model {spec.name}: its labels' source has no column {missing}; it has: {', '.join(map(str, rows.columns))}"
        )
    columns = {name: _typed(spec, name, rows[name]) for name in key}
    return pd.DataFrame(columns).assign(label=rows[spec.target]).drop_duplicates(key)


def as_label(spec: ModelSpec, values: pd.Series) -> pd.Series:
    """Labels as they are stored: float64 for a regression, text for classes."""
    return _number(values) if spec.task == "regression" else values.map(canonical).astype("str")


def split_days(frame: pd.DataFrame, *shares: float) -> list[pd.DataFrame]:
    """Parts of `frame` in order of time, cut between days, with the given shares of the days. Raises DataError if one is empty."""
    every = np.sort(frame["day"].unique())
    cuts = [round(len(every) * share) for share in np.cumsum(shares)[:-1]]
    parts = [frame[frame["day"].isin(part)] for part in np.split(every, cuts)]
    if any(part.empty for part in parts):
        raise DataError(
            f"{len(every)} days with mature labels are too few to split {'/'.join(f'{share:.0%}' for share in shares)}; widen the window"
        )
    return parts


def recent_and_sample(frame: pd.DataFrame, start: date, keep_old: float | None, seed: int) -> pd.DataFrame:
    """The rows from `start` on, and of the rows before it the share `keep_old`, drawn with `seed`."""
    old = frame[frame["day"] < pd.Timestamp(start)]
    recent = frame[frame["day"] >= pd.Timestamp(start)]
    if not keep_old or old.empty:
        return recent
    return pd.concat([old.sample(frac=keep_old, random_state=seed).sort_index(), recent])
