"""Mails wait in the ledger until a server has taken them: queued before they are sent, delivered afterwards."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from datetime import date, timedelta

from esteira.spec import ModelSpec
from esteira.steps.mails import Mail
from esteira.store import lake, ledger

log = logging.getLogger(__name__)


def post(spec: ModelSpec, mail: Mail, day: date, by: str, send: Callable[[Mail], None]) -> bool:
    """Queue a mail, send it, and record that it was taken; returns whether it was sent just now.

    A mail that was delivered before is not sent again. Where sending fails the mail stays queued, and the error is raised.
    """
    ledger.record(
        spec,
        f"queued:{_name(spec, mail)}",
        to_state="queued",
        why=mail.subject,
        by=by,
        effective=day,
        evidence={"mail": asdict(mail)},
    )
    if len(lake.read("ledger", spec.name, columns=["id"], id=f"delivered:{_name(spec, mail)}")):
        return False
    send(mail)
    _record(spec, mail, day, by)
    return True


def deliver(spec: ModelSpec, minutes: float, send: Callable[[Mail], None]) -> int:
    """Send what has been in the queue for at least so many minutes; returns how many.

    Younger mails are left to the task that queued them, and tries to send them itself. A mail that can't be sent keeps
    none of the others; what was raised first is raised in the end.
    """
    events = lake.read(
        "ledger", spec.name, columns=["id", "at", "effective_day", "to_state", "evidence", "by"]
    ).sort_values("at")
    delivered = set(events.loc[events["to_state"] == "delivered", "id"].str.removeprefix("delivered:"))
    old = events["at"] <= lake.clock() - timedelta(minutes=minutes)
    waiting = events[(events["to_state"] == "queued") & old & ~events["id"].str.removeprefix("queued:").isin(delivered)]
    refused: list[Exception] = []
    for row in waiting.to_dict("records"):
        mail = _restored(row["evidence"])
        try:
            send(mail)
        except Exception as error:  # whatever it was: the others are tried, and it is raised below
            log.exception("model %s: %r could not be sent", spec.name, mail.subject)
            refused.append(error)
            continue
        _record(spec, mail, row["effective_day"].date(), str(row["by"]))
    if refused:
        raise refused[0]
    return len(waiting)


def _record(spec: ModelSpec, mail: Mail, day: date, by: str) -> None:
    why = f"mailed to {', '.join(mail.to)}"
    ledger.record(spec, f"delivered:{_name(spec, mail)}", to_state="delivered", why=why, by=by, effective=day)


def _name(spec: ModelSpec, mail: Mail) -> str:
    return mail.key.removeprefix(f"{spec.name}/")


def _restored(evidence: str) -> Mail:
    given = json.loads(evidence)["mail"]
    sections = tuple((title, head, rows) for title, head, rows in given["sections"])
    links = tuple((name, link) for name, link in given["links"])
    return Mail(given["key"], tuple(given["to"]), given["subject"], given["lead"], sections, links)
