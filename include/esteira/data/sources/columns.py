"""A source's frame as the steps can take it: each column with one name, and no value that can't be written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pandas as pd

from esteira.data.kinds import SHORT
from esteira.errors import DataError
from esteira.spec import ModelSpec


def plain(rows: pd.DataFrame, where: str, spec: ModelSpec) -> pd.DataFrame:
    """The rows as the steps can take them. Raises DataError where two columns have one name."""
    return writable(once(rows, where), named(spec))


def named(spec: ModelSpec) -> set[str]:
    """The columns that model.yaml names."""
    return {*spec.source_columns, *spec.features.all, spec.target, *spec.expect}


def once(rows: pd.DataFrame, where: str) -> pd.DataFrame:
    """The rows, where no two columns have one name."""
    if rows.columns.nlevels > 1:
        raise DataError(f"{where}: its columns have names in {rows.columns.nlevels} levels; give each one name")
    counts = Counter(str(name).casefold() for name in rows.columns)  # a table does not tell A from a
    twice = [str(name) for name in rows.columns if counts[str(name).casefold()] > 1]
    if twice:
        raise DataError(
            f"{where}: the column {twice[0]!r} is there {counts[twice[0].casefold()]} times; rename or remove one"
        )
    if SHORT in counts:
        raise DataError(f"{where}: the column name {SHORT!r} is Esteira's own; rename the column")
    return rows


def writable(rows: pd.DataFrame, texts: Iterable[str]) -> pd.DataFrame:
    """The rows with text in place of what no table can take: complex numbers, and, escaped, lone halves of characters.

    In the columns `texts` bytes are text, too; those that are no UTF-8 are escaped.
    """
    changed = {}
    for name in rows.columns:
        values = rows[name]
        if values.dtype == object or pd.api.types.is_complex_dtype(values.dtype):
            made = _decoded if name in texts else _written
            changed[name] = pd.Series([made(value) for value in values], values.index, dtype=object)
    return rows.assign(**changed) if changed else rows


def _written(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return (
        str(value) if isinstance(value, complex | np.complexfloating) else value
    )  # of which pandas would drop the imaginary part


def _decoded(value: object) -> object:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else _written(value)
