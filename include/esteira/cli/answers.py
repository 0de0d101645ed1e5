"""Commands that answer questions, and change nothing: status, history, metrics, versions, attempts, quarantine, labels, export, explain, report, why, tables."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esteira import spec as specs
from esteira.cli.common import Model, app, day_option, find
from esteira.cli.progress import at_work
from esteira.errors import Damaged, DataError, SpecError
from esteira.lifecycle.changes import named
from esteira.text import counted, shown_days

if TYPE_CHECKING:
    from esteira.spec import ModelSpec
    from esteira.views import Health, Status

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
Weeks = Annotated[int, typer.Option(min=1, max=specs.CENTURY // 7, help="How many weeks to look back.")]
NO_INPUT = "No input moved: the relation, the target or the labels changed, unless it is chance."
HELD = {True: "in range", False: "OUT OF RANGE", None: "-"}
BAR = 30  # characters
MANY = 1_000_000  # rows of a quarantine that are shown at most


def _whole(model: str) -> ModelSpec:
    """A model none of whose tables is gone: else it would look as if nothing had ever happened."""
    from esteira.store import lake

    spec = find(model)
    lake.require_all(spec.name)
    return spec


def _say(answer: object) -> None:
    from esteira import views

    typer.echo(json.dumps(views.plain(answer), indent=2, ensure_ascii=False))


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Aligned columns; the last one is as long as its text."""
    if not rows:
        typer.echo("nothing")
        return
    shown = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(line[number]) for line in [list(heads), *shown]) for number in range(len(heads) - 1)]
    for line in [heads, *shown]:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        typer.echo("  ".join([*cells, line[-1]]).rstrip())


def _since(spec: ModelSpec, weeks: int) -> tuple[date, date]:
    """The days of the last weeks: up to the day last checked, or scored."""
    from esteira import views

    found = views.health(spec)
    if found.condition is views.Condition.BROKEN:
        raise Damaged(found.why)
    last = max(filter(None, [found.last_checked, found.last_scored]), default=specs.today(spec.time.timezone))
    return last - timedelta(days=7 * weeks - 1), last


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="One model; none: all of them.", show_default=False)] = None,
    as_json: AsJson = False,
) -> None:
    """Show how each model is, the worst first: its state, its metric, its champion, the days last scored and checked.

    Of one model it shows more: the version that each figure is of, the estimate of days without labels, the last change.
    """
    from esteira import views

    if model is not None:
        spec = find(model)
        found = views.status(spec)
        if as_json:
            _say({**views.plain(found), "health": views.health(spec)})
            return
        health = views.health(spec)
        typer.echo(f"{'model':<30} {model}")
        typer.echo(f"{'state':<30} {health.condition}: {health.why}")
        for each in health.also:
            typer.echo(f"{'and':<30} {each.condition}: {each.why}")
        for key, value in shown(found).items():
            typer.echo(f"{key:<30} {value}")
        return
    if not specs.model_files():
        raise SpecError("no model.yaml was found; put one into include/models/<name>/, or set ESTEIRA_MODELS")
    with at_work("looking at every model"):
        every = [_health(path.parent.name) for path in specs.model_files()]
    every.sort(key=lambda each: (each.ranks, each.model))
    if as_json:
        _say(every)
        return
    heads = ("model", "state", "metric", "window to", "of", "champion", "scored", "checked", "why")
    _table(heads, [_line(each) for each in every])


def _health(name: str) -> Health:
    """How a model is; one whose model.yaml is wrong has no more than its name, and what is wrong."""
    from esteira import views

    try:
        return views.health(find(name))
    except SpecError as error:
        return views.Health(name, "", views.Condition.BROKEN, str(error), "", None)


def _line(found: Health) -> list[object]:
    from esteira.views import Condition

    unknown = "-" if found.condition is Condition.BROKEN else ""
    last, now = found.last, found.champion
    value = f"{found.metric} {_value(last.value)} ({found.limit})" if last else f"{found.metric or '-'} -"
    since = f"{named(now.version)} since {now.effective_day}" if now else unknown or "none yet"
    measured = (last.last, named(last.version)) if last else ("-", "-")
    return [
        found.model,
        "; ".join(dict.fromkeys([found.condition, *(each.condition for each in found.also)])),
        value,
        *measured,
        since,
        found.last_scored or unknown or "never",
        found.last_checked or unknown or "never",
        " ".join(found.why.split())[:160],
    ]


