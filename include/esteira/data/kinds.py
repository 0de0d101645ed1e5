"""The type of each source column, and which values do not have it: a table keeps a column's type for good."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from esteira.spec import ModelSpec, canonical

NAMES: Mapping[str, pa.DataType] = {
    "number": pa.float64(),
    "integer": pa.int64(),
    "text": pa.string(),
    "boolean": pa.bool_(),
    "time": pa.timestamp("us"),
}
PERSONAL = "(personal)"  # what is shown in place of a personal value
EXACT = 2**53  # up to here a float64 holds every whole number
ZERO_LED = r"\s*[+-]?0\d"  # as in 007, which is no number
SHORT = "(short)"  # a column beside those of the source: how many fields a row has that has too few
FEW = 64  # values, from which on halving costs more than looking at each
MISFITS = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError)
TRUTH = {"true": 1.0, "false": 0.0}


def declared(spec: ModelSpec, column: str) -> pa.DataType | None:
    """The type that the model.yaml gives a source column; None where it gives none.

    Numeric and boolean features are float64, categories text: whatever their values look like one day, they are the same
    category. The target, and columns that nothing asks for, are text: that they can't be read is no reason not to score
    a row. What a features.py may read keeps the type that it has.
    """
    asked = spec.expect.get(column)
    if column == spec.target:
        return pa.string()
    if asked and asked.type:
        return NAMES[asked.type]
    if spec.has_features_code or column in (*spec.key, spec.time.column, spec.time.hour, "event_time", "day"):
        return None
    return pa.float64() if column in (*spec.features.numeric, *spec.features.boolean) else pa.string()


def fitted(values: pd.Series, kind: pa.DataType | None, *, key: bool = False, feature: bool = False) -> pd.Series:
    """The values with their column's type, and empty where one does not have it; without a type the one that they suggest.

    Whole numbers become floats, so that a column's first day does not decide that it has no fractions; a key's stay whole.
    A number beyond 2^53 does not fit a float, unless it is a feature, of which the nearest float is as good.
    """
    if kind is None:
        kind = _suggested(values, key=key)
    if kind is None and pd.api.types.is_datetime64_any_dtype(values):
        times = values.dt.as_unit("us")  # finer than a table keeps it
        zoned: pd.Series = times if times.dt.tz is None else times.dt.tz_convert("UTC")  # the one zone that it has
        return zoned
    if kind is None or (values.dtype == "datetime64[us]" and kind == NAMES["time"]):
        return values
    if key and pa.types.is_integer(kind) and not pd.api.types.is_numeric_dtype(values):
        values = values.mask(values.astype("str").str.match(ZERO_LED).fillna(False).astype(bool))
    if is_text(kind):
        return as_text(values)
    if pa.types.is_floating(kind) and values.dtype == "float64":
        return values
    if pa.types.is_floating(kind):
        return _as_float(values, exact=not feature)
    return _cast(values, kind)


def is_mixed(values: pd.Series) -> bool:
    """Whether values are of no type that a table has, such as lists: they are kept as text."""
    return values.dtype == object and pd.api.types.infer_dtype(values, skipna=True) == "mixed"


def is_text(kind: pa.DataType) -> bool:
    """Whether a type is one of texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _suggested(values: pd.Series, *, key: bool) -> pa.DataType | None:
    if isinstance(values.dtype, pd.StringDtype) or (isinstance(values.dtype, np.dtype) and values.dtype.kind in "fbM"):
        return None  # to look at each value would tell nothing more
    look = pd.api.types.infer_dtype(values, skipna=True)
    if look in ("integer", "mixed-integer-float"):
        largest = values.dropna().abs().max()
        if look == "integer" and largest > 2**63 - 1:
            return pa.string()
        return pa.int64() if key or (look == "integer" and largest > EXACT) else pa.float64()
    if look == "decimal":  # its first day's digits must not bound those of the others
        return pa.string() if key else pa.float64()
    return pa.string() if look in ("mixed", "mixed-integer", "time", "timedelta", "timedelta64") else None


def as_text(values: pd.Series) -> pd.Series:
    """Values as text, the same for 1, 1.0 and '1'; what is empty stays empty."""
    if isinstance(values.dtype, pd.StringDtype):
        return values
    if values.dtype == "float64":
        return pd.Series(_written(values.to_numpy()), values.index, dtype="str")
    if isinstance(values.dtype, np.dtype) and values.dtype.kind == "i":
        return pd.Series(pa.array(values.to_numpy()).cast(pa.string()), values.index, dtype="str")
    return values.map(canonical, na_action="ignore").astype("str")


