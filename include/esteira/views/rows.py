"""The rows of a model's days: labels, quarantine, predictions, tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, get_args

import pandas as pd

from esteira.data.kinds import PERSONAL
from esteira.spec import ModelSpec
from esteira.store import labels as known_labels
from esteira.store import lake
from esteira.store.schemas import Kind


@dataclass(frozen=True)
class LabelsOf:
    """How many rows a day has, and how many of them have a label."""

    day: date
    rows: int
    labelled: int


def labels(spec: ModelSpec, first: date, last: date) -> tuple[LabelsOf, ...]:
    """The labels' state, day by day."""
    labelled = known_labels.counts(spec, first, last)
    made = {day: rows for day, (rows, _) in lake.sizes("features", spec.name).items() if first <= day <= last}
    return tuple(LabelsOf(day, made[day], labelled.get(day, 0)) for day in sorted(made))


@dataclass(frozen=True)
class Quarantined:
    """Rows in quarantine that failed for the same reason."""

    stage: str
    rule: str
    reason: str
    rows: int
    days: int


def quarantine(spec: ModelSpec, first: date, last: date) -> tuple[Quarantined, ...]:
    """What is in quarantine, by rule and reason, the most frequent first."""
    rows = lake.read("quarantine", spec.name, columns=["day", "stage", "rule", "reason"], day=(first, last))
    if rows.empty:
        return ()
    found = [
        Quarantined(str(stage), str(rule), str(reason), len(part), int(part["day"].nunique()))
        for (stage, rule, reason), part in rows.groupby(["stage", "rule", "reason"])
    ]
    return tuple(sorted(found, key=lambda each: -each.rows))


def put_aside(spec: ModelSpec, days: Sequence[date]) -> Counter[str]:
    """How many rows of the days are in quarantine, by the stage that put them there, labels left out."""
    held = {day for day, (rows, _) in lake.sizes("quarantine", spec.name).items() if rows} & {*days}
    if not held:
        return Counter()
    rows = lake.read("quarantine", spec.name, columns=["day", "stage"], day=(min(held), max(held)))
    return Counter(rows.loc[rows["day"].isin(pd.to_datetime(sorted(held))) & (rows["stage"] != "labels"), "stage"])


@dataclass(frozen=True)
class BadRow:
    """A row in quarantine as it came, by column; of a personal column there is a word in the value's place."""

    day: date
    stage: str
    rule: str
    reason: str
    values: dict[str, Any]


def bad_rows(spec: ModelSpec, first: date, last: date, limit: int) -> tuple[BadRow, ...]:
    """Rows that are in quarantine, the newest days first, so many at most."""
    sizes = lake.sizes("quarantine", spec.name)
    newest, held = last, 0
    for newest in sorted((day for day in sizes if first <= day <= last), reverse=True):
        held += sizes[newest][0]
        if held >= limit:
            break
    rows = lake.read("quarantine", spec.name, day=(newest, last))
    rows = rows.sort_values("day", ascending=False, kind="stable").head(limit) if len(rows) else rows
    return tuple(
        BadRow(row["day"].date(), str(row["stage"]), str(row["rule"]), str(row["reason"]), _masked(spec, row["row"]))
        for row in rows.to_dict("records")
    )


def _masked(spec: ModelSpec, row: str) -> dict[str, Any]:
    given = json.loads(row)
    return {name: PERSONAL if name in spec.personal and value is not None else value for name, value in given.items()}


@dataclass(frozen=True)
class TableOf:
    """A table of a model: where it lies, its Delta version, its rows and bytes, and the days that have some."""

    kind: str
    place: str
    version: int
    rows: int
    bytes: int
    days: int
    first: date | None
    last: date | None


def tables(spec: ModelSpec) -> tuple[TableOf, ...]:
    """The tables that there are."""
    found = []
    for kind in get_args(Kind):
        version, sizes = lake.version(kind, spec.name), lake.sizes(kind, spec.name)
        if version < 0:
            continue
        days = [key for key in sizes if isinstance(key, date)]
        rows, size = sum(rows for rows, _ in sizes.values()), sum(size for _, size in sizes.values())
        place = lake.path(kind, spec.name)
        found.append(
            TableOf(kind, place, version, rows, size, len(days), min(days, default=None), max(days, default=None))
        )
    return tuple(found)


def chosen(rows: pd.DataFrame, key: Mapping[str, str]) -> pd.DataFrame:
    """The rows of this key, whose values are text: a time in any form that says the same one, a number however it is written."""
    for name, value in key.items() if len(rows) else ():
        column = rows[name]
        if isinstance(column.dtype, pd.DatetimeTZDtype) or pd.api.types.is_datetime64_any_dtype(column):
            asked = pd.to_datetime(value, errors="coerce", utc=column.dt.tz is not None)
            rows = rows[column == asked]
        elif pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
            rows = rows[column == pd.to_numeric(value, errors="coerce")]
        else:
            rows = rows[column.astype(str) == value]
    return rows


def predicted(spec: ModelSpec, first: date, last: date, key: dict[str, str] | None = None) -> pd.DataFrame:
    """The predictions of the days, each with the version that made it, the one that it replaces, its label, and its features.

    `key`, by column, chooses rows, as chosen() does.
    """
    rows = lake.read("predictions", spec.name, day=(first, last))
    if rows.empty:
        return rows
    rows = chosen(rows, key or {})
    on = list(dict.fromkeys(["day", *spec.key]))
    rows = rows.merge(known_labels.read(spec, first, last), on=on, how="left")
    columns = list(dict.fromkeys([*on, *spec.features.all]))
    made = lake.read("features", spec.name, columns=columns, day=(first, last))
    new = [name for name in made if name not in rows or name in on]
    return rows.merge(made[new], on=on, how="left")
