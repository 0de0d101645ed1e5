"""Replay: back-test a model's policy on its own history, by the steps that the DAGs call, in a lake and registry of its own."""

from __future__ import annotations

import calendar
import hashlib
import json
import logging
import math
import multiprocessing
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd
from croniter import croniter

from esteira import learn, steps, tables
from esteira import spec as specs
from esteira.data import days
from esteira.lifecycle.policy import Decision, Outcome
from esteira.spec import CENTURY, EsteiraError, ModelSpec
from esteira.steps import checking, ingest, ledger, measuring, outcomes, training

RUN = "replay"
AHEAD = 31  # days that are extracted, and scored by the champion of the moment, at once; nothing looks at them early

Span = tuple[date, date]


@dataclass(frozen=True)
class Plan:
    """What to replay: a model's days `first` to `last`, checked at the end of `every` span, reported in `blocks`."""

    model: str
    first: date
    last: date
    every: str
    blocks: str

    def spans(self, kind: str) -> list[Span]:
        """What a walk of a kind does at the end of: only the policy is asked at each check, the others at each block."""
        return spans(self.first, self.last, self.every if kind == "policy" else self.blocks)

    def place(self, spec: ModelSpec) -> Path:
        """The folder of this replay: another one as soon as the plan, the model.yaml or the model's code differ."""
        text = json.dumps(asdict(self), default=str).encode() + spec.model_dump_json().encode() + spec.code
        return tables.home() / "replays" / self.model / hashlib.sha256(text).hexdigest()[:12]


def spans(first: date, last: date, every: str) -> list[Span]:
    """The days cut into spans: `month` (of the calendar), `week`, `day`, or a number of days such as 45d; the last may be short."""
    found: list[Span] = []
    start = first
    while start <= last:
        end = min(_end(start, every), last)
        found.append((start, end))
        start = end + timedelta(days=1)
    return found


def _end(start: date, every: str) -> date:
    if every == "month":
        return start.replace(day=calendar.monthrange(start.year, start.month)[1])
    length = {"week": "7d", "day": "1d"}.get(every, every)
    match = re.fullmatch(r"([1-9]\d*)d", length)
    if match is None:
        raise EsteiraError(f"got {every!r}; a span is month, week, day, or a number of days such as 45d")
    return start + timedelta(days=min(int(match[1]), CENTURY) - 1)


# -------------------------------------------------------------------------------------------------------------- walks


def _policy(spec: ModelSpec, day: date) -> dict[str, Any]:
    """The check, as the DAG does it; the warning goes to the ledger and is mailed to no one."""
    before = ledger.require_champion(spec, day)
    verdict, outcomes, promoted = checking.check(spec, day, keep_notebook=False)
    warned = verdict.decision is Decision.RETRAIN and Outcome.RECOVERS not in outcomes
    if warned:
        steps.warning(spec, day)
    seen = measuring.measured_windows(spec, day)
    tried = checking.attempts(spec, day).values() if outcomes else ()
    return {
        "day": str(day),
        "champion": before.version,
        "decision": verdict.decision.value,
        "why": verdict.why,
        spec.check.metric: seen[-1].values.get(spec.check.metric) if seen else None,
        "window_end": str(seen[-1].last) if seen else None,
        "healthy": seen[-1].healthy if seen else None,
        "attempts": [
            {"number": each.number, "outcome": each.outcome.value, "value": each.value, "gain": each.gain}
            for each in tried
        ],
        "tried": len(outcomes),
        "promoted": promoted,
        "warned": warned,
    }


def _frozen(spec: ModelSpec, day: date) -> dict[str, Any]:
    return {"day": str(day), "champion": ledger.require_champion(spec, day).version}


def _always(spec: ModelSpec, day: date) -> dict[str, Any]:
    """Retrain on the whole training window up to the block's end and promote without asking: what a plain schedule would do."""
    run, now = f"{RUN}/{day}", ledger.require_champion(spec, day)
    if ledger.promoted_by(spec, run) is None:
        version = training.retrained(spec, day, run)
        ledger.make_champion(spec, version, day, measured=now.version, why="retrained without asking", by=run)
    return {"day": str(day), "champion": now.version, "promoted": ledger.promoted_by(spec, run)}


WALKS: Mapping[str, Callable[[ModelSpec, date], dict[str, Any]]] = {
    "policy": _policy,
    "frozen": _frozen,
    "always": _always,
}


def walk(spec: ModelSpec, plan: Plan, kind: str, journal: Path | None = None) -> list[dict[str, Any]]:
    """Go through the days as if each were today; returns what each check did, one by one.

    `kind` is policy, frozen or always. With a `journal` a walk that was stopped goes on after the last check in it. Every
    walk starts with the model that a training as of the day before the first gives, accepted or not.
    """
    rows = _resumed(journal) if journal and journal.exists() else []
    _begin(spec, plan)
    ahead: tuple[int, date] = (0, date.min)
    for start, end in plan.spans(kind)[len(rows) :]:
        for part in _between_trainings(spec, start, end) if kind == "policy" else [(start, end)]:
            ahead = _serve(spec, part, plan.last, ahead)
            if kind == "policy" and _trains_after(spec, part[1]):
                _train(spec, part[1])
        rows.append(WALKS[kind](spec, end))
        if journal:
            with journal.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    return rows


