"""Walk through a model's history by the steps that the DAGs call, as if each day were today."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from croniter import croniter

from esteira import steps, views
from esteira.data import days
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Rejected
from esteira.replay.plan import Plan, Span
from esteira.spec import ModelSpec
from esteira.steps import champions, checking, ingest, training
from esteira.store import ledger

RUN = "replay"
AHEAD = 31  # days that are extracted, and scored by the champion of the moment, at once; nothing looks at them early


def _policy(spec: ModelSpec, day: date) -> dict[str, Any]:
    """The check, as the DAG does it; the warning goes to the ledger and is mailed to no one."""
    before = ledger.require_champion(spec, day)
    found = checking.check(spec, day, keep_notebook=False)
    known = views.check(spec, day)
    seen, tried = known.windows, known.attempts.values() if found.outcomes else ()
    reached = seen[-1].metrics.get(spec.check.metric) if seen else None
    return {
        "day": str(day),
        "champion": before.version,
        "decision": found.verdict.decision.value,
        "why": found.verdict.why,
        spec.check.metric: reached.value if reached else None,
        "window_end": str(seen[-1].last) if seen else None,
        "healthy": seen[-1].healthy if seen else None,
        "attempts": [
            {"number": each.number, "outcome": each.outcome.value, "value": each.value, "gain": each.gain}
            for each in tried
        ],
        "tried": len(found.outcomes),
        "promoted": found.promoted,
        "warned": found.warning is not None,
    }


def _frozen(spec: ModelSpec, day: date) -> dict[str, Any]:
    return {"day": str(day), "champion": ledger.require_champion(spec, day).version}


def _always(spec: ModelSpec, day: date) -> dict[str, Any]:
    """Retrain on the whole training window up to the block's end and promote without asking: what a plain schedule would do."""
    run, now = f"{RUN}/{day}", ledger.require_champion(spec, day)
    if ledger.promoted_by(spec, run) is None:
        version = training.retrained(spec, day, run)
        champions.promote(spec, Proposal(version, day, measured=now.version, why="retrained without asking", by=run))
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
    begin(spec, plan)
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


def begin(spec: ModelSpec, plan: Plan) -> str:
    """Train and promote the first champion, were it one that would not have been accepted; returns what is to be said of it."""
    as_of = plan.first - timedelta(days=1)
    if ledger.champion(spec) is None:
        training.train(spec, as_of, f"{RUN}/first")
    refused = [each for each in ledger.by_run(spec, f"{RUN}/first") if isinstance(each, Rejected)]
    if not refused:
        return ""
    why = f"the first version would not have been promoted: {refused[0].why}"
    if ledger.champion(spec) is None:
        champions.promote(spec, Proposal(refused[0].version, as_of, measured=None, why=why, by=RUN))
    return why


def _serve(spec: ModelSpec, span: Span, last: date, ahead: tuple[int, date]) -> tuple[int, date]:
    """Score and serve the days of the span; returns which champion has scored through which day."""
    champion = ledger.require_champion(spec, span[0]).version
    scored = ahead[1] if ahead[0] == champion else date.min
    if scored < span[1]:
        start = max(span[0], scored + timedelta(days=1))
        scored = max(span[1], min(start + timedelta(days=AHEAD - 1), last))
        _features(spec, days(start, scored))
        steps.score(spec, days(start, scored), RUN)
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
    if not ledger.by_run(spec, run):
        training.train(spec, as_of, run)
