"""How mails leave Airflow: through its SMTP connection, and from its callbacks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import date, datetime
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import get_current_context

from esteira.spec import ModelSpec, today

if TYPE_CHECKING:
    import smtplib
    from email.message import EmailMessage

    from esteira.notify.delivery import Send
    from esteira.store.outbox import Mail


log = logging.getLogger(__name__)

SMTP = "smtp_default"
PATIENCE = 60.0  # seconds that a server has, at least, to answer once it has a mail
SENDER = "esteira@localhost"  # where the connection names none


@contextmanager
def connected() -> Iterator[Send]:
    """The server of Airflow's SMTP connection, once it takes mails of this sender.

    Raises Unreachable, and what it yields raises Postponed or Undeliverable, where it is certain that the server has not taken the
    mail, and Unknown where it is not.
    """
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    from esteira.notify import smtp
    from esteira.notify.delivery import Unreachable

    with ExitStack() as stack:
        try:
            hook = stack.enter_context(SmtpHook(SMTP))
            client = cast("smtplib.SMTP", hook._smtp_client)  # the hook's own send gives a mail no Message-ID of ours
            origin = hook.from_email or SENDER
            smtp.require_sender(client, origin)
        except Exception as error:  # a connection that is not set up, a name that is none, a server that is down
            raise Unreachable(f"no mail server ({SMTP}): {type(error).__name__}: {error}") from error
        yield lambda mail, receiver: smtp.give(client, mail, origin, receiver, max(PATIENCE, hook.timeout))


def send(mail: EmailMessage, receiver: str) -> None:
    """Give a mail to the server of Airflow's SMTP connection, for one receiver; raises what connected() says."""
    with connected() as given:
        given(mail, receiver)


def deliver_now(spec: ModelSpec, mail: Mail) -> None:
    """Try a mail that was queued just now; where that fails it waits in the outbox."""
    from esteira.notify import delivery

    delivery.deliver_now(spec, mail, connected, sender=SENDER)


def airflow_url() -> str:
    """The address of Airflow's pages; empty where it has none."""
    from airflow.configuration import conf

    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def api_url() -> str:
    """The address of Airflow's API for tasks, which may reach it elsewhere than people do."""
    from airflow.configuration import conf

    own = str(conf.get("core", "execution_api_server_url", fallback="") or "").rstrip("/").removesuffix("/execution")
    return own or airflow_url() or "http://localhost:8080"


def run_url() -> str:
    """The page of the run that is at work."""
    run = get_current_context()["dag_run"]
    return f"{airflow_url()}/dags/{run.dag_id}/runs/{run.run_id}"


def mail_failure_of(spec: ModelSpec) -> Any:
    """A callback that queues the mail about a task that failed for good."""

    def mail_failure(context: Mapping[str, Any]) -> None:
        from esteira.notify import messages

        instance, dag_run = context["task_instance"], context["dag_run"]
        run = f"{instance.dag_id}/{instance.run_id}"
        task = instance.task_id + (f"[{instance.map_index}]" if instance.map_index >= 0 else "")
        if _told_by_watchdog(spec, task, run, dag_run.start_date):
            log.warning("model %s: the watchdog has told already that %s of %s failed", spec.name, task, run)
            return
        mail = messages.failure(
            spec,
            task,
            run,
            dag_run.start_date,
            context.get("exception"),
            instance.log_url,
            getattr(dag_run, "clear_number", 0) or 0,  # which a run by DAG.test() does not have
            _days_of_span(context) or _days(spec, dag_run),
        )
        queue(spec, mail, today(spec.time.timezone), run)

    return mail_failure


def _days_of_span(context: Mapping[str, Any]) -> tuple[date, date] | None:
    """The first and the last day of the span that a task of a long range is about, as it is named; None of other tasks."""
    found = [date.fromisoformat(day) for day in re.findall(r"\d{4}-\d\d-\d\d", str(context.get("name", "")))]
    return (found[0], found[-1]) if found else None


def _days(spec: ModelSpec, dag_run: Any) -> tuple[date, date] | None:
    """The first and the last day that a run is about; None where what was asked is what is wrong."""
    from esteira.dags.common import days_asked

    try:
        due = dag_run.logical_date or dag_run.run_after
        return days_asked(spec, dag_run.conf or {}, dag_run.partition_key, due)
    except Exception:  # the mail is to go out, whatever this was
        log.exception("model %s: the days of the run can't be told", spec.name)
        return None


def _told_by_watchdog(spec: ModelSpec, task: str, run: str, began: datetime | None) -> bool:
    """Whether the task was mailed about, in the run since it began: Airflow may call a callback late, where its processes were down."""
    from esteira.notify import messages
    from esteira.store import outbox

    try:
        mails = outbox.mails(spec, messages.of_run(run, began) + messages.UNREPORTED)
        return bool(messages.tasks_told(mails) & {task, ""})
    except Exception:  # the lake may be what failed, and the mail is to say so
        log.exception("model %s: whether the watchdog has told of %s can't be seen", spec.name, run)
        return False


def queue(spec: ModelSpec, mail: Mail, day: Any, by: str) -> None:
    """Queue a mail and try it; where the lake is what failed it can't wait there, and is only sent."""
    from esteira import steps
    from esteira.notify import rendering

    try:
        new = steps.queue(spec, mail, day, by)
    except Exception:  # the lake may be what failed: then the mail can't wait in it
        log.exception("model %s: %r is not in the outbox", spec.name, mail.subject)
        _send_unqueued(spec, rendering.message(mail, SENDER), mail.to)
        return
    if new:
        deliver_now(spec, mail)


def _send_unqueued(spec: ModelSpec, message: EmailMessage, receivers: tuple[str, ...]) -> None:
    for receiver in receivers:
        try:
            send(message, receiver)
        except Exception:  # the next one may be reached; nothing else can be done for this one
            log.exception("model %s: %r was not sent to %s", spec.name, message["Subject"], receiver)
