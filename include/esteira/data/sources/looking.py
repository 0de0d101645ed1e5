"""A first look at a source, before anything is read from it: are its files there, do they have the columns?"""

from __future__ import annotations

import glob
import os
import re
from datetime import date
from pathlib import Path

from esteira.data.sources import csv, delta, parquet
from esteira.data.sources.files import File, opened
from esteira.data.sources.reading import rows_of
from esteira.data.sources.times import event_time
from esteira.errors import DataError, OutOfReach
from esteira.spec import CsvSource, DeltaSource, ModelSpec, ParquetSource, nearest


def look(spec: ModelSpec) -> list[str]:
    """What is missing of the model's source, in sentences: its file, or columns of it. Empty where nothing is, or none can tell.

    A query and a source.py would have to be run: of them nothing is said.
    """
    try:
        there = _columns(spec)
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
    """The last day that the source's files have; None where it has no files that could be asked."""
    if isinstance(spec.source, CsvSource | ParquetSource) and "{day}" in spec.source.path:
        days = [day for path in _paths(spec) if (day := _day_of(spec, path))]
        return max(days, default=None)
    if not isinstance(spec.source, CsvSource | ParquetSource | DeltaSource):
        return None
    rows = rows_of(spec.source, spec, date(1900, 1, 1), date(2200, 1, 1))
    moments = event_time(spec, rows).dropna() if rows is not None and len(rows) else None
    return None if moments is None or moments.empty else moments.max().date()


def _columns(spec: ModelSpec) -> tuple[str, list[str]] | None:
    """The newest file, or the table, and its columns. Raises DataError where there is none."""
    source = spec.source
    if isinstance(source, DeltaSource):
        return delta.path_of(source, spec), delta.columns(delta.path_of(source, spec))
    if not isinstance(source, CsvSource | ParquetSource):
        return None
    paths = _paths(spec)
    if not paths:
        raise DataError(f"no file matches {Path(spec.folder, source.path)} yet (source.path in model.yaml)")
    path = paths[-1]
    with opened(File(path, os.path.dirname(path), None, source.follow_links)) as handle:  # noqa: PTH120
        found = (
            parquet.columns(path, handle) if isinstance(source, ParquetSource) else csv.columns(path, handle, source)
        )
    return path, found


def _paths(spec: ModelSpec) -> list[str]:
    """Every file that the source's path names, whatever its day."""
    assert isinstance(spec.source, CsvSource | ParquetSource), "only files have paths"
    folder = glob.escape(str(spec.folder))
    pattern = spec.source.path.replace("{day}", "[0-9]" * 4 + "-[0-9][0-9]" + "-[0-9][0-9]")
    return sorted(glob.glob(os.path.join(folder, pattern)))  # noqa: PTH118, PTH207  # a path may be absolute


def _day_of(spec: ModelSpec, path: str) -> date | None:
    assert isinstance(spec.source, CsvSource | ParquetSource), "only files have paths"
    found = re.findall(r"\d{4}-\d\d-\d\d", path[-len(spec.source.path) - 10 :])
    return date.fromisoformat(found[-1]) if found else None
