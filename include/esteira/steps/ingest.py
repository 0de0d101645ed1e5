"""From the source to the feature store: extract, validate, features."""

from __future__ import annotations

import json
import logging
from collections import Counter
from datetime import date, timedelta
from typing import Literal

import numpy as np
import pandas as pd

from esteira import data
from esteira.errors import DataError, Unaccounted
from esteira.spec import ModelSpec, canonical
from esteira.steps import quality
from esteira.store import lake
from esteira.text import counted, shown_days

TIMELESS = ("time", "short")  # the rules by which a row without a time is in quarantine

log = logging.getLogger(__name__)


def features_mark(spec: ModelSpec) -> int:
    """The mark of feature days: another source, key, feature or expectation makes them stale."""
    return spec.mark("source", "time", "key", "features", "expect", "inputs")


WhenGone = Literal["refuse", "keep", "replace"]


def extract(spec: ModelSpec, days: list[date], when_gone: WhenGone = "refuse") -> int:
    """Read the source's rows of the days into the raw table; returns how many. A day without rows is an empty day.

    A row that the table can't take (no time, no key, a value that is not of its column's type) goes to quarantine at once.
    `when_gone` is for days that had rows, of which the source has none any more. A day to be scored is refused, by a DataError,
    unless a person has said that it is to be replaced; for a training the rows that are known are kept.
    """
    if not days:
        return 0
    rows = data.read(spec, min(days), max(days))
    late = rows[rows["day"] < pd.Timestamp(min(days))]
    rows = rows[rows["day"].isin(pd.to_datetime(days))]
    filled = set(rows["day"].dt.date)
    days = _settled(spec, days, [day for day in days if day not in filled], when_gone)
    if not days:
        return 0
    good, bad = data.storable(spec, rows, lake.types("raw", spec.name))
    bad = _new(spec, bad, days)
    quarantine(spec, bad, days, "extract")
    lake.replace_days("raw", spec.name, good.assign(read_at=pd.Timestamp(lake.clock())), days)
    _keep_late(spec, late, min(days))
    if len(lake.read("quarantine", spec.name, columns=["day"], stage="late", day=(min(days), max(days)))):
        quarantine(spec, pd.DataFrame(), days, "late")  # now they are read
    read = len(good) + len(bad)
    log.info("model %s: %s read for %s", spec.name, counted(read, "row"), _span(days))
    return read


def _settled(spec: ModelSpec, days: list[date], empty: list[date], when_gone: WhenGone) -> list[date]:
    """The days to write, where the source has no row for those that are empty."""
    had = (
        lake.read("raw", spec.name, columns=["day"], day=(min(empty), max(empty)))
        if empty
        else pd.DataFrame({"day": []})
    )
    counts = Counter(moment.date() for moment in had["day"])
    gone = [day for day in empty if day in counts]
    never = [day for day in empty if day not in counts]
    if never:
        what = "an empty day" if len(never) == 1 else "empty days"
        log.info("model %s: the source has no row for %s: %s", spec.name, shown_days(never), what)
    if not gone or when_gone == "replace":
        return days
    rows = sum(counts[day] for day in gone)
    about = f"the source has no row for {shown_days(gone)}"
    if when_gone == "keep":
        log.warning("model %s: %s any more: what was read before (%s) is kept", spec.name, about, counted(rows, "row"))
        return [day for day in days if day not in gone]
    raise DataError(
        f"model {spec.name}: {about}, of which {counted(rows, 'row')} {'was' if rows == 1 else 'were'} read before; nothing was replaced. See that the source "
        "is whole. If there really is nothing any more, say so: `--allow-empty`, or *Allow empty days* in the form"
    )


def _span(days: list[date]) -> str:
    return f"{min(days)}" if len(days) == 1 else f"{counted(len(days), 'day')}, {min(days)} to {max(days)}"


def _keep_late(spec: ModelSpec, late: pd.DataFrame, first: date) -> None:
    """Put rows of the day before, that its own run has not seen, into its quarantine, for nothing else would tell of them."""
    before = first - timedelta(days=1)
    if lake.missing_days("raw", spec.name, [before]):  # that day's own run will read them
        return
    had = lake.read("quarantine", spec.name, columns=["row", "stage"], day=before)
    if late.empty and not (len(had) and (had["stage"] == "late").any()):
        return
    good, bad = data.storable(spec, late, lake.types("raw", spec.name))
    known = lake.read("raw", spec.name, columns=["day", *spec.key], day=before)
    if len(known) and len(good):
        good = good[~good.set_index([*spec.key]).index.isin(known.set_index([*spec.key]).index)]
    command = f"esteira requeue {spec.name} --day {before}"
    reason = f"came in the file of {first}, after {before} was run; `{command}` reads it"
    missed = late.loc[good.index.union(bad.index)].assign(rule="late", reason=reason)
    if len(had) and len(missed):
        others = {_name(spec, json.loads(row)) for row in had.loc[had["stage"] != "late", "row"]}
        missed = missed[~_as_json(missed).map(lambda row: _name(spec, json.loads(row)) in others)]
    if len(missed):
        log.warning(
            "model %s: %s of %s came after it was run; `%s` reads what is late",
            spec.name,
            counted(len(missed), "row"),
            before,
            command,
        )
    quarantine(spec, missed, [before], "late")


