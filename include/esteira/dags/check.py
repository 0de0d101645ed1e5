"""The check DAG."""

from __future__ import annotations

import logging
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Label,
    PartitionedAssetTimetable,
    TaskGroup,
    TriggerRule,
    task,
)

from esteira.dags import alerts
from esteira.dags.common import ATTEMPT, LOOKS, WAITING, dag_of, day_field, predictions_asset, run_day
from esteira.spec import ModelSpec
from esteira.text import counted

log = logging.getLogger(__name__)


def check_dag(spec: ModelSpec) -> DAG:
    """labels → measure → decide → up to three attempts → commit, register, promote, score again, and/or warn."""
    doc = f"""Check the champion of {spec.name}: {", ".join(f"{name} {limit}" for name, limit in spec.check.metrics.items())}.

It follows each scored day and can be run by hand for any day. The metrics of the last whole windows of
{counted(spec.check.every, "day")} decide: it is violated when the latest, and {spec.check.violated.at_least} of the last {spec.check.violated.of_last},
are out of range. Then up to {counted(len(spec.recipes), "attempt")} retrain, each judged on the latest {counted(spec.check.slice, "mature day")}, which
neither version has seen. One that recovers is promoted and the days since the violation are scored again; when none
does, a warning is mailed."""
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
    keep, wait = EmptyOperator(task_id="keep"), EmptyOperator(task_id="wait")
    decided >> Label("in range") >> keep
    decided >> Label("too little is known") >> wait
    decided >> Label("drift") >> _drift_report(spec)
    decided >> Label("newly promoted") >> _verify(spec)
    verdicts = []
    previous, label = decided, "out of range"
    for number in range(1, len(spec.recipes) + 1):
        trained, verdict = _attempt(spec, number)
        # The edge to the verdict lets the branch before skip it too, when it skips the attempt.
        previous >> Label(label) >> trained
        previous >> verdict
        previous, label = verdict, "not recovered"
        verdicts.append(verdict)
    commit = _promotion(spec)
    for verdict in verdicts:
        verdict >> Label("better") >> commit
    verdicts[-1] >> Label("still out of range") >> _warn(spec)


def _measured(spec: ModelSpec) -> Any:
    @task(retries=LOOKS, retry_policy=WAITING)
    def labels() -> int:
        from esteira import steps

        return steps.labels_for_check(spec, run_day(spec))

    @task
    def measure() -> int:
        from esteira import steps

        return steps.measure(spec, run_day(spec))

    @task.branch
    def decide() -> list[str]:
        from esteira import steps

        verdict = steps.decide(spec, run_day(spec))
        log.info("%s: %s", verdict.decision.value, verdict.why)
        chosen = {"retrain": "attempt_1.retrain", "wait": "wait"}.get(verdict.decision.value, "keep")
        drifted = steps.drift_to_report(spec, run_day(spec)) or chosen == "attempt_1.retrain"
        verify = steps.to_verify(spec, run_day(spec)) is not None
        return [chosen, *(["drift_report"] if drifted else []), *(["verify"] if verify else [])]

    decided = decide()
    labels() >> measure() >> decided
    return decided


def _attempt(spec: ModelSpec, number: int) -> tuple[Any, Any]:
    """One attempt as a task group; a crash in it counts as an attempt that did not improve, so it mails no failure.

    A process that was killed, and an outage, are no crash: the task runs again.
    """
    last = number == len(spec.recipes)
    with TaskGroup(f"attempt_{number}", tooltip=f"Attempt {number}: {spec.recipes[number - 1].window}d"):

        @task(retries=4, retry_policy=ATTEMPT, on_failure_callback=None)
        def retrain() -> str:
            from esteira import steps

            return steps.retrain(spec, run_day(spec), number)

        @task(retries=4, retry_policy=ATTEMPT, on_failure_callback=None)
        def recheck(model_run: str) -> str:
            from esteira import steps

            return steps.recheck(spec, run_day(spec), number, model_run).value

        @task.branch(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
        def verdict() -> list[str]:
            from esteira import steps

            recovered, improved = steps.standing(spec, run_day(spec))
            if recovered:
                return ["commit_notebook"]
            if not last:
                return [f"attempt_{number + 1}.retrain"]
            return ["commit_notebook", "warn"] if improved else ["warn"]

        trained, judged = retrain(), verdict()
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

        return steps.chosen_version(spec, run_day(spec))

    @task
    def promote(version: int, commit: str) -> int:
        from esteira import steps

        return steps.promote_chosen(spec, run_day(spec), version, commit)

    @task
    def rescore(version: int) -> int:
        from esteira import steps

        return steps.rescore(spec, run_day(spec), version)

    commit, version = commit_notebook(), register()
    commit >> version
    rescore(promote(version, commit))
    return commit


def _warn(spec: ModelSpec) -> Any:
    @task(retries=5)
    def warn() -> str:
        from esteira import steps

        day = run_day(spec)
        mail = steps.warning(spec, day, alerts.run_url())
        steps.post(spec, mail, day, steps.run_key(day), alerts.send)
        return mail.subject

    return warn()


def _drift_report(spec: ModelSpec) -> Any:
    @task
    def drift_report() -> str:
        from esteira import steps

        day = run_day(spec)
        run_id = steps.drift_report(spec, day)
        steps.report_why(spec, day, run_id)
        mail = steps.drift_mail(spec, day, alerts.run_url())
        if mail:
            steps.post(spec, mail, day, steps.run_key(day), alerts.send)
        return run_id

    return drift_report()


def _verify(spec: ModelSpec) -> Any:
    @task
    def verify() -> str:
        from esteira import steps

        day = run_day(spec)
        state = steps.verify(spec, day)
        mail = steps.verification_mail(spec, day, alerts.run_url())
        if mail:
            steps.post(spec, mail, day, steps.run_key(day), alerts.send)
        return state

    return verify()
