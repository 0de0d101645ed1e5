"""Which rows are the same: by 64 bits of their keys, so that those of a day need not be in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

Digests = np.ndarray[Any, np.dtype[np.uint64]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

NONE: Digests = np.array([], dtype="uint64")
FIRST, SECOND = "a first reading.", "a second opinion"  # of 16 characters each


def digests(rows: pd.DataFrame, names: list[str], by: str = FIRST) -> Digests:
    """64 bits for each row, the same where it has the same values in the columns, whatever unit its times have."""
    times = {name: rows[name].dt.as_unit("us") for name in names if pd.api.types.is_datetime64_any_dtype(rows[name])}
    found = pd.util.hash_pandas_object(rows[names].assign(**times), index=False, hash_key=by).to_numpy()
    return np.asarray(found, dtype="uint64")


def among(values: Digests, known: Digests) -> Flags:
    """Which values are known; `known` is in order."""
    if not len(known):
        return np.zeros(len(values), dtype=bool)
    at = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return np.asarray(known[at] == values)


def sampled(found: Digests, share: Any) -> Flags:
    """Which rows are of a sample, of which each row has its chance: the same ones whenever they are asked for."""
    return np.asarray((found / 2.0**64 < share) | (share >= 1))


def repeated(parts: list[Digests]) -> Digests:
    """Those that are there twice, in order."""
    every = np.concatenate([NONE, *parts])
    every.sort()  # where it is: of twenty million rows a copy is 160 MB
    return np.unique(every[1:][every[1:] == every[:-1]])
