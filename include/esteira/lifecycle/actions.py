"""What a check does next: a total function of what it has found, which Airflow, the command line and replay all follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, assert_never

from esteira.lifecycle.policy import Decision, Outcome, Verdict, best_attempt


@dataclass(frozen=True)
class Keep:
    """The champion stays; nothing else is to be done. `watch`: it is out of range, and not yet violated."""

    why: str
    watch: bool = False


@dataclass(frozen=True)
class Wait:
    """Too little is known."""

    why: str


@dataclass(frozen=True)
class Verify:
    """Compare a new champion, over its first window, with the version that it replaced."""


@dataclass(frozen=True)
class ReportDrift:
    """Keep a report of what drifted, and tell people where it is too much."""


@dataclass(frozen=True)
class Blend:
    """Blend what was trained before, which trains nothing, and judge what comes of it: attempt 0. `later`: not as the first one."""

    attempt: ClassVar[int] = 0

    later: bool = False


@dataclass(frozen=True)
class Retrain:
    """Train by the recipe of this number, the first being 1, and judge what comes of it."""

    attempt: int


@dataclass(frozen=True)
class Promote:
    """Register the version of this attempt, commit its notebook, make it champion."""

    attempt: int


@dataclass(frozen=True)
class Reconcile:
    """Bring the predictions of the days that the promotion replaces to what is published."""


@dataclass(frozen=True)
class Warn:
    """Note that the loop did not bring the metric back, and tell people, unless they were told of late."""


@dataclass(frozen=True)
class Done:
    """All that the check decided has been done."""


Action = Keep | Wait | Verify | ReportDrift | Blend | Retrain | Promote | Reconcile | Warn | Done


@dataclass(frozen=True)
class Evidence:
    """What a check has found and done so far. An attempt is here once it has ended: with its outcome and the lower bound of its gain.

    `order` has the attempts in the order in which they are made, 0 being the blend. `unverified`: a promotion's first window is
    whole; `unreported`: what drifted is to be looked into.
    """

    verdict: Verdict
    order: tuple[int, ...]
    attempts: Mapping[int, tuple[Outcome, float]]
    unverified: bool = False
    unreported: bool = False
    promoted: bool = False
    reconciled: bool = False
    warned: bool = False

    @classmethod
    def decided(cls, verdict: Verdict, order: tuple[int, ...], *, unverified: bool, drifted: bool) -> Evidence:
        """What is known once it is decided; before a retraining it is looked into what drifted, too much or not."""
        unreported = drifted or verdict.decision.trains
        return cls(verdict, order, {}, unverified=unverified, unreported=unreported)

    def after(self, action: Verify | ReportDrift | Promote | Reconcile | Warn) -> Evidence:
        """What is known once an action has been done of which nothing else can come."""
        match action:
            case Verify():
                return replace(self, unverified=False)
            case ReportDrift():
                return replace(self, unreported=False)
            case Promote():
                return replace(self, promoted=True)
            case Reconcile():
                return replace(self, reconciled=True)
            case Warn():
                return replace(self, warned=True)
            case _ as unknown:
                assert_never(unknown)


def next_action(found: Evidence) -> Action:
    """The one thing to do next. Doing it, and asking again with what came of it, leads to Done, Keep or Wait."""
    if found.unverified:
        return Verify()
    if found.unreported:
        return ReportDrift()
    match found.verdict.decision:
        case Decision.KEEP:
            return Keep(found.verdict.why)
        case Decision.WATCH:
            return Keep(found.verdict.why, watch=True)
        case Decision.WAIT:
            return Wait(found.verdict.why)
        case Decision.BLEND | Decision.PROBE | Decision.RETRAIN:
            return _in_the_loop(found)
        case _ as unknown:
            assert_never(unknown)


def upcoming(found: Evidence) -> tuple[Action, ...]:
    """The next actions, up to the first of which nobody knows yet what it will come to: that is, to a training, or the end."""
    actions: list[Action] = []
    while True:
        action = next_action(found)
        if isinstance(action, Done):
            return tuple(actions) or (action,)
        actions.append(action)
        if isinstance(action, Keep | Wait | Blend | Retrain):
            return tuple(actions)
        found = found.after(action)


REFUSED = 3  # blends one after the other, after which a retraining is tried first


def order_of(recipes: int, blends: Sequence[Outcome] | None) -> tuple[int, ...]:
    """The attempts of a loop in the order in which they are made: the blend, 0, first, or after the first retraining.

    It is later where the last three `blends`, the latest one last, did not pass the gate. None: there are to be none.
    """
    trained = tuple(range(1, recipes + 1))
    if blends is None:
        return trained
    last = blends[-REFUSED:]
    is_refused = len(last) == REFUSED and all(each is Outcome.FAILS for each in last)
    return (*trained[:1], 0, *trained[1:]) if is_refused else (0, *trained)


def _in_the_loop(found: Evidence) -> Action:
    recovered = any(outcome is Outcome.RECOVERS for outcome, _ in found.attempts.values())
    left = [number for number in found.order if number not in found.attempts]
    if not recovered and not found.promoted and left:
        return Retrain(left[0]) if left[0] else Blend(later=left[0] != found.order[0])
    best = best_attempt(found.attempts)
    if best is not None and not found.promoted:
        return Promote(best)
    if found.promoted and not found.reconciled:
        return Reconcile()
    if found.verdict.decision.trains and not recovered and not found.warned:
        return Warn()
    return Done()
