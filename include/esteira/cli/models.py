"""Commands about a model before it serves: validate, schema, limits, replay."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from esteira import spec as specs
from esteira.cli.common import Model, app, day_option, find
from esteira.cli.progress import at_work
from esteira.errors import DataError, EsteiraError, OutOfReach, SpecError
from esteira.text import counted

if TYPE_CHECKING:
    from esteira.spec import ModelSpec
    from esteira.steps.suggesting import Suggested

YEAR = 365


@app.command()
def validate(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Models by name, or model.yaml files; none: every model.", show_default=False),
    ] = None,
    data: Annotated[
        bool, typer.Option("--data", help="Read a day of each model's source, validate it and build its features.")
    ] = False,
    day: Annotated[
        Any, day_option("The day to read, as --data does; else the last one that files have, or yesterday.", "--day")
    ] = None,
) -> None:
    """Check models: every key, column and range, that each estimator exists and takes its parameters, and its source.

    Exits with 1 if any is wrong, and names each mistake with its file, its line and its mend. That a source's file, or a
    column of it, is missing is a note; with --data it is an error, and one day's features are built, of which nothing is
    kept.
    """
    every = specs.model_files()
    files = [_model_file(name, every) for name in models] if models else every
    wrong = sum(not _is_valid(path, every, data, day) for path in files)
    if not files:
        typer.echo("no model.yaml was found; put one into include/models/<name>/, or set ESTEIRA_MODELS", err=True)
    raise typer.Exit(1 if wrong or not files else 0)


def _model_file(given: str, every: list[Path]) -> Path:
    """The model.yaml that a name or a path means."""
    path = Path(given)
    if path.is_dir() and (path / "model.yaml").exists():
        return path / "model.yaml"
    if path.exists() or path.suffix in (".yaml", ".yml"):
        return path
    named = {each.parent.name: each for each in every}
    if given not in named:
        raise SpecError(
            f"no model and no file {given!r}; models: {', '.join(named) or 'none'}{specs.nearest(given, list(named))}"
        )
    return named[given]


def _is_valid(path: Path, every: list[Path], with_data: bool, day: date | None) -> bool:
    """Say what is wrong with a model; returns whether nothing is."""
    from esteira import data, steps
    from esteira.learning import pipelines

    try:
        specs.require_one(path, specs.by_name(every))
        spec = specs.load(path)
        pipelines.check_candidates(spec)
        sizes = counted(len(spec.features.all), "feature"), counted(len(spec.train.candidates), "candidate")
        typer.echo(f"{path}: ok: {spec.task}, {', '.join(sizes)}")
        for missing in data.look(spec):
            if with_data or day:
                raise DataError(missing)
            typer.echo(f"{path}: note: {missing}", err=True)
        if with_data or day:
            typer.echo(steps.preview(spec, day))
    except (EsteiraError, OutOfReach) as error:
        typer.echo(str(error), err=True)
        return False
    return True


@app.command()
def limits(
    model: Model,
    as_of: Annotated[Any, day_option("Look at the training window of this day.", "--as-of")],
    factor: Annotated[
        float, typer.Option(min=1.0, max=100.0, help="How much larger than usual the error may become.")
    ] = 1.25,
) -> None:
    """Suggest limits for check.metrics, from windows of the past.

    Each of the last windows of check.every in the training window is predicted by a training on the days before it. The limit lets
    the error be a factor of that of the median window. Of a metric whose best value is 1, such as accuracy, the error is what it
    lacks to that. Where short windows differ by more than that by chance, the limit is wider, and that is said.
    """
    from esteira import steps
    from esteira.steps.suggesting import QUANTILES

    spec = find(model)
    with at_work(f"looking at the past of {spec.name}"):
        name, found = steps.limits(spec, as_of, factor)
    every = counted(spec.check.every, "day")
    for metric, past in found.items():
        bound = "min" if spec.higher_is_better(metric) else "max"
        count = counted(len(past.values), "past window")
        typer.echo(f"{metric} of {name} in {count} of {every} up to {as_of}:")
        for share, (limit, bad) in zip(QUANTILES, past.quantiles, strict=True):
            typer.echo(f"  {bound} {limit:<9.6g} holds in {share:>4.0%} of them; out of range: {bad}")
        typer.echo(f"suggested: {metric}: {{{bound}: {past.written:.6g}}} (out of range: {past.bad})")
        for note in _notes(spec, metric, past):
            typer.echo(f"  note: {note}", err=True)


def _notes(spec: ModelSpec, metric: str, past: Suggested) -> Iterator[str]:
    """What a suggested limit does not say by itself."""
    from esteira.steps.measuring import OF_CLASS
    from esteira.steps.suggesting import better

    if past.longer is not None:
        every = counted(spec.check.every, "day")
        yield (
            f"a window of {every} is off by {past.noise:.2g} by chance alone, so the limit is wider than --factor asks for; "
            + (
                f"with check.every: {past.longer}d, about, it would not be"
                if past.longer <= spec.train.window // 4
                else "no check.every mends that: it takes more rows a day, or a larger --factor"
            )
        )
    if past.few:
        few = counted(past.few, "past window")
        yield f"{few} had fewer than {OF_CLASS} rows of the rarer class: by such a check waits; give a longer check.every"
    if not past.bad:
        yield (
            f"none of {counted(len(past.values), 'window')} tells little: up to {min(3 / len(past.values), 1):.0%} of those to come may be out of range "
            "all the same (as it would be in one of twenty such cases)"
        )
    if past.violated:
        yield (
            f"by it the check would have tried to repair {counted(past.violated, 'past window')}: the error moves (drift, seasons, "
            "little to learn from). A wider limit has fewer; esteira replay --suggest says what each would have brought"
        )
    span = len(past.values) * spec.check.every
    if span < YEAR:
        yield (
            f"that is of {counted(span, 'day')}; what other seasons bring they don't show. Where the year has any, ask for a day of each "
            "(--as-of) and take the widest limit; train.window should hold more than one year then"
        )
    if not better(spec, metric, past.limit, past.chance):
        yield (
            f"that is no better than chance: a model that knows no feature reaches {past.chance:.4g}. A limit there "
            "finds nothing: give a smaller --factor, better features, or a longer window"
        )


@app.command()
def replay(
    model: Model,
    first: Annotated[Any, day_option("The first day to replay.", "--from")],
    last: Annotated[Any, day_option("The last day, included.", "--to")],
    every: Annotated[str, typer.Option(help="How often it is checked: day, week, month, or days such as 10d.")] = "day",
    blocks: Annotated[str, typer.Option(help="The spans that the report compares: week, month, or days.")] = "month",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier call of it did.")] = False,
    compare: Annotated[
        bool, typer.Option(help="Compare with a frozen model and with one retrained at the end of every block.")
    ] = True,
    suggest: Annotated[
        bool,
        typer.Option("--suggest", help="Try a handful of other limits and rules, and print what each would have cost."),
    ] = False,
) -> None:
    """Walk through history as if each day were today: what would this policy have done, and was it worth it?

    Every step is the one that the DAGs run, in a lake and a registry of the replay's own; nothing is mailed or committed.
    The model that serves first is trained as of the day before the first. A replay that was interrupted goes on where it
    was when it is called again.
    """
    from esteira.replay import POLICIES, WALKS, Plan, run, spans, suggested
    from esteira.replay import report as reports

    spec = find(model)
    if last < first:
        raise typer.BadParameter(f"--to {last} is before --from {first}")
    for name, given in (("--every", every), ("--blocks", blocks)):
        try:
            spans(first, first, given)
        except EsteiraError as error:
            raise typer.BadParameter(str(error), param_hint=name) from None
    plan = Plan(spec.name, first, last, every, blocks)
    if fresh:
        shutil.rmtree(plan.place(spec), ignore_errors=True)
    kinds = POLICIES if suggest else WALKS if compare else ["policy"]
    with _progress() as progress:
        found = run(spec, plan, kinds, progress)
    if suggest:
        typer.echo(reports.suggestions(spec.check.metric, suggested(spec, found)))
        return
    typer.echo(reports.text(found))
    page = plan.place(spec) / "report.html"
    page.write_text(reports.page(found), encoding="utf-8")
    typer.echo(f"\nreport: {page}\ndata:   {page.with_suffix('.json')}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Shows how far a replay is: as a bar, or as lines where the output is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task, lines = bar.add_task(""), _Lines("replaying: {done} of {of} steps")

        def show(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)
            if bar.disable:
                lines.show(done, of)

        yield show


class _Lines:
    """Progress where the output is no terminal: a line at the start, and then every EVERY seconds."""

    EVERY = 30.0

    def __init__(self, text: str) -> None:
        self.text, self.last = text, -self.EVERY

    def show(self, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self.last >= self.EVERY:
            self.last = now
            typer.echo(self.text.format(done=done, of=of))
            sys.stdout.flush()


@app.command()
def schema() -> None:
    """Print the JSON Schema of model.yaml, with which editors complete and check it.

    For VS Code's YAML extension: `esteira schema > model.schema.json`, and as the first line of model.yaml
    `# yaml-language-server: $schema=model.schema.json`.
    """
    typer.echo(json.dumps(specs.json_schema(), indent=2, ensure_ascii=False))
