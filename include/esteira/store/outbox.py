"""Mails wait in the ledger until a server has taken them: a mail is queued with what it tells of, in one transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from typing import Any

from esteira.lifecycle.events import Noted
from esteira.spec import ModelSpec
from esteira.store import ledger
from esteira.text import printable

log = logging.getLogger(__name__)

Section = tuple[str, list[str], list[list[str]]]  # a title, the heads of its columns, its rows


@dataclass(frozen=True)
class Weeks:
    """A metric over the last weeks: its range, and of each window the last day, the value and the version that served it."""

    metric: str
    low: float | None
    high: float | None
    windows: tuple[tuple[str, float, int], ...]


@dataclass(frozen=True)
class Mail:
    """What is mailed, without a form yet. `key` gives it its Message-ID: the same mail again has the same one.

    `todo` says what its reader is to do, and `lead` what there is. `tasks` are those whose failure it tells of, `weeks` how the model's
    metric went.
    """

    key: str
    to: tuple[str, ...]
    subject: str
    lead: str
    sections: tuple[Section, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    tasks: tuple[str, ...] = ()
    todo: str = ""
    weeks: Weeks | None = None


def queued(spec: ModelSpec, mail: Mail, day: date, by: str) -> Noted:
    """The ledger's row that a mail waits in; it is queued once."""
    name = name_of(spec, mail)
    why = printable(mail.subject)  # a column takes no half a character; the mail itself is kept as JSON, which does
    return Noted(name=f"queued:{name}", to_state="queued", day=day, by=by, why=why, facts={"mail": asdict(mail)})


def name_of(spec: ModelSpec, mail: Mail) -> str:
    """By what the ledger knows a mail."""
    return mail.key.removeprefix(f"{spec.name}/")


@dataclass(frozen=True)
class Waiting:
    """A mail that one of its receivers has not got yet.

    `tries` counts all attempts to send it, `unknown` those of which nobody knows whether the server took it; `last` is when
    the last one was made.
    """

    mail: Mail
    receiver: str
    day: date
    by: str
    queued_at: datetime
    last: datetime | None = None
    tries: int = 0
    unknown: int = 0


def waiting(spec: ModelSpec) -> list[Waiting]:
    """The mails that wait, one for each receiver, in the order in which they were queued."""
    rows = ledger.rows(spec, ["id", "at", "effective_day", "to_state", "evidence", "by"])
    rows = rows[rows["to_state"].isin(ledger.MAILS)].sort_values("at", kind="stable")
    is_queued = rows["to_state"] == "queued"
    found: dict[tuple[str, str], Waiting] = {}
    for row in rows[is_queued].to_dict("records"):
        found |= _queued_for_each(spec, row)
    # After all that was queued: the clocks of two machines may differ, and a mail that was taken must not go out again.
    for row in rows[~is_queued].to_dict("records"):
        facts = json.loads(row["evidence"] or "{}")
        _note(found, row["to_state"], str(row["id"]), facts, row["at"].to_pydatetime())
    return list(found.values())


def _queued_for_each(spec: ModelSpec, row: Mapping[Any, Any]) -> dict[tuple[str, str], Waiting]:
    """A mail as it was queued, for each of its receivers; nothing where its row can't be read, which must not stop the others."""
    mail = _restored_of(spec, row)
    if mail is None:
        return {}
    about = row["effective_day"].date(), str(row["by"]), row["at"].to_pydatetime()
    return {(name_of(spec, mail), receiver): Waiting(mail, receiver, *about) for receiver in mail.to}


def _restored_of(spec: ModelSpec, row: Mapping[Any, Any]) -> Mail | None:
    try:
        return _restored(json.loads(row["evidence"])["mail"])
    except (KeyError, TypeError, ValueError) as error:
        log.error("model %s: the mail of row %r can't be read, and is not sent: %r", spec.name, row["id"], error)
        return None


def _note(found: dict[tuple[str, str], Waiting], state: str, key: str, facts: dict[str, str], at: datetime) -> None:
    """Take what is known of a mail's fate into account."""
    if "receiver" not in facts:  # of 0.1, which knew only that a mail was sent
        for name, receiver in [each for each in found if each[0] == key.partition(":")[2]]:
            found.pop((name, receiver))
        return
    place = facts["mail"], facts["receiver"]
    known = found.get(place)
    if known is None:
        return
    if state in ("delivered", "refused", "lost"):
        found.pop(place)
    elif state == "sending":
        found[place] = replace(known, last=at, tries=known.tries + 1, unknown=known.unknown + 1)
    elif state == "postponed":
        found[place] = replace(known, unknown=known.unknown - 1)


def fate(spec: ModelSpec, given: Waiting, state: ledger.Fate, why: str) -> Noted:
    """The ledger's row of what came of a try to send a mail: sending (it begins), postponed, delivered, refused or lost."""
    name = name_of(spec, given.mail)
    number = f"/{given.tries}" if state in ("sending", "postponed") else ""
    return Noted(
        name=f"{state}:{name}/{given.receiver}{number}",
        to_state=state,
        from_state="queued",
        day=given.day,
        by=given.by,
        why=printable(why),
        facts={"mail": name, "receiver": given.receiver},
    )


def mails(spec: ModelSpec, start: str, since: datetime | None = None) -> list[Mail]:
    """The mails whose name begins so, of those queued ever, or at a moment or later by the clock of who queued it."""
    rows = ledger.rows(spec, ["id", "at", "evidence"], to_state="queued")
    rows = rows if since is None or rows.empty else rows[rows["at"] >= since]
    mine = rows[rows["id"].str.startswith(f"queued:{start}")] if len(rows) else rows
    return [mail for mail in (_restored_of(spec, dict(row)) for row in mine.to_dict("records")) if mail is not None]


def last_delivered(spec: ModelSpec) -> datetime | None:
    """When a server last took a mail of the model; None where none did."""
    rows = ledger.rows(spec, ["at"], to_state="delivered")
    return rows["at"].max().to_pydatetime() if len(rows) else None


def _restored(given: dict[str, Any]) -> Mail:
    sections = tuple((title, head, rows) for title, head, rows in given["sections"])
    links = tuple((name, link) for name, link in given["links"])
    return Mail(
        given["key"],
        tuple(given["to"]),
        given["subject"],
        given["lead"],
        sections,
        links,
        tuple(given.get("tasks", ())),
        given.get("todo", ""),  # which mails of 0.2 have not
        _weeks(given.get("weeks")),
    )


def _weeks(given: dict[str, Any] | None) -> Weeks | None:
    if given is None:
        return None
    windows = tuple((day, value, version) for day, value, version in given["windows"])
    return Weeks(given["metric"], given["low"], given["high"], windows)
