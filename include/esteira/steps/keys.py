"""Which rows are the same: by 64 bits of their keys, so that those of a day need not be in memory."""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pandas as pd

Digests = np.ndarray[Any, np.dtype[np.uint64]]
Array = np.ndarray[Any, np.dtype[Any]]
Flags = np.ndarray[Any, np.dtype[np.bool_]]

NONE: Digests = np.array([], dtype="uint64")
SPANS = 64  # of digests, each of which is looked at by itself
BOUNDS: Digests = np.arange(SPANS, dtype="uint64") * np.uint64(2**64 // SPANS)
FIRST, SECOND = "a first reading.", "a second opinion"  # of 16 characters each


def digests(rows: pd.DataFrame, names: list[str], by: str = FIRST) -> Digests:
    """64 bits for each row, the same where it has the same values in the columns, whatever unit its times have."""
    times = {name: rows[name].dt.as_unit("us") for name in names if pd.api.types.is_datetime64_any_dtype(rows[name])}
    found = pd.util.hash_pandas_object(rows[names].assign(**times), index=False, hash_key=by).to_numpy()
    return np.asarray(found, dtype="uint64")


def total(rows: pd.DataFrame) -> int:
    """64 bits for all of the rows, in whatever order they are, and the names of their columns."""
    names = sorted(map(str, rows.columns))
    by = hashlib.sha256("\0".join(names).encode()).hexdigest()[:16]
    every = rows.set_axis(rows.columns.map(str), axis=1)[names]
    found = pd.util.hash_pandas_object(every, index=False, hash_key=by, categorize=False).to_numpy(dtype="uint64")
    return (int(found.sum()) + int(by, 16)) % 2**64


def among(values: Digests, known: Digests) -> Flags:
    """Which values are known; `known` is in order."""
    return placed(values, known)[1]


def placed(values: Digests, known: Digests) -> tuple[Array, Flags]:
    """Where each value is in `known`, which is in order, and whether it is there at all."""
    if not len(known):
        return np.zeros(len(values), dtype="int64"), np.zeros(len(values), dtype=bool)
    order = np.argsort(values)  # looked for in order, they are found in half the time
    at = np.empty(len(values), dtype="int64")
    at[order] = np.minimum(np.searchsorted(known, values[order]), len(known) - 1)
    return at, np.asarray(known[at] == values)


def sampled(found: Digests, share: Any) -> Flags:
    """Which rows are of a sample, of which each row has its chance: the same ones whenever they are asked for."""
    return np.asarray((found / 2.0**64 < share) | (share >= 1))


class Seen:
    """Digests of all rows of some days, on disk: of twenty million rows they are 160 MB."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as this does
        weakref.finalize(self, self._file.close)
        self._cuts: list[Array] = []  # of each batch, which is in order, where each of the spans begins
        self._ends = [0]

    def add(self, found: Digests) -> None:
        """Add those of a batch."""
        ordered = np.sort(found)
        self._file.seek(self._ends[-1] * ordered.itemsize)
        self._file.write(ordered.tobytes())
        self._cuts.append(np.searchsorted(ordered, BOUNDS))
        self._ends.append(self._ends[-1] + len(ordered))

    def repeated(self) -> Digests:
        """Those that are there twice, in order; of one batch none is looked for."""
        if len(self._cuts) < 2:
            return NONE
        return np.concatenate([NONE, *(_twice(self._span(number)) for number in range(SPANS))])

    def _span(self, number: int) -> Digests:
        """Those of all batches whose first bits are a number."""
        parts = []
        for start, end, cuts in zip(self._ends, self._ends[1:], self._cuts, strict=False):
            last = cuts[number + 1] if number + 1 < SPANS else end - start
            parts.append(self._read(start + int(cuts[number]), start + int(last)))
        return np.concatenate(parts)

    def _read(self, start: int, end: int) -> Digests:
        self._file.seek(start * NONE.itemsize)
        return np.frombuffer(self._file.read((end - start) * NONE.itemsize), dtype="uint64")

    def all(self) -> Digests:
        """All of them, in order."""
        return np.sort(self._read(0, self._ends[-1]))


def _twice(found: Digests, kind: Literal["quicksort", "stable"] = "quicksort") -> Digests:
    found.sort(kind=kind)
    return np.unique(found[1:][found[1:] == found[:-1]])


def repeated(parts: Iterable[Digests]) -> Digests:
    """Those that are in more than one of the parts, in order; where each part is in order, they are merged only."""
    return _twice(np.concatenate([NONE, *parts]), kind="stable")
