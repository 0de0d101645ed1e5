"""The labels table: a correction is a row of its own, and a key's latest row is its label."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any, cast

import pandas as pd

from esteira.spec import ModelSpec
from esteira.store import lake


def read(
    spec: ModelSpec,
    first: date,
    last: date,
    at: int | None = None,
    wanted: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """`day`, the key and `label` of each labelled row of the days, as last corrected; at a version, as it was known then.

    `wanted` takes of some rows those that are wanted, so that the others are never all in memory.
    """
    columns = list(dict.fromkeys(["day", *spec.key, "label", "first_seen"]))
    if wanted is None:
        rows = lake.read("labels", spec.name, columns=columns, at=at, day=(first, last))
    else:
        parts = [wanted(part) for part in lake.batches("labels", spec.name, columns=columns, at=at, day=(first, last))]
        rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return latest(spec, rows).drop(columns="first_seen", errors="ignore")


def counts(spec: ModelSpec, first: date, last: date) -> dict[date, int]:
    """How many rows of each day have a label. Of a day whose labels all came at once no key is read."""
    rows, times = Counter[date](), defaultdict[date, set[Any]](set)
    for part in lake.batches("labels", spec.name, columns=["day", "first_seen"], day=(first, last)):
        for (moment, seen), count in cast("Iterable[Any]", part.groupby(["day", "first_seen"]).size().items()):
            rows[moment.date()] += int(count)
            times[moment.date()].add(seen)
    for day, every in times.items():
        if len(every) > 1:  # late ones, or corrections, which are further rows of the same key
            rows[day] = len(read(spec, day, day))
    return dict(rows)


def latest(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Of each key the row that was seen last. When that was never leaves a row out: a replay must find what there was."""
    key = list(dict.fromkeys(["day", *spec.key]))
    if rows.empty or not rows.duplicated(key).any():  # most days have no correction
        return rows
    return rows.sort_values("first_seen", kind="stable").drop_duplicates(key, keep="last").sort_index()
