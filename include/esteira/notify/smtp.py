"""What is said to a mail server, and what its answers mean (RFC 5321, RFC 3463)."""

from __future__ import annotations

import re
import smtplib
from email.message import EmailMessage

from esteira.notify.delivery import Barred, Postponed, Undeliverable, Unknown

# Answers of a mail server, from the first to the last that means it.
ACCEPTED, GO_ON, PERMANENT = (200, 299), (354, 354), (500, 599)
FAILED = 400
# Refusals of the sender, by a policy, or of a server that takes nothing now; some are about this mail, or this receiver, alone.
# By their enhanced code (RFC 3463), which may come in a later line, by the answer's own, or by words that servers without codes use.
BY_POLICY = re.compile(r"(?m)^5\.(1\.[78]|3\.[0-35]|4\.\d+|5\.\d+|7\.\d+)\b")
OF_THE_SENDER = (521, 530, 534, 535, 538)
SAYS_SO = re.compile(r"relay|authenti|policy|spam|limit|quota exceeded for sender|blocked|blacklist|reputation", re.I)
CODED = re.compile(r"(?m)^\d\.\d+\.\d+\b")


def require_sender(client: smtplib.SMTP, origin: str) -> None:
    """Go as far as the server goes without a mail: who may not send at all is told so here. Raises SMTPException."""
    client.ehlo_or_helo_if_needed()
    code, answer = client.mail(origin)
    if not ACCEPTED[0] <= code <= ACCEPTED[1]:
        raise smtplib.SMTPSenderRefused(code, answer, origin)


def give(client: smtplib.SMTP, mail: EmailMessage, origin: str, receiver: str, patience: float) -> None:
    """Give one mail to one receiver, step by step, so that it is known how far it came.

    `patience` are the seconds that the server has to answer once it has the mail. Raises Postponed, Undeliverable or Barred where
    it is certain that the server has not taken it, and Unknown where it is not.
    """
    del mail["From"]
    mail["From"] = origin
    body = mail.as_bytes().rstrip(b"\r\n") + b"\r\n"
    try:
        _require(ACCEPTED, *client.rcpt(receiver), receiver)
        _require(GO_ON, *client.docmd("DATA"), receiver)
    except smtplib.SMTPException as error:  # it was not given the mail
        raise Postponed(f"{type(error).__name__}: {error}") from error
    except UnicodeEncodeError as error:
        raise Undeliverable(f"{receiver!r} is no address that the server can be told: {error}") from error
    if client.sock is not None:
        client.sock.settimeout(patience)
    try:
        client.send(re.sub(rb"(?m)^\.", b"..", body) + b".\r\n")
        code, answer = client.getreply()
    except smtplib.SMTPException as error:
        raise Unknown(f"{type(error).__name__}: {error}") from error
    if not ACCEPTED[0] <= code <= PERMANENT[1] or ACCEPTED[1] < code < FAILED:
        raise Unknown(f"{receiver}: the answer {code} {answer!r} says nothing")
    _require(ACCEPTED, code, answer, receiver)


def _require(wanted: tuple[int, int], code: int, answer: bytes, receiver: str) -> None:
    if wanted[0] <= code <= wanted[1]:
        return
    said = answer.decode(errors="replace")
    uncoded = PERMANENT[0] <= code <= PERMANENT[1] and not CODED.search(said)
    if BY_POLICY.search(said) or code in OF_THE_SENDER or (uncoded and SAYS_SO.search(said)):
        raise Barred(f"{receiver}: {code} {said}")
    raise (Undeliverable if PERMANENT[0] <= code <= PERMANENT[1] else Postponed)(f"{receiver}: {code} {said}")
