"""The report of a replay, as text and as a page of its own: what was decided, and what it was worth."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from matplotlib.figure import Figure

from esteira.replay.frontier import Tried
from esteira.text import counted

NAMES = {"policy": "this policy", "frozen": "frozen", "always": "retrained every block"}

_PAGE = """\
<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Replay of {{ plan.model }}</title><style>
body { font-family: sans-serif; color: #222; max-width: 70em; margin: 2em auto; padding: 0 1em }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: 4px 10px; text-align: left; border-bottom: 1px solid #ccc }
td:first-child { white-space: nowrap } td.bad { color: #a00; font-weight: bold } img { max-width: 100% }
</style></head><body>
<h1>Replay of {{ plan.model }}</h1>
<p>{{ plan.first }} to {{ plan.last }}, checked every {{ plan.every }}. {{ metric }}: {{ better }} is better; the healthy range is
{% for bound, value in limits[metric].items() %}{{ bound }} {{ "%.4g" % value }}{{ ", " if not loop.last }}{% endfor %}.
Everything is computed from rows as they were first served.{% if first %} Note: {{ first }}.{% endif %}</p>
<table><tr><th>mean over {{ blocks | length }} blocks</th>{% for name in means[kinds[0]] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for kind in kinds %}<tr><td>{{ names[kind] }}</td>{% for value in means[kind].values() %}<td>{{ "%.4g" % value }}</td>{% endfor %}</tr>
{% endfor %}</table>
<p>{% for name, count in counts.items() %}{{ count }} {{ name }}{{ ", " if not loop.last }}{% endfor %}.</p>
{% if promotions %}<p>Until the next promotion, a new version served better than the one it replaced would have by
{{ "%+.4f" % promotions.mean_gain }} on average, by {{ "%+.4f" % promotions.worst_gain }} at worst.</p>{% endif %}
<img alt="{{ metric }} by block" src="data:image/png;base64,{{ plot }}">
<h2>Blocks</h2>
<table><tr><th>from</th><th>to</th><th>rows</th>{% for kind in kinds %}<th>{{ names[kind] }}</th>{% endfor %}</tr>
{% for row in blocks %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
<h2>Checks</h2>
<table><tr><th>day</th><th>champion</th><th>{{ metric }}</th><th>decision</th><th>attempts</th><th>promoted</th><th>why</th></tr>
{% for check in checks %}<tr><td>{{ check.day }}</td><td>{{ check.champion }}</td><td>{{ check.value }}</td>
<td{{ ' class="bad"' | safe if check.decision in ("probe", "retrain") }}>{{ check.decision }}{{ ", warned" if check.warned }}</td>
<td>{{ check.attempts }}</td><td>{{ check.promoted }}</td><td>{{ check.why }}</td></tr>
{% endfor %}</table></body></html>
"""


def text(report: Mapping[str, Any]) -> str:
    """The report in a terminal's width: the checks that did something, the counts, the means."""
    metric = report["metric"]
    lines = [f"{'day':<11}{'champion':>9} {metric:>14}  decision", ""]
    for check in _checks(report):
        if check["decision"] in ("keep", "watch") and not check["promoted"]:
            continue
        done = f" promoted: version {check['promoted']}" if check["promoted"] else ""
        warned = " warned" if check["warned"] else ""
        lines.append(
            f"{check['day']:<11}{check['champion']:>9} {check['value']:>14}  {check['decision']} {check['attempts']}{done}{warned}"
        )
    lines += [f"note: {report['first']}"] if report["first"] else []
    lines += ["", ", ".join(counted(count, name.removesuffix("s")) for name, count in report["counts"].items()), ""]
    lines.append(f"mean {metric} over {counted(len(_blocks(report)), 'block')} ({report['better']} is better):")
    lines += [f"  {NAMES[kind]:<22}{means[metric]:.4f}" for kind, means in report["means"].items()]
    if report["promotions"]:
        worth = report["promotions"]
        lines.append(
            f"a promotion served better than what it replaced by {worth['mean_gain']:+.4f} on average, {worth['worst_gain']:+.4f} at worst"
        )
    return "\n".join(lines)


def suggestions(metric: str, found: Sequence[Tried]) -> str:
    """The policies that were tried, as a table; those marked are worse than no other in everything."""
    lines = [f"  {'policy':<26}{metric:>14}  trainings  mails  promotions"]
    lines += [
        f"{'*' if each.best else ' '} {each.name:<26}{each.value:>14.4f}  {each.trainings:>9}  {each.mails:>5}  {each.promotions:>10}"
        for each in found
    ]
    return "\n".join([*lines, "* no other is better in one of metric, trainings, mails and worse in none"])


def page(report: Mapping[str, Any]) -> str:
    """The report as one HTML file that needs no other; whatever a user wrote is escaped."""
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(
        **{
            name: report[name]
            for name in ("plan", "metric", "better", "limits", "means", "counts", "first", "promotions")
        },
        kinds=list(report["walks"]),
        names=NAMES,
        blocks=_blocks(report),
        checks=_checks(report),
        plot=_png(_plot(report)),
    )


def _checks(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    metric = report["metric"]
    return [
        {
            **{name: check[name] for name in ("day", "champion", "decision", "warned", "why")},
            "value": "" if check[metric] is None else f"{check[metric]:.4g}",
            "promoted": check["promoted"] or "",
            "attempts": ", ".join(
                f"{each['number']} {each['outcome']} ({_signed(each['gain'])})" for each in check["attempts"]
            ),
        }
        for check in report["walks"].get("policy", {}).get("checks", [])
    ]


def _signed(value: float | None) -> str:
    return "unknown" if value is None else f"{value:+.3g}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _blocks(report: Mapping[str, Any]) -> list[list[str]]:
    walks, metric = report["walks"], report["metric"]
    first = next(iter(walks.values()))["blocks"]
    return [
        [
            block["first"],
            block["last"],
            str(block["rows"]),
            *(_shown(found["blocks"][n][metric]) for found in walks.values()),
        ]
        for n, block in enumerate(first)
    ]


def _plot(report: Mapping[str, Any]) -> Figure:
    metric = report["metric"]
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, found in report["walks"].items():
        names = [block["first"] for block in found["blocks"]]
        values = [block[metric] for block in found["blocks"]]
        axes.plot(
            range(len(names)),
            values,
            marker="o",
            label=NAMES[kind],
            linewidth=2.5 if kind == "policy" else 1,
            zorder=3 if kind == "policy" else 2,
        )
    for value in report["limits"][metric].values():
        axes.axhline(value, color="black", linestyle="--", linewidth=1, label="limit")
    for promotion in report["walks"].get("policy", {}).get("promotions", []):
        at = sum(block["last"] < promotion["first"] for block in report["walks"]["policy"]["blocks"]) - 0.5
        axes.axvline(at, color="green", alpha=0.4, linewidth=1)
    step = max(1, len(names) // 12)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=30, ha="right")
    axes.set(ylabel=metric, title="green lines: promotions by this policy")
    axes.legend()
    return figure


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    return base64.b64encode(buffer.getvalue()).decode()