def _resumed(journal: Path) -> list[dict[str, Any]]:
    """The checks of a journal; a last line that was cut off is taken out of it."""
    lines = [line for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    journal.write_text("".join(lines))
    return [json.loads(line) for line in lines]


def _begin(spec: ModelSpec, plan: Plan) -> str:
    """Train and promote the first champion, were it one that would not have been accepted; returns what is to be said of it."""
    as_of = plan.first - timedelta(days=1)
    if ledger.champion(spec) is None:
        training.train(spec, as_of, f"{RUN}/first")
    refused = tables.read("ledger", spec.name, to_state="rejected", by=f"{RUN}/first")
    if refused.empty:
        return ""
    why = f"the first version would not have been promoted: {refused['why'].iloc[0]}"
    if ledger.champion(spec) is None:
        ledger.make_champion(spec, int(refused["version"].iloc[0]), as_of, measured=None, why=why, by=RUN)
    return why


def _serve(spec: ModelSpec, span: Span, last: date, ahead: tuple[int, date]) -> tuple[int, date]:
    """Score and serve the days of the span; returns which champion has scored through which day."""
    champion = ledger.require_champion(spec, span[0]).version
    scored = ahead[1] if ahead[0] == champion else date.min
    if scored < span[1]:
        start = max(span[0], scored + timedelta(days=1))
        scored = max(span[1], min(start + timedelta(days=AHEAD - 1), last))
        _features(spec, days(start, scored))
        steps.score(spec, days(start, scored), RUN, champion)
    steps.publish(spec, days(*span), RUN)
    return champion, scored


def _features(spec: ModelSpec, wanted: list[date]) -> None:
    if (
        spec.has_features_code
    ):  # it may look at the other rows that it gets: one day at a time, as every day's run has it
        for day in wanted:
            ingest.ensure_features(spec, [day])
    else:
        ingest.ensure_features(spec, wanted)


def _trains_after(spec: ModelSpec, day: date) -> bool:
    """Whether the train DAG's schedule fires on the day after `day`, which makes `day` its as-of day."""
    if not spec.train.schedule:
        return False
    midnight = datetime.combine(day + timedelta(days=1), datetime.min.time(), tzinfo=ZoneInfo(spec.time.timezone))
    due = croniter(spec.train.schedule, midnight - timedelta(seconds=1)).get_next(datetime)
    return bool(due < midnight + timedelta(days=1))


def _between_trainings(spec: ModelSpec, start: date, end: date) -> Iterable[Span]:
    first = start
    for day in days(start, end):
        if day == end or _trains_after(spec, day):
            yield first, day
            first = day + timedelta(days=1)


def _train(spec: ModelSpec, as_of: date) -> None:
    run = f"{RUN}/train/{as_of}"
    if tables.read("ledger", spec.name, columns=["id"], by=run).empty:
        training.train(spec, as_of, run)


# ------------------------------------------------------------------------------------------------------------- report


def block_metrics(spec: ModelSpec, plan: Plan) -> list[dict[str, Any]]:
    """Every metric of each block, of all versions together, over rows as they were first served."""
    ingest.labels(spec, plan.first, plan.last + timedelta(days=spec.label_delay))
    found = []
    for first, last in spans(plan.first, plan.last, plan.blocks):
        rows = outcomes.served(spec, None, first, last)
        found.append(
            {
                "first": str(first),
                "last": str(last),
                "rows": len(rows),
                **learn.evaluate(spec, rows, tuple(spec.check.metrics)),
            }
        )
    return found


def promotion_gains(spec: ModelSpec, plan: Plan, days: int | None = None) -> list[dict[str, Any]]:
    """What each promotion was worth: how much better the new version served than the one it replaced would have.

    Over the days until the next promotion, or the first `days` of them; in the gate's metric, on the same rows.
    """
    promotions = ledger.promotions(spec)
    ends = [each.effective_day - timedelta(days=1) for each in promotions[2:]] + [plan.last]
    found = []
    for old, new, end in zip(promotions, promotions[1:], ends, strict=False):
        last = min(end, new.effective_day + timedelta(days=days - 1)) if days else end
        rows = outcomes.served(spec, new.version, new.effective_day, last)
        span = {"first": str(new.effective_day), "last": str(last), "rows": len(rows)}
        about = {"version": new.version, "replaced": old.version, **span, "gain": None}
        found.append(about)
        before = outcomes.as_predicted_by(spec, old.version, rows)
        if before.empty:
            continue
        values = [learn.evaluate(spec, each, (spec.check.metric,))[spec.check.metric] for each in (before, rows)]
        gain = learn.better_by(spec, spec.check.metric, *values)
        about["gain"] = gain
    return found


def isolated(plan: Plan, kind: str, place: Path) -> dict[str, Any]:
    """One walk and its blocks, in a process of its own whose lake, registry and notebooks lie in `place`."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    spec = specs.find(plan.model)
    os.environ["ESTEIRA_HOME"] = str(place / kind)
    for name in ("ESTEIRA_LAKE", "ESTEIRA_GIT", "MLFLOW_TRACKING_URI", "ESTEIRA_MLFLOW_URL"):
        os.environ.pop(name, None)
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place / kind}/mlflow/mlflow.db"
    began = time.monotonic()
    checks = walk(spec, plan, kind, place / f"{kind}.jsonl")
    return {
        "checks": checks,
        "first": _begin(spec, plan),
        "blocks": block_metrics(spec, plan),
        "promotions": promotion_gains(spec, plan),
        "first_month": promotion_gains(spec, plan, 30),
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
        "loops": sum(each["decision"] == Decision.RETRAIN for each in checks),
        "attempts": sum(each["tried"] for each in checks),
        "promotions": len(promoted),  # by checks, and by the train DAG's schedule
        "warnings": sum(each["warned"] for each in checks),
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