def _written(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> pa.Array:
    """Numbers as canonical() writes them: by Arrow, which writes the same digits, but for those with an exponent."""
    size = np.abs(numbers)
    whole = (size < EXACT) & (numbers == np.trunc(numbers))
    found = pa.array(numbers, from_pandas=True).cast(pa.string())
    if whole.any():
        found = pc.if_else(whole, pa.array(np.where(whole, numbers, 0).astype("int64")).cast(pa.string()), found)
    odd = ~whole & ~((size >= 1e-4) & (size < 1e10)) & ~np.isnan(numbers)
    if odd.any():
        found = pc.replace_with_mask(found, odd, pa.array(map(canonical, numbers[odd]), pa.string()))
    return found


def as_texts(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """The columns as text, all values at once: a file may have thousands of columns that nothing asks for."""
    numbers = {name: as_text(rows[name]) for name in rows.columns if rows[name].dtype in ("float64", "int64")}
    others = {
        name: rows[name]
        for name in rows.columns
        if name not in numbers and not isinstance(rows[name].dtype, pd.StringDtype)
    }
    if not others:
        return {name: numbers.get(name, rows[name]) for name in rows.columns}
    every = np.concatenate([values.to_numpy(dtype=object) for values in others.values()])
    texts = as_text(pd.Series(every, dtype=object)).array
    starts = range(0, len(every), len(rows)) if len(rows) else [0] * len(others)
    made = numbers | {
        name: pd.Series(texts[at : at + len(rows)], rows.index, copy=False)
        for name, at in zip(others, starts, strict=True)
    }
    return {name: made[name] if name in made else rows[name] for name in rows.columns}


def as_number(values: pd.Series) -> pd.Series:
    """Values as float64: numbers, numbers written as text, and true and false; empty where one is none of these."""
    if values.dtype == "float64":
        return values
    if pd.api.types.is_complex_dtype(values):
        return pd.Series(np.nan, index=values.index)
    if pd.api.types.is_numeric_dtype(values):
        return values.astype("float64")
    text = values.astype("str").str.strip().str.lower() if not pd.api.types.is_datetime64_any_dtype(values) else values
    truth = text.map(TRUTH) if text is not values else None
    number = pd.to_numeric(text, errors="coerce") if truth is not None else pd.Series(np.nan, index=values.index)
    return (number if truth is None else number.fillna(truth)).astype("float64")


def _as_float(values: pd.Series, *, exact: bool) -> pd.Series:
    number = as_number(values)
    if not exact or pd.api.types.infer_dtype(values, skipna=True) != "integer":
        return number
    within = values.dropna().abs() <= EXACT
    return number if within.all() else number.where(within.reindex(values.index, fill_value=True))


def _cast(values: pd.Series, kind: pa.DataType) -> pd.Series:
    """Values through Arrow's own casts, which change nothing silently."""
    if pd.api.types.is_datetime64_any_dtype(values):
        values = values.dt.as_unit("us")  # finer than a table keeps it
    found = pa.chunked_array(_parts(values, kind), kind)
    fitted: pd.Series = found.to_pandas(integer_object_nulls=True, date_as_object=False)
    return fitted.set_axis(values.index)


def _parts(values: pd.Series, kind: pa.DataType) -> list[pa.Array]:
    """The values, cast all at once; where one does not fit, each half, so that it costs its own neighbours only."""
    try:
        return [pa.array(values, from_pandas=True).cast(kind)]
    except MISFITS:
        if len(values) <= FEW:
            return [pa.array([_one(value, kind) for value in values], kind)]
        half = len(values) // 2
        return _parts(values.iloc[:half], kind) + _parts(values.iloc[half:], kind)


def _one(value: object, kind: pa.DataType) -> object:
    if pd.isna(value):  # type: ignore[call-overload]
        return None
    try:
        return pa.scalar(value).cast(kind).as_py()
    except MISFITS:
        return None


def masked(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without the values of personal columns, for whoever is shown an example: a word for text, empty numbers."""
    return rows.assign(
        **{
            name: np.nan if pd.api.types.is_numeric_dtype(rows[name]) else PERSONAL
            for name in spec.personal
            if name in rows.columns
        }
    )