def _value(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "no labels"


def shown(found: Status) -> dict[str, str]:
    """A model's status in words."""
    now, last, guess = found.champion, found.last_window, found.estimate
    held = {**HELD, None: "can't be judged"}
    window = (
        f"{_value(last.value)}, {held[last.in_range]} ({found.limit}), {named(last.version)}, window to {last.last}"
        if last
        else "not measured yet"
    )
    lines = {
        "champion": f"version {now.version}, serving from {now.effective_day}" if now else "none yet",
        "versions": ", ".join(map(str, found.versions)) or "none",
        "last day scored": str(found.last_scored or "never"),
        "last check": str(found.last_checked or "never"),
        f"last window's {found.metric}": window,
    }
    if guess:
        off = "" if guess.off is None else f"; estimates were off by {guess.off:.4g} on average"
        lines[f"estimated {found.metric}"] = (
            f"{guess.value:.4g}, {held[guess.in_range]}, of the days without labels{off}"
        )
    if found.outdated:
        lines["not as published"] = f"{shown_days(list(found.outdated))}; see `esteira reconcile {found.model}`"
    change = found.last_change
    return {**lines, "last change": f"{change.state}: {change.why}" if change else "none"}


@app.command()
def history(
    model: Model,
    day: Annotated[
        Any, day_option("Say of this day only which version served it, since when, and why.", "--at", "--day")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show every change in a model's life, the oldest first: what, from which day on, why, and by whom."""
    from esteira import views

    spec = _whole(model)
    if day is None:
        events = views.history(spec)
        if as_json:
            _say(events)
            return
        for each in events:
            about = f"version {each.version}" if each.version else "-"
            typer.echo(f"{each.day}  {about}  {each.state}: {each.why} (by {each.by}, {each.at:%Y-%m-%d %H:%M} UTC)")
        return
    found = views.champion_at(spec, day)
    if as_json:
        _say(found)
        return
    since = f" (serving since {found.since})" if found.since else ""
    typer.echo(f"{day} was to be served by {named(found.served)}{since}: {found.served_why}")
    if found.held is None:
        typer.echo("it is not scored" + (f"; it would be by {named(found.published)}" if found.published else ""))
    elif found.held == found.published:
        typer.echo(f"its predictions are of {named(found.published)}: {found.published_why}")
    else:
        typer.echo(
            f"its predictions are still of {named(found.held)}, and to be of {named(found.published)}: {found.published_why}; "
            f"see `esteira reconcile {spec.name}`"
        )


@app.command()
def metrics(
    model: Model,
    weeks: Weeks = 8,
    metric: Annotated[
        str, typer.Option(help="One of those that checks record; else the gate's.", show_default=False)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show a metric of whichever version served, window by window, with its range, as a table and as a plot."""
    from esteira import views

    spec = _whole(model)
    first, _ = _since(spec, weeks)
    name = metric or spec.check.metric
    found = [each for each in views.windows(spec, name) if each.last >= first]
    if as_json:
        _say(found)
        return
    if not found:
        typer.echo(f"no window of {name} since {first}: none is whole yet, or checks do not record it")
        return
    limit = spec.check.metrics.get(name)
    bound = next((each for each in (limit.max, limit.min) if each is not None), None) if limit else None
    bars = _bars([each.value for each in found], bound)  # of a window without labels there is none
    typer.echo(f"{name} of {spec.name}" + (f", wanted {limit}" if limit else "") + f"; a bar's {MARK} is the limit")
    _table(
        ("window", "version", "value", "", "rows", ""),
        [
            [f"{each.first} to {each.last}", each.version, _value(each.value), HELD[each.in_range], each.rows, bar]
            for each, bar in zip(found, bars, strict=True)
        ],
    )


MARK = "│"


def _bars(values: Sequence[float], bound: float | None) -> list[str]:
    """A bar for each value, with a mark where the limit is; from 0, or from the lowest where some are below it."""
    every = [value for value in (*values, *([bound] if bound is not None else [])) if math.isfinite(value)]
    low, high = min(0.0, *every), max(0.0, *every)
    scale = BAR / ((high - low) or 1.0)
    mark = None if bound is None else min(round((bound - low) * scale), BAR)
    found = []
    for value in values:
        bar = list("█" * round((value - low) * scale)) if math.isfinite(value) else []
        bar += [" "] * (BAR + 1 - len(bar))
        if mark is not None:
            bar[mark] = MARK
        found.append("".join(bar).rstrip())
    return found


@app.command()
def versions(model: Model, as_json: AsJson = False) -> None:
    """Show every version: when it served, why, by whom it was promoted, and how its first window compared."""
    from esteira import views

    found = views.versions(_whole(model))
    if as_json:
        _say(found)
        return
    rows = []
    for each in found:
        served = ", ".join(f"{span.first} to {span.last or 'now'}" for span in each.served) or "never"
        by = ", ".join(dict.fromkeys(promoted.by for promoted in each.promotions)) or each.run_id
        judged = "-" if each.verified is None else "worse" if each.verified.worse else "verified"
        published = f"{counted(each.published_days, 'day')}: {each.published}" if each.published_days else "-"
        engine = " (".join(filter(None, (each.engine or "-", each.not_compiled))) + (")" if each.not_compiled else "")
        rows.append([each.number, served, published, by, judged, engine, each.why])
    _table(("version", "served", "published now", "by", "first window", "engine", "why"), rows)


@app.command()
def attempts(model: Model, weeks: Weeks = 8, as_json: AsJson = False) -> None:
    """Show what the checks of the last weeks have tried, and what came of it: gain, interval, outcome, run in MLflow."""
    from esteira import views

    spec = _whole(model)
    found = [each for each in views.checks(spec, *_since(spec, weeks)) if each.attempts]
    if as_json:
        _say(found)
        return
    rows = [
        [
            each.day,
            f"attempt {number}" if number else "blend",
            tried.outcome,
            f"{tried.value:.4g}",
            f"{tried.gain:+.4g} ({tried.lower:+.4g} to {tried.upper:+.4g})",
            named(tried.measured),
            tried.run_id,
        ]
        for each in found
        for number, tried in each.attempts.items()
    ]
    _table(("check", "tried", "outcome", spec.check.metric, "gain (interval)", "over", "run"), rows)


@app.command()
def why(
    model: Model,
    day: Annotated[Any, day_option("The day of the check; else the last one's.", "--day")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what a check measured, decided and tried, and why the metric may have moved."""
    from esteira import views

    spec = _whole(model)
    day = day or views.health(spec).last_checked
    if day is None:
        raise DataError(f"model {spec.name}: no day was checked yet; see `esteira check`")
    found = views.check(spec, day)
    if as_json:
        _say(found)
        return
    typer.echo(f"{views.check_title(spec, day)}\n")
    for sentence in views.told(spec, day):
        typer.echo(sentence)
    if found.explanation is None:
        return
    typer.echo(f"\n{'What moved' if found.explanation.moved else NO_INPUT}")
    for each in found.explanation.moved:
        typer.echo(f"  {each.feature}: PSI {each.value:.4g}, {each.importance:.0%} of the importance")
    for part in found.explanation.worsened:
        typer.echo(f"  {part.segment}: {spec.check.metric} {part.before:.4g} before, {part.now:.4g} now")


@app.command()
def tables(model: Model, as_json: AsJson = False) -> None:
    """Show a model's tables: where each lies, its rows, its size, the days that it has."""
    from esteira import views

    found = views.tables(_whole(model))
    if as_json:
        _say(found)
        return
    heads = ("table", "rows", "MB", "days", "from", "to", "version", "place")
    _table(
        heads,
        [
            [t.kind, t.rows, f"{t.bytes / 1e6:.2f}", t.days, t.first or "-", t.last or "-", t.version, t.place]
            for t in found
        ],
    )


@app.command()
def quarantine(
    model: Model,
    weeks: Weeks = 8,
    rows: Annotated[int, typer.Option(min=0, max=MANY, help="Show so many of the rows, the newest days first.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Show what is in quarantine by rule, the most frequent first; with --rows the rows as they came. Personal values are masked."""
    from esteira import views

    spec = _whole(model)
    span = _since(spec, weeks)
    found, bad = views.quarantine(spec, *span), views.bad_rows(spec, *span, rows) if rows else ()
    if as_json:
        _say({"rules": found, "rows": bad})
        return
    heads = ("rows", "days", "stage", "rule", "reason")
    if not found:
        typer.echo(f"nothing from {span[0]} to {span[1]}; --weeks looks further back")
        return
    _table(heads, [[each.rows, each.days, each.stage, each.rule, each.reason] for each in found])
    for each in bad:
        typer.echo(f"{each.day}  {each.rule}: {json.dumps(each.values, ensure_ascii=False)}")


@app.command()
def labels(model: Model, weeks: Weeks = 4, as_json: AsJson = False) -> None:
    """Show how many rows of each day have a label."""
    from esteira import views

    spec = _whole(model)
    found = views.labels(spec, *_since(spec, weeks))
    if as_json:
        _say(found)
        return
    shares = [f"{each.labelled / each.rows:.0%}" if each.rows else "-" for each in found]
    rows = [[each.day, each.rows, each.labelled, share] for each, share in zip(found, shares, strict=True)]
    _table(("day", "rows", "labelled", "share"), rows)


@app.command()
def export(
    model: Model,
    place: Annotated[Path, typer.Argument(help="The file to write: .csv or .parquet.", show_default=False)],
    day: Annotated[Any, day_option("The day whose predictions to write.", "--day")],
    last_day: Annotated[Any, day_option("The last day of a range, included; else only --day.", "--last-day")] = None,
    key: Annotated[
        list[str] | None,
        typer.Option(help="Only the row whose column has this value: column=value. Say it for each column of the key."),
    ] = None,
) -> None:
    """Write the predictions of days to a file, each with its version, its label where it is known, and its features."""
    from esteira import views
    from esteira.cli.common import days_of

    spec, days = _whole(model), days_of(day, last_day)
    write = {".csv": "to_csv", ".parquet": "to_parquet"}.get(place.suffix)
    if write is None:
        raise typer.BadParameter(f"got {place}; a file's name ends with .csv or .parquet")
    with at_work(f"reading {counted(len(days), 'day')} of {spec.name}"):
        rows = views.predicted(spec, days[0], days[-1], key_of(spec, key or []))
    if rows.empty:
        raise DataError(f"model {spec.name}: no prediction from {days[0]} to {days[-1]}{' of that key' if key else ''}")
    getattr(rows, write)(place, index=False)
    typer.echo(f"{place}: {counted(len(rows), 'row')}")


@app.command()
def report(
    model: Model,
    place: Annotated[
        Path | None, typer.Option("--to", "-o", help="The file to write; else <model>-report.html.", show_default=False)
    ] = None,
    weeks: Weeks = 8,
) -> None:
    """Write a model's report: one HTML page that can be read without a network, with all that the pages in Airflow show."""
    from esteira import views
    from esteira.cli import report as reports

    spec = _whole(model)
    place = place or Path(f"{spec.name}-report.html")
    with at_work(f"reporting on {spec.name}"):
        found = views.overview(spec, weeks)
    place.write_text(reports.page(spec.name, found, datetime.now().astimezone()), encoding="utf-8")
    typer.echo(str(place))


@app.command()
def explain(
    model: Model,
    day: Annotated[Any, day_option("The day of the row.", "--day")],
    key: Annotated[
        list[str], typer.Option(help="column=value; say it for each column of the key.", show_default=False)
    ],
    as_json: AsJson = False,
) -> None:
    """Explain a row: what was predicted for it, by which version, its label, its features, and what each of them adds."""
    from esteira import views

    spec = _whole(model)
    with at_work("explaining the row"):
        found = views.explain(spec, day, key_of(spec, key))
    if as_json:
        _say(found)
        return
    for each in found.predictions:
        chance = "" if each.probability is None else f" (chance {each.probability:.4g})"
        when = "published" if each.published else "served first"
        typer.echo(f"{when}: {_number(each.prediction)}{chance}, by {named(each.version)} in {each.run}")
    typer.echo(
        "label: not known yet"
        if found.label is None
        else f"label: {_number(found.label)}, first seen {found.label_seen}"
    )
    typer.echo(f"rows of the four weeks before are predicted {found.base:.4g} in the mean; to that adds")
    most = max(map(abs, found.shares.values()), default=0.0) or 1.0
    rows = [
        [
            name,
            _number(found.features[name]),
            f"{share:+.4g}",
            ("█" if share > 0 else "░") * round(BAR * abs(share) / most),
        ]
        for name, share in found.shares.items()
    ]
    _table(("feature", "value", "adds", ""), rows)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def key_of(spec: ModelSpec, given: Sequence[str]) -> dict[str, str]:
    """A key as it was given, column=value."""
    found = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or name not in spec.key:
            raise typer.BadParameter(
                f"got {each!r}; write column=value, for the key of {spec.name}: {', '.join(spec.key)}"
            )
        found[name] = value
    return found
