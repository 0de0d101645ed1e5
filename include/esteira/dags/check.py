"""The check DAG."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, get_args

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Label,
    PartitionedAssetTimetable,
    TaskGroup,
    TriggerRule,
    task,
)

from esteira.dags import alerts, notes
from esteira.dags.common import ATTEMPT, LOOKS, WAITING, dag_of, day_field, predictions_asset, run_day
from esteira.lifecycle.actions import (
    Action,
    Blend,
    Done,
    Keep,
    Promote,
    Reconcile,
    ReportDrift,
    Retrain,
    Verify,
    Wait,
    Warn,
    upcoming,
)
from esteira.lifecycle.events import run_key
from esteira.spec import ModelSpec
from esteira.text import counted

if TYPE_CHECKING:
    from esteira.store.outbox import Mail

log = logging.getLogger(__name__)


# The task that does each action; None: it follows another's by itself.
TASKS: Mapping[type[Action], str | None] = {
    Keep: "keep",
    Wait: "wait",
    Verify: "verify",
    ReportDrift: "drift_report",
    Blend: "attempt_0{later}.blend",
    Retrain: "attempt_{attempt}.retrain",
    Promote: "commit_notebook",
    Reconcile: None,
    Warn: "warn",
    Done: None,
}
if set(TASKS) != set(get_args(Action)):  # while it is parsed: an action without a task would silently be none
    raise TypeError(f"no task does {set(get_args(Action)) ^ set(TASKS)}")


PAST_A_BLEND = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS  # of the two verdicts before an attempt one may be skipped
LATER = "_later"  # how the name of the blend's group goes on that comes after the first retraining


def _tasks_of(actions: Iterable[Action]) -> list[str]:
    """The tasks that a branch goes on with."""
    names = ((TASKS[type(action)], action) for action in actions)
    return [
        name.format(attempt=getattr(action, "attempt", ""), later=LATER if getattr(action, "later", False) else "")
        for name, action in names
        if name
    ]


def check_dag(spec: ModelSpec) -> DAG:
    """labels → measure → decide → a blend, up to three attempts → commit, register, promote, score again, and/or warn."""
    doc = f"""Check the champion of {spec.name}: {", ".join(f"{name} {limit}" for name, limit in spec.check.metrics.items())}.

