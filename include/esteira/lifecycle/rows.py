"""What the rows of the ledger mean: the table of every kind of event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from esteira.errors import UnknownEvent
from esteira.lifecycle.events import (
    Dated,
    Drifted,
    Event,
    Kept,
    Noted,
    Recovered,
    Registered,
    Rejected,
    Unrecovered,
    Verified,
    Warned,
)
from esteira.lifecycle.sequence import Numbered, Pinned, Promoted, Released, RolledBack, Undone

# By how their ids begin, and in the one sequence by the state that they lead to. Any other row is only noted.
KINDS: Mapping[str, type[Event]] = {
    "challenger": Registered,
    "rejected": Rejected,
    "verified": Verified,
    "dated": Dated,
    "warned": Warned,
    "unrecovered": Unrecovered,
    "recovered": Recovered,
    "drifted": Drifted,
}
NUMBERED: Mapping[str, type[Numbered]] = {each.state: each for each in (Promoted, RolledBack, Undone, Pinned, Released)}


def from_row(row: Mapping[str, Any]) -> Event:
    """The event that a row of the ledger keeps. Raises UnknownEvent where it changes what is published in a way not known."""
    kept = Kept.of(row)
    if kept.kind != "champion":
        return KINDS.get(kept.kind, Noted).of_row(kept)
    if kept.to_state not in NUMBERED:
        raise UnknownEvent(
            f"the ledger's row {kept.id} is {kept.to_state!r}, which this version of Esteira does not know; it was written by a "
            "newer one: use that"
        )
    return NUMBERED[kept.to_state].of_row(kept)
