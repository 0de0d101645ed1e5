"""A day's check, and its score, as sentences: for the notes of runs, the tab of a run, and reports."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

from esteira.lifecycle.changes import named
from esteira.lifecycle.events import run_key
from esteira.lifecycle.policy import Decision, Outcome
from esteira.spec import ModelSpec
from esteira.store import lake, ledger
from esteira.text import better_by, counted
from esteira.views.checks import Check, check
from esteira.views.rows import put_aside

LONGEST = 200  # characters of a note
ENDED = {
    Outcome.RECOVERS: "is back in range",
    Outcome.IMPROVES: "is better, though not back in range",
    Outcome.UNPROVEN: "was better, though not surely enough",
    Outcome.FAILS: "did not pass",
    Outcome.UNKNOWN: "could not be judged",
}


def check_title(spec: ModelSpec, day: date) -> str:
    """A day's check in one short sentence: `check 2026-03-01: warned, mae 0.87 > 0.20`. Raises NoChampion where the day has none."""
    found = check(spec, day)
    promoted = ledger.promoted_by(spec, run_key(day))
    return f"check {day}: {_state(found, promoted)}{_metric(spec, found)}"[:LONGEST]


def _state(found: Check, promoted: int | None) -> str:
    if promoted is not None:
        return f"promoted {named(promoted)}" + (", warned" if found.warned else "")
    if found.warned:
        return "warned"
    if found.verdict is None:
        return "not decided"
    if found.verdict.decision.trains:
        return "not recovered" if found.attempts else "out of range, retraining"
    words = {
        Decision.KEEP: "in range",
        Decision.WATCH: "watch",
        Decision.WAIT: "waits for labels",
        Decision.BLEND: "out of range, a loop is held back",
    }
    return words[found.verdict.decision]


def _metric(spec: ModelSpec, found: Check) -> str:
    """The metric that is out of range in the latest window, else the gate's."""
    if not found.windows:
        return ""
    last = found.windows[-1]
    name, reached = next(iter({**last.bad, spec.check.metric: last.metrics.get(spec.check.metric)}.items()))
    if reached is None:
        return ""
    limit = reached.wanted if reached.in_range else reached.wanted.replace("≤", ">").replace("≥", "<")
    return f", {name} {reached.value:.4g} {limit}"


def score_title(spec: ModelSpec, days: list[date]) -> str:
    """What was scored, in one short sentence: `score 2026-03-01: 240 rows by version 4, 2 in quarantine`."""
    span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
    rows, left = lake.count("predictions", spec.name, days), put_aside(spec, days).total()
    held = sorted(set(ledger.held(spec, ledger.state(spec), days).values()))
    by = f" by {' and '.join(map(named, held))}" if held else ""
    lacking = len(lake.unwritten_days("predictions", spec.name, days)) if len(days) > 1 else 0
    told = [f", {left:,} in quarantine"] if left else []
    told += [f"; {lacking} of {counted(len(days), 'day')} not published"] if lacking else []
    return f"score {span}: {counted(rows, 'row')}{by}" + "".join(told)


def told(spec: ModelSpec, day: date) -> list[str]:
    """What a day's check measured, decided and tried, sentence by sentence."""
    return list(_told(spec, check(spec, day), ledger.promoted_by(spec, run_key(day))))


def _told(spec: ModelSpec, found: Check, promoted: int | None) -> Iterator[str]:
    yield f"It is about the days up to {found.day}, which {named(found.champion)} was to serve."
    if found.verdict is not None:
        yield f"Decided: {found.verdict.decision.value}. {_sentence(found.verdict.why)}"
    for number, each in found.attempts.items():
        what = f"Attempt {number}" if number else "The blend of what was trained before"
        interval = f"{each.lower:.4g} to {each.upper:.4g}"
        yield (
            f"{what} {ENDED[each.outcome]}: {spec.check.metric} = {each.value:.4g} on {counted(each.days, 'held-out day')}, "
            f"{better_by(each.gain)} than {named(each.measured)} (interval {interval})."
        )
    if promoted is not None:
        yield f"{named(promoted).capitalize()} was promoted, and serves from the next day on."
    if found.warned is not None:
        yield f"People were warned by mail. {_sentence(found.warned.why)}"
    if found.drift is not None:
        many = "too many: " if found.drift.too_much else ""
        yield f"{many}{found.drift.share:.0%} of the features have drifted since {named(found.drift.version)} was trained.".capitalize()


def _sentence(text: str) -> str:
    """With a full stop, and a capital but where it begins with a metric's name."""
    first, _, _ = text.partition(" ")
    begun = text if "_" in first or text[len(first) :].startswith(" =") else f"{text[:1].upper()}{text[1:]}"
    return begun if begun.endswith(".") or not begun else f"{begun}."
