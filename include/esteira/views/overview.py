"""All that a page, or a report, of one model shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

from esteira.spec import Limit, ModelSpec, today
from esteira.store import lake, measurements
from esteira.store.measurements import DriftOn, Measured
from esteira.store.records import Window
from esteira.views.checks import CheckOf, checks, drift, windows
from esteira.views.health import Health, health
from esteira.views.life import Event, Version, history, versions
from esteira.views.mails import MailOf, mails
from esteira.views.rows import BadRow, LabelsOf, Quarantined, TableOf, bad_rows, labels, quarantine, tables

EXAMPLES = 20  # rows of a quarantine


@dataclass(frozen=True)
class Estimated:
    """What a metric of a day without labels was expected to be."""

    day: date
    value: float


@dataclass(frozen=True)
class Overview:
    """A model over the days `first` to `last`: by metric its limits, windows, days and estimates, and all that happened."""

    health: Health
    first: date
    last: date
    key: tuple[str, ...]
    limits: Mapping[str, Limit]
    windows: Mapping[str, list[Measured]]
    days: Mapping[str, list[Measured]]
    segments: list[Measured]
    estimates: list[Estimated]
    events: tuple[Event, ...]
    versions: tuple[Version, ...]
    checks: tuple[CheckOf, ...]
    drift: tuple[DriftOn, ...]
    quarantine: tuple[Quarantined, ...]
    bad_rows: tuple[BadRow, ...]
    labels: tuple[LabelsOf, ...]
    mails: tuple[MailOf, ...]
    tables: tuple[TableOf, ...]


def overview(spec: ModelSpec, weeks: int) -> Overview:
    """A model over the last weeks, up to the day last checked, or scored. Raises OutOfReach, which says how to mend it."""
    how = health(spec)
    last = max(filter(None, [how.last_checked, how.last_scored]), default=today(spec.time.timezone))
    first = last - timedelta(days=7 * weeks - 1)
    lately = lake.clock() - timedelta(weeks=weeks)  # what was done just now to days long ago is shown, too
    return Overview(
        health=how,
        first=first,
        last=last,
        key=spec.key,
        limits=dict(spec.check.metrics),
        windows={name: _since(spec, name, Window.WHOLE, first) for name in spec.check.metrics},
        days={name: _since(spec, name, Window.DAY, first) for name in spec.check.metrics},
        segments=measurements.segments(spec, how.last_checked) if how.last_checked else [],
        estimates=[Estimated(day, value) for day, value in measurements.estimated(spec, first, last)],
        events=tuple(each for each in history(spec) if each.day >= first or each.at >= lately),
        versions=versions(spec),
        checks=checks(spec, first, last),
        drift=drift(spec, first, last),
        quarantine=quarantine(spec, first, last),
        bad_rows=bad_rows(spec, first, last, EXAMPLES),
        labels=labels(spec, first, last),
        mails=mails(spec, first, lately),
        tables=tables(spec),
    )


def _since(spec: ModelSpec, metric: str, window: Window, first: date) -> list[Measured]:
    return [each for each in windows(spec, metric, window, since=first) if each.last >= first]
