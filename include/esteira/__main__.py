"""The command line: the same steps that the DAGs run, without Airflow."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
import time
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

import typer

from esteira import spec as specs
from esteira.errors import DataError, EsteiraError, OutOfReach, SpecError
from esteira.spec import ModelSpec
from esteira.text import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Declare a model in one YAML file; train it, score it every day, check it, retrain it.

These commands run the same steps as the Airflow DAGs, on the same tables: for a first look, for a notebook's work, for
an emergency. Models are found in `include/models` (or the folders of `ESTEIRA_MODELS`), tables under `ESTEIRA_LAKE`,
runs and versions in `MLFLOW_TRACKING_URI`; all of them default to `.esteira/` in the project.

A first day: `esteira validate`, `esteira train toll_traffic --as-of 2026-01-31`, `esteira score toll_traffic --day
2026-02-01 --last-day 2026-02-14`, `esteira check toll_traffic --day 2026-02-14`, `esteira status`.""",
)

LARGEST = 2**31 - 1
AllowEmpty = Annotated[
    bool,
    typer.Option("--allow-empty", help="Take it that days that had rows have none any more; else they are refused."),
]
Model = Annotated[str, typer.Argument(help="The model's name: its folder under include/models.", show_default=False)]


def _day(text: str) -> date:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007  # a day, not a moment
    except ValueError:
        raise typer.BadParameter(f"got {text!r}; a day is written YYYY-MM-DD, such as 2026-01-31") from None
    if day > datetime.now().astimezone().date():
        raise typer.BadParameter(f"{text} is in the future; give a day that has ended")
    if day < specs.FIRST_DAY:
        raise typer.BadParameter(f"{text} is too early; give a day from {specs.FIRST_DAY} on")
    return day


def _range(first: date, last: date | None) -> list[date]:
    from esteira import data

    days = data.days(first, last or first)
    if not days:
        raise typer.BadParameter(f"--last-day {last} is before --day {first}")
    return days


def _day_option(about: str, *names: str) -> Any:
    return typer.Option(*names, parser=_day, metavar="YYYY-MM-DD", help=about, show_default=False)


@app.callback()
def _main(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show each step as it runs.")] = False) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(asctime)s %(message)s")
    for noisy in ("alembic", "mlflow", "papermill", "matplotlib", "httpx"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # it warns of each try
    os.environ.setdefault("DO_NOT_TRACK", "1")
    # As for Airflow's tasks: on a busy machine more of them stall each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    # A person waits: a server that is down is told in seconds, one that hangs in a minute.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")


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
        Any, _day_option("The day to read, as --data does; else the last one that files have, or yesterday.", "--day")
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
        specs.require_one(path, every)
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
def train(
    model: Model,
    as_of: Annotated[Any, _day_option("Train as if this day had just ended.", "--as-of")],
    window: Annotated[
        int | None, typer.Option(min=7, max=specs.CENTURY, help="Days to train on; else the model.yaml's.")
    ] = None,
    promote: Annotated[bool, typer.Option(help="Promote the new version if it is better than the champion.")] = True,
    again: Annotated[
        bool,
        typer.Option("--again", help="Train anew even where a version of the same day, spec and data is registered."),
    ] = False,
) -> None:
    """Train the candidates, evaluate the best, register it, and promote it if it is better.

    Only rows whose labels were mature on the as-of day are seen. A version promoted for a day serves from the next. Said
    twice it registers one version.
    """
    from filelock import FileLock, Timeout

    from esteira import steps
    from esteira.store import lake

    spec, run = _find(model), f"cli/train/{as_of}"
    lock = lake.home() / f"train-{spec.name}.lock"
    lake.make_home()
    try:
        with FileLock(lock, timeout=0):  # two of them would take each other's runs for what a killed one left
            typer.echo(steps.train(spec, as_of, run, window=window, promoted=promote, again=again))
    except Timeout:
        raise EsteiraError(
            f"model {spec.name}: another `esteira train` of it is at work on this machine; wait for it ({lock})"
        ) from None


@app.command()
def score(
    model: Model,
    day: Annotated[Any, _day_option("The day to score.", "--day")],
    last_day: Annotated[Any, _day_option("The last day of a range, included; else only --day.", "--last-day")] = None,
    version: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="Score with this version in place of each day's champion.")
    ] = None,
    allow_empty: AllowEmpty = False,
) -> None:
    """Score a day, or a range of days, into the predictions table."""
    from esteira import steps

    spec, days = _find(model), _range(day, last_day)
    if version is None:
        steps.require_champions(spec, days)  # before a range of years is read
    steps.extract(spec, days, "replace" if allow_empty else "refuse")
    steps.validate(spec, days)
    steps.require_fit(spec, days)
    steps.features(spec, days)
    run = f"cli/{uuid4()}"
    steps.score(spec, days, run, version)
    steps.publish(spec, days, run)
    typer.echo(f"{counted(len(days), 'day')}: {steps.accounted(spec, days)}")


