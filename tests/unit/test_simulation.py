"""Histories over the real steps, in memory; what each rule is for is seen by breaking it once on purpose."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation import steps as simulation
from tests.simulation.broken import BREAKS, Break

QUICK = 10


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The simulation sets the state folder and silences the log; both are put back."""
    import logging

    monkeypatch.setenv("ESTEIRA_HOME", "")
    yield
    logging.disable(logging.NOTSET)
    simulation.model.cache_clear()
    simulation.pasts.cache_clear()


@pytest.mark.timeout(600)
def test_histories_keep_every_rule() -> None:
    assert simulation.check_many(1, QUICK) == QUICK


@pytest.mark.parametrize("broken", BREAKS, ids=lambda each: each.__name__)
def test_a_rule_that_is_broken_is_found(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    past, events = BREAKS[broken]
    simulation.relive(past, events)
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        simulation.relive(past, events)
