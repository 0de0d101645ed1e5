"""The score DAG, and its deadline."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import (  # type: ignore[attr-defined]  # not in its stub
    DAG,
    AsyncCallback,
    CronPartitionTimetable,
    DeadlineAlert,
    Param,
    TriggerRule,
    get_current_context,
    task,
    task_group,
)
from airflow.sdk.exceptions import AirflowFailException
from asgiref.sync import sync_to_async

from esteira.dags import alerts, notes
from esteira.dags.common import (
    LATE,
    LOOKS,
    WAITING,
    asked_by,
    context_of_run,
    dag_of,
    day_field,
    days_asked,
    field,
    number_field,
    predictions_asset,
    run_days,
    start_of,
)
from esteira.dags.deadlines import SinceQueued
from esteira.errors import OutOfReach
from esteira.spec import ModelSpec, find

if TYPE_CHECKING:
    from esteira.data import Share
    from esteira.steps.scoring import Request

log = logging.getLogger(__name__)


def score_dag(spec: ModelSpec) -> DAG:
    """score → publish, for one day or a range of days; with shards plan → score, once for each → publish.

    Of a long range the earlier spans have a score and a publish of their own, in the group `earlier`.
    """
    doc = f"""Score a day of {spec.name} with the champion of that day, into the Delta table of predictions.

The task **score** reads the source, puts bad rows aside for quarantine, builds features and predicts, some rows at a time;
nobody sees any of it before **publish** names all of it at once.{_about_shards(spec)}

A day is a partition: the run that starts by the schedule ({spec.score.schedule}, {spec.time.timezone}) scores **the day
before**. By hand, give a day or a range of days. Scoring a day again replaces its predictions; what was served first
stays in the table `served`. A check follows by itself: of the day, or of the last day of a range."""
    timetable = (
        CronPartitionTimetable(
            spec.score.schedule,
            timezone=spec.time.timezone,
            run_offset=-1,
            run_immediately=LATE,
            key_format="%Y-%m-%d",
        )
        if spec.score.schedule
        else None
    )
    options = {
        "schedule": timetable,
        "start_date": start_of(spec, spec.score.start and spec.score.start + timedelta(days=1)),
        "catchup": spec.score.catchup,
        "max_active_runs": 4,
        "deadline": _deadline(spec),
    }
    with dag_of(spec, "score", doc, params=_fields(spec), **options) as dag:
        _scored(spec)
    return dag


def _about_shards(spec: ModelSpec) -> str:
    if spec.score.shards == 1:
        return """ Of a range longer than a month each calendar
