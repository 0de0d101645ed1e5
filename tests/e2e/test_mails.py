"""Failures that no callback can tell of, on a live Airflow: each is mailed once, by the watchdog in esteira_outbox."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from pathlib import Path

import psutil
import pytest
from esteira import spec

from ops import supervision
from ops.api import Airflow
from ops.layout import Stack
from tests.models import AS_OF

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


def doomed(kills: int) -> Path:
    """Let the process of the model's features.py be killed so often before it fails; returns its folder."""
    folder = spec.find("doomed").folder
    (folder / "kills").write_text(str(kills))
    for name in ("failing", "go"):
        (folder / name).unlink(missing_ok=True)
    return folder


def tick(airflow: Airflow) -> None:
    """Let the outbox look at once. It is red for one thing only: this stack has a model whose model.yaml is broken."""
    airflow.unpause("esteira_outbox")
    run_id = airflow.trigger("esteira_outbox", minutes=0)
    airflow.wait("esteira_outbox", run_id)
    assert airflow.tasks("esteira_outbox", run_id) == {"watch": "success", "deliver": "failed", "watched": "success"}
    log = str(airflow.call("GET", f"/dags/esteira_outbox/dagRuns/{run_id}/taskInstances/deliver/logs/1"))
    assert "the mails of broken wait until the model.yaml is mended" in log


def mails_about(stack: Stack, run_id: str) -> list[EmailMessage]:
    """What the catcher has about a run."""
    every = (
        email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in stack.mails.glob("*.eml")
    )
    return [mail for mail in every if run_id in said(mail)]


def said(mail: EmailMessage) -> str:
    body = mail.get_body(("plain",))
    assert body is not None
    return str(body.get_content())


def test_a_task_that_is_killed_at_each_try_is_mailed_once(airflow: Airflow, stack: Stack) -> None:
    doomed(kills=3)
    airflow.unpause("doomed_train")
    run_id = airflow.trigger("doomed_train", day=str(AS_OF))
    assert airflow.wait("doomed_train", run_id, 240) == "failed"
    assert airflow.tasks("doomed_train", run_id)["validate"] == "failed"
    assert mails_about(stack, run_id) == []  # which is why there is a watchdog
    tick(airflow)
    (mail,) = mails_about(stack, run_id)
    assert mail["Subject"] == "doomed: task validate failed"
    assert mail["To"] == "ops@example.com"
    text = said(mail)
    assert "task validate failed at its try 3" in " ".join(text.split())
    assert f"{stack.web}/dags/doomed_train/runs/{run_id}" in text
    assert f"{stack.web}/dags/doomed_train/runs/{run_id}/tasks/validate?try_number=3" in text
    tick(airflow)
    assert len(mails_about(stack, run_id)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("everything", [False, True], ids=["alone", "with its workers"])
def test_a_failure_at_the_last_try_as_the_scheduler_is_killed_is_mailed_once(
    airflow: Airflow, stack: Stack, everything: bool
) -> None:
    """Alone: the task mails by itself, but Airflow may not hear how it ended, and runs it once more.

    With its workers, and so with the task: the next scheduler finds it an orphan, and runs it once more.
    """
    folder = doomed(kills=2)
    airflow.unpause("doomed_train")
    run_id = airflow.trigger("doomed_train", day=str(AS_OF))
    airflow.until((folder / "failing").exists, 120, "the task's last try")
    scheduler = psutil.Process(supervision.interface(stack).getProcessInfo("scheduler")["pid"])
    victims = [scheduler, *(scheduler.children(recursive=True) if everything else [])]
    for victim in victims:
        victim.suspend()  # so that none can tell of another's end
    for victim in victims:
        victim.kill()
    (folder / "go").touch()
    assert airflow.wait("doomed_train", run_id, 300) == "failed"
    tick(airflow)
    tick(airflow)
    (mail,) = mails_about(stack, run_id)
    by_the_task, by_the_watchdog = "doomed: task validate for 2026-01-31 failed", "doomed: task validate failed"
    assert mail["Subject"] in (by_the_task, by_the_watchdog), "whichever saw it first"
