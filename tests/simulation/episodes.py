"""Histories of one metric, window by window: loops that help or not, blends, news; when one is opened, and whom it is told.

The decisions are those of lifecycle/episode.py, and how long a loop waits is counted here anew.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import NamedTuple

from esteira.lifecycle import episode
from esteira.lifecycle.events import Event, Known, Recovered, Unrecovered, Warned, run_key
from esteira.lifecycle.rows import from_row
from esteira.lifecycle.state import State, fold

START, EVERY, WINDOWS = date(2026, 1, 7), 7, 45
WAITS = (1, 2, 4, 8)


class Loop(NamedTuple):
    """A loop that did not help: in which window, whether something was new, whether it has improved, and by half of the way."""

    window: int
    news: bool
    improved: bool
    half_way: bool


class Broken(AssertionError):
    """A rule does not hold; the text has the rule and the history."""


@dataclass
class Story:
    """What happened so far, window by window, in events and in words."""

    events: list[Event] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    def state(self) -> State:
        return fold(self.events)

    def write(self, *events: Event) -> None:
        known = {each.id for each in self.events}
        self.require(not known & {each.id for each in events}, "a window's loop is noted once")
        self.events += events

    def require(self, held: bool, rule: str) -> None:
        if not held:
            raise Broken(rule + "\n  " + "\n  ".join(self.done))


def check(seed: int) -> None:
    """Live through one history. Raises Broken where a rule does not hold."""
    draw, story = random.Random(seed), Story()
    bad, past = draw.random(), draw.choice([50, 180])
    row: list[Loop] = []  # the loops in a row that did not help
    told: list[tuple[int, bool, Known]] = []  # of each mail: its window, whether the loop improved, what was known
    for window in range(WINDOWS):
        last = START + timedelta(days=EVERY * window)
        off = draw.expovariate(4)
        drifted = draw.random() < 0.2
        past = min(past + draw.choice([0, 7]), 180)
        now = Known(spec=str(window // 40), past=past, off=off, drifted=drifted)
        found = episode.episode(story.state())
        if draw.random() > bad:
            row = _in_range(story, last, draw, row)
            continue
        news = found.news(now)
        held = found.held_back(last, EVERY, now)
        since = [each for each in row if window - each.window < episode.REMEMBERED]
        due = not since or window > since[-1].window + _wait(since) or bool(news)
        story.require(due == (not held), f"after {since} {_wait(since)} windows pass without a loop, but for news")
        if held:
            story.done.append(f"{last}: held back")
            continue
        if draw.random() < 0.2:  # a loop helps; that it lasts shows in a window of its own
            story.done.append(f"{last}: recovers")
            row = _healed(story, last)
            continue
        improved = draw.random() < 0.3
        half_way = improved and draw.random() < 0.5
        tells = found.is_told(last, EVERY, now, improved=improved)
        quiet = (2 if improved else 1) * episode.LONGEST
        lately = [known for at, better, known in told if window - at < quiet and (improved or not better)]
        due = _is_worth_a_mail(now, lately, improved=improved)
        story.require(
            tells == due,
            "people are told of a failure once in 8 windows, of an improvement 16 after they heard anything, but of what is much worse",
        )
        loop = Loop(window, bool(news), improved, half_way)
        _unrecovered(story, last, now, news, loop, tells=tells)
        told += [(window, improved, now)] if tells else []
        row.append(loop)
    rows = [each.row() for each in story.events]
    draw.shuffle(rows)
    read = episode.episode(fold(from_row(each) for each in rows))
    story.require(read == episode.episode(story.state()), "rows are read as they were written, in whatever order")


def _wait(since: list[Loop]) -> int:
    """How many windows pass without a loop after those in a row."""
    if not since:
        return 0
    newest = max((number for number, each in enumerate(since) if each.news), default=0)
    failed = sum(not each.half_way for each in since[newest:])
    wait = WAITS[min(max(failed, 1), len(WAITS)) - 1]
    return max(wait, 3) if since[-1].improved and not since[-1].half_way else wait


def _is_worth_a_mail(now: Known, lately: list[Known], *, improved: bool) -> bool:
    """Whether people are told of a loop that did not bring the metric back, after those of which they were told lately."""
    before = max((known.off for known in lately), default=0.0)
    if improved:
        return not lately or (now.off >= before + 1 and now.off >= 2 * before)
    is_worse = now.off >= before + 0.5 or now.off >= max(2 * before, 0.25)
    return not lately or is_worse or now.spec != lately[-1].spec


def _in_range(story: Story, last: date, draw: random.Random, row: list[Loop]) -> list[Loop]:
    if not episode.open_since(story.state()):
        return row
    healed = draw.random() < 0.3
    about = {"day": last, "by": run_key(last), "why": "in range"}
    story.write(Recovered(version=1, last=last, healed=healed, **about))  # type: ignore[arg-type]
    story.require(not episode.open_since(story.state()), "a window in range ends what was open")
    story.done.append(f"{last}: in range{', healed' if healed else ''}")
    return [] if healed else row


def _healed(story: Story, last: date) -> list[tuple[int, bool]]:
    about = {"day": last, "by": run_key(last), "why": "in range"}
    story.write(Recovered(version=1, last=last, healed=True, **about))  # type: ignore[arg-type]
    story.require(not episode.episode(story.state()).loops, "a loop that helped begins anew")
    return []


def _unrecovered(story: Story, last: date, now: Known, news: str, loop: Loop, *, tells: bool) -> None:
    about = {"day": last, "by": run_key(last), "why": "out of range"}
    came = {"improved": loop.improved, "half_way": loop.half_way, "known": now, "news": news}
    ended = Unrecovered(version=1, last=last, **came, **about)  # type: ignore[arg-type]
    story.write(ended, *([Warned(version=1, last=last, **about)] if tells else []))  # type: ignore[arg-type]
    story.done.append(f"{last}: did not help{', told' if tells else ''}{f' ({news})' if news else ''}")
    after = episode.episode(story.state())
    story.require(after.loops[-1] == ended, "what is written is read")
    story.require(bool(after.held_back(last, EVERY, now)), "no window is tried twice")
    story.require(not after.news(now), "what a loop knew is no news after it")
    story.require(episode.episode(story.state(), but=last).loops == after.loops[:-1], "a day's own can be left out")
