"""Events come back from the rows that keep them; rows of 0.1 are read as what they meant."""

from __future__ import annotations

import json
from datetime import date

import pytest
from esteira.errors import UnknownEvent
from esteira.lifecycle.events import Drifted, Event, Noted, Registered, Verified, Warned
from esteira.lifecycle.rows import KINDS, NUMBERED, from_row
from esteira.lifecycle.sequence import Numbered, Pinned, Promoted, Released, RolledBack, Undone
from esteira.store import ledger

DAY = date(2026, 2, 1)
ABOUT = {"day": DAY, "by": "check:2026-01-31", "why": "because"}
EVERY = [
    Registered(version=3, sha256="ab", **ABOUT),
    Promoted(number=1, version=3, measured=None, **ABOUT),
    Promoted(
        number=2, version=4, measured=3, replaces_from=date(2026, 1, 18), facts={"gain": 0.1, "run": "r"}, **ABOUT
    ),
    Promoted(number=2, version=5, measured=3, replaces_from=DAY, twin=4, seen=date(2026, 1, 30), **ABOUT),
    RolledBack(number=3, version=3, bad=4, voids=(2,), **ABOUT),
    RolledBack(number=3, version=3, bad=4, voids=(1, 2), first_day=DAY, **ABOUT),
    Undone(number=4, version=4, undoes=3, **ABOUT),
    Pinned(number=5, version=2, last=date(2026, 2, 5), **ABOUT),
    Released(number=6, last=date(2026, 1, 25), **ABOUT),
    Verified(promotion=2, version=4, replaced=3, worse=False, facts={"gain": 0.2}, **ABOUT),
    Verified(promotion=2, version=4, replaced=3, worse=True, **ABOUT),
    Warned(version=4, last=DAY, **ABOUT),
    Drifted(version=4, last=DAY, **ABOUT),
    Noted(name="queued:failed/x:1", to_state="queued", facts={"mail": {"to": ["a@b"]}}, **ABOUT),
    Registered(version=3, sha256="ab", classes=("no", "yes"), trained_through="2026-01-30", **ABOUT),
]


@pytest.mark.parametrize("event", EVERY, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_row(event: Event) -> None:
    row = event.row()
    assert from_row(row) == event
    assert set(row) == {"id", "effective_day", "version", "from_state", "to_state", "why", "evidence", "by"}
    assert json.loads(row["evidence"]) == dict(event.evidence())


def test_all_that_changes_what_is_published_shares_one_sequence() -> None:
    numbered = [event for event in EVERY if isinstance(event, Numbered)]
    assert {event.id.partition(":")[0] for event in numbered} == {"champion"}
    assert {type(event) for event in numbered} == {Promoted, RolledBack, Undone, Pinned, Released}


def test_a_rollback_of_an_older_version_looked_like_a_promotion() -> None:
    row = {
        "id": "champion:3",
        "effective_day": DAY,
        "version": 1,
        "from_state": "challenger",
        "to_state": "champion",
        "why": "rolled back from version 2",
        "evidence": '{"replaces": 2, "rolled_back": 2}',
        "by": "rollback/2",
    }
    found = from_row(row)
    assert isinstance(found, RolledBack)
    assert (found.number, found.version, found.bad, found.voids) == (3, 1, 2, None)


def test_what_a_newer_version_wrote_into_the_sequence_is_refused() -> None:
    row = {**EVERY[1].row(), "to_state": "split"}
    with pytest.raises(UnknownEvent, match=r"the ledger's row champion:1 is 'split'.*newer"):
        from_row(row)


def test_a_row_about_a_version_that_names_none_is_refused() -> None:
    row = {**EVERY[0].row(), "version": None}
    with pytest.raises(UnknownEvent, match=r"the ledger's row challenger:3 \('challenger'\) names no version"):
        from_row(row)


def test_no_event_of_a_model_s_life_has_a_mail_s_state() -> None:
    """Both are rows of one ledger, told apart by it."""
    states = {each.state for each in (*KINDS.values(), *NUMBERED.values())}
    assert states.isdisjoint(ledger.MAILS)