@app.command()
def requeue(
    model: Model,
    day: Annotated[Any, _day_option("The day whose quarantined rows are mended.", "--day")],
    last_day: Annotated[Any, _day_option("The last day of a range, included; else only --day.", "--last-day")] = None,
    allow_empty: AllowEmpty = False,
) -> None:
    """Process the quarantined rows of a day again, after the source (or the model.yaml) was mended.

    The day is read anew, validated, scored and published; what was served first stays as it was, and mended rows are added
    to it. Exits with 1 where rows are left in quarantine, and says why.
    """
    from esteira import steps

    spec, days = _find(model), _range(day, last_day)
    before = sum(steps.left_over(spec, days).values())
    said = steps.requeue(spec, days, f"requeue/{uuid4()}", "replace" if allow_empty else "refuse")
    left = steps.left_over(spec, days)
    was, rest = "was" if before == 1 else "were", sum(left.values())
    still = f"{rest} {'is' if rest == 1 else 'are'} left"
    typer.echo(f"{counted(len(days), 'day')}: {said}; {before} {was} in quarantine before, {still}")
    for reason, count in left.items():
        typer.echo(f"  {counted(count, 'row')}: {reason}")
    raise typer.Exit(1 if left else 0)


@app.command()
def check(model: Model, day: Annotated[Any, _day_option("Check as if this day had just ended.", "--day")]) -> None:
    """Measure the champion and, where its metric is out of range, retrain up to three times.

    Exits with 3 where the loop ended in a warning. The warning is printed here: to mail it is the DAG's work.
    """
    from esteira import steps
    from esteira.lifecycle.policy import Decision, Outcome

    spec = _find(model)
    verdict, outcomes, version = steps.check(spec, day)
    worse = steps.verification_mail(spec, day)
    if worse:
        typer.echo(f"{worse.lead}\n", err=True)
    typer.echo(f"{verdict.decision.value}: {verdict.why}")
    for number, outcome in enumerate(outcomes, start=1):
        typer.echo(f"attempt {number}: {outcome.value}")
    if version:
        typer.echo(
            f"version {version} is the champion from the next day on; the days since the violation are scored again"
        )
    if verdict.decision is Decision.RETRAIN and Outcome.RECOVERS not in outcomes:
        typer.echo(f"\n{steps.warning(spec, day).text()}", err=True)
        raise typer.Exit(3)


@app.command()
def limits(
    model: Model,
    as_of: Annotated[Any, _day_option("Look at the training window of this day.", "--as-of")],
    factor: Annotated[
        float, typer.Option(min=1.0, max=100.0, help="How much larger than usual the error may become.")
    ] = 1.25,
) -> None:
    """Suggest limits for check.metrics: the error in time-series cross-validation, times a factor.

    Of a metric whose best value is 1, such as accuracy, the error is what it lacks to that.
    """
    from esteira import steps
    from esteira.steps.training import better

    spec = _find(model)
    name, found = steps.limits(spec, as_of, factor)
    typer.echo(f"{name}, cross-validated on the {counted(spec.train.window, 'day')} up to {as_of}:")
    for metric, (value, limit, chance) in found.items():
        bound = "min" if spec.higher_is_better(metric) else "max"
        typer.echo(f"{metric}: {value:.4g}; suggested: {metric}: {{{bound}: {limit:.3g}}}")
        if not better(spec, metric, limit, chance):
            typer.echo(
                f"  note: that is no better than chance: a model that knows no feature reaches {chance:.4g}. A limit there "
                "finds nothing: give a smaller --factor, better features, or a longer window",
                err=True,
            )


