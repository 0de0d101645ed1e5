"""One day's features, built to be looked at: nothing is kept."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd

from esteira import data
from esteira.errors import DataError, EsteiraError
from esteira.spec import ModelSpec
from esteira.steps.quality import time_hint
from esteira.text import counted

SHOWN = 3  # rows
PARTS = (
    "note: features.py makes other features of a part of the day than of all its rows: days of many rows are built in parts, unless "
    "model.yaml says features: {whole_day: true}"
)


def preview(spec: ModelSpec, day: date | None = None) -> str:
    """Read a day, validate it and build its features; returns what came of it, as text.

    Without a day it is the last one that the source's files have, else yesterday. Raises DataError where the day has no row,
    or its rows can't be used.
    """
    day = day or data.last_day(spec) or datetime.now(ZoneInfo(spec.time.timezone)).date() - timedelta(days=1)
    rows = data.read(spec, day, day)
    rows = rows[rows["day"] == pd.Timestamp(day)]
    if rows.empty:
        raise DataError(f"model {spec.name}: the source has no row for {day}; give another --day")
    storable, unreadable = data.storable(spec, rows, {})
    scored = storable.drop(columns=spec.target, errors="ignore")
    good, bad = data.validate(spec, scored)
    built = data.build_features(spec, scored)
    every = pd.concat([unreadable, bad])
    lines = [
        f"{day}: {counted(len(rows), 'row')} read = {counted(len(good), 'good row')} + {len(every):,} for quarantine",
        *(f"  {counted(count, 'row')}: {why}" for why, count in _reasons(every).items()),
    ]
    if len(every) > spec.quality.max_quarantined * len(rows):
        share = f"more than quality.max_quarantined ({spec.quality.max_quarantined:.0%})"
        raise DataError(
            "\n".join([*lines, f"that is {share}: the day would be refused{time_hint(spec, every['rule'])}"])
        )
    if len(built):
        shown = data.masked(spec, built.head(SHOWN))
        lines += [f"features, the first {counted(len(shown), 'row')}:", shown.to_string(index=False)]
        empty = [name for name in spec.features.all if built[name].isna().all()]
        lines += [f"note: {name!r} is empty in every row" for name in empty]
        lines += [PARTS] if _looks_at_others(spec, scored, built) else []
    return "\n".join(lines)


def _looks_at_others(spec: ModelSpec, rows: pd.DataFrame, built: pd.DataFrame) -> bool:
    """Whether features.py makes other features of a half of the rows than of all of them, though model.yaml does not say so."""
    if not spec.has_features_code or spec.features.whole_day:
        return False
    half = len(rows) // 2
    try:
        parts = [data.build_features(spec, part) for part in (rows.iloc[:half], rows.iloc[half:]) if len(part)]
    except EsteiraError:
        return True
    order = ["day", "event_time", *spec.key]
    found = pd.concat(parts).sort_values(order, kind="stable", ignore_index=True)
    return not found.equals(built.sort_values(order, kind="stable", ignore_index=True))


def _reasons(bad: pd.DataFrame) -> dict[str, int]:
    if bad.empty:
        return {}
    return {str(why): int(count) for why, count in (bad["rule"] + ": " + bad["reason"]).value_counts().items()}
