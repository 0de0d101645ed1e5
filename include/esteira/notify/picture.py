"""A metric's last weeks, drawn for a mail and told in a line."""

from __future__ import annotations

import io
from datetime import date
from itertools import pairwise

from esteira.store.outbox import Weeks

INK, FAINT, ALARM, LINE, PROMOTED = "#222222", "#dddddd", "#c53030", "#2b6cb0", "#38a169"
TICKS = 6  # days that are named, at most


def told(given: Weeks) -> str:
    """The values as a line of text, with a mark at those that are out of range."""
    values = (f"{day[5:]} {value:.3g}{'' if _holds(given, value) else ' (!)'}" for day, value, _ in given.windows)
    return f"{given.metric} by window, the last day of each: {', '.join(values)}"


def _holds(given: Weeks, value: float) -> bool:
    return (given.low is None or value >= given.low) and (given.high is None or value <= given.high)


def drawn(given: Weeks) -> bytes:
    """A PNG of 560 × 220 points, twice as fine: the metric by window, its range, and where another version began to serve.

    Its ground is white, for a mail's reader may have a dark one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.2), dpi=200, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    days = [date.fromisoformat(day).toordinal() for day, _, _ in given.windows]
    values = [value for _, value, _ in given.windows]
    axes.plot(days, values, color=LINE, linewidth=1.6, marker="o", markersize=3.5)
    bad = [number for number, value in enumerate(values) if not _holds(given, value)]
    axes.plot([days[number] for number in bad], [values[number] for number in bad], "o", color=ALARM, markersize=5.5)
    for bound in (given.low, given.high):
        if bound is not None:
            axes.axhline(bound, color=ALARM, linewidth=1, linestyle="--")
    for number, (before, now) in enumerate(pairwise(given.windows), start=1):
        if now[2] != before[2]:
            axes.axvline(days[number], color=PROMOTED, linewidth=1, linestyle=":")
            axes.annotate(f"v{now[2]}", (days[number], 1), xycoords=("data", "axes fraction"), fontsize=10, va="top")
    axes.set_title(given.metric, fontsize=11, loc="left", color=INK)
    axes.tick_params(labelsize=10, colors=INK)
    axes.grid(color=FAINT, linewidth=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xticks(days[:: -(-len(days) // TICKS)])
    axes.xaxis.set_major_formatter(lambda at, _: f"{date.fromordinal(round(at)):%m-%d}")
    into = io.BytesIO()
    figure.savefig(into, format="png")
    return into.getvalue()
