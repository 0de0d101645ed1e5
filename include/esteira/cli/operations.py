"""Commands of whoever runs it: status, rollback, reconcile, maintain, init."""

from __future__ import annotations

import sys
from datetime import date
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from esteira import spec as specs
from esteira.errors import EsteiraError, SpecError
from esteira.lifecycle.changes import named
from esteira.spec import ModelSpec
from esteira.text import shown_days

if TYPE_CHECKING:
    from esteira.views import Status

from esteira.cli.common import LARGEST, Model, app, day_option, each_model, find


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
    from esteira.steps import rollbacks
    from esteira.store import ledger

    spec = find(model)
    asked = rollbacks.Asked(by=getuser(), to=to, first_day=day, undo=undo, reason=reason)
    found = rollbacks.plan(spec, asked)
    if found.event is None and not dry_run:
        done = rollbacks.perform(spec, found.asked)[1]
        typer.echo(f"that is how it stands: version {found.champion} is the champion; {done}")
        raise typer.Exit(1 if done.kept else 0)
    for line in rollbacks.shown(spec, found):
        typer.echo(line)
    if dry_run or found.event is None:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise EsteiraError("nobody can be asked here, so nothing was done; look at the plan above, and say --yes")
        typer.confirm("Do it?", abort=True)
    event, done = rollbacks.perform(spec, found.asked)
    if event is None:
        typer.echo("somebody else has done so meanwhile; see `esteira history`")
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

    each_model(model, lambda spec: typer.echo(f"{spec.name}: {steps.maintain(spec, days)}"))


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="One model; none: all of them.", show_default=False)] = None,
) -> None:
    """Show each model's champion, the last day scored and checked, and the last metric."""
    from esteira import views

    def show(spec: ModelSpec) -> None:
        for key, value in shown(views.status(spec)).items():
            typer.echo(f"{key:<30} {value}")
        typer.echo("")

    if model is None and not specs.model_files():
        raise SpecError("no model.yaml was found; put one into include/models/<name>/, or set ESTEIRA_MODELS")
    each_model(model, show)


@app.command()
def history(
    model: Model,
    day: Annotated[
        Any, day_option("Say of this day only who was to serve it, whose predictions it has, and why.", "--day")
    ] = None,
) -> None:
    """Show every change in a model's life, the oldest first: what, from which day on, why, and by whom."""
    from esteira import views

    spec = find(model)
    if day is not None:
        found = views.champion_at(spec, day)
        typer.echo(f"{day} was to be served by {named(found.served)}: {found.served_why}")
        if found.held in (None, found.published):
            typer.echo(f"its predictions are of {named(found.published)}: {found.published_why}")
        else:
            typer.echo(
                f"its predictions are still of {named(found.held)}, and to be of {named(found.published)}: {found.published_why}; "
                f"see `esteira reconcile {spec.name}`"
            )
        return
    for each in views.history(spec):
        about = f"version {each.version}" if each.version else "-"
        typer.echo(f"{each.day}  {about}  {each.state}: {each.why} (by {each.by}, {each.at:%Y-%m-%d %H:%M} UTC)")


def shown(found: Status) -> dict[str, str]:
    """A model's status in words."""
    now, last, guess = found.champion, found.last_window, found.estimate
    held = {True: "in range", False: "OUT OF RANGE", None: "can't be judged"}
    window = (
        f"{last.value:.4g}, {held[last.in_range]} ({found.limit}), window to {last.last}"
        if last
        else "not measured yet"
    )
    lines = {
        "model": found.model,
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
