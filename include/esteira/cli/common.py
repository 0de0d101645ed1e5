"""What the commands share: the application, their options, days."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any

import typer

from esteira import spec as specs
from esteira.errors import EsteiraError, OutOfReach
from esteira.spec import ModelSpec

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


def day_of(text: str) -> date:
    """A day that was given, which must have begun on this machine."""
    try:
        day = datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007  # a day, not a moment
    except ValueError:
        raise typer.BadParameter(f"got {text!r}; a day is written YYYY-MM-DD, such as 2026-01-31") from None
    if fault := specs.fault_of_day(day, datetime.now().astimezone().date()):
        raise typer.BadParameter(fault)
    return day


def days_of(first: date, last: date | None) -> list[date]:
    """The days of a range, in order."""
    from esteira import data

    days = data.days(first, last or first)
    if not days:
        raise typer.BadParameter(f"--last-day {last} is before --day {first}")
    return days


def day_option(about: str, *names: str) -> Any:
    """An option that takes a day."""
    return typer.Option(*names, parser=day_of, metavar="YYYY-MM-DD", help=about, show_default=False)


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


def each_model(name: str | None, work: Callable[[ModelSpec], None]) -> None:
    """Do the work for one model, or for all; one that fails keeps none of the others. Raises EsteiraError that names who failed."""
    failed = []
    for each in [name] if name else [path.parent.name for path in specs.model_files()]:
        try:
            work(find(each))
        except (EsteiraError, OutOfReach) as error:
            if name:
                raise
            failed.append(str(error))
    if failed:
        raise EsteiraError("\n".join(failed))


def find(name: str) -> ModelSpec:
    """A model by its name."""
    return specs.find(name)
