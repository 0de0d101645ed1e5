"""A first look at a source, before anything is read from it: are its files there, do they have the columns?"""

from __future__ import annotations

from datetime import date

from esteira.data.sources.reading import reader_of
from esteira.errors import DataError, OutOfReach
from esteira.spec import ModelSpec, nearest


def look(spec: ModelSpec) -> list[str]:
    """What is missing of the model's source, in sentences: its file, or columns of it. Empty where nothing is, or none can tell.

    A query and a source.py would have to be run: of them nothing is said.
    """
    try:
        there = reader_of(spec.source, spec).columns()
    except (DataError, OutOfReach) as error:
        return [str(error)]
    if there is None:
        return []
    where, names = there
    missing = [name for name in dict.fromkeys((*spec.source_columns, spec.target)) if name not in names]
    if spec.labels is not None and spec.labels.source is not None:  # whose source has the target
        missing = [name for name in missing if name != spec.target]
    return [f"{where} has no column {name!r}{nearest(name, names)}" for name in missing]


def last_day(spec: ModelSpec) -> date | None:
    """The last day that the source has; None where it would have to be run to tell."""
    return reader_of(spec.source, spec).last_day()
