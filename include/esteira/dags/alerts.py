"""How mails leave Airflow: through its SMTP connection, and from its callbacks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.sdk import (
    get_current_context,
)

from esteira.spec import ModelSpec

if TYPE_CHECKING:
    from esteira.steps.mails import Mail


log = logging.getLogger(__name__)

SMTP = "smtp_default"


def send(mail: Mail) -> None:
    """Send a mail through Airflow's SMTP connection, as text and HTML."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    with SmtpHook(SMTP) as hook:
        client = hook._smtp_client  # the hook's own send makes HTML-only mails without a Message-ID of ours
        assert client is not None, "the hook connects when it is entered"
        client.send_message(mail.message(hook.from_email or "esteira@localhost"))


def airflow_url() -> str:
    """The address of Airflow's pages; empty where it has none."""
    from airflow.configuration import conf

    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def run_url() -> str:
    """The page of the run that is at work."""
    run = get_current_context()["dag_run"]
    return f"{airflow_url()}/dags/{run.dag_id}/runs/{run.run_id}"


def mail_failure_of(spec: ModelSpec) -> Any:
    """A callback that mails that a task failed for good."""

    def mail_failure(context: Mapping[str, Any]) -> None:
        from esteira import steps

        instance = context["task_instance"]
        mapped = f"[{instance.map_index}]" if instance.map_index >= 0 else ""
        mail = steps.failure_mail(
            spec,
            f"{instance.task_id}{mapped}",
            instance.run_id,
            context.get("exception"),
            instance.log_url,
            instance.try_number,
        )
        day = datetime.now(ZoneInfo(spec.time.timezone)).date()
        try:
            steps.post(spec, mail, day, f"{instance.dag_id}/{instance.run_id}", send)
        except Exception:  # the lake may be what failed: then the mail can't wait in it
            log.exception("model %s: the failure mail is not in the ledger, or was not taken", spec.name)
            send(mail)

    return mail_failure
