"""The DAGs that look after all models at once: maintenance of the tables, mails that wait, predictions that are not as published, roll-backs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    CronTriggerTimetable,
    Param,
    TriggerRule,
    get_current_context,
    get_parsing_context,
    task,
)
from airflow.sdk.exceptions import AirflowSkipException, AirflowTaskTimeout

from esteira import text
from esteira.dags import alerts, notes
from esteira.dags.building import Budget, loaded
from esteira.dags.common import KINDS, LATE, PERMANENT, asked_by, context_of_run, field, number_field
from esteira.dags.timeouts import end_with_its_process
from esteira.errors import OutOfReach, SpecError
from esteira.outages import is_outage
from esteira.settings import settings
from esteira.spec import CENTURY, ModelSpec, by_name, find, model_files, today
from esteira.text import counted

if TYPE_CHECKING:
    from esteira.notify.delivery import Connect
    from esteira.store.outbox import Mail

log = logging.getLogger(__name__)


def operations() -> dict[str, DAG]:
    """The DAGs that look after all models at once: maintenance of the tables, mails that wait, predictions that are not as published."""
    if get_parsing_context().dag_id not in (None, *(f"esteira_{name}" for name in BUILDERS)):
        return {}
    specs, files, budget, broken = [], model_files(), Budget(), list[str]()
    named = by_name(files)
    for path in files:
        try:
            specs.append(loaded(path, named, budget))
        except Exception as error:  # dags/broken_models.py shows it
            log.error("%s", error)
            broken.append(path.parent.name)
    return {f"esteira_{name}": build(specs, broken) for name, build in BUILDERS.items()}


def _operation(name: str, schedule: str | None, doc: str, **options: Any) -> DAG:
    return DAG(
        dag_id=f"esteira_{name}",
        schedule=CronTriggerTimetable(schedule, timezone="UTC", run_immediately=LATE) if schedule else None,
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


def _maintenance_dag(specs: list[ModelSpec], _: list[str]) -> DAG:
    doc = """Compact every model's tables, remove files that nothing needs any more, and write checkpoints.

A file stays for the days given after it was replaced, so that who reads it can end, and for good where it belongs to a
Delta version that a registered model version was trained on."""
    days = Param(
        7, type="integer", minimum=1, maximum=CENTURY, title="Days", description="How long a replaced file is kept."
    )
    with _operation("maintenance", "0 3 * * 0", doc, params={"days": days}) as dag:
        known = {spec.name: spec for spec in specs}

        def mail_failure(context: Mapping[str, Any]) -> None:
            spec = known.get(str(context.get("name")))
            if spec is not None:  # else it has failed before it knew whose turn it was
                alerts.mail_failure_of(spec)(context)

        @task(map_index_template="{{ name }}", on_failure_callback=mail_failure)
        def maintain(model: str) -> str:
            from esteira import steps

            get_current_context()["name"] = model  # type: ignore[typeddict-unknown-key]
            return steps.maintain(find(model), context_of_run()[0]["days"])

        # By name: which models there are may be another list by the time that a task runs.
        maintain.expand(model=list(known))
    return dag


def _outbox_dag(specs: list[ModelSpec], broken: list[str]) -> DAG:
    doc = """Send the mails that no mail server took when they were written, and tell of runs that could not tell themselves.

Each mail is in its model's ledger until it is delivered, and always has the same Message-ID. Mails younger than the minutes
given are left to the task that wrote them, and tries to send them itself; so are runs that failed since. `watch` is skipped
where it has no account, and its log says so."""
    minutes = Param(
        15,
        type="number",
        minimum=0,
        maximum=525_600,
        title="Minutes",
        description="How old a mail, and the end of a failed run, must be.",
    )
    schedule = settings().outbox_schedule
    with _operation("outbox", schedule, doc, params={"minutes": minutes}) as dag:

        @task(retries=0)
        def watch() -> dict[str, str]:
            return _watched(specs, timedelta(minutes=context_of_run()[0]["minutes"]))

        @task(retries=0, trigger_rule=TriggerRule.ALL_DONE)
        def deliver() -> dict[str, str]:
            from esteira.notify import delivery

            minutes, connect = context_of_run()[0]["minutes"], delivery.once(alerts.connected)
            said = _each(specs, lambda spec: _delivered(spec, minutes, connect))
            if broken:  # after the others' turn; red, for what waits there may be about just that
                raise SpecError(f"the mails of {', '.join(broken)} wait until the model.yaml is mended")
            return said

        # The end of a DAG says how its run ended: without one of its own a watch that failed would be seen by nobody.
        watch() >> [deliver(), EmptyOperator(task_id="watched", trigger_rule=TriggerRule.NONE_FAILED)]
    return dag


def _watched(specs: list[ModelSpec], age: timedelta) -> dict[str, str]:
    """Queue a mail about each run that failed at least `age` ago, or hangs, where none was queued about it yet."""
    from esteira.dags import watchdog
    from esteira.store import outbox

    given, now = settings(), datetime.now(UTC)
    password = given.api_password.get_secret_value()
    if not password:  # skipped, not red: red says that a mail could not be sent, and must not be the usual colour
        raise AirflowSkipException(
            "runs whose tasks are killed are told to nobody: ESTEIRA_API_PASSWORD is not set, the password of an Airflow account "
            f"{given.api_user!r} that may read DAGs, DAG runs and task instances"
        )
    api = watchdog.Api(given.api_url or alerts.api_url(), given.api_user, password)
    dag_ids = {spec.name: [f"{spec.name}_{kind}" for kind in KINDS] for spec in specs}
    every = [dag_id for some in dag_ids.values() for dag_id in some]
    ended, hanging = watchdog.failed(api, every, now - watchdog.DAYS, now - age), watchdog.unfinished(api, every)

    def tell(spec: ModelSpec) -> str:
        known = partial(outbox.mails, spec)
        mails = watchdog.mails(spec, dag_ids[spec.name], ended, hanging, now, alerts.airflow_url(), known)
        return f"{counted(sum(_told(spec, mail) for mail in mails), 'mail')} queued"

    return _each(specs, tell)


def _told(spec: ModelSpec, mail: Mail) -> bool:
    """Queue a mail, and try it; returns whether it was queued.

    A lake that can't be written is raised: a mail that was only sent would be sent again at every tick.
    """
    from esteira import steps

    new = steps.queue(spec, mail, today(spec.time.timezone), "esteira_outbox")
    if new:
        alerts.deliver_now(spec, mail)
    return new


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
            failed.append(f"{spec.name}: {text.said(error)}")
    if failed:
        raise RuntimeError("; ".join(failed))
    return said


def _reconcile_dag(specs: list[ModelSpec], _: list[str]) -> DAG:
    doc = """Bring every model's predictions to the version that its ledger publishes for each day.

