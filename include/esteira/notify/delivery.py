"""Mails are sent to each receiver by itself, and what came of it is written down: each is delivered, refused, or still queued."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from email.message import EmailMessage

from esteira import text
from esteira.lifecycle.events import Noted
from esteira.notify import messages, rendering
from esteira.spec import ModelSpec
from esteira.store import lake, ledger, outbox
from esteira.store.outbox import Mail, Waiting
from esteira.text import counted, printable

log = logging.getLogger(__name__)

# Tries, four days long, after which a mail that a server's policy bars is taken for refused, and the owner is told of one that it postpones.
LONG = 10
COPIES = 3  # of a mail of which nobody knows whether the server took it
LONGEST = timedelta(days=1)  # between two tries
DOUBLED = 20  # times at most that a pause doubles: of days of the longest one nothing more comes, and no moment is so far ahead

Send = Callable[[EmailMessage, str], None]  # gives a mail to the server for one receiver
Connect = Callable[[], AbstractContextManager[Send]]  # to a server that takes mails of ours; raises Unreachable


class Undeliverable(Exception):
    """The server will never take the mail for this receiver (an answer of 5xx)."""


class Postponed(Exception):
    """The server has not taken the mail; it may later."""


class Barred(Postponed):
    """The server will not take the mail by a policy of its own: it may take none of ours, or not this one, or not for this receiver."""


class Unreachable(Exception):
    """There is no server, or none that takes mails of ours: no other mail could be sent either."""


class Unknown(Exception):
    """The server had the whole mail, and did not say whether it takes it."""


@dataclass(frozen=True)
class Delivery:
    """What came of an outbox: mails (one for each receiver) sent, refused, given up, and still waiting, with the last error."""

    sent: int = 0
    refused: int = 0
    lost: int = 0
    waiting: int = 0
    error: str = ""

    def __str__(self) -> str:
        said = f"{counted(self.sent, 'mail')} sent, {self.waiting:,} waiting"
        said += f", {self.refused:,} refused" if self.refused else ""
        said += f", {self.lost:,} given up" if self.lost else ""
        return said + (f"; {self.error}" if self.error else "")


def deliver(spec: ModelSpec, minutes: float, connect: Connect, *, sender: str, only: str = "") -> Delivery:
    """Send what waits in a model's outbox; returns what came of it.

    A mail is tried when it has been queued for `minutes` (younger ones are left to the task that queued them, and tries
    itself), and then after pauses that double, up to a day. `only` names one mail. A mail that can't be sent stops none of
    the others. Where no server can be reached nothing is tried, and nothing written: an outage makes no pause longer.

    A mail that a server postpones is tried for ever, and the owner is told after four days. One that a policy of it bars waits, for
    four days at most, as long as the server has taken no other one since that was queued: it may take none of ours, which is to be
    mended there. The owner is mailed at once, which shows it. Once the server has taken one, the mail is refused.
    """
    done = Delivery()
    every = [each for each in outbox.waiting(spec) if only in ("", each.mail.key)]
    now = lake.clock()
    for number, each in enumerate(every):
        if now < _due(each, minutes, now):
            done = replace(done, waiting=done.waiting + 1)
            continue
        if each.unknown >= COPIES:
            done = _given_up(spec, each, done)
            continue
        try:
            with connect() as send:
                done = _sent(spec, each, send, sender, done)
        except Unreachable as error:
            log.warning("model %s: no mail can be sent: %s", spec.name, error)
            return replace(done, waiting=done.waiting + len(every) - number, error=str(error))
    return done


def once(connect: Connect) -> Connect:
    """The same connection, but a server that could not be reached is not asked again: for the outboxes of many models."""
    down: list[Unreachable] = []

    @contextmanager
    def connected() -> Iterator[Send]:
        if down:
            raise down[0]
        try:
            with connect() as send:
                yield send
        except Unreachable as error:
            down.append(error)
            raise

    return connected


def _due(given: Waiting, minutes: float, now: datetime) -> datetime:
    since = given.last or given.queued_at
    if since > now:  # by a clock that was ahead: nobody knows when it was, and it must not wait until then
        return now
    due: datetime = since + min(timedelta(minutes=minutes) * 2 ** min(given.tries, DOUBLED), LONGEST)
    return due


def _given_up(spec: ModelSpec, given: Waiting, done: Delivery) -> Delivery:
    """Note that a mail goes out no more, though nobody knows whether it has arrived."""
    why = (
        f"nobody knows whether {given.receiver} has it: {given.unknown} copies were sent, and the server never answered"
    )
    ledger.write(spec, outbox.fate(spec, given, "lost", why))
    log.error("model %s: %r is given up: %s", spec.name, given.mail.subject, why)
    return replace(done, lost=done.lost + 1, error=why)


def _sent(spec: ModelSpec, given: Waiting, send: Send, sender: str, done: Delivery) -> Delivery:
    """Try to send a mail to its receiver, and write down what came of it."""
    # Before it is sent: a process that dies meanwhile has sent a copy that must be counted.
    if not ledger.write(spec, outbox.fate(spec, given, "sending", f"to {given.receiver}")):
        return replace(done, waiting=done.waiting + 1)  # another process makes this very try
    try:
        _give(spec, given, send, sender)
    except Undeliverable as error:
        said = printable(text.said(error))
        told = _refuse(spec, given, said)
        return replace(done, refused=done.refused + 1, error=done.error if told else f"nobody can be told: {said}")
    except Unknown as error:
        said = printable(text.said(error))  # a log takes no half a character either
        log.warning("model %s: whether %r was taken is not known: %s", spec.name, given.mail.subject, said)
        return replace(done, waiting=done.waiting + 1, error=said)
    except Exception as error:  # whatever it was, the other mails are sent
        said, unexpected = printable(text.said(error)), not isinstance(error, Postponed)
        log.warning("model %s: %r was not sent: %s", spec.name, given.mail.subject, said, exc_info=unexpected)
        # After a try or two it may be a greylist, or a full mailbox.
        notices = _notices(spec, given, said, waits=True) if given.tries >= LONG else []
        ledger.write(spec, outbox.fate(spec, given, "postponed", f"{type(error).__name__}: {said}"), *notices)
        return replace(done, waiting=done.waiting + 1, error=said)
    ledger.write(spec, outbox.fate(spec, given, "delivered", f"mailed to {given.receiver}"))
    return replace(done, sent=done.sent + 1)


def _give(spec: ModelSpec, given: Waiting, send: Send, sender: str) -> None:
    try:
        send(rendering.message(given.mail, sender), given.receiver)
    except Barred as error:
        taken = outbox.last_delivered(spec)
        if (taken is not None and taken >= given.queued_at) or given.tries >= LONG:
            raise Undeliverable(text.said(error)) from error
        ledger.write(spec, *_notices(spec, given, printable(text.said(error))))
        raise


def _refuse(spec: ModelSpec, given: Waiting, why: str) -> bool:
    """Note that a receiver's server refuses a mail for good, and tell the owner; returns whether there is one to tell.

    Never of a refused notice, nor to the refused address.
    """
    rows = _notices(spec, given, why)
    ledger.write(spec, outbox.fate(spec, given, "refused", why), *rows)
    log.error("model %s: the mail server refuses %s for good: %s", spec.name, given.receiver, why)
    return bool(rows)


def _notices(spec: ModelSpec, given: Waiting, why: str, *, waits: bool = False) -> list[Noted]:
    """The notice to the owner that a receiver does not get a mail, or not yet, to be queued; none of a notice, or to that receiver."""
    notice = messages.refused(spec, given.mail, given.receiver, why, waits=waits)
    is_notice = given.mail.key.startswith(f"{spec.name}/{messages.REFUSED}/")
    is_owner = spec.owner.casefold() == given.receiver.casefold()
    return [] if is_notice or is_owner else [outbox.queued(spec, notice, given.day, given.by)]


def deliver_now(spec: ModelSpec, mail: Mail, connect: Connect, *, sender: str) -> None:
    """Try a mail that was queued just now; where that fails it waits in the outbox, and nothing is raised."""
    try:
        found = deliver(spec, 0, connect, sender=sender, only=mail.key)
        log.info("model %s: %r: %s", spec.name, mail.subject, found)
    except Exception:  # it is in the outbox, whatever this was
        log.exception("model %s: %r waits in the outbox", spec.name, mail.subject)
