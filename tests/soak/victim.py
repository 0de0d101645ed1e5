"""What is killed: the DAGs' tasks one after the other, each remembered when it is done, as Airflow does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, get_args

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.table import TableOptimizer
from esteira import data, steps
from esteira.lifecycle.actions import upcoming
from esteira.lifecycle.changes import Proposal
from esteira.notebooks import execute, git
from esteira.notify import delivery
from esteira.spec import ModelSpec, find
from esteira.steps import champions, checking, labelling, rollbacks
from esteira.store import delta, handover, lake, parts, places, runs, schemas
from esteira.store.lineage import DataVersions

from tests import models
from tests.models import AS_OF, score_days
from tests.worlds import promote_worse

FIRST = AS_OF + timedelta(days=1)
CHANGE = FIRST + timedelta(days=7)
DAY = CHANGE + timedelta(days=14)
TASKS = "tasks.json"
SHARDS = 2
POINTS = "points.txt"

Task = Callable[[str, Callable[[], Any]], Any]


def score(task: Task, spec: ModelSpec, day: date = FIRST, run: str = "score") -> None:
    """The score DAG of a day, in two shards."""
    for number in range(SHARDS):
        task(f"score {number}", lambda number=number: steps.leave(spec, [day], run, data.Share(number, SHARDS)))
    task("publish", lambda: steps.publish_left(spec, [day], run, SHARDS))


def train(task: Task, spec: ModelSpec) -> None:
    """The train DAG, as of a day by which the world has changed: its version replaces the champion."""
    day, run, window = CHANGE + timedelta(days=40), "train", 36
    task("extract", lambda: steps.extract(spec, steps.lacking(spec, day, window)))
    task("validate", lambda: steps.validate(spec, steps.lacking(spec, day, window)))
    told = task("features", lambda: str(steps.prepare(spec, day, window, steps.lacking(spec, day, window))))
    versions = DataVersions.parse(told)
    candidates = [
        task(f"candidate {index}", lambda index=index: steps.candidate(spec, day, index, versions, run, window))
        for index in range(len(spec.train.candidates))
    ]
    best = task("select", lambda: steps.select(spec, candidates))
    model = task("evaluate", lambda: steps.evaluate(spec, day, best, versions, run, window))
    version = task("register", lambda: steps.register(spec, model, day))
    task("promote", lambda: steps.promote(spec, day, version, run))


def check(task: Task, spec: ModelSpec, day: date = DAY) -> None:
    """The check DAG of a day: it recovers, or it ends in a warning."""
    task("labels", lambda: steps.store_labels(spec, day))
    task("measure", lambda: steps.measure(spec, day))
    decision = task("decide", lambda: steps.decide(spec, day).decision.value)
    task("verify", lambda: steps.verify(spec, day) is not None)
    assert decision == "retrain", decision
    for number in checking.attempt_order(spec, day):
        if number:
            run = task(f"retrain {number}", lambda number=number: steps.retrain(spec, day, number))
            task(f"recheck {number}", lambda number=number, run=run: steps.recheck(spec, day, number, run).value)
        else:
            task("blend", lambda: steps.blend(spec, day).value)
        left = task(f"verdict {number}", lambda number=number: _left(spec, day, number))
        if not {"Retrain", "Blend"} & {*left}:
            break
    if "Promote" in left:
        commit = task("commit_notebook", lambda: steps.commit_notebook(spec, day))
        version = task("register", lambda: steps.register_chosen(spec, day))
        task("promote", lambda: steps.promote_chosen(spec, day, version, commit))
        task("rescore", lambda: str(steps.rescore(spec, day)))
    if "Warn" in left:
        mail = task("warn", lambda: steps.warn(spec, day).key)
        task("deliver", lambda: str(delivery.deliver(spec, 0, connected, sender="a@b", only=mail)))


def _left(spec: ModelSpec, day: date, tried: int) -> list[str]:
    return [type(action).__name__ for action in upcoming(steps.evidence(spec, day, tried))]


def rollback(task: Task, spec: ModelSpec) -> None:
    """`esteira rollback`, after a promotion that has served."""
    task("rollback", lambda: [str(each) for each in rollbacks.perform(spec, rollbacks.Asked(by="ana"))])


def maintain(task: Task, spec: ModelSpec) -> None:
    """The maintenance DAG, with no mercy for what is an hour old."""

    def every() -> None:
        for kind in KINDS:
            lake.maintain(kind, spec.name, keep=_cited(spec, kind), hours=0)

    task("maintain", every)


def _cited(spec: ModelSpec, kind: schemas.Kind) -> set[int]:
    from esteira.steps import maintenance

    return set(maintenance._cited(spec, kind))


SCENARIOS: dict[str, Callable[[Task, ModelSpec], None]] = {
    "score": score,
    "train": train,
    "check that recovers": check,
    "check that warns": check,
    "check that blends": check,
    "rollback": rollback,
    "maintenance": maintain,
}
# What the model's world does in a scenario where it does not change, and what the model.yaml says.
BLENDS = models.YAML.replace("retrain_first: none\n", "").replace("refit: false", "refit: true")
WORLDS = {"check that warns": {"noise": str(CHANGE)}, "check that blends": {"yaml": BLENDS}}
KINDS: tuple[schemas.Kind, ...] = get_args(schemas.Kind)


def prepare(spec: ModelSpec, scenario: str) -> None:
    """Bring a new state folder to where the scenario begins."""
    steps.train(spec, AS_OF, "first")
    if scenario == "score":
        return
    if scenario == "check that blends":
        score_days(spec, data.days(FIRST, CHANGE - timedelta(days=1)), "before")
        labelling.store(spec, FIRST, CHANGE)
        promote_worse(spec, CHANGE - timedelta(days=1))
        score_days(spec, data.days(CHANGE, DAY), "worse")
        return
    score_days(spec, data.days(FIRST, DAY), "before")
    if scenario not in ("rollback", "maintenance", "race"):
        return
    labelling.store(spec, FIRST, DAY)
    version = steps.register(spec, second(spec), CHANGE)
    if scenario == "race":  # for which a third one is there, too
        steps.register(spec, second(spec), CHANGE, again=True)
        return
    champions.promote(spec, Proposal(version, CHANGE, measured=1, why="second", by="before"))
    steps.score(spec, data.days(CHANGE + timedelta(days=1), DAY), "again")


def second(spec: ModelSpec) -> str:
    """Train by the other candidate; returns the MLflow run."""
    best = steps.candidate(spec, CHANGE, 1, steps.prepare(spec, CHANGE, None, []), "second")
    return steps.evaluate(spec, CHANGE, best, labelling.versions(spec), "second")


@contextmanager
def connected() -> Iterator[delivery.Send]:
    """A mail server that is always there."""
    yield lambda mail, receiver: send(mail, receiver)  # looked up at each mail: it is what is killed


def send(mail: EmailMessage, receiver: str) -> None:
    """Take a mail, as a server would: into a file named for its receiver and its Message-ID."""
    folder = places.home() / "mail"
    folder.mkdir(exist_ok=True)
    identity = str(mail["Message-ID"]).strip("<>")
    with (folder / f"{receiver}-{identity}").open("a") as file:
        file.write(f"{mail['Subject']}\n")


def live(scenario: str, armed: tuple[str, int] | None, snapshots: Path | None = None) -> None:
    """Run what is left of the scenario in the environment's state folder; die at the armed point (its name and occurrence).

    With `snapshots` the state folder is copied there before each task, so that a trial need not begin at the beginning.
    """
    done = places.home() / TASKS
    results: dict[str, Any] = json.loads(done.read_text()) if done.exists() else {}

    def task(name: str, work: Callable[[], Any]) -> Any:
        if name not in results:
            if snapshots:
                shutil.copytree(places.home(), snapshots / f"{len(results):02}")
            results[name] = json.loads(json.dumps(work()))
            draft = done.with_suffix(".part")
            draft.write_text(json.dumps(results))
            draft.replace(done)
        return results[name]

    _arm(armed)
    SCENARIOS[scenario](task, find("sales"))


def _arm(armed: tuple[str, int] | None) -> None:
    """Make the process die at a named point, met for the so-manieth time, and note every point that it comes to."""
    seen: Counter[str] = Counter()
    log = (places.home() / POINTS).open("a")

    def reach(name: str) -> bool:
        """Note that the process is at a point; returns whether it is the one to die at."""
        seen[name] += 1
        log.write(name + "\n")
        log.flush()
        return armed == (name, seen[name])

    def around(owner: Any, function: str, named: Callable[..., str], table: Callable[..., str] | None = None) -> None:
        """Name the points before and after a function, where `named` gives a name; of a `table` also the one within."""
        real = getattr(owner, function)

        def wrapped(*given: Any, **options: Any) -> Any:
            name = named(*given, **options)
            if not name:
                return real(*given, **options)
            if reach(f"before {name}"):
                os.kill(os.getpid(), signal.SIGKILL)
            if table and reach(f"{name}: files written, not committed"):
                os.environ["ESTEIRA_DIE_AT_COMMIT"] = table(*given, **options)
            result = real(*given, **options)
            if reach(f"after {name}"):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, function, wrapped)

    _arm_store(around)
    around(runs, "log_model", lambda *_: "logging the model")
    around(runs, "register", lambda *_: "registering")
    around(runs, "alias", lambda _, name, __: f"alias {name}")
    around(execute, "execute", lambda *_: "executing the notebook")
    around(git, "_git", lambda *words: "committing the notebook" if "commit" in words else "")
    around(sys.modules[__name__], "send", lambda *_: "sending the mail")


def _arm_store(around: Callable[..., None]) -> None:
    def place(where: Any, *_: Any, **__: Any) -> str:
        return "/" + "/".join(Path(where if isinstance(where, str) else where.table_uri).parts[-2:]) + "/"

    def added(_: Any, __: str, rows: pa.Table) -> str:
        return f"ledger: {' and '.join(rows['to_state'].to_pylist())}"

    around(delta, "write_deltalake", lambda *given, **_: f"write of {place(*given).split('/')[1]}", place)
    around(
        delta.DeltaLake,
        "publish",
        lambda _, where, *__, **___: f"publishing of {place(where).split('/')[1]}",
        lambda _, where, *__, **___: place(where),
    )
    around(parts.ParquetPart, "close", lambda part: f"a part of {place(part.place).split('/')[1]}")
    around(handover, "leave", lambda _, __, name, ___: f"handing over {name}")
    around(handover, "remove", lambda _, __, *names: "removing what was handed over" if len(names) > 1 else "")
    around(delta.DeltaLake, "append_once", added, lambda _, where, __: place(where))
    around(TableOptimizer, "compact", lambda *_, **__: "compaction")
    around(DeltaTable, "vacuum", lambda *_, **__: "vacuum")
    around(DeltaTable, "create_checkpoint", lambda *_: "checkpoint")