month is scored and published by itself, by the group **earlier**, on whatever workers are free."""
    number = "as many as its size asks for" if spec.score.shards == "auto" else str(spec.score.shards)
    return (
        f" The task **plan** cuts the day into shards ({number}), of which each is a task of **score** by itself. Of a range "
        "each day but the last is scored and published by itself, by the group **earlier**, on whatever workers are free."
    )


def _fields(spec: ModelSpec) -> dict[str, Param]:
    return {
        "day": day_field(spec, "Day", "The day to score; empty: the run's partition, or yesterday."),
        "last_day": day_field(spec, "Last day", "For a range: the last day to score, included."),
        "version": number_field("Version", "Score with this version in place of the champion."),
        "champion": field(
            False, "Let go a version that was chosen for these days by hand.", type="boolean", title="Champion again"
        ),
        "check": field(
            True,
            "Let a check follow: of the day, or of the last day of a range, whose every whole window it measures "
            "(a run of a partition always does).",
            type="boolean",
            title="Check",
        ),
        "allow_empty": field(
            False,
            "Take it that days that had rows have none any more. Otherwise the run fails, and nothing is replaced.",
            type="boolean",
            title="Allow empty days",
        ),
    }


def _days(spec: ModelSpec) -> list[date]:
    """The days that the run is about, in order."""
    from esteira.data import days

    first, last = run_days(spec)
    if last < first:
        raise AirflowFailException(f"last_day {last} is before day {first}; give the range in order")
    return days(first, last)


def _scored(spec: ModelSpec) -> None:
    @task
    def spans() -> list[list[str]]:
        return _begun(spec, _spans(spec)[:-1])

    @task(retries=LOOKS, retry_policy=WAITING)
    def plan() -> list[int]:
        from esteira import steps

        return list(range(steps.shares(spec, _spans(spec)[-1])))

    @task(retries=LOOKS, retry_policy=WAITING, map_index_template="{{ name }}")
    def score(number: int = 0, every: Sequence[int] = (0,)) -> list[list[str]]:
        from esteira.data import Share

        *before, last = _spans(spec)
        get_current_context()["name"] = f"shard {number + 1} of {len(every)}"  # type: ignore[typeddict-unknown-key]
        begun = _begun(spec, before) if spec.score.shards == 1 else []  # of shards the task spans has begun them
        _leave(spec, last, Share(number, len(every)))
        return begun

    @task_group
    def earlier(span: list[str]) -> None:
        """The days of a long range but the last ones: a span by itself each, published by itself."""

        @task(retries=LOOKS, retry_policy=WAITING, map_index_template="{{ name }}")
        def score_span(span: list[str]) -> None:
            from esteira.data import ALL

            _leave(spec, _named(span), ALL)

        @task(map_index_template="{{ name }}")
        def publish_span(span: list[str]) -> str:
            return _published(spec, _named(span), 1)

        score_span(span) >> publish_span(span)

    # One day's run is that day's partition. A range names its last day, whose check measures what lies before it, too:
    # checks of all its days would start in any order, and only the one of the newest day decides.
    @task(outlets=[predictions_asset(spec)], trigger_rule=TriggerRule.NONE_FAILED)
    def publish(every: Sequence[int] = (0,)) -> str:
        from esteira import views

        params, _, partition = context_of_run()
        said = _published(spec, _spans(spec)[-1], len(every))
        if params["check"] and not partition:
            events = get_current_context()["outlet_events"][predictions_asset(spec)]
            events.add_partitions([str(_days(spec)[-1])])
        notes.note(lambda: views.score_title(spec, _days(spec)))
        return said

    if spec.score.shards == 1:
        staged = score()
        staged >> earlier.expand(span=staged) >> publish()
        return
    every = plan()
    [score.partial(every=every).expand(number=every), earlier.expand(span=spans())] >> publish(every)


def _spans(spec: ModelSpec) -> list[list[date]]:
    from esteira import steps

    return steps.spans(spec, _days(spec))


def _begun(spec: ModelSpec, earlier: list[list[date]]) -> list[list[str]]:
    """Spans that have tasks of their own, as their first and last days; what was asked for is chosen for all of the range."""
    from airflow.configuration import conf

    from esteira import steps

    if not earlier:
        return []
    most = conf.getint("core", "max_map_length")
    if len(earlier) > most:
        raise AirflowFailException(
            f"the range is {len(earlier) + 1} spans, each of tasks of its own, and Airflow makes {most} of one at most: score it in "
            "parts, or set AIRFLOW__CORE__MAX_MAP_LENGTH"
        )
    params, run, _ = context_of_run()
    steps.choose(spec, _days(spec), run, _asked(params))
    return [[str(days[0]), str(days[-1])] for days in earlier]


def _named(span: list[str]) -> list[date]:
    """The days of a span, which names the task that is at it."""
    from esteira.data import days

    first, last = map(date.fromisoformat, span)
    get_current_context()["name"] = str(first) if first == last else f"{first} to {last}"  # type: ignore[typeddict-unknown-key]
    return days(first, last)


def _leave(spec: ModelSpec, days: list[date], share: Share) -> None:
    from esteira import steps

    params, run, _ = context_of_run()
    steps.leave(spec, days, run, share, _asked(params))


def _published(spec: ModelSpec, days: list[date], shares: int) -> str:
    from esteira import steps

    params, run, _ = context_of_run()
    return steps.publish_left(spec, days, run, shares, _asked(params))


def _asked(params: Mapping[str, Any]) -> Request:
    """What the run's form asks for."""
    from esteira.steps.scoring import Request

    version, champion = params["version"], params["champion"]
    if version is not None and champion:
        raise AirflowFailException("give a version, or the champion again, not both")
    return Request(
        version=None if version is None else int(version),  # a form's 1.0 is a whole number, too
        champion=champion,
        by=asked_by(),
        when_gone="replace" if params["allow_empty"] else "refuse",
    )


def _deadline(spec: ModelSpec) -> DeadlineAlert | None:
    """The alert about a run that has not scored its days in time."""
    if spec.score.deadline is None:
        return None
    return DeadlineAlert(
        reference=SinceQueued(),
        interval=timedelta(hours=spec.score.deadline),
        callback=AsyncCallback("esteira.dags.score.late", kwargs={"model": spec.name}),
    )


async def late(model: str, context: Mapping[str, Any]) -> None:
    """Mail that a run's days were not scored by their deadline, unless another run has scored them; called by the triggerer."""
    await sync_to_async(_late)(model, context["dag_run"], str(context["deadline"]["deadline_time"]))


def _late(model: str, run: Mapping[str, Any], deadline: str) -> None:
    from esteira import data
    from esteira.notify import messages
    from esteira.store import lake

    if run.get("run_type") == "backfill":  # all its runs are queued at once, and nobody waits for them in the morning
        return
    spec, name = find(model), f"{run['dag_id']}/{run['dag_run_id']}"
    due = datetime.fromisoformat(run["logical_date"] or run["run_after"])
    days = data.days(*days_asked(spec, run["conf"] or {}, run["partition_key"], due))
    try:
        days = lake.unwritten_days("predictions", model, days)
    except OutOfReach:  # which may be why the day is late
        log.exception("model %s: whether %s are scored can't be seen", model, days)
    if not days:
        return
    place = f"{alerts.airflow_url()}/dags/{run['dag_id']}/runs/{run['dag_run_id']}"
    mail = messages.late(spec, days, name, run["state"], deadline, place)
    alerts.queue(spec, mail, days[0], name)
