"""The walks of a replay, each in a process, a lake and a registry of its own; stopped, they go on where they were."""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from esteira import spec as specs
from esteira.lifecycle.policy import Decision
from esteira.replay.frontier import POLICIES, Tried, frontier
from esteira.replay.plan import Plan
from esteira.replay.walking import WALKS, begin, walk
from esteira.replay.worth import block_metrics, promotion_gains, trainings
from esteira.settings import isolate
from esteira.spec import ModelSpec
from esteira.store import outbox


def isolated(plan: Plan, kind: str, place: Path) -> dict[str, Any]:
    """One walk and its blocks, in a process of its own whose lake, registry and notebooks lie in `place`."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    spec = specs.find(plan.model)
    if kind in POLICIES:
        spec = POLICIES[kind][1](spec)
    isolate(place / kind, MLFLOW_TRACKING_URI=f"sqlite:///{place / kind}/mlflow/mlflow.db")
    began = time.monotonic()
    checks = walk(spec, plan, "policy" if kind in POLICIES else kind, place / f"{kind}.jsonl")
    return {
        "checks": checks,
        "first": begin(spec, plan),
        "blocks": block_metrics(spec, plan),
        "promotions": promotion_gains(spec, plan),
        "first_month": promotion_gains(spec, plan, 30),
        "trainings": trainings(spec),
        "mails": len(outbox.mails(spec, "")),
        "seconds": round(time.monotonic() - began, 1),
    }


@contextmanager
def _held(number: signal.Signals) -> Iterator[None]:
    """Hold a signal back: it comes at the block's end. To ignore it meanwhile would lose it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """End this worker when the process that started it ends, however that does; it leaves Ctrl-C to that one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has a parent"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def run(
    spec: ModelSpec,
    plan: Plan,
    kinds: Iterable[str] = tuple(WALKS),
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Replay the plan by each kind of walk, each in a process of its own; returns the report, also kept as report.json.

    A replay that was stopped goes on where it was; one that was finished is only read.
    """
    place = plan.place(spec)
    report = place / "report.json"
    kinds = list(kinds)
    if report.exists():
        known = _kept(report)
        if set(kinds) <= set(known["walks"]):
            return known
    place.mkdir(parents=True, exist_ok=True)
    total = sum(len(plan.spans(kind)) for kind in kinds)
    context = multiprocessing.get_context("spawn")
    workers = min(os.cpu_count() or 1, len(kinds))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        try:
            with _held(signal.SIGINT):  # workers begin with it held, too: at Ctrl-C it is this process that ends them
                futures: dict[str, Future[dict[str, Any]]] = {
                    kind: pool.submit(isolated, plan, kind, place) for kind in kinds
                }
            while wait(futures.values(), timeout=0.5).not_done:
                progress(sum(_checks_done(place, kind) for kind in kinds), total)
        except BaseException:  # Ctrl-C: leaving the pool would wait for what they do
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        progress(total, total)
        walks = {kind: future.result() for kind, future in futures.items()}
    found = summary(spec, plan, walks)
    whole = report.with_suffix(".part")
    whole.write_text(json.dumps(_plain(found), indent=1, allow_nan=False))
    whole.replace(report)
    return _kept(report)


def _kept(path: Path) -> dict[str, Any]:
    """The report as it was kept."""
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _plain(value: Any) -> Any:
    """The same without NaN, which JSON does not know: null stands for it."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _checks_done(place: Path, kind: str) -> int:
    path = place / f"{kind}.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def summary(spec: ModelSpec, plan: Plan, walks: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over blocks, counts, and the walks themselves."""
    names = tuple(spec.check.metrics)
    means = {
        kind: {name: float(pd.Series([block[name] for block in found["blocks"]]).mean()) for name in names}
        for kind, found in walks.items()
    }
    checks = walks["policy"]["checks"] if "policy" in walks else []
    promoted = walks["policy"]["promotions"] if "policy" in walks else []
    gains = pd.Series([each["gain"] for each in promoted], dtype=float).dropna()
    counts = {
        "checks": len(checks),
        "loops": sum(Decision(each["decision"]).trains for each in checks),
        "attempts": sum(each["tried"] for each in checks),
        "trainings": walks["policy"]["trainings"] if "policy" in walks else 0,
        "promotions": len(promoted),  # by checks, and by the train DAG's schedule
        "warnings": sum(each["warned"] for each in checks),
        "mails": walks["policy"]["mails"] if "policy" in walks else 0,
        "waits": sum(each["decision"] == Decision.WAIT for each in checks),
    }
    return {
        "plan": {**asdict(plan), "first": str(plan.first), "last": str(plan.last)},
        "metric": spec.check.metric,
        "better": "higher" if spec.higher_is_better(spec.check.metric) else "lower",
        "limits": {name: limit.model_dump(exclude_none=True) for name, limit in spec.check.metrics.items()},
        "first": next(iter(walks.values()))["first"],
        "means": means,
        "counts": counts,
        "promotions": {"mean_gain": gains.mean(), "worst_gain": gains.min()} if len(gains) else {},
        "walks": dict(walks),
    }


def suggested(spec: ModelSpec, report: Mapping[str, Any]) -> list[Tried]:
    """What a report of POLICIES shows of each of them."""
    metric = spec.check.metric
    found = {
        kind: (report["means"][kind][metric], walk["trainings"], walk["mails"], len(walk["promotions"]))
        for kind, walk in report["walks"].items()
        if kind in POLICIES
    }
    return frontier(found, higher_is_better=spec.higher_is_better(metric))
