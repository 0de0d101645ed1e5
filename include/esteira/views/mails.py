"""The mails about a model: what they were about, and whether they have come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from esteira.spec import ModelSpec
from esteira.store import ledger

WAITS = "waits"


@dataclass(frozen=True)
class MailOf:
    """A mail to one receiver: when it was queued, the day that it is about, and what came of it (`waits` where it is to be sent yet)."""

    at: datetime
    day: date
    subject: str
    to: str
    state: str


def mails(spec: ModelSpec, since: date = date.min, queued_since: datetime | None = None) -> tuple[MailOf, ...]:
    """The mails about the days since then, and those that were queued since a moment, in the order in which they were queued."""
    rows = ledger.rows(spec, ["id", "at", "effective_day", "to_state", "why", "evidence"])
    rows = rows[rows["to_state"].isin(ledger.MAILS)].sort_values("at", kind="stable")
    fates: dict[tuple[str, str], str] = {}
    every = rows.to_dict("records")
    for row in every:
        facts = json.loads(row["evidence"] or "{}")
        if row["to_state"] != "queued" and "receiver" in facts:
            fates[facts["mail"], facts["receiver"]] = row["to_state"]
    return tuple(
        mail
        for row in every
        if row["to_state"] == "queued"
        and (row["effective_day"].date() >= since or (queued_since is not None and row["at"] >= queued_since))
        for mail in _of_each(row, fates)
    )


def _of_each(row: Mapping[Any, Any], fates: Mapping[tuple[str, str], str]) -> list[MailOf]:
    name, about = row["id"].partition(":")[2], json.loads(row["evidence"] or "{}").get("mail", {})
    return [
        MailOf(
            row["at"].to_pydatetime(),
            row["effective_day"].date(),
            str(row["why"]),
            str(each),
            fates.get((name, each), WAITS),
        )
        for each in about.get("to", [])
    ]