A check, a roll-back, and scoring do so by themselves; this is for what died in between. Where all is so it reads no rows."""
    with _operation("reconcile", settings().reconcile_schedule, doc) as dag:

        @task
        def reconcile() -> dict[str, str]:
            run = context_of_run()[1]
            return _each(specs, lambda spec: _reconciled(spec, run))

        reconcile()
    return dag


def _reconciled(spec: ModelSpec, run: str) -> str:
    """What was done, in words; where days are left that could not be, it is mailed, once for the same days, and raised."""
    from esteira import steps
    from esteira.notify import messages

    try:
        found = steps.reconcile(spec, run)
    except (Exception, AirflowTaskTimeout) as error:
        instance = get_current_context()["ti"]
        if not is_outage(error) or instance.try_number > instance.max_tries:
            _told(spec, messages.not_reconciled(spec, today(spec.time.timezone), error, alerts.run_url()))
        raise
    if found.kept:
        _told(spec, messages.left_behind(spec, found.kept, alerts.run_url()))
    return found.require_whole(spec)


def _rollback_dag(specs: list[ModelSpec], _: list[str]) -> DAG:
    doc = """Go back to a version before the champion, or take the last roll-back back, as `esteira rollback` does.

Its predictions take the place of the bad one's; what was served stays in the table `served`. The page of a model shows first what it would
do, and starts it; the ledger keeps who asked. Whoever may start this DAG may roll back any model."""
    names = [spec.name for spec in specs] or ["none"]
    params = {
        "model": field(names[0], "The model.", type="string", enum=names, title="Model"),
        "to": number_field("Version", "The version to go back to; empty: the one before."),
        "day": field(
            None,
            "Only predictions from this day on go back; empty: all that the promotion had replaced.",
            type=["null", "string"],
            format="date",
            title="First day",
        ),
        "undo": field(False, "Take the last roll-back back.", type="boolean", title="Undo"),
        "reason": field("", "Why; the ledger keeps it.", type="string", maxLength=500, title="Reason"),
        "seen": number_field(
            "Seen",
            "The number of the event by which the champion serves that you saw: with another one nothing is done.",
        ),
    }
    with _operation("rollback", None, doc, params=params) as dag:

        @task(retries=0)
        def roll_back() -> str:
            from esteira.notify import messages
            from esteira.steps import rollbacks

            params, _, _ = context_of_run()
            spec = find(params["model"])
            day = date.fromisoformat(params["day"]) if params["day"] else None
            to, seen = (None if params[name] is None else int(params[name]) for name in ("to", "seen"))
            asked = rollbacks.Asked(asked_by(), to, day, bool(params["undo"]), params["reason"], seen)
            try:
                plan = tuple(rollbacks.shown(spec, rollbacks.plan(spec, asked)))
            except Exception as error:  # it is for the mail alone: a roll-back must not fail for what can't be told
                log.exception("model %s: what is known before the roll-back can't be told", spec.name)
                plan = (f"it could not be told: {text.said(error)[:500]}",)
            event, done = rollbacks.perform(spec, asked)
            if event is not None:
                by, day = f"rollback/{event.number}", today(spec.time.timezone)
                alerts.queue(spec, messages.rolled_back(spec, event, str(done), plan, alerts.run_url()), day, by)
            notes.note(lambda: f"roll-back of {spec.name}: {event.why if event else 'that is how it stood'}")
            said = done.require_whole(spec)
            return f"{event.why}; {said}" if event is not None else f"that is how it stands; {said}"

        roll_back()
    return dag


BUILDERS: Mapping[str, Callable[[list[ModelSpec], list[str]], DAG]] = {
    "maintenance": _maintenance_dag,
    "outbox": _outbox_dag,
    "reconcile": _reconcile_dag,
    "rollback": _rollback_dag,
}
