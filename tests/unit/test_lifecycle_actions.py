"""The next action is a total function, and following it ends."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from esteira.lifecycle.actions import (
    Blend,
    Done,
    Evidence,
    Keep,
    Promote,
    Reconcile,
    ReportDrift,
    Retrain,
    Verify,
    Wait,
    Warn,
    next_action,
    order_of,
    upcoming,
)
from esteira.lifecycle.policy import Decision, Outcome, Verdict

DONE = {
    Verify: {"unverified": False},
    ReportDrift: {"unreported": False},
    Promote: {"promoted": True},
    Reconcile: {"reconciled": True},
    Warn: {"warned": True},
}


def walked(found: Evidence, outcomes: list[Outcome]) -> list[object]:
    """The actions of a check whose attempts end as said, each done before the next is asked for."""
    taken: list[object] = []
    while not taken or not isinstance(taken[-1], Done | Keep | Wait):
        action = next_action(found)
        taken.append(action)
        more = DONE.get(type(action), {})
        if isinstance(action, Blend | Retrain):
            number = action.attempt if isinstance(action, Retrain) else 0
            ended = outcomes[found.order.index(number)], 0.1 * number
            more = {"attempts": {**found.attempts, number: ended}}
        found = replace(found, **more)
        assert len(taken) < 12
    return taken


def decided(decision: Decision, order: tuple[int, ...] = (1, 2, 3), **due: bool) -> Evidence:
    return Evidence(Verdict(decision, "why"), order, {}, **due)


@pytest.mark.parametrize(
    ("decision", "action"),
    [(Decision.KEEP, Keep("why")), (Decision.WATCH, Keep("why", watch=True)), (Decision.WAIT, Wait("why"))],
)
def test_what_does_not_retrain_ends_at_once(decision: Decision, action: object) -> None:
    assert walked(decided(decision), []) == [action]


FAILS, IMPROVES, RECOVERS, UNKNOWN = Outcome.FAILS, Outcome.IMPROVES, Outcome.RECOVERS, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("outcomes", "taken"),
    [
        ([RECOVERS, FAILS, FAILS], [Retrain(1), Promote(1), Reconcile(), Done()]),
        ([FAILS, RECOVERS, FAILS], [Retrain(1), Retrain(2), Promote(2), Reconcile(), Done()]),
        ([IMPROVES, RECOVERS, FAILS], [Retrain(1), Retrain(2), Promote(2), Reconcile(), Done()]),
        ([IMPROVES, FAILS, IMPROVES], [Retrain(1), Retrain(2), Retrain(3), Promote(3), Reconcile(), Warn(), Done()]),
        ([FAILS, UNKNOWN, FAILS], [Retrain(1), Retrain(2), Retrain(3), Warn(), Done()]),
    ],
)
def test_the_loop(outcomes: list[Outcome], taken: list[object]) -> None:
    assert walked(decided(Decision.RETRAIN), outcomes) == taken


@pytest.mark.parametrize(
    ("order", "outcomes", "taken"),
    [
        ((0, 1, 2), [RECOVERS, FAILS, FAILS], [Blend(), Promote(0), Reconcile(), Done()]),
        (
            (0, 1, 2),
            [IMPROVES, FAILS, FAILS],
            [Blend(), Retrain(1), Retrain(2), Promote(0), Reconcile(), Warn(), Done()],
        ),
        ((1, 0, 2), [FAILS, RECOVERS, FAILS], [Retrain(1), Blend(later=True), Promote(0), Reconcile(), Done()]),
        ((1, 0), [FAILS, FAILS], [Retrain(1), Blend(later=True), Warn(), Done()]),
    ],
)
def test_the_loop_with_a_blend(order: tuple[int, ...], outcomes: list[Outcome], taken: list[object]) -> None:
    assert walked(decided(Decision.RETRAIN, order), outcomes) == taken


def test_a_blend_comes_first_but_for_three_that_were_refused() -> None:
    assert order_of(3, None) == (1, 2, 3)
    assert order_of(3, []) == order_of(3, [FAILS, FAILS]) == order_of(3, [FAILS, FAILS, UNKNOWN]) == (0, 1, 2, 3)
    assert order_of(3, [RECOVERS, FAILS, FAILS, FAILS]) == (1, 0, 2, 3)
    assert order_of(1, [FAILS, FAILS, FAILS]) == (1, 0)
    assert order_of(2, [FAILS, FAILS, FAILS, IMPROVES]) == (0, 1, 2)


def test_whatever_the_attempts_come_to_people_are_told_unless_it_recovers() -> None:
    for outcomes in itertools.product(Outcome, repeat=3):
        taken = walked(decided(Decision.RETRAIN), list(outcomes))
        assert taken[-1] == Done()
        assert (RECOVERS in outcomes) != any(isinstance(action, Warn) for action in taken)
        assert any(isinstance(action, Promote) for action in taken) == bool({RECOVERS, IMPROVES} & set(outcomes))
        assert len(taken) == len({repr(action) for action in taken})  # nothing is done twice


def test_what_is_due_besides_comes_first_and_is_known_at_once() -> None:
    found = Evidence.decided(Verdict(Decision.KEEP, "why"), (1, 2, 3), unverified=True, drifted=True)
    assert walked(found, []) == list(upcoming(found)) == [Verify(), ReportDrift(), Keep("why")]


def test_before_a_retraining_it_is_looked_into_what_drifted() -> None:
    found = Evidence.decided(Verdict(Decision.RETRAIN, "why"), (1, 2, 3), unverified=False, drifted=False)
    assert upcoming(found) == (ReportDrift(), Retrain(1))
