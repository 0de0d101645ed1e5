"""A model's report: one HTML page that needs no other file and no network, from the same answers as the pages inside Airflow."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.dates import date2num
from matplotlib.figure import Figure

from esteira.lifecycle.changes import named
from esteira.views import Overview

TEMPLATES = Path(__file__).parent / "templates"
MARKS = {"champion": "#38a169", "rolled back to": "#d69e2e", "warned": "#e53e3e"}
HELD = {True: "in range", False: "OUT OF RANGE", None: "-"}

Table = tuple[str, list[str], list[list[Any]]]


def page(model: str, found: Overview, made: datetime) -> str:
    """The page; whatever a user wrote is escaped."""
    template = Environment(autoescape=True, loader=FileSystemLoader(TEMPLATES)).get_template("report.html")
    plots = {metric: _png(_plot(found, metric)) for metric, windows in found.windows.items() if windows}
    about = {
        "health": found.health,
        "found": found,
        "facts": _facts(found),
        "plots": plots,
        "tables": list(_tables(found)),
    }
    return template.render(model=model, made=f"{made:%Y-%m-%d %H:%M %Z}", **about)


def _facts(found: Overview) -> dict[str, object]:
    how = found.health
    return {
        "champion": f"{named(how.champion.version)}, since {how.champion.effective_day}"
        if how.champion
        else "none yet",
        "last day scored": f"{how.last_scored}, {how.rows:,} rows" if how.last_scored else "never",
        "last check": how.last_checked or "never",
        "in quarantine, of the last 28 scored days": "-" if how.quarantined is None else f"{how.quarantined:.2%}",
        "features that drifted": "-" if how.drift is None else f"{how.drift.share:.0%}",
        "labels to": how.labelled_through or "-",
        "owner": how.owner,
    }


def _tables(found: Overview) -> Iterator[Table]:
    windows = [each for every in found.windows.values() for each in reversed(every)]
    yield (
        "Windows",
        ["metric", "window", "version", "value", "verdict", "rows"],
        [
            [
                each.metric,
                f"{each.first} to {each.last}",
                each.version,
                f"{each.value:.4g}",
                HELD[each.in_range],
                f"{each.rows:,}",
            ]
            for each in windows
        ],
    )
    yield (
        "Versions",
        ["version", "served", "published now", "by", "first window", "why"],
        [
            [
                each.number,
                ", ".join(f"{span.first} to {span.last or 'now'}" for span in each.served) or "never",
                each.published or "-",
                each.promotions[-1].by if each.promotions else each.run_id,
                "-" if each.verified is None else "worse" if each.verified.worse else "verified",
                each.why,
            ]
            for each in reversed(found.versions)
        ],
    )
    yield (
        "Attempts",
        ["check", "tried", "outcome", "value", "gain", "interval"],
        [
            [
                check.day,
                f"attempt {number}" if number else "blend",
                each.outcome,
                f"{each.value:.4g}",
                f"{each.gain:+.4g}",
                f"{each.lower:+.4g} to {each.upper:+.4g}",
            ]
            for check in reversed(found.checks)
            for number, each in check.attempts.items()
        ],
    )
    yield (
        "What happened",
        ["day", "what", "version", "why", "by"],
        [[each.day, each.state, each.version or "-", each.why, each.by] for each in reversed(found.events)],
    )
    last = max((each.day for each in found.drift), default=None)
    yield (
        f"Drift by the check of {last}" if last else "Drift",
        ["what", "segment", "PSI", "verdict"],
        [
            [
                f"({each.name})" if each.is_outcome else each.name,
                each.segment or "all rows",
                f"{each.value:.3g}",
                "drifted" if each.drifted else "as it was",
            ]
            for each in sorted(found.drift, key=lambda each: -each.value)
            if each.day == last
        ],
    )
    yield (
        "Segments",
        ["what", "value", "verdict", "rows"],
        [[each.metric, f"{each.value:.4g}", HELD[each.in_range], f"{each.rows:,}"] for each in found.segments],
    )
    yield (
        "Quarantine",
        ["rows", "days", "stage", "rule", "reason"],
        [[f"{each.rows:,}", each.days, each.stage, each.rule, each.reason] for each in found.quarantine],
    )
    yield (
        "Mails",
        ["when", "about", "subject", "to", "state"],
        [[f"{each.at:%Y-%m-%d %H:%M}", each.day, each.subject, each.to, each.state] for each in reversed(found.mails)],
    )
    yield (
        "Tables",
        ["table", "rows", "MB", "Delta version", "days"],
        [[each.kind, f"{each.rows:,}", f"{each.bytes / 1e6:,.2f}", each.version, each.days] for each in found.tables],
    )


def _plot(found: Overview, metric: str) -> Figure:
    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots()
    lines: list[tuple[str, str, str, list[tuple[date, float]]]] = [
        ("day", "#a0aec0", "", [(each.last, each.value) for each in found.days[metric]]),
        ("window", "#3182ce", "o", [(each.last, each.value) for each in found.windows[metric]]),
        (
            "estimate",
            "#d69e2e",
            "",
            [(each.day, each.value) for each in found.estimates if metric == found.health.metric],
        ),
    ]
    for name, colour, marker, points in lines:
        if points:
            days = np.array([day for day, _ in points], dtype="datetime64[D]")
            axes.plot(
                days, [value for _, value in points], color=colour, marker=marker, markersize=3, linewidth=1, label=name
            )
    for bound in (found.limits[metric].min, found.limits[metric].max):
        if bound is not None:
            axes.axhline(bound, color="#e53e3e", linestyle="--", linewidth=1)
    for event in found.events:
        if event.state in MARKS and event.day <= found.last:
            axes.axvline(
                float(date2num(event.day)),  # type: ignore[no-untyped-call]
                color=MARKS[event.state],
                linestyle=":",
                linewidth=1,
            )
    axes.legend(loc="upper left", fontsize="small")
    return figure


def _png(figure: Figure) -> str:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110)
    return base64.b64encode(data.getvalue()).decode()
