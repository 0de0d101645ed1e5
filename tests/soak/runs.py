"""What every trial on a real Airflow does: models alike but for their names, runs that are started, waited for, compared."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import httpx

from ops.api import ENDED, Airflow
from tests import models
from tests.soak import crashes
from tests.soak.crashes import Image, Outcome

CHANGE = models.AS_OF + timedelta(days=8)
LAST = CHANGE + timedelta(days=14)
DAY = LAST + timedelta(days=1)
BYSTANDERS = models.YAML + "score: {{schedule: null}}\n"
SHARDED = models.YAML + "score: {{schedule: null, shards: 3}}\n"
# A dead worker is noticed within seconds, not within Airflow's five minutes.
QUICK = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "15",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "3",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
}
SCORE = ("score", "publish")
# Of the sharded models, whose names begin with `cut`: a range of two days, of which the first is published by itself.
RANGE = ("score", "earlier.score_span", "earlier.publish_span", "publish")
UNCUT = "cutfree"  # the one that nothing disturbs
CHECK = ("labels", "measure", "attempt_1.retrain", "attempt_2.retrain", "commit_notebook", "promote", "rescore")
LIMIT = 420  # seconds that no run may take, with its retries


class Runs(ABC):
    """An Airflow whose runs are started and waited for, whoever does not answer meanwhile."""

    def __init__(self, airflow: Airflow) -> None:
        self.airflow = airflow

    @abstractmethod
    def image(self, name: str) -> Image:
        """All that can be seen of a model, without its name, and the runs' ids."""

    def start(self, kind: str, name: str, **conf: object) -> tuple[str, str]:
        """Start a run of a model's DAG."""
        dag = f"{name}_{kind}"
        self.airflow.until(lambda: self._unpaused(dag), 60, f"{dag} to be unpaused")
        return dag, self.airflow.trigger(
            dag, **{key: str(value) if key != "check" else value for key, value in conf.items()}
        )

    def _unpaused(self, dag: str) -> bool:
        """On SQLite a call may be refused after five seconds of waiting for another one."""
        with contextlib.suppress(httpx.HTTPError, RuntimeError):
            self.airflow.unpause(dag)
            return True
        return False

    def state(self, run: tuple[str, str]) -> str:
        """The state of a run, "?" while nobody answers."""
        try:
            return str(self.airflow.run(*run)["state"])
        except (httpx.HTTPError, RuntimeError):
            return "?"

    def ended(self, run: tuple[str, str]) -> str:
        """Wait until a run ends, whoever does not answer meanwhile; returns its state."""
        state = "?"

        def over() -> bool:
            nonlocal state
            state = self.state(run)
            return state in ENDED

        self.airflow.until(over, LIMIT, f"{run} to end")
        return state

    def again(self, run: tuple[str, str]) -> str:
        """Clear the failed tasks of a run, as a person would, and wait; returns its state."""
        dag, run_id = run
        body = {"dry_run": False, "only_failed": True, "dag_run_id": run_id, "reset_dag_runs": True}
        self.airflow.call("POST", f"/dags/{dag}/clearTaskInstances", json=body)
        self.airflow.until(lambda: self.state(run) not in ENDED, 30, f"{run} to begin again")
        return self.ended(run)


def write_models(folder: Path, names: Sequence[str]) -> None:
    """Write models that are alike but for their names; the world of `hopeless` turns to noise, that of the others changes."""
    for name in names:
        world = {"noise": str(CHANGE)} if name == "hopeless" else {"change": str(CHANGE)}
        models.write(folder, name, yaml=SHARDED if name.startswith("cut") else BYSTANDERS, **world)


def prepared(site: Runs, names: Sequence[str]) -> None:
    """Train every model, and score its days up to the check's; those of shards are not checked."""
    checked = [name for name in names if not name.startswith("cut")]
    for kind, which, conf in (
        ("train", names, {"day": models.AS_OF}),
        ("score", checked, {"day": models.AS_OF + timedelta(days=1), "last_day": LAST, "check": False}),
    ):
        for some in (which[index : index + 4] for index in range(0, len(which), 4)):
            runs = [site.start(kind, name, **conf) for name in some]
            for run in runs:
                assert site.ended(run) == "success", (run, site.airflow.tasks(*run))


def started(site: Runs, name: str, kind: str) -> tuple[str, str]:
    """Start the score, the range of two days, or the check, that is disturbed."""
    asked: dict[str, dict[str, object]] = {
        "score": {"day": DAY, "check": False},
        "range": {"day": DAY, "last_day": DAY + timedelta(days=1), "check": False},
        "check": {"day": LAST},
    }
    return site.start("score" if kind == "range" else kind, name, **asked[kind])


def undisturbed(site: Runs, name: str, kind: str) -> Image:
    """Run it with nothing in its way; returns what it leaves."""
    run = started(site, name, kind)
    assert site.ended(run) == "success", (run, site.airflow.tasks(*run))
    return site.image(name)


def count(outcome: Outcome, wanted: Image, got: Image, *also: str) -> None:
    """Add a trial to an outcome; `also` are further things that are wrong, empty where they are not."""
    lost, doubled, examples = crashes.compared(wanted, got)
    wrong = [*examples, *(each for each in also if each)]
    outcome.tried += 1
    outcome.lost += lost
    outcome.doubled += doubled
    outcome.differing += bool(wrong)
    outcome.examples += wrong
