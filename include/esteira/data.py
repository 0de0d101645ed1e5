"""Rows: read a source, give each its time, part the good from the bad, split by time. Nothing here writes."""

from __future__ import annotations

import glob
import importlib.util
from collections.abc import Callable, Iterable, Iterator
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
    EsteiraError,
    Expectation,
    ModelSpec,
    ParquetSource,
    PythonSource,
    Source,
    SqlSource,
    canonical,
)


class DataError(EsteiraError):
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
    if rows is None or rows.columns.empty:
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
    given, form = rows[spec.time.column], spec.time.format or "ISO8601"
    try:
        moments = pd.to_datetime(given, format=form, errors="coerce")
    except ValueError:  # offsets that differ, as they do over a year with summer time
        zoned = given.astype(str).str.contains(r"(?:Z|[+-]\d\d:?\d\d)$")
        if not zoned.all():
            raise DataError(
                f"model {spec.name}: {zoned.sum()} of {len(zoned)} times in {spec.time.column!r} have an offset and the others "
                f"have none, such as {given[~zoned].iloc[0]!r}; mend the source so that all or none have one"
            ) from None
        moments = pd.to_datetime(given, format=form, errors="coerce", utc=True)
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
    names = [pattern]
    if "{day}" in pattern:  # with a day of slack: files may be cut by another clock than the model's
        around = days(first - timedelta(days=1), last + timedelta(days=1))
        names = [pattern.replace("{day}", day.isoformat()) for day in around]
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


def _call(folder: Path, dotted: str) -> Callable[..., pd.DataFrame]:
    """A function of a model's own folder, wrapped to say whose it is when it does not return a DataFrame."""

    def checked(*args: Any) -> pd.DataFrame:
        result = function(folder, dotted)(*args)
        if not isinstance(result, pd.DataFrame):
            raise DataError(f"{folder}: {dotted} must return a pandas DataFrame, got {type(result).__name__}")
        return result

    return checked


