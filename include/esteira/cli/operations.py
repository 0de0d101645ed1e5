"""Commands of whoever runs it: rollback, reconcile, maintain, init."""

from __future__ import annotations

import sys
from datetime import date
from getpass import getuser
from typing import Annotated, Any
from uuid import uuid4

import typer

from esteira import spec as specs
from esteira.cli.common import LARGEST, Model, app, day_option, each_model, find
from esteira.cli.progress import at_work
from esteira.errors import EsteiraError
from esteira.lifecycle.changes import named
from esteira.spec import ModelSpec


@app.command()
def rollback(
    model: Model,
    to: Annotated[
        int | None, typer.Option(min=1, max=LARGEST, help="The version to go back to; else the one before.")
    ] = None,
    day: Annotated[
        Any, day_option("Only predictions from this day on go back; else all that the promotion had replaced.", "--day")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Take the last roll-back back.")] = False,
    reason: Annotated[str, typer.Option(help="Why; the ledger keeps it, and who asked.", show_default=False)] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would do, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Go back to the version before the champion, or to an older one; its predictions take the place of the bad one's.

    First it shows what it would do: the days, and what each version reaches on them. Only days change that the promotions
    taken back had replaced or served. What was served stays in the table `served`. Said again it finishes what was
    interrupted, and else does nothing more; to go back further, say --to. Exits with 1 where days could not be scored again.
    """
    from esteira import steps
    from esteira.notify import messages
    from esteira.steps import rollbacks
    from esteira.store import ledger

    spec = find(model)
    asked = rollbacks.Asked(by=getuser(), to=to, first_day=day, undo=undo, reason=reason)
    found = rollbacks.plan(spec, asked)
    if found.event is None and not dry_run:
        with at_work(f"finishing what is left for {spec.name}"):
            done = rollbacks.perform(spec, found.asked)[1]
        typer.echo(f"that is how it stands: version {found.champion} is the champion; {done}")
        raise typer.Exit(1 if done.kept else 0)
    plan = tuple(rollbacks.shown(spec, found))
    for line in plan:
        typer.echo(line)
    if dry_run or found.event is None:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise EsteiraError("nobody can be asked here, so nothing was done; look at the plan above, and say --yes")
        typer.confirm("Do it?", abort=True)
    with at_work(f"rolling {spec.name} back"):
        event, done = rollbacks.perform(spec, found.asked)
    if event is None:
        typer.echo("somebody else has done so meanwhile; see `esteira history`")
    else:
        mail, day = messages.rolled_back(spec, event, str(done), plan), specs.today(spec.time.timezone)
        steps.queue(spec, mail, day, f"rollback/{event.number}")
    typer.echo(f"{named(ledger.require_champion(spec, date.max).version)} is the champion; {done}")
    if event is not None:
        typer.echo(f"to take it back: esteira rollback {spec.name} {rollbacks.opposite(spec, event, found.champion)}")
    raise typer.Exit(1 if done.kept else 0)


@app.command()
def reconcile(
    model: Annotated[str | None, typer.Argument(help="One model; none: all of them.", show_default=False)] = None,
) -> None:
    """Bring predictions to the version that the ledger publishes for each day, where something died in between; Airflow does so hourly.

    Exits with 1 where days are left that can't be: their features are gone, or of another model.yaml.
    """
    from esteira import steps

    def bring(spec: ModelSpec) -> None:
        with at_work(f"reconciling {spec.name}"):
            found = steps.reconcile(spec, f"reconcile/{uuid4()}")
        typer.echo(f"{spec.name}: {found.require_whole(spec)}")

    each_model(model, bring)


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

    def look_after(spec: ModelSpec) -> None:
        with at_work(f"looking after {spec.name}"):
            said = steps.maintain(spec, days)
        typer.echo(f"{spec.name}: {said}")

    each_model(model, look_after)
