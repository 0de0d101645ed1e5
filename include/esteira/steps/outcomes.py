"""Rows with what came of them: as a version served them, or as it would predict them, beside their labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from typing import Any

import pandas as pd

from esteira.errors import UnknownVersion
from esteira.learning import predicting
from esteira.learning.drift import segment_names
from esteira.learning.predicting import Model
from esteira.lifecycle.policy import Rules
from esteira.spec import ModelSpec
from esteira.steps import champions, labelling
from esteira.store import labels, lake

KNOWN = 90  # days of rows that an estimate learns from, and that a segment is compared with
SEGMENTS = 20  # values of one column that are measured


def served(spec: ModelSpec, version: int | None, first: date, last: date) -> pd.DataFrame:
    """The rows that a version (None: any) served on the days, with their label, in order: out of sample only.

    Some days at a time are joined, so that of all of them no more is in memory than what is returned.
    """
    counts = {day: rows for day, (rows, _) in lake.sizes("served", spec.name).items() if first <= day <= last}
    parts = [_served(spec, version, days[0], days[-1]) for days in lake.whole_days(counts)]
    found = [part for part in parts if len(part)]
    if not found:
        columns = ["day", *spec.key, "prediction", "probability", "label", *spec.check.segments]
        return pd.DataFrame(columns=list(dict.fromkeys(columns)))
    return pd.concat(found, ignore_index=True) if len(found) > 1 else found[0]


def _served(spec: ModelSpec, version: int | None, first: date, last: date) -> pd.DataFrame:
    where: dict[str, Any] = {"version": version} if version else {}
    names = list(dict.fromkeys(["day", *spec.key]))
    told = [*names, "version", "trained_through", "prediction", "probability"]
    rows = lake.read("served", spec.name, columns=told, day=(first, last), **where)
    known = labels.read(spec, first, last)
    if rows.empty or known.empty:
        return pd.DataFrame()
    joined = rows[rows["day"] > rows["trained_through"]].merge(known, on=names, validate="one_to_one")
    if spec.check.segments:  # a row whose features are gone since belongs to the empty segment
        columns = list(dict.fromkeys([*names, *spec.check.segments]))
        parts = lake.read("features", spec.name, columns=columns, day=(first, last))
        joined = joined.merge(parts.reindex(columns=columns), on=names, how="left", validate="one_to_one")
    return joined.sort_values(names, kind="stable", ignore_index=True)


def judged(spec: ModelSpec, version: int, first: date, last: date) -> pd.DataFrame:
    """The rows that a version served on the days, and those of days that it did not serve as it would have: with their label.

    The latter by its own model, or by its twin, where that has not seen them: so a new champion can be compared on days before it served.
    """
    rows = served(spec, version, first, last)
    own = {moment.date() for moment in rows["day"].unique()}
    others = [day for day in lake.days_of("labels", spec.name) if first <= day <= last and day not in own]
    if not others:  # as of a champion that served them all: their features need not be read
        return rows
    try:
        models = [each for each in champions.load_judges(spec, version) if {*each.columns} <= {*spec.features.all}]
    except UnknownVersion:  # somebody deleted it
        models = []
    segments = [name for name in spec.check.segments if name not in spec.key]
    columns = ["day", *spec.key, "prediction", "probability", "label", *segments]
    counts = {day: size for day, (size, _) in lake.sizes("features", spec.name).items() if day in set(others)}
    parts = [rows]
    for days in lake.whole_days(counts) if models else ():
        frame = labelling.labelled(spec, days[0], days[-1])
        frame = frame[frame["day"].isin(pd.to_datetime(days))]
        parts += [predicting.unseen(spec, models, frame)[columns]] if len(frame) else []
    if len(parts) == 1:
        return rows
    return pd.concat(parts).sort_values(["day", *spec.key], kind="stable", ignore_index=True)


def paired(spec: ModelSpec, models: Sequence[Model], rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The same rows twice: as they were served, and as a version's models predict them; in neither those that they can't be asked for."""
    mine = as_predicted_by(spec, models, rows)
    key = ["day", *spec.key]
    return rows[rows.set_index(key).index.isin(mine.set_index(key).index)], mine


def as_predicted_by(spec: ModelSpec, models: Sequence[Model], rows: pd.DataFrame) -> pd.DataFrame:
    """Served rows as a version's models predict them, each by the first that has not seen its day.

    A row that all have seen, or whose features are gone since, is left out. The features of some days at a time are in memory.
    """
    if rows.empty:
        return rows
    sizes = rows["day"].value_counts()
    counts = dict(zip(pd.DatetimeIndex(sizes.index).date, sizes.tolist(), strict=True))
    parts = [_as_predicted_by(spec, models, rows, days) for days in lake.whole_days(counts)]
    return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]


def _as_predicted_by(
    spec: ModelSpec, models: Sequence[Model], rows: pd.DataFrame, days: Sequence[date]
) -> pd.DataFrame:
    segments = [name for name in spec.check.segments if name not in spec.key]
    frame = lake.read("features", spec.name, day=(days[0], days[-1]))
    columns = ["day", *spec.key, "label", *segments]
    own = rows["day"].between(pd.Timestamp(days[0]), pd.Timestamp(days[-1]))
    known = rows.loc[own, columns].merge(
        frame.drop(columns=["event_time", *segments]), on=["day", *spec.key], validate="one_to_one"
    )
    return predicting.unseen(spec, models, known)[[*columns, "prediction", "probability"]]


def known_rows(spec: ModelSpec, version: int, last: date) -> pd.DataFrame:
    """Feature rows with their label, and what a version predicts for them: the latest 90 days that it has not seen."""
    models = champions.load_judges(spec, version)
    seen = min(model.trained_through for model in models)
    first = max(seen, last - timedelta(days=KNOWN)) + timedelta(days=1)
    if first > last:
        return pd.DataFrame()
    frame = labelling.sample(spec, first, last)
    return predicting.unseen(spec, models, frame) if len(frame) else frame


def segments(rows: pd.DataFrame, columns: Iterable[str]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """The rows of each value of the columns, with the column and the segment's name; of many values the most frequent."""
    for column in columns:
        named = segment_names(rows[column])
        for value in named.value_counts().head(SEGMENTS).index:
            yield column, f"{column}={value}", rows[named == value]


def rules(spec: ModelSpec) -> Rules:
    """By what a model's windows are judged."""
    return Rules(spec.check.min_days, spec.check.min_rows, spec.check.violated.at_least)
