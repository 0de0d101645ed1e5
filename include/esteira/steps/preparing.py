"""What a training learns from: the days whose labels were mature, extracted, validated and built."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta

import pandas as pd

from esteira import data
from esteira.errors import DataError
from esteira.spec import ModelSpec
from esteira.steps import ingest, labelling, quality
from esteira.store import lake
from esteira.store.lineage import DataVersions


def training_days(spec: ModelSpec, as_of: date, window: int | None = None) -> tuple[date, date]:
    """The first and the last day that a training for `as_of` may see: those whose labels were mature by then."""
    last = labelling.mature_through(spec, as_of)
    return last - timedelta(days=(window or spec.train.window) - 1), last


def lacking(spec: ModelSpec, as_of: date, window: int | None = None) -> list[date]:
    """The days of the training window that the feature store lacks, or has of an older spec."""
    days = data.days(*training_days(spec, as_of, window))
    return lake.missing_days("features", spec.name, days, ingest.features_mark(spec))


def prepare(spec: ModelSpec, as_of: date, window: int | None, days: list[date]) -> DataVersions:
    """Build the features of the days and read the window's labels; returns the Delta versions to train on."""
    quality.require_mostly_good(spec, days)
    ingest.features(spec, days)
    labelling.store(spec, training_days(spec, as_of, window)[0], as_of)
    return labelling.versions(spec)


def prepare_all(spec: ModelSpec, as_of: date, window: int | None) -> DataVersions:
    """All that comes before a training: what the store lacks is extracted, validated and built; returns the Delta versions."""
    days = lacking(spec, as_of, window)
    ingest.extract(spec, days, "keep")
    ingest.validate(spec, days)
    return prepare(spec, as_of, window, days)


def to_choose(
    spec: ModelSpec, as_of: date, window: int | None, versions: DataVersions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that candidates are fitted on, and the later ones by which one is chosen."""
    return _cut(spec, as_of, window, versions, lambda parts: (parts.past, parts.validation))


def to_judge(
    spec: ModelSpec, as_of: date, window: int | None, versions: DataVersions
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows that the chosen candidate is fitted on, and the later ones on which it is judged."""
    return _cut(spec, as_of, window, versions, lambda parts: (parts.before_test, parts.test))


def _cut(
    spec: ModelSpec,
    as_of: date,
    window: int | None,
    versions: DataVersions,
    of: Callable[[data.Parts], tuple[data.Span, data.Span]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to fit on, and rows to judge by, of which where they are many an even sample is taken: there each row counts alike."""
    span = training_days(spec, as_of, window)
    if not labelling.is_sampled(spec, *span, versions):
        frame = rows(spec, as_of, window, versions)
        fitted, judged = of(data.split_days(spec, frame["day"].dt.date))
        return data.within(frame, fitted), data.within(frame, judged)
    fitted, judged = of(data.split_days(spec, labelling.labelled_days(spec, *span, versions)))
    return (
        labelling.labelled(spec, *fitted, versions, spec.train.max_rows),
        labelling.sample(spec, *judged, versions),
    )


def rows(spec: ModelSpec, as_of: date, window: int | None, versions: DataVersions) -> pd.DataFrame:
    """The rows of the training window with their labels, at the versions of the data. Raises DataError where there is none."""
    first, last = training_days(spec, as_of, window)
    found = labelling.labelled(spec, first, last, versions, spec.train.max_rows)
    if found.empty:
        raise DataError(
            f"model {spec.name}: no row with a label from {first} to {last}; train for a later day, or look at the source"
        )
    return found
