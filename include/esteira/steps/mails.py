"""What is mailed: built here, from the tables; sent by whoever has a mail server. All that users wrote is escaped."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from dataclasses import dataclass
from datetime import date
from email.message import EmailMessage
from pathlib import Path

from jinja2 import Environment

from esteira.learning import drift
from esteira.spec import ModelSpec
from esteira.steps import checking, explaining, measuring
from esteira.store import lake, ledger, runs
from esteira.text import counted

_TEXT = """\
{{ lead }}

{% for title, head, rows in sections %}{{ title }}
{% for row in rows %}  {% for cell in row %}{{ head[loop.index0] }}: {{ cell }}{{ ", " if not loop.last }}{% endfor %}
{% endfor %}
{% endfor %}{% for name, link in links %}{{ name }}: {{ link }}
{% endfor %}"""

_HTML = """\
<!doctype html><html><body style="font-family: sans-serif; color: #222">
<p>{{ lead }}</p>
{% for title, head, rows in sections %}<h3 style="margin-bottom: 4px">{{ title }}</h3>
<table cellpadding="6" style="border-collapse: collapse">
<tr>{% for name in head %}<th align="left" style="border-bottom: 2px solid #888">{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td style="border-bottom: 1px solid #ccc">{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}<p>{% for name, link in links %}{% if link.startswith("http") %}<a href="{{ link }}">{{ name }}</a>
{% else %}{{ name }}: {{ link }}{% endif %}<br>{% endfor %}</p>
</body></html>
"""

Section = tuple[str, list[str], list[list[str]]]


@dataclass(frozen=True)
class Mail:
    """A mail, as text and as HTML. `key` gives it its Message-ID: the same mail again has the same one."""

    key: str
    to: tuple[str, ...]
    subject: str
    lead: str
    sections: tuple[Section, ...] = ()
    links: tuple[tuple[str, str], ...] = ()

    def message(self, sender: str) -> EmailMessage:
        """The mail as it goes out."""
        message = EmailMessage()
        message["Subject"] = " ".join(self.subject.split())
        message["From"] = sender
        message["To"] = ", ".join(self.to)
        message["Message-ID"] = f"<{hashlib.sha256(self.key.encode()).hexdigest()[:32]}@esteira>"
        message.set_content(self.text())
        message.add_alternative(_rendered(_HTML, self, escape=True), subtype="html")
        return message

    def text(self) -> str:
        """The mail as plain text."""
        return _rendered(_TEXT, self, escape=False)


def _rendered(template: str, mail: Mail, *, escape: bool) -> str:
    environment = Environment(autoescape=escape, trim_blocks=False)  # noqa: S701  # plain text has nothing to escape
    return environment.from_string(template).render(lead=mail.lead, sections=mail.sections, links=mail.links)


def _n(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "unknown"


def warning(spec: ModelSpec, day: date, run_url: str = "") -> Mail:
    """The warning after a loop that did not bring the metric back; it is in the ledger before it can be sent."""
    now = ledger.require_champion(spec, day)
    found = measuring.measured_windows(spec, day)
    chosen = checking.chosen_attempt(spec, day)
    end = (
        f"attempt {chosen.number} was better and will be promoted, but it is out of range too"
        if chosen
        else f"version {now.version} stays champion"
    )
    bad = [name for name, held in found[-1].in_range.items() if not held]
    wanted = ", ".join(f"{name} {measuring.limit_of(spec, name)}" for name in bad)
    why = f"{found[-1].out_of_range()} (wanted: {wanted}) and {counted(len(spec.recipes), 'retraining attempt')} did not bring it back: {end}"
    key = measuring.warning_id(now.version, found[-1].last)
    ledger.record(
        spec,
        key,
        to_state="warned",
        from_state="champion",
        version=now.version,
        why=why,
        by=measuring.run_key(day),
        effective=day,
        evidence={"check_day": str(day)},
    )
    return Mail(
        key=f"{spec.name}/{key}",
        to=spec.alerts.email or (spec.owner,),
        subject=f"[esteira] {spec.name}: {bad[0]} = {_n(found[-1].values[bad[0]])} is out of range, and retraining did not help",
        lead=f"Model {spec.name}, check of {day}: {why}.",
        sections=(_history(spec, day), _tried(spec, day), *why_moved(spec, day)),
        links=_links(spec, day, run_url),
    )


def _history(spec: ModelSpec, day: date) -> Section:
    rows = [
        [
            f"{window.first} to {window.last}",
            name,
            _n(value),
            str(measuring.limit_of(spec, name)),
            "in range" if window.in_range[name] else "OUT OF RANGE",
            f"{counted(window.days, 'day')}, {counted(window.rows, 'row')}",
        ]
        for window in measuring.measured_windows(spec, day)
        for name, value in window.values.items()
    ]
    return "What the champion reached", ["window", "metric", "value", "range", "verdict", "from"], rows


def _tried(spec: ModelSpec, day: date) -> Section:
    found = checking.attempts(spec, day)
    rows = []
    for attempt, recipe in enumerate(spec.recipes, start=1):
        shown = ", ".join(
            f"{name} {_duration(name, value)}" for name, value in recipe.model_dump(exclude_none=True).items()
        )
        if attempt in found:
            tried = found[attempt]
            interval = f"{_n(tried.lower)} to {_n(tried.upper)}"
            size = f"{counted(tried.days, 'day')}, {counted(tried.rows, 'row')}"
            rows.append([str(attempt), shown, _n(tried.value), _n(tried.gain), interval, size, tried.outcome.value])
        else:
            rows.append([str(attempt), shown, "-", "-", "-", "-", "crashed, see the log"])
    head = [
        "attempt",
        "recipe",
        f"{spec.check.metric} on held-out days",
        "gain over the champion",
        "interval",
        "from",
        "outcome",
    ]
    return "What was tried", head, rows


def _duration(name: str, value: object) -> str:
    return f"{value}d" if name in ("window", "half_life") else str(value)


def why_moved(spec: ModelSpec, day: date) -> tuple[Section, ...]:
    """What may be behind a violation: the features that drifted, by how much they matter, and the segments that got worse."""
    worse = [[each.segment, _n(each.before), _n(each.now), str(each.rows)] for each in explaining.worsened(spec, day)]
    return (
        _drifted(spec, day),
        ("Segments that got worse", ["segment", f"{spec.check.metric} before", "now", "rows"], worse),
    )


def _drifted(spec: ModelSpec, day: date) -> Section:
    head = ["feature", "PSI (above 0.2: drift)", "share of importance", "importance × drift"]
    found = explaining.moved(spec, day)[:5]
    rows = [[each.feature, _n(each.psi), f"{each.importance:.0%}", _n(each.weight)] for each in found]
    return "Features that drifted, by importance × drift", head, rows


def report_why(spec: ModelSpec, day: date, run_id: str) -> None:
    """Keep why.html beside a check's drift report: what the warning says, whether one is sent or not."""
    page = Mail(
        key="",
        to=(),
        subject="",
        lead=f"Model {spec.name}, check of {day}: why its metrics may have moved.",
        sections=(_history(spec, day), *why_moved(spec, day)),
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "why.html"
        path.write_text(_rendered(_HTML, page, escape=True), encoding="utf-8")
        runs.log_file(run_id, path)


def _links(spec: ModelSpec, day: date, run_url: str) -> tuple[tuple[str, str], ...]:
    reports = runs.search(spec, kind="drift", check_day=day)
    report = runs.run_link(spec, str(reports[0].info.run_id)) if reports else ""
    found = (
        ("The run in Airflow", run_url),
        ("The drift report in MLflow", report),
        ("The metrics table", lake.path("metrics", spec.name)),
    )
    return tuple((name, link) for name, link in found if link)


def drift_mail(spec: ModelSpec, day: date, run_url: str = "") -> Mail | None:
    """The mail that says that too many features drifted, one a window; None where they did not. The ledger knows it first."""
    key = measuring.drift_to_report(spec, day)
    if key is None:
        return None
    found = measuring.drifts(spec, day)
    moved = [name for name, value in found.items() if value > drift.LIMIT]
    why = f"{', '.join(moved)} drifted since the champion was trained"
    ledger.record(spec, key, to_state="drifted", why=why, by=measuring.run_key(day), effective=day)
    return Mail(
        key=f"{spec.name}/{key}",
        to=spec.alerts.email or (spec.owner,),
        subject=f"[esteira] {spec.name}: {len(moved)} of {len(found)} features drifted",
        lead=f"Model {spec.name}, check of {day}: {why}. By itself this retrains nothing.",
        sections=(_drifted(spec, day),),
        links=_links(spec, day, run_url),
    )


def verification_mail(spec: ModelSpec, day: date, run_url: str = "") -> Mail | None:
    """The mail that says that a promotion turned out worse than what it replaced; None where the day's check found none."""
    rows = lake.read("ledger", spec.name, to_state="worse", by=measuring.run_key(day))
    if rows.empty:
        return None
    row = rows.iloc[0]
    replaced = json.loads(row["evidence"])["replaced"]
    return Mail(
        key=f"{spec.name}/{row['id']}",
        to=spec.alerts.email or (spec.owner,),
        subject=f"[esteira] {spec.name}: version {int(row['version'])} is worse than version {replaced}, which it replaced",
        lead=f"Model {spec.name}, check of {day}: {row['why']}. To go back: esteira rollback {spec.name} --to {replaced}",
        links=_links(spec, day, run_url),
    )


def late_mail(spec: ModelSpec, days: list[date], run: str, state: str, deadline: str, run_url: str) -> Mail:
    """The mail about days that were not scored by their deadline; the run may still be at it, or have failed."""
    shown = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]} ({len(days)} days)"
    return Mail(
        key=f"{spec.name}/late/{run}",
        to=spec.alerts.email or (spec.owner,),
        subject=f"[esteira] {spec.name}: {shown} is not scored yet",
        lead=(
            f"{shown} should have been scored by {deadline}, {_span(spec.score.deadline or 0)} after the run {run} was queued; "
            f"the run is {state}. Its log says what it waits for; when it ends well, the day is whole."
        ),
        links=(("The run in Airflow", run_url),) if run_url else (),
    )


def _span(hours: int) -> str:
    return counted(hours // 24, "day") if hours % 24 == 0 and hours > 24 else counted(hours, "hour")


def failure_mail(spec: ModelSpec, task: str, run: str, error: object, log_url: str, number: int = 1) -> Mail:
    """The mail about a task that failed for good, at its try `number`."""
    return Mail(
        key=f"{spec.name}/failed/{run}/{task}/{number}",
        to=spec.alerts.email or (spec.owner,),
        subject=f"[esteira] {spec.name}: task {task} failed",
        lead=f"Task {task} of run {run} failed: {str(error)[:2000]}",
        links=(("The log in Airflow", log_url),) if log_url else (),
    )
