"""How mails leave Airflow: through its SMTP connection, and from its callbacks."""

from __future__ import annotations

import logging
import smtplib
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import get_current_context

from esteira.spec import ModelSpec

if TYPE_CHECKING:
    from email.message import EmailMessage

    from esteira.store.outbox import Mail


log = logging.getLogger(__name__)

SMTP = "smtp_default"
PATIENCE = 60.0  # seconds that a server may take to answer once it has a mail
PERMANENT = 500  # answers of a mail server from here on are for good


def send(mail: EmailMessage, receiver: str) -> None:
    """Give a mail to the server of Airflow's SMTP connection, for one receiver.

    Raises Unreachable, Postponed or Refused where it is certain that the server has not taken it, and Unknown where it is not.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    from esteira.notify.delivery import Refused, Unreachable

    try:
        hook = SmtpHook(SMTP).get_conn()
    except Exception as error:  # a connection that is not set up, a name that is none, a server that is down
        raise Unreachable(f"{type(error).__name__}: {error}") from error
    with hook:
        client = hook._smtp_client  # the hook's own send makes HTML-only mails without a Message-ID of ours
        assert client is not None, "the hook is connected"
        try:
            _give(client, mail, hook.from_email or "esteira@localhost", receiver)
        except smtplib.SMTPServerDisconnected as error:
            raise Unreachable(str(error)) from error
        except UnicodeEncodeError as error:
            raise Refused(f"{receiver!r} is no address that the server can be told: {error}") from error


def _give(client: smtplib.SMTP, mail: EmailMessage, sender: str, receiver: str) -> None:
    """One mail to one receiver, step by step, so that it is known how far it came."""
    from esteira.notify.delivery import Unknown

    mail.replace_header("From", sender)
    client.ehlo_or_helo_if_needed()
    _require(*client.mail(sender), "the sender")
    _require(*client.rcpt(receiver), receiver)
    if client.sock is not None:
        client.sock.settimeout(PATIENCE)
    try:
        code, answer = client.data(mail.as_bytes())
    except smtplib.SMTPDataError as error:  # it did not even want to hear it
        _require(int(error.smtp_code), error.smtp_error, receiver)
        raise
    except (OSError, smtplib.SMTPServerDisconnected) as error:
        raise Unknown(f"{type(error).__name__}: {error}") from error
    _require(code, answer, receiver)


def _require(code: int, answer: bytes | str, what: str) -> None:
    from esteira.notify.delivery import Postponed, Refused

    if code < 400:
        return
    said = answer.decode(errors="replace") if isinstance(answer, bytes) else answer
    raise (Refused if code >= PERMANENT else Postponed)(f"{what}: {code} {said}")


def deliver_now(spec: ModelSpec, mail: Mail) -> None:
    """Try a mail that was queued just now; where that fails it waits in the outbox."""
    from esteira.notify import delivery

    delivery.deliver_now(spec, mail, send, sender=sender())


def sender() -> str:
    """Who mails are from, until the connection says it."""
    return "esteira@localhost"


def airflow_url() -> str:
    """The address of Airflow's pages; empty where it has none."""
    from airflow.configuration import conf

    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def run_url() -> str:
    """The page of the run that is at work."""
    run = get_current_context()["dag_run"]
    return f"{airflow_url()}/dags/{run.dag_id}/runs/{run.run_id}"


def mail_failure_of(spec: ModelSpec) -> Any:
    """A callback that queues the mail about a task that failed for good."""

    def mail_failure(context: Mapping[str, Any]) -> None:
        from esteira.notify import messages

        instance = context["task_instance"]
        mapped = f"[{instance.map_index}]" if instance.map_index >= 0 else ""
        mail = messages.failure(
            spec,
            f"{instance.task_id}{mapped}",
            f"{instance.dag_id}/{instance.run_id}",
            context.get("exception"),
            instance.log_url,
            instance.try_number,
        )
        queue(spec, mail, datetime.now(ZoneInfo(spec.time.timezone)).date(), f"{instance.dag_id}/{instance.run_id}")

    return mail_failure


def queue(spec: ModelSpec, mail: Mail, day: Any, by: str) -> None:
    """Queue a mail and try it; where the lake is what failed it can't wait there, and is only sent."""
    from esteira import steps
    from esteira.notify import rendering

    try:
        new = steps.queue(spec, mail, day, by)
    except Exception:  # the lake may be what failed: then the mail can't wait in it
        log.exception("model %s: %r is not in the outbox", spec.name, mail.subject)
        for receiver in mail.to:
            send(rendering.message(mail, sender()), receiver)
        return
    if new:
        deliver_now(spec, mail)
