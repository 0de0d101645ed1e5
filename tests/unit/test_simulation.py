"""Histories over the real steps, in memory; what each rule is for is seen by breaking it once on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from esteira.steps import alerting, champions, scoring
from esteira.store import lake, ledger

from tests.simulation import steps as simulation

QUICK, ENOUGH = 50, 400


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
def test_fifty_histories_keep_every_rule() -> None:
    assert simulation.check_many(1, QUICK) == QUICK


def break_published(patch: pytest.MonkeyPatch) -> None:
    """Score as it was: by who was to serve the day, whatever came since."""
    patch.setattr(
        ledger, "require_published", lambda spec, days, *_: {d: ledger.champion(spec, d).version for d in days}
    )  # type: ignore[union-attr]


def break_the_second_look(patch: pytest.MonkeyPatch) -> None:
    """Do not look again, after a write, whether the champion changed meanwhile."""

    def once(spec: Any, days: Any, run: str) -> int:
        known = ledger.state(spec)
        return sum(scoring._replace(spec, days, ledger.require_published(spec, days), known, run).values())

    patch.setattr(scoring, "_written", once)
    patch.setattr(scoring, "reconcile", lambda *_: scoring.Reconciled())


def break_served(patch: pytest.MonkeyPatch) -> None:
    """Let a later scoring write what was served anew."""
    real = lake.replace_days

    def write(kind: Any, model: Any, rows: Any, days: Any, **options: Any) -> int:
        if kind == "served":
            options.pop("merge")
        return real(kind, model, rows, days, **options)

    patch.setattr(lake, "replace_days", write)


def break_aliases(patch: pytest.MonkeyPatch) -> None:
    """Leave MLflow's aliases as they are."""
    patch.setattr(champions, "repair_aliases", lambda spec: None)


def break_the_loop(patch: pytest.MonkeyPatch) -> None:
    """Warn nobody where the loop has failed."""
    patch.setattr(alerting, "warn", lambda *_: None)


BREAKS = [
    break_published,
    break_the_second_look,
    break_served,
    break_aliases,
    break_the_loop,
]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("broken", BREAKS, ids=lambda each: each.__name__)
def test_a_rule_that_is_broken_is_found(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    simulation.pasts()
    broken(monkeypatch)
    with pytest.raises((AssertionError, ExceptionGroup)):
        simulation.check_many(1, ENOUGH, shrink=False)
