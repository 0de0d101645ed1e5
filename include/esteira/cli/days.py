"""Commands about days: train, score, requeue, check."""

from __future__ import annotations

from getpass import getuser
from typing import Annotated, Any
from uuid import uuid4

import typer

from esteira import spec as specs
from esteira.cli.common import LARGEST, AllowEmpty, Model, app, day_option, days_of, find
from esteira.cli.progress import at_work
from esteira.lifecycle.changes import named
from esteira.store import places
from esteira.text import counted


@app.command()
def train(
    model: Model,
    as_of: Annotated[Any, day_option("Train as if this day had just ended.", "--as-of")],
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
    from esteira import steps

    spec, run = find(model), f"cli/train/{as_of}"
    with places.alone("train", spec.name), at_work(f"training {spec.name}"):
        said = steps.train(spec, as_of, run, window=window, promoted=promote, again=again)
    typer.echo(said)


@app.command()
def score(
    model: Model,
    day: Annotated[Any, day_option("The day to score.", "--day")],
    last_day: Annotated[Any, day_option("The last day of a range, included; else only --day.", "--last-day")] = None,
    version: Annotated[
        int | None,
        typer.Option(
            min=1, max=LARGEST, help="Choose this version for the days in place of the champion, until --champion."
        ),
    ] = None,
    champion: Annotated[
        bool, typer.Option("--champion", help="Let go a version that was chosen for the days: the champion's again.")
    ] = False,
    allow_empty: AllowEmpty = False,
) -> None:
    """Score a day, or a range of days, into the predictions table."""
    from esteira import steps
    from esteira.steps.scoring import Request
    from esteira.store import ledger

    spec, days = find(model), days_of(day, last_day)
    if version is not None and champion:
        raise typer.BadParameter("give --version or --champion, not both")
    if version is None:
        ledger.require_published(spec, days)  # before a range of years is read
    with at_work(f"scoring {counted(len(days), 'day')} of {spec.name}"):
        asked = Request(version, champion, getuser(), "replace" if allow_empty else "refuse")
        said = steps.score_from_source(spec, days, f"cli/{uuid4()}", asked)
    typer.echo(f"{counted(len(days), 'day')}: {said}")


@app.command()
def requeue(
    model: Model,
    day: Annotated[Any, day_option("The day whose quarantined rows are mended.", "--day")],
    last_day: Annotated[Any, day_option("The last day of a range, included; else only --day.", "--last-day")] = None,
    allow_empty: AllowEmpty = False,
) -> None:
    """Process the quarantined rows of a day again, after the source (or the model.yaml) was mended.

    The day is read anew, validated, scored and published; what was served first stays as it was, and mended rows are added
    to it. Exits with 1 where rows are left in quarantine, and says why.
    """
    from esteira import steps

    spec, days = find(model), days_of(day, last_day)
    before = sum(steps.left_over(spec, days).values())
    with at_work(f"processing {counted(len(days), 'day')} of {spec.name} again"):
        said = steps.requeue(spec, days, f"requeue/{uuid4()}", "replace" if allow_empty else "refuse")
    left = steps.left_over(spec, days)
    was, rest = "was" if before == 1 else "were", sum(left.values())
    still = f"{rest} {'is' if rest == 1 else 'are'} left"
    typer.echo(f"{counted(len(days), 'day')}: {said}; {before} {was} in quarantine before, {still}")
    for reason, count in left.items():
        typer.echo(f"  {counted(count, 'row')}: {reason}")
    raise typer.Exit(1 if left else 0)


@app.command()
def check(model: Model, day: Annotated[Any, day_option("Check as if this day had just ended.", "--day")]) -> None:
    """Measure the champion and, where its metric is out of range, retrain up to three times.

    Exits with 3 where the loop ended in a warning, with 1 where days since the violation could not be scored again. The
    warning is printed, and waits in the outbox: the DAG esteira_outbox mails it.
    """
    from esteira import steps
    from esteira.notify import rendering
    from esteira.store import ledger

    spec = find(model)
    with places.alone("check", spec.name), at_work(f"checking {spec.name}"):
        found = steps.check(spec, day)
    if found.worse and found.worse.worse:
        typer.echo(f"{found.worse.why}\n", err=True)
    typer.echo(f"{found.verdict.decision.value}: {found.verdict.why}")
    for number, outcome in found.attempts.items():
        typer.echo(f"{f'attempt {number}' if number else 'blend of what was trained before'}: {outcome.value}")
    now = ledger.champion(spec)
    if found.promoted and now is not None and now.version != found.promoted:
        typer.echo(
            f"version {found.promoted} was promoted by this check, and {named(now.version)} is the champion since; {found.rescored or 'nothing to score again'}"
        )
    elif found.promoted:
        typer.echo(
            f"version {found.promoted} is the champion from the next day on; {found.rescored or 'nothing to score again'}"
        )
    if found.warning:
        typer.echo(f"\n{rendering.text(found.warning)}", err=True)
        raise typer.Exit(3)
    raise typer.Exit(1 if found.rescored and found.rescored.kept else 0)
