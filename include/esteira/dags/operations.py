"""The DAGs that look after all models at once: maintenance of the tables, mails that wait, predictions that are not as published."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import (
    DAG,
    CronTriggerTimetable,
    Param,
    get_current_context,
    get_parsing_context,
    task,
)

from esteira.dags import alerts
from esteira.dags.building import Budget, loaded
from esteira.dags.common import LATE, PERMANENT, context_of_run
from esteira.dags.timeouts import end_with_its_process
from esteira.errors import OutOfReach
from esteira.settings import settings
from esteira.spec import CENTURY, ModelSpec, by_name, model_files

if TYPE_CHECKING:
    from esteira.notify.delivery import Connect

log = logging.getLogger(__name__)


def operations() -> dict[str, DAG]:
    """The DAGs that look after all models at once: maintenance of the tables, mails that wait, predictions that are not as published."""
    if get_parsing_context().dag_id not in (None, "esteira_maintenance", "esteira_outbox", "esteira_reconcile"):
        return {}
    specs, files, budget = [], model_files(), Budget()
    named = by_name(files)
    for path in files:
        try:
            specs.append(loaded(path, named, budget))
        except Exception as error:  # dags/broken_models.py shows it
            log.error("%s", error)
    return {dag.dag_id: dag for dag in (_maintenance_dag(specs), _outbox_dag(specs), _reconcile_dag(specs))}


def _operation(name: str, schedule: str, doc: str, **options: Any) -> DAG:
    return DAG(
        dag_id=f"esteira_{name}",
        schedule=CronTriggerTimetable(schedule, timezone="UTC", run_immediately=LATE),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,  # a mail must not wait for somebody to think of this
        description=doc.partition("\n")[0],
        doc_md=doc,
        tags={"esteira", "operations"},
        auto_register=False,
        default_args={
            "retries": 2,
            "retry_delay": timedelta(minutes=1),
            "retry_policy": PERMANENT,
            "execution_timeout": timedelta(hours=1),
            "pre_execute": end_with_its_process,
        },
        **options,
    )


def _maintenance_dag(specs: list[ModelSpec]) -> DAG:
    doc = """Compact every model's tables, remove files that nothing needs any more, and write checkpoints.

A file stays for the days given after it was replaced, so that who reads it can end, and for good where it belongs to a
Delta version that a registered model version was trained on."""
    days = Param(
        7, type="integer", minimum=1, maximum=CENTURY, title="Days", description="How long a replaced file is kept."
    )
    with _operation("maintenance", "0 3 * * 0", doc, params={"days": days}) as dag:

        def mail_failure(context: Mapping[str, Any]) -> None:
            alerts.mail_failure_of(specs[context["task_instance"].map_index])(context)

        @task(map_index_template="{{ name }}", on_failure_callback=mail_failure)
        def maintain(index: int) -> str:
            from esteira import steps

            get_current_context()["name"] = specs[index].name  # type: ignore[typeddict-unknown-key]
            return steps.maintain(specs[index], context_of_run()[0]["days"])

        maintain.expand(index=list(range(len(specs))))
    return dag


def _outbox_dag(specs: list[ModelSpec]) -> DAG:
    doc = """Send the mails that no mail server took when they were written.

Each is in its model's ledger until it is delivered, and always has the same Message-ID. Mails younger than the minutes given
are left to the task that wrote them, and tries to send them itself."""
    minutes = Param(
        15, type="number", minimum=0, maximum=525_600, title="Minutes", description="How old a mail must be."
    )
    schedule = settings().outbox_schedule
    with _operation("outbox", schedule, doc, params={"minutes": minutes}) as dag:

        @task(retries=0)
        def deliver() -> dict[str, str]:
            from esteira.notify import delivery

            minutes, connect = context_of_run()[0]["minutes"], delivery.once(alerts.connected)
            return _each(specs, lambda spec: _delivered(spec, minutes, connect))

        deliver()
    return dag


def _delivered(spec: ModelSpec, minutes: float, connect: Connect) -> str:
    from esteira.notify import delivery

    found = delivery.deliver(spec, minutes, connect, sender=alerts.SENDER)
    if found.error:  # a red task is all that can tell of a mail server that is down
        raise OutOfReach(str(found))
    return str(found)


def _each(specs: list[ModelSpec], work: Callable[[ModelSpec], str]) -> dict[str, str]:
    """Do the work for one model after the other, and say what came of it; one that fails keeps none of the others."""
    said: dict[str, str] = {}
    failed: list[str] = []
    for spec in specs:
        try:
            said[spec.name] = work(spec)
            log.info("model %s: %s", spec.name, said[spec.name])
        except Exception as error:  # whatever it was, the other models' turn comes
            log.exception("model %s", spec.name)
            failed.append(f"{spec.name}: {error}")
    if failed:
        raise RuntimeError("; ".join(failed))
    return said


def _reconcile_dag(specs: list[ModelSpec]) -> DAG:
    doc = """Bring every model's predictions to the version that its ledger publishes for each day.

A check, a roll-back, and scoring do so by themselves; this is for what died in between. Where all is so it reads no rows."""
    with _operation("reconcile", settings().reconcile_schedule, doc) as dag:

        @task
        def reconcile() -> dict[str, str]:
            from esteira import steps

            run = context_of_run()[1]
            return _each(specs, lambda spec: str(steps.reconcile(spec, run)))

        reconcile()
    return dag
