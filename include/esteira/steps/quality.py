"""Whether a day is fit to be scored, and whether every row of it is accounted for."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta

import pandas as pd

from esteira.errors import DataError, Unaccounted
from esteira.spec import ModelSpec
from esteira.store import lake
from esteira.text import counted, shown_days

log = logging.getLogger(__name__)

SHOWN = 10  # reasons
USUAL = 5  # days with rows that say what a usual number of rows is


def require_extracted(spec: ModelSpec, days: list[date]) -> None:
    """Refuse days whose rows were never read: a task that was skipped, or marked as done by hand, is not an empty day.

    Raises DataError.
    """
    never = lake.unwritten_days("raw", spec.name, days)
    if never:
        raise DataError(
            f"model {spec.name}: nothing is known of the rows of {shown_days(never)}: extract never ran for "
            f"{'it' if len(never) == 1 else 'them'}; run it, and not the later tasks alone"
        )


def require_fit(spec: ModelSpec, days: list[date]) -> None:
    """Refuse days that are not fit to be scored, by the model's `quality` and its shares of empty values.

    Their rows are in raw and quarantine, so that they can be looked at; raises DataError, and nothing is published.
    """
    reasons = [f"{day}: {why}" for day in _suspect(spec, days) for why in _unfit(spec, day)]
    if reasons:
        until = f" --last-day {days[-1]}" if len(days) > 1 else ""
        raise DataError(
            f"model {spec.name}: nothing was published, for {spec.source.called} is not fit to be scored:\n"
            + "\n".join([*reasons[:SHOWN], *([f"… and {len(reasons) - SHOWN} more"] if len(reasons) > SHOWN else [])])
            + f"\nMend the source and call `esteira requeue {spec.name} --day {days[0]}{until}` (or run it again), or change "
            "quality: or expect: in model.yaml"
        )


def _suspect(spec: ModelSpec, days: list[date]) -> list[date]:
    """The days that may not be fit: of years of days most have no row that is looked at."""
    if spec.quality.volume is not None or spec.quality.freshness is not None:
        return days
    held = set(lake.days_of("quarantine", spec.name))
    if any(each.max_null is not None for each in spec.expect.values()):
        held |= set(lake.days_of("raw", spec.name))
    return [day for day in days if day in held]


def require_mostly_good(spec: ModelSpec, days: list[date]) -> None:
    """Refuse to train on days of whose rows more than the share allowed is in quarantine. Raises DataError."""
    if not days:
        return
    why = _too_many_bad(spec, days)
    if why:
        raise DataError(
            f"model {spec.name}: {spec.source.called} is not fit to learn from: {days[0]} to {days[-1]}: {why}\nMend the source "
            "and train again, or change quality: or expect: in model.yaml"
        )


def _unfit(spec: ModelSpec, day: date) -> Iterator[str]:
    yield from filter(None, [_too_many_bad(spec, [day])])
    yield from _empty_values(spec, day)
    yield from filter(None, [_unusual(spec, day), _stale(spec, day)])


def _too_many_bad(spec: ModelSpec, days: list[date]) -> str:
    bad = _bad(spec, days)
    bad = bad[bad["stage"] != "labels"]
    read = lake.count("raw", spec.name, days) + int(bad["stage"].isin(["extract", "late"]).sum())
    if not read or len(bad) <= spec.quality.max_quarantined * read:
        return ""
    reasons = _reasons(bad)
    most = next(iter(reasons))
    return (
        f"{len(bad):,} of {counted(read, 'row')} {'is' if len(bad) == 1 else 'are'} in quarantine, more than quality.max_quarantined ({spec.quality.max_quarantined:.0%}), "
        f"{reasons[most]:,} of them by the rule {most}{time_hint(spec, bad['rule'])}"
    )


def time_hint(spec: ModelSpec, rules: pd.Series) -> str:
    """A word on time.format, where most rows' times can't be read and the model.yaml gives none."""
    if spec.time.format or (rules == "time").mean() <= 0.5:
        return ""
    return f"; if {spec.time.column!r} is not written like 2026-01-31 or 2026-01-31T08:00, set time.format, such as %d/%m/%Y %H:%M"


def _reasons(bad: pd.DataFrame) -> dict[str, int]:
    """How many rows failed for each rule and reason, the most frequent first."""
    return {str(said): int(count) for said, count in (bad["rule"] + ": " + bad["reason"]).value_counts().items()}


def _empty_values(spec: ModelSpec, day: date) -> Iterator[str]:
    asked = {name: each.max_null for name, each in spec.expect.items() if each.max_null is not None}
    rows, empty = 0, Counter[str]()
    for some in lake.batches("raw", spec.name, columns=["day", *asked], day=day) if asked else ():
        rows += len(some)
        empty.update({name: int(some[name].isna().sum()) for name in asked if name in some})
    for name, most in asked.items():
        if rows and empty[name] / rows > most:
            yield f"{name!r} is empty in {empty[name]} of {counted(rows, 'row')}, more than expect.{name}.max_null ({most:.0%})"


def _unusual(spec: ModelSpec, day: date) -> str:
    volume = spec.quality.volume
    if volume is None:
        return ""
    known = lake.sizes("raw", spec.name)
    today = known.get(day, (0, 0))[0]
    before = [day - timedelta(days=n) for n in range(1, volume.of_last + 1)]
    usual = pd.Series([known[each][0] for each in before if each in known])
    if len(usual) < USUAL:
        log.info("model %s: %d days before %s are too few to say what is usual", spec.name, len(usual), day)
        return ""
    share = today / float(usual.median())
    if volume.holds(share):
        return ""
    low = volume.min is not None and share < volume.min
    bound = f"below quality.volume.min ({volume.min:g})" if low else f"above quality.volume.max ({volume.max:g})"
    return f"{counted(today, 'row')}, {share:.3g} times the usual {usual.median():g} of the {len(usual)} days before with rows, {bound}"


def _stale(spec: ModelSpec, day: date) -> str:
    hours = spec.quality.freshness
    if hours is None:
        return ""
    end = pd.Timestamp(day) + pd.Timedelta(days=1)
    span = (day - timedelta(days=math.ceil(hours / 24)), day)
    moments = [
        some["event_time"].max()
        for some in lake.batches("raw", spec.name, columns=["day", "event_time"], day=span)
        if "event_time" in some
    ]
    newest = max((moment for moment in moments if moment is not pd.NaT), default=None)
    if newest is not None and end - newest <= pd.Timedelta(hours=hours):
        return ""
    found = f"the newest row is of {newest}" if newest is not None else f"there is no row since {span[0]}"
    return f"{found}, and quality.freshness wants one within {counted(hours, 'hour')} before the day's end"


def _bad(spec: ModelSpec, days: list[date]) -> pd.DataFrame:
    columns = ["day", "rule", "reason", "stage"]
    rows = lake.read("quarantine", spec.name, columns=columns, day=(min(days), max(days)))
    rows = rows.reindex(columns=columns)
    return rows[rows["day"].isin(pd.to_datetime(days))] if len(rows) else rows


def left_over(spec: ModelSpec, days: list[date]) -> dict[str, int]:
    """How many rows of the days are in quarantine, by rule and reason, labels too."""
    return _reasons(_bad(spec, days))


def accounted(spec: ModelSpec, days: list[date]) -> str:
    """That the days' rows read are those published and those in quarantine, as a sentence. Raises Unaccounted where not."""
    require_extracted(spec, days)
    bad = _bad(spec, days)
    bad = bad[bad["stage"] != "labels"]
    read = lake.count("raw", spec.name, days) + int(bad["stage"].isin(["extract", "late"]).sum())
    published = lake.count("predictions", spec.name, days)
    said = f"{counted(read, 'row')} read = {published:,} published + {len(bad):,} in quarantine"
    if read != published + len(bad):
        raise Unaccounted(
            f"model {spec.name}, {days[0]} to {days[-1]}: {said} does not add up: another run of these days is at work, or one "
            "died between its tasks; run them again"
        )
    return said
