"""Each rule of the simulation is broken on purpose, and found: by a short history that is kept, and by random ones.

`python -m tests.simulation.broken` lives through random histories of each broken rule until one of them finds it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from esteira.lifecycle.episode import Episode
from esteira.lifecycle.events import Kept, Warned
from esteira.steps import alerting, champions, scoring
from esteira.store import lake, ledger, outbox

from tests.simulation import steps as simulation

Break = Callable[[pytest.MonkeyPatch], None]
History = tuple[str, list[tuple[str, dict[str, Any]]]]  # the name of a past, and the events that follow
ledger_write = ledger.write


def break_published(patch: pytest.MonkeyPatch) -> None:
    """Score as it was: by who was to serve the day, whatever came since."""
    patch.setattr(
        ledger, "require_published", lambda spec, days, *_: {d: ledger.champion(spec, d).version for d in days}
    )  # type: ignore[union-attr]


def break_the_second_look(patch: pytest.MonkeyPatch) -> None:
    """Do not look again, after a write, whether the champion changed meanwhile."""

    def once(spec: Any, days: Any, run: str, *_: Any) -> tuple[int, bool]:
        known, chosen = ledger.state(spec), ledger.require_published(spec, days)
        return sum(scoring._predicted(spec, days, chosen, run).publish(spec, days, known).values()), False

    patch.setattr(scoring, "write", once)
    patch.setattr(scoring, "reconcile", lambda *_: scoring.Reconciled())


def break_served(patch: pytest.MonkeyPatch) -> None:
    """Let a later scoring write what was served anew."""
    publish, count = lake.publish, lake.count

    def write(kind: Any, *given: Any, **options: Any) -> int:
        return publish(kind, *given, **options | ({"add_to": None} if kind == "served" else {}))

    patch.setattr(lake, "publish", write)
    patch.setattr(lake, "count", lambda kind, *given: 0 if kind == "served" else count(kind, *given))


def break_aliases(patch: pytest.MonkeyPatch) -> None:
    """Leave MLflow's aliases as they are."""
    patch.setattr(champions, "repair_aliases", lambda spec: None)


def break_the_loop(patch: pytest.MonkeyPatch) -> None:
    """Warn nobody where the loop has failed."""
    patch.setattr(alerting, "warn", lambda *_: None)


def break_the_refusal(patch: pytest.MonkeyPatch) -> None:
    """Let what was computed from an older state replace what is of a newer one."""
    real = lake.publish
    patch.setattr(lake, "publish", lambda *given, newest=False, **options: real(*given, **options))


def break_the_one_commit(patch: pytest.MonkeyPatch) -> None:
    """Write a warning, and its mail after it."""
    patch.setattr(alerting.ledger, "write", lambda spec, *events: sum(ledger_write(spec, event) for event in events))


def forget_the_mail(patch: pytest.MonkeyPatch) -> None:
    """Write a warning without its mail."""
    patch.setattr(
        alerting.ledger,
        "write",
        lambda spec, *events: ledger_write(spec, *(each for each in events if not each.id.startswith("queued:"))),
    )


def break_the_one_warning(patch: pytest.MonkeyPatch) -> None:
    """Warn of a window once for each day whose check has failed on it."""
    patch.setattr(Episode, "held_back", lambda *_: "")
    patch.setattr(Episode, "is_told", lambda *_, **__: True)
    patch.setattr(Warned, "id", property(lambda event: f"warned:{event.version}:{event.last}/{event.day}"))
    patch.setattr(Warned, "of_row", classmethod(lambda cls, kept: warned_of(kept)))


def tell_nobody(patch: pytest.MonkeyPatch) -> None:
    """Tell nobody of a loop that did not help."""
    patch.setattr(Episode, "is_told", lambda *_, **__: False)


def warned_of(kept: Kept) -> Warned:
    version, _, last = kept.rest.partition("/")[0].partition(":")
    return Warned(version=int(version), last=date.fromisoformat(last), **kept.about)


def break_the_account(patch: pytest.MonkeyPatch) -> None:
    """Lose a row of each day that is predicted."""
    real = lake.Staging.write

    def write(staging: lake.Staging, rows: Any) -> Any:
        return real(staging, rows.iloc[1:] if staging.kind == "predictions" else rows)

    patch.setattr(lake.Staging, "write", write)


def forget_a_mail_that_was_tried(patch: pytest.MonkeyPatch) -> None:
    """Let a mail that no server took wait no longer."""
    real = outbox.waiting
    patch.setattr(outbox, "waiting", lambda spec: [each for each in real(spec) if not each.tries])


ONCE = ("once",)
CHECKED: tuple[str, dict[str, Any]] = ("check", {"back": 0, "how": ONCE})
DAY: tuple[str, dict[str, Any]] = (
    "days_come",
    {"rows": "all", "count": 1, "checked": True, "how": ONCE, "how_checked": ONCE},
)
ROLLED_BACK: tuple[str, dict[str, Any]] = ("roll_back", {"to": None, "back": None, "how": ONCE})
SLOW: tuple[str, dict[str, Any]] = (
    "one_is_slow_to_write",
    {"which": (0, 2), "back": 1, "first": 4, "dies": simulation.NEVER},
)
FIRST, SECOND = "the first champion serves", "the second replaced days of the first"
ILL = "nothing explains it any more"
# Each with a history that finds it.
BREAKS: dict[Break, History] = {
    break_the_refusal: (SECOND, [SLOW]),
    break_the_one_commit: (ILL, [("check", {"back": 0, "how": ("dies recording", 3)})]),
    forget_the_mail: (ILL, [CHECKED]),
    tell_nobody: (ILL, [CHECKED]),
    break_the_one_warning: (ILL, [CHECKED, DAY, DAY]),
    break_the_account: (FIRST, [DAY]),
    forget_a_mail_that_was_tried: (ILL, [CHECKED, ("mails_are_sent", {"answer": "is silent", "how": ONCE})]),
    break_published: (FIRST, [DAY, DAY, ("promote", {"back": 1, "how": ONCE})]),
    break_the_second_look: (SECOND, [SLOW]),
    break_served: (SECOND, [ROLLED_BACK, ("score_again", {"back": 1, "how": ONCE})]),
    break_aliases: (SECOND, [ROLLED_BACK]),
    break_the_loop: (ILL, [CHECKED]),
}


def main() -> None:
    """Search by random histories, so many for each rule at most, and say how many it took."""
    count, size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000, 25
    missed = 0
    for broken in BREAKS:
        simulation.pasts()
        began, found = time.monotonic(), 0
        with pytest.MonkeyPatch.context() as patch:
            broken(patch)
            for at in range(0, count, size):
                try:
                    simulation.check_many(at, size, shrink=False)
                except (AssertionError, ExceptionGroup):
                    found = at + size
                    break
        missed += not found
        said = f"found within {found:,} histories" if found else f"NOT found by {count:,} histories"
        print(f"{broken.__name__}: {said}, {time.monotonic() - began:.0f} s", flush=True)
    sys.exit(missed)


if __name__ == "__main__":
    main()
