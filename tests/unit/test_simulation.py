"""Histories over the real steps, in memory; what each rule is for is seen by breaking it once on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from esteira.lifecycle.events import Kept, Warned
from esteira.lifecycle.state import State
from esteira.steps import alerting, champions, scoring
from esteira.store import lake, ledger, outbox

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


def break_the_refusal(patch: pytest.MonkeyPatch) -> None:
    """Let what was computed from an older state replace what is of a newer one."""
    real = lake.replace_days
    patch.setattr(lake, "replace_days", lambda *given, newest=False, **options: real(*given, **options))


def break_the_one_commit(patch: pytest.MonkeyPatch) -> None:
    """Write a warning, and its mail after it."""
    patch.setattr(alerting.ledger, "write", lambda spec, *events: sum(ledger_write(spec, event) for event in events))


def forget_the_mail(patch: pytest.MonkeyPatch) -> None:
    """Write a warning without its mail."""
    patch.setattr(alerting.ledger, "write", lambda spec, *events: ledger_write(spec, events[0]))


def break_the_one_warning(patch: pytest.MonkeyPatch) -> None:
    """Warn of a window once for each day whose check has failed on it."""
    patch.setattr(State, "was_warned", lambda *_: False)
    patch.setattr(Warned, "id", property(lambda event: f"warned:{event.version}:{event.last}/{event.day}"))
    patch.setattr(Warned, "of_row", classmethod(lambda cls, kept: warned_of(kept)))


def warned_of(kept: Kept) -> Warned:
    version, _, last = kept.rest.partition("/")[0].partition(":")
    return Warned(version=int(version), last=date.fromisoformat(last), **kept.about)


def break_the_account(patch: pytest.MonkeyPatch) -> None:
    """Lose a row of each day that is predicted."""
    real = lake.replace_days

    def write(kind: Any, model: Any, rows: Any, days: Any, **options: Any) -> int:
        kept = rows.iloc[1:] if kind == "predictions" else rows
        return real(kind, model, kept, days, **options)

    patch.setattr(lake, "replace_days", write)


def forget_a_mail_that_was_tried(patch: pytest.MonkeyPatch) -> None:
    """Let a mail that no server took wait no longer."""
    real = outbox.waiting
    patch.setattr(outbox, "waiting", lambda spec: [each for each in real(spec) if not each.tries])


ledger_write = ledger.write
BREAKS = [
    break_the_refusal,
    break_the_one_commit,
    forget_the_mail,
    break_the_one_warning,
    break_the_account,
    forget_a_mail_that_was_tried,
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