@app.command()
def replay(
    model: Model,
    first: Annotated[Any, _day_option("The first day to replay.", "--from")],
    last: Annotated[Any, _day_option("The last day, included.", "--to")],
    every: Annotated[str, typer.Option(help="How often it is checked: day, week, month, or days such as 10d.")] = "day",
    blocks: Annotated[str, typer.Option(help="The spans that the report compares: week, month, or days.")] = "month",
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget what an earlier call of it did.")] = False,
    compare: Annotated[
        bool, typer.Option(help="Compare with a frozen model and with one retrained at the end of every block.")
    ] = True,
) -> None:
    """Walk through history as if each day were today: what would this policy have done, and was it worth it?

    Every step is the one that the DAGs run, in a lake and a registry of the replay's own; nothing is mailed or committed.
    The model that serves first is trained as of the day before the first. A replay that was interrupted goes on where it
    was when it is called again.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from esteira.replay import WALKS, Plan, run, spans
    from esteira.replay import report as reports

    spec = _find(model)
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
    columns = TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"), TimeRemainingColumn()
    with Progress(*columns, disable=not sys.stdout.isatty()) as bar:
        task, lines = bar.add_task(""), _Lines("replaying: {done} of {of} steps")

        def progress(done: int, of: int) -> None:
            bar.update(task, completed=done, total=of)
            if bar.disable:
                lines.show(done, of)

        found = run(spec, plan, WALKS if compare else ["policy"], progress)
    typer.echo(reports.text(found))
    page = plan.place(spec) / "report.html"
    page.write_text(reports.page(found), encoding="utf-8")
    typer.echo(f"\nreport: {page}\ndata:   {page.with_suffix('.json')}")


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
def rollback(
    model: Model,
    to: Annotated[int | None, typer.Option(min=1, help="The version to go back to; else the one before.")] = None,
    day: Annotated[
        Any,
        _day_option("The older version serves from the day after this one; else from the last day served.", "--day"),
    ] = None,
) -> None:
    """Make the version before the champion champion again, and score the days again whose predictions it made.

    What was served stays in the table `served`. Said again it finishes what was interrupted, and else does
    nothing more; to go back further, say --to.
    """
    from esteira import steps

    spec = _find(model)
    bad, target, days = steps.rollback(spec, day, to)
    if bad == target:
        typer.echo(f"version {target} is the champion already")
        return
    typer.echo(f"version {target} is the champion again, in place of version {bad}")
    typer.echo(f"{counted(len(days), 'day')} scored again" + (f", {days[0]} to {days[-1]}" if days else ""))


@app.command()
def init() -> None:
    """Make the folder ESTEIRA_LAKE a lake, once: where it isn't one, a volume that is not mounted is not taken for it."""
    from esteira.store import lake

    typer.echo(f"the lake is at {lake.create_lake()}")


@app.command()
def maintain(
    model: Annotated[str | None, typer.Argument(help="One model; none: all of them.", show_default=False)] = None,
    days: Annotated[int, typer.Option(min=1, help="How long a replaced file is kept.")] = 7,
) -> None:
    """Compact the tables, remove files that nothing needs any more, and write checkpoints; Airflow does so weekly."""
    from esteira import steps

    for name in [model] if model else [path.parent.name for path in specs.model_files()]:
        typer.echo(f"{name}: {steps.maintain(_find(name), days)}")


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="One model; none: all of them.", show_default=False)] = None,
) -> None:
    """Show each model's champion, the last day scored and checked, and the last metric."""
    from esteira import steps

    names = [model] if model else [path.parent.name for path in specs.model_files()]
    if not names:
        raise SpecError("no model.yaml was found; put one into include/models/<name>/, or set ESTEIRA_MODELS")
    for name in names:
        for key, value in steps.status(_find(name)).items():
            typer.echo(f"{key:<30} {value}")
        typer.echo("")


@app.command()
def schema() -> None:
    """Print the JSON Schema of model.yaml, with which editors complete and check it.

    For VS Code's YAML extension: `esteira schema > model.schema.json`, and as the first line of model.yaml
    `# yaml-language-server: $schema=model.schema.json`.
    """
    typer.echo(json.dumps(specs.json_schema(), indent=2, ensure_ascii=False))


def _find(name: str) -> ModelSpec:
    return specs.find(name)


def main() -> None:
    """Run a command; what a user can mend is shown as a sentence, not as a traceback."""
    try:
        app()
    except (EsteiraError, OutOfReach) as error:
        sys.exit(f"esteira: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a folder that can't be written, a disk that is full
        sys.exit(f"esteira: {error}")
    except Exception as error:  # of whatever library: an outage is a sentence, all else is raised as it is
        from esteira.notebooks.hosts import without_passwords
        from esteira.steps.outages import is_outage

        if not is_outage(error):
            raise
        said = without_passwords(str(error))[:400]
        sys.exit(
            f"esteira: a server can't be reached: {said}; start it (MLflow of this project: `make up`), or correct its address "
            "(MLFLOW_TRACKING_URI); then say the command again: it goes on where it was"
        )


if __name__ == "__main__":
    main()
