"""The next action is a total function, and following it ends."""

from __future__ import annotations

import itertools

import pytest
from esteira.lifecycle.actions import Done, Evidence, Keep, Promote, Reconcile, Retrain, Wait, Warn, next_action
from esteira.lifecycle.policy import Decision, Outcome, Verdict


def walked(decision: Decision, outcomes: list[Outcome]) -> list[object]:
    """The actions of a check whose attempts end as said, each done before the next is asked for."""
    found = Evidence(Verdict(decision, "why"), len(outcomes), {})
    taken: list[object] = []
    while not taken or not isinstance(taken[-1], Done | Keep | Wait):
        action = next_action(found)
        taken.append(action)
        attempts, more = dict(found.attempts), {}
        if isinstance(action, Retrain):
            attempts[action.attempt] = (outcomes[action.attempt - 1], 0.1 * action.attempt)
        elif isinstance(action, Promote):
            more = {"promoted": True}
        elif isinstance(action, Reconcile):
            more = {"reconciled": True}
        elif isinstance(action, Warn):
            more = {"warned": True}
        kept = {"promoted": found.promoted, "reconciled": found.reconciled, "warned": found.warned}
        found = Evidence(found.verdict, found.recipes, attempts, **{**kept, **more})
        assert len(taken) < 12
    return taken


@pytest.mark.parametrize(
    ("decision", "action"),
    [(Decision.KEEP, Keep("why")), (Decision.WATCH, Keep("why", watch=True)), (Decision.WAIT, Wait("why"))],
)
def test_what_does_not_retrain_ends_at_once(decision: Decision, action: object) -> None:
    assert walked(decision, [Outcome.FAILS] * 3) == [action]


FAILS, IMPROVES, RECOVERS, UNKNOWN = Outcome.FAILS, Outcome.IMPROVES, Outcome.RECOVERS, Outcome.UNKNOWN


@pytest.mark.parametrize(
    ("outcomes", "taken"),
    [
        ([RECOVERS, FAILS, FAILS], [Retrain(1), Promote(1), Reconcile(), Done()]),
        ([FAILS, RECOVERS, FAILS], [Retrain(1), Retrain(2), Promote(2), Reconcile(), Done()]),
        ([IMPROVES, RECOVERS, FAILS], [Retrain(1), Retrain(2), Promote(2), Reconcile(), Done()]),
        ([IMPROVES, FAILS, IMPROVES], [Retrain(1), Retrain(2), Retrain(3), Promote(3), Reconcile(), Warn(3), Done()]),
        ([FAILS, UNKNOWN, FAILS], [Retrain(1), Retrain(2), Retrain(3), Warn(None), Done()]),
    ],
)
def test_the_loop(outcomes: list[Outcome], taken: list[object]) -> None:
    assert walked(Decision.RETRAIN, outcomes) == taken


def test_whatever_the_attempts_come_to_people_are_told_unless_it_recovers() -> None:
    for outcomes in itertools.product(Outcome, repeat=3):
        taken = walked(Decision.RETRAIN, list(outcomes))
        assert taken[-1] == Done()
        assert (RECOVERS in outcomes) != any(isinstance(action, Warn) for action in taken)
        assert any(isinstance(action, Promote) for action in taken) == bool({RECOVERS, IMPROVES} & set(outcomes))
        assert len(taken) == len({repr(action) for action in taken})  # nothing is done twice