def _name(spec: ModelSpec, row: dict[str, object]) -> tuple[str, ...]:
    """What tells a row in quarantine from others, whatever types its file's other rows gave its columns."""
    return tuple(canonical(row.get(name)) for name in (*spec.key, spec.time.column, spec.time.hour or ""))


def _new(spec: ModelSpec, bad: pd.DataFrame, days: list[date]) -> pd.DataFrame:
    """The bad rows without those whose time can't be read and that another day has in quarantine: they are no day's own."""
    timeless = bad[bad["event_time"].isna()] if len(bad) else bad
    if timeless.empty or spec.source.is_by_day:
        return bad
    rules = [
        lake.read("quarantine", spec.name, columns=["day", "row"], rule=rule, stage="extract") for rule in TIMELESS
    ]
    known = pd.concat([rows for rows in rules if len(rows)] or rules[:1])
    known = known[~known["day"].isin(pd.to_datetime(days))] if len(known) else known
    again = timeless.index[_as_json(timeless).isin(set(known["row"]))] if len(known) else timeless.index[:0]
    if len(again):
        log.info(
            "model %s: in quarantine since an earlier day: %s without a time", spec.name, counted(len(again), "row")
        )
    return bad.drop(index=again)


def _raw(spec: ModelSpec, days: list[date], *, whole: bool = True) -> pd.DataFrame:
    """The raw rows of the days, without the target: neither features nor scoring may see it. Else than `whole`, those of
    their columns that features are made of.
    """
    columns = [name for name in lake.columns("raw", spec.name) if name != spec.target]
    columns = columns if whole else data.asked_columns(spec, columns)
    rows = lake.read("raw", spec.name, columns=columns or None, day=(min(days), max(days)))
    return rows[rows["day"].isin(pd.to_datetime(days))].reset_index(drop=True)


def _whole(spec: ModelSpec, days: list[date], rows: pd.DataFrame) -> pd.DataFrame:
    """All columns of raw rows that were read in part. Raises Unaccounted where they were written anew meanwhile."""
    whole = _raw(spec, days)
    if not whole[[*spec.key, "event_time"]].equals(rows[[*spec.key, "event_time"]]):
        raise Unaccounted(
            f"model {spec.name}: the raw rows of {_span(days)} were written anew while they were looked at"
        )
    return whole


def validate(spec: ModelSpec, days: list[date]) -> int:
    """Put the raw rows of the days that are not as expected into the quarantine table; returns how many."""
    if not days:
        return 0
    quality.require_extracted(spec, days)
    rows = _raw(spec, days, whole=False)
    good, bad = data.validate(spec, rows)
    if len(bad):
        bad = _whole(spec, days, rows).loc[bad.index].assign(rule=bad["rule"], reason=bad["reason"])
    quarantine(spec, bad, days, "rows")
    log.info("model %s: raw rows %d = good %d + quarantined %d", spec.name, len(rows), len(good), len(bad))
    return len(bad)


def quarantine(spec: ModelSpec, bad: pd.DataFrame, days: list[date], stage: str) -> None:
    """Put the days' bad rows of a stage into quarantine, whole, as JSON: whatever their types are, nothing of them is lost."""
    if bad.empty:
        rows = pd.DataFrame()
        had = lake.read("quarantine", spec.name, columns=["day", "stage"], day=(min(days), max(days)))
        if had.empty or not (had["stage"] == stage).any():
            return
    else:
        found_at = pd.Timestamp(lake.clock())
        rows = bad[["day", "rule", "reason"]].assign(row=_as_json(bad), stage=stage, found_at=found_at)
    lake.replace_days("quarantine", spec.name, rows, days, stage=stage)


def _as_json(rows: pd.DataFrame) -> pd.Series:
    """Each row, as it came, as JSON text; an infinite number as a word, for JSON has none."""
    own = data.writable(rows.drop(columns=["rule", "reason", "day"]), rows.columns)
    infinite = {
        name: own[name].astype(object).where(~np.isinf(own[name]), own[name].astype("str"))
        for name in own.columns
        if pd.api.types.is_float_dtype(own[name]) and np.isinf(own[name]).any()
    }
    text = own.assign(**infinite).to_json(
        orient="records", lines=True, date_format="iso", date_unit="us", default_handler=str
    )
    return pd.Series([line for line in text.split("\n") if line], index=rows.index, dtype="str")


def features(spec: ModelSpec, days: list[date]) -> int:
    """Build the features of the days from their good raw rows into the feature store; returns its Delta version."""
    if not days:
        return lake.version("features", spec.name)
    quality.require_extracted(spec, days)
    built = data.build_features(spec, _raw(spec, days, whole=False))
    return lake.replace_days("features", spec.name, built, days, mark=features_mark(spec))


def ensure_features(spec: ModelSpec, days: list[date]) -> None:
    """Extract, validate and build those of the days that the feature store lacks, or has of an older spec."""
    lacking = lake.missing_days("features", spec.name, days, features_mark(spec))
    extract(spec, lacking, "keep")
    validate(spec, lacking)
    quality.require_mostly_good(spec, lacking)
    features(spec, lacking)