def validate(spec: ModelSpec, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that are as expected, and the others with `rule` and `reason`: each row is in exactly one of the two.

    What a model's features.py makes of a row is looked at too. The target's expectation is not: it belongs to the labels,
    which scoring must not read.
    """
    good, bad, _ = _examine(spec, rows)
    return good, bad


def build_features(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The feature rows of those raw rows that are as expected: key, event_time, day, each feature as float64 or text.

    Where the model's folder has a features.py, its build(rows) gives the features; it must keep the rows and their index.
    """
    good, _, built = _examine(spec, rows)
    if good.empty:
        return pd.DataFrame()
    columns = {name: good[name] for name in ("event_time", "day")}
    columns |= {name: _typed(spec, name, built[name]) for name in (*spec.key, *spec.features.all)}
    return pd.DataFrame(columns).sort_values(["day", "event_time", *spec.key], kind="stable", ignore_index=True)


def _examine(spec: ModelSpec, rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The good rows, the bad ones with rule and reason, and what features.py makes of the good ones."""
    if rows.empty:
        return rows, rows, rows
    good, bad = _part(rows, [*_unreadable(spec, rows), *_unexpected_in(spec, rows, list(rows.columns))])
    built = _built(spec, good)
    good, worse = _part(good, [*_not_numbers(spec, built), *_unexpected_in(spec, built, spec.features.all)])
    # Last, so that a row that is bad by itself never costs a good one of the same key its place.
    good, twice = _part(
        good, [("unique_key", good.duplicated(["day", *spec.key]), "another row of the day has the same key")]
    )
    return good, pd.concat([bad, worse, twice]).sort_index(), built.loc[good.index]


def _built(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """What the model's features.py makes of the rows, or the rows themselves, with every feature and the same index."""
    built = rows
    if spec.has_features_code and len(rows):
        built = _call(spec.folder, "features.build")(rows.drop(columns=[spec.target], errors="ignore").copy())
        if not built.index.sort_values().equals(rows.index.sort_values()):
            raise DataError(
                f"{spec.folder / 'features.py'}: build must return the {len(rows)} rows that it got, with their index; "
                f"it returned {len(built)}"
            )
        built = built.loc[rows.index]
    missing = [name for name in (*spec.key, *spec.features.all) if name not in built.columns]
    if missing and len(rows):
        raise DataError(
            f"model {spec.name}: {missing} neither come from the source nor from features.py; it gave {list(built.columns)}"
        )
    return built


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


def _unreadable(spec: ModelSpec, rows: pd.DataFrame) -> Iterator[Failure]:
    yield "time", rows["event_time"].isna(), f"the time in {spec.time.column!r} can't be read"
    for name in spec.key:
        yield "key", rows[name].isna(), f"the key {name!r} is empty"


def _not_numbers(spec: ModelSpec, built: pd.DataFrame) -> Iterator[Failure]:
    for name in (*spec.features.numeric, *spec.features.boolean) if len(built) else ():
        number = pd.to_numeric(built[name], errors="coerce")
        yield "number", built[name].notna() & (number.isna() | np.isinf(number)), f"{name!r} is not a finite number"


def _unexpected_in(spec: ModelSpec, rows: pd.DataFrame, columns: Iterable[str]) -> Iterator[Failure]:
    for column in columns:
        if column in spec.expect and column in rows.columns and column != spec.target:
            yield from _unexpected(column, rows[column], spec.expect[column])


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


def _typed(spec: ModelSpec, name: str, values: pd.Series) -> pd.Series:
    if name in spec.features.categorical:
        return values.map(canonical, na_action="ignore").astype("str")
    return _number(values) if name in spec.features.all else values


def _number(values: pd.Series) -> pd.Series:
    return pd.to_numeric(values, errors="coerce").astype("float64")


def read_labels(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """The labels that the source has for the days: the key, `day` where the source knows it, and `label`.

    From `labels.source` where the model has one, else from the source's own target. Without a day a key must be the only
    one of its kind. Raises DataError where it is not, or where a column is missing.
    """
    if spec.labels is None:
        rows = read(spec, first, last)
    else:
        found = _read(spec.labels.source, spec, first, last)
        rows = _with_day(spec, found) if found is not None else pd.DataFrame()
    key = list(spec.key if spec.labels is None else spec.labels.key or spec.key)
    if rows.empty:
        return pd.DataFrame(columns=[*key, "label"])
    missing = [name for name in (*key, spec.target) if name not in rows.columns]
    if missing:
        raise DataError(
            f"model {spec.name}: its labels' source has no column {missing}; it has: {', '.join(map(str, rows.columns))}"
        )
    rows = rows.dropna(subset=[name for name in ("day", "event_time", *key) if name in rows.columns])
    key = [*(["day"] if "day" in rows.columns else []), *key]
    columns = {name: _typed(spec, name, rows[name]) for name in key}
    labels = pd.DataFrame(columns).assign(label=rows[spec.target])
    twice = labels.duplicated(key, keep=False)
    if "day" not in key and twice.any():
        example = labels.loc[twice, key].iloc[0].to_dict()
        raise DataError(
            f"model {spec.name}: its labels' source has {twice.sum()} rows whose key is not the only one of its kind, such as "
            f"{example}; add the time column {spec.time.column!r} to it, or a key that is"
        )
    return labels.drop_duplicates(key)


def _with_day(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The labels' rows with their day, where they have the model's time column."""
    if spec.time.column not in rows.columns or (spec.time.hour and spec.time.hour not in rows.columns):
        return rows
    return rows.assign(day=event_time(spec, rows).dt.normalize().astype("datetime64[s]"))


def like(values: pd.Series, wanted: pd.Series) -> pd.Series:
    """`values` with the type of `wanted`, so that two sources' keys can be joined; what does not fit becomes empty."""
    if pd.api.types.is_datetime64_any_dtype(wanted):
        return pd.to_datetime(values, errors="coerce").astype(wanted.dtype)
    if pd.api.types.is_numeric_dtype(wanted):
        return pd.to_numeric(values, errors="coerce")
    return values.map(canonical, na_action="ignore").astype(wanted.dtype)


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