It follows each scored day and can be run by hand for any day. The metrics of the last whole windows of
{counted(spec.check.every, "day")} decide: it is violated when the latest, and {spec.check.violated.at_least} of the last {spec.check.violated.of_last},
are out of range{", and so is their mean" if spec.check.violated.at_least > 1 else ""}. Then{" a blend of what was trained before, and" if spec.retrain_first == "blend" else ""} up to {counted(len(spec.recipes), "attempt")} that retrain, each judged on the latest {counted(spec.check.slice, "mature day")}, which
neither version has seen. One that recovers is promoted and the days since the violation are scored again; when none
does, a warning is mailed, once in 8 windows, and the next loop waits for longer."""
    params = {
        "day": day_field(spec, "Day", "Check as if this day had just ended; empty: the run's partition, or yesterday.")
    }
    timetable = PartitionedAssetTimetable(assets=predictions_asset(spec))
    options = {"schedule": timetable, "catchup": False, "max_active_runs": 1}
    with dag_of(spec, "check", doc, params=params, **options) as dag:
        _check_tasks(spec)
    return dag


def _check_tasks(spec: ModelSpec) -> None:
    decided = _measured(spec)
    decided >> Label("in range") >> EmptyOperator(task_id="keep")
    decided >> Label("too little is known") >> _wait(spec)
    decided >> Label("drift") >> _drift_report(spec)
    decided >> Label("newly promoted") >> _verify(spec)
    verdicts = _attempts(spec, decided)
    commit, warn = _promotion(spec), _warn(spec)
    for verdict in verdicts:
        verdict >> Label("better") >> commit
    # A probe ends after the first retraining, or the blend that may follow it.
    for verdict in verdicts if spec.retrain_first == "none" else verdicts[1:]:
        verdict >> Label("still out of range") >> warn


def _note(spec: ModelSpec, *, again: bool = False) -> None:
    from esteira import views

    before = " (decided by a run before: nothing new was done)" if again else ""
    notes.note(lambda: views.check_title(spec, run_day(spec)) + before)


def _tell(spec: ModelSpec, mail: Mail | None) -> None:
    if mail is not None:
        alerts.deliver_now(spec, mail)


def _measured(spec: ModelSpec) -> Any:
    @task(retries=LOOKS, retry_policy=WAITING)
    def labels() -> int:
        from esteira import steps

        return steps.store_labels(spec, run_day(spec))

    @task
    def measure() -> int:
        from esteira import steps

        return steps.measure(spec, run_day(spec))

    @task.branch
    def decide() -> list[str]:
        from esteira import steps

        found = steps.begin(spec, run_day(spec))
        log.info("%s: %s", found.verdict.decision.value, found.verdict.why)
        if found.promoted:  # before: only what was left is done, and here, for no branch leads there
            done = steps.act(spec, run_day(spec), found)
            if done.warning:  # one that was delivered is not sent again
                alerts.deliver_now(spec, done.warning)
            _tell(spec, steps.queue_promotion_mail(spec, run_day(spec), run_key(run_day(spec)), alerts.run_url()))
            _note(spec, again=True)
            if done.rescored:
                done.rescored.require_whole(spec)
            return []
        _tell(spec, steps.queue_recovery_mail(spec, run_day(spec), alerts.run_url()))
        _note(spec)
        return _tasks_of(upcoming(found))

    decided = decide()
    labels() >> measure() >> decided
    return decided


def _attempts(spec: ModelSpec, decided: Any) -> list[Any]:
    """The attempts, one after the other; returns their verdicts. The blend comes first, or else after the first retraining."""
    trained = [_attempt(spec, number) for number in range(1, len(spec.recipes) + 1)]
    if spec.retrain_first == "none":
        groups, skipping = trained, {}
    else:
        groups = [_blend(spec), trained[0], _blend(spec, LATER), *trained[1:]]
        skipping = {1: decided, 3: trained[0][1]}  # by the group: whose verdict leads there as well, past a blend
    previous, label = decided, "out of range"
    for index, (begins, verdict) in enumerate(groups):
        for before in (previous, *([skipping[index]] if index in skipping else [])):
            before >> Label(label) >> begins
            label = "not recovered"
        decided >> verdict  # a success before it: what failed between is a crash
        previous = verdict
    return [verdict for _, verdict in groups]


def _blend(spec: ModelSpec, later: str = "") -> tuple[Any, Any]:
    """The attempt that blends what was trained before, as a task group."""
    with TaskGroup(f"attempt_0{later}", tooltip="Attempt 0: a blend of what was trained before"):

        @task(retries=4, retry_policy=ATTEMPT, on_failure_callback=None, trigger_rule=PAST_A_BLEND)
        def blend() -> str:
            from esteira import steps

            return steps.blend(spec, run_day(spec)).value

        blended, judged = blend(), _verdict(spec, 0)
        blended >> judged
    return blended, judged


def _verdict(spec: ModelSpec, number: int) -> Any:
    @task.branch(
        trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS
    )  # after a crash, too, but not where the attempt is skipped
    def verdict() -> list[str]:
        from esteira import steps

        return _tasks_of(upcoming(steps.evidence(spec, run_day(spec), number)))

    return verdict()


def _attempt(spec: ModelSpec, number: int) -> tuple[Any, Any]:
    """One attempt as a task group; a crash in it counts as an attempt that did not improve, so it mails no failure.

    A process that was killed, and an outage, are no crash: the task runs again.
    """
    with TaskGroup(f"attempt_{number}", tooltip=f"Attempt {number}: {spec.recipes[number - 1].window}d"):

        @task(retries=4, retry_policy=ATTEMPT, on_failure_callback=None, trigger_rule=PAST_A_BLEND)
        def retrain() -> str:
            from esteira import steps

            return steps.retrain(spec, run_day(spec), number)

        @task(retries=4, retry_policy=ATTEMPT, on_failure_callback=None)
        def recheck(model_run: str) -> str:
            from esteira import steps

            return steps.recheck(spec, run_day(spec), number, model_run).value

        trained, judged = retrain(), _verdict(spec, number)
        recheck(trained) >> judged
    return trained, judged


def _promotion(spec: ModelSpec) -> Any:
    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    def commit_notebook() -> str:
        from esteira import steps

        return steps.commit_notebook(spec, run_day(spec))

    @task
    def register() -> int:
        from esteira import steps

        return steps.register_chosen(spec, run_day(spec))

    @task
    def promote(version: int, commit: str) -> int:
        from esteira import steps

        promoted = steps.promote_chosen(spec, run_day(spec), version, commit)
        _tell(spec, steps.queue_promotion_mail(spec, run_day(spec), run_key(run_day(spec)), alerts.run_url()))
        _note(spec)
        return promoted

    @task
    def rescore() -> str:
        from esteira import steps

        return steps.rescore(spec, run_day(spec)).require_whole(spec)

    commit, version = commit_notebook(), register()
    commit >> version
    promote(version, commit) >> rescore()
    return commit


def _warn(spec: ModelSpec) -> Any:
    @task(trigger_rule=PAST_A_BLEND)
    def warn() -> str:
        from esteira import steps

        mail = steps.warn(spec, run_day(spec), alerts.run_url())
        _note(spec)
        if mail is None:
            return "people were told before"
        alerts.deliver_now(spec, mail)
        return mail.subject

    return warn()


def _wait(spec: ModelSpec) -> Any:
    @task
    def wait() -> str:
        from esteira import steps

        mail = steps.queue_wait_mail(spec, run_day(spec), alerts.run_url())
        if mail is None:
            return "too little is known"
        alerts.deliver_now(spec, mail)
        return mail.subject

    return wait()


def _drift_report(spec: ModelSpec) -> Any:
    @task
    def drift_report() -> str:
        from esteira import steps

        _tell(spec, steps.queue_drift_mail(spec, run_day(spec), alerts.run_url()))
        return steps.keep_drift_report(spec, run_day(spec))

    return drift_report()


def _verify(spec: ModelSpec) -> Any:
    @task
    def verify() -> str:
        from esteira import steps

        found = steps.verify(spec, run_day(spec), alerts.run_url())
        if found is None:
            return "too little is known yet"
        _tell(spec, found.mail)
        return found.verified.why

    return verify()
