"""The train DAG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import (
    DAG,
    CronTriggerTimetable,
    Param,
    get_current_context,
    task,
)

from esteira.dags import alerts, notes
from esteira.dags.common import (
    LATE,
    LOOKS,
    WAITING,
    context_of_run,
    dag_of,
    day_field,
    field,
    number_field,
    run_day,
    start_of,
)
from esteira.spec import CENTURY, ModelSpec


def train_dag(spec: ModelSpec) -> DAG:
    """extract → validate → features → candidates → select → evaluate → register → promote."""
    doc = f"""Train {spec.name} and promote the new version if it is better than the champion.

Only rows whose labels were mature on the as-of day are seen ({spec.label_delay}d after the event). The days are split
70/15/15 in order of time: candidates are tuned on the first part and compared on the second; the best one is measured on
the last, against a naive baseline and the champion. A version promoted for an as-of day serves from the day after."""
    timetable = (
        CronTriggerTimetable(spec.train.schedule, timezone=spec.time.timezone, run_immediately=LATE)
        if spec.train.schedule
        else None
    )
    options = {
        "schedule": timetable,
        "start_date": start_of(spec, spec.train.start),
        "catchup": False,
        "max_active_runs": 1,
    }
    names = [f"{index}: {candidate.name}" for index, candidate in enumerate(spec.train.candidates)]
    with dag_of(spec, "train", doc, params=_fields(spec, names), **options) as dag:
        valid, versions = _prepared(spec)
        chosen, best = _measured(spec, names, versions)
        valid >> chosen
        _promoted(spec, best)
    return dag


def _fields(spec: ModelSpec, names: list[str]) -> dict[str, Param]:
    return {
        "day": day_field(spec, "As-of day", "Train as if this day had just ended; empty: yesterday."),
        "window": number_field("Window", f"Days to train on; empty: {spec.train.window}.", 7, CENTURY),
        "candidates": field(
            names, type="array", examples=names, items={"type": "string", "enum": names}, title="Candidates"
        ),
        "promote": field(True, "Promote the new version if it is better.", type="boolean", title="Promote"),
        "again": field(
            False,
            "Register a second version even where one of the same day, model.yaml and data is there.",
            type="boolean",
            title="Again",
        ),
    }


def _prepared(spec: ModelSpec) -> tuple[Any, Any]:
    @task(retries=LOOKS, retry_policy=WAITING)
    def extract() -> int:
        from esteira import steps

        return steps.extract(spec, steps.lacking(spec, run_day(spec), context_of_run()[0]["window"]), when_gone="keep")

    @task
    def validate() -> int:
        from esteira import steps

        return steps.validate(spec, steps.lacking(spec, run_day(spec), context_of_run()[0]["window"]))

    @task
    def features() -> str:
        from esteira import steps

        day, window = run_day(spec), context_of_run()[0]["window"]
        return str(steps.prepare(spec, day, window, steps.lacking(spec, day, window)))

    valid, versions = validate(), features()
    extract() >> valid >> versions
    return valid, versions


def _measured(spec: ModelSpec, names: list[str], versions: Any) -> tuple[Any, Any]:
    @task
    def candidates() -> list[int]:
        chosen = context_of_run()[0]["candidates"]
        return [names.index(name) for name in chosen] or list(range(len(names)))

    @task(map_index_template="{{ name }}")
    def candidate(index: int, versions: str) -> str:
        from esteira import steps
        from esteira.store.lineage import DataVersions

        get_current_context()["name"] = names[index]  # type: ignore[typeddict-unknown-key]
        params, run, _ = context_of_run()
        data = DataVersions.parse(versions)
        return steps.candidate(spec, run_day(spec), index, data, run, params["window"])

    @task
    def select(candidate_runs: Sequence[str]) -> str:
        from esteira import steps

        return steps.select(spec, list(candidate_runs))

    @task
    def evaluate(candidate_run: str, versions: str) -> str:
        from esteira import steps
        from esteira.store.lineage import DataVersions

        params, run, _ = context_of_run()
        data = DataVersions.parse(versions)
        return steps.evaluate(spec, run_day(spec), candidate_run, data, run, params["window"])

    chosen = candidates()
    runs = candidate.partial(versions=versions).expand(index=chosen)
    return chosen, evaluate(select(runs), versions)


def _promoted(spec: ModelSpec, best: Any) -> None:
    @task
    def register(model_run: str) -> int:
        from esteira import steps

        return steps.register(spec, model_run, run_day(spec), again=context_of_run()[0]["again"])

    @task
    def promote(version: int) -> str:
        from esteira import steps

        params, run, _ = context_of_run()
        if not params["promote"]:
            said = f"version {version} is registered as challenger; the run was asked not to promote"
        else:
            said = steps.promote(spec, run_day(spec), version, run)
            mail = steps.queue_promotion_mail(spec, run_day(spec), run, alerts.run_url())
            if mail:
                alerts.deliver_now(spec, mail)
        notes.note(lambda: f"train as of {run_day(spec)}: {said}")
        return said

    promote(register(best))
