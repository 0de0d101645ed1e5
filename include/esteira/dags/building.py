"""The DAGs of every model whose model.yaml is right; what is heavy is imported inside the tasks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from airflow.sdk import (
    DAG,
    get_parsing_context,
)

from esteira.dags.check import check_dag
from esteira.dags.common import KINDS
from esteira.dags.score import score_dag
from esteira.dags.timeouts import within
from esteira.dags.train import train_dag
from esteira.errors import SpecError, TooSlow
from esteira.spec import ModelSpec, by_name, load_cached, model_files, prune, require_one
from esteira.text import printable

log = logging.getLogger(__name__)

# Seconds to read one model.yaml, and to build its DAGs; usual are some hundredths, on a busy machine tenths.
BUDGET = 10.0
# Seconds that such models may cost in all; beyond these each has LEAST, so that those of the others are built before
# Airflow's own limit for a file (AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT in config/airflow.env).
LOST, LEAST = 60.0, 1.0


def build() -> dict[str, DAG]:
    """The DAGs of every model whose spec is right, by id; where a task runs, only the one DAG that it asks for."""
    asked = get_parsing_context().dag_id
    dags: dict[str, DAG] = {}
    files, budget = model_files(), Budget()
    named = by_name(files)
    for path in files:
        name = path.parent.name
        kinds = [kind for kind in KINDS if asked in (None, f"{name}_{kind}")]
        if not kinds:
            continue
        try:
            spec = loaded(path, named, budget)
        except Exception as error:  # whatever it is: dags/broken_models.py shows it, and the other models' DAGs stay
            log.error("%s", error)
            continue
        try:
            with budget.of(f"{path}: to build its DAGs"):
                dags |= {f"{name}_{kind}": BUILDERS[kind](spec) for kind in kinds}
        except Exception as error:  # Airflow refused what the spec allowed: shown as a DAG, and the other models' stay
            log.exception("model %s: its DAGs can't be built", name)
            dags[f"{name}_broken"] = _broken(name, error)
    return dags


class Budget:
    """The time that models may take, one after the other, before they are given up."""

    def __init__(self) -> None:
        self.lost = 0.0

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Give the block a model's time. Raises TooSlow where it takes longer."""
        seconds = BUDGET if self.lost < LOST else LEAST
        try:
            with within(seconds, what):
                yield
        except TooSlow:
            self.lost += seconds
            raise


def loaded(path: Path, named: Mapping[str, list[Path]], budget: Budget) -> ModelSpec:
    """The model of one of the files, read in bounded time. Raises SpecError, or TooSlow."""
    require_one(path, named)
    with budget.of(f"{path}: to read it"):
        return load_cached(path)


def _broken(name: str, error: Exception) -> DAG:
    """A DAG without tasks, in place of a model's own, whose documentation says why those could not be built."""
    why = f"The DAGs of {name} can't be built: {type(error).__name__}: {error}"
    why = printable(why)
    return DAG(
        dag_id=f"{name}_broken", schedule=None, description=why[:500], doc_md=why, tags={"esteira", "broken", name}
    )


def raise_broken() -> None:
    """Raise what is wrong with the specs, all of it, so that Airflow shows it as an import error."""
    if get_parsing_context().dag_id:
        return
    mistakes, files, budget = [], model_files(), Budget()
    prune(files)
    named = by_name(files)
    for path in files:
        try:
            loaded(path, named, budget)
        except SpecError as error:
            mistakes.append(str(error))
        except Exception as error:  # not a mistake that load() knows: shown all the same, with its kind
            mistakes.append(f"{path}: {type(error).__name__}: {error}")
    if mistakes:
        raise SpecError("\n".join(mistakes))


BUILDERS = {"train": train_dag, "score": score_dag, "check": check_dag}
