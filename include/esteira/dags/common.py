"""What every DAG of a model has: its defaults, its fields, and the run's day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from airflow.sdk import (
    DAG,
    Asset,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryDecision,
    RetryRule,
    get_current_context,
)
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout

from esteira.dags import alerts
from esteira.dags.forms import until_today
from esteira.dags.timeouts import end_with_its_process
from esteira.errors import EsteiraError
from esteira.outages import is_outage
from esteira.spec import ModelSpec, fault_of_day, nearest, today

KINDS = ("train", "score", "check")
# How late a new DAG still catches the tick before it: in Airflow 3.3 False means a tenth of the interval, 2.4 hours of a day.
# Not less than this: a file parsed again between the tick and the scheduler's look must not move the first run on.
LATE = timedelta(minutes=1)
# What a person has to mend is no better a minute later; all else is tried again.
PERMANENT = ExceptionRetryPolicy(
    rules=[
        RetryRule(exception=EsteiraError, action=RetryAction.FAIL, reason="someone has to mend this"),
        RetryRule(exception=AirflowTaskTimeout, action=RetryAction.FAIL, reason="it would take as long again"),
        RetryRule(exception=[ImportError, SyntaxError], action=RetryAction.FAIL, reason="the code can't be loaded"),
    ]
)


class OutagesOnly(ExceptionRetryPolicy):
    """For attempts: what they raise makes them attempts that did not improve, unless something was out of reach."""

    def evaluate(self, exception: BaseException, *_: Any, **__: Any) -> RetryDecision:
        """Only an outage is tried again."""
        if is_outage(exception):
            return RetryDecision.retry(reason="out of reach")
        return RetryDecision.fail("an attempt that did not improve")


class Waiting(ExceptionRetryPolicy):
    """For tasks that read a source: one that is not whole yet is waited for, an hour and a half; all else as usual."""

    def evaluate(self, exception: BaseException, try_number: int, *given: Any, **options: Any) -> RetryDecision:
        """The pauses before an unfinished source is looked at again grow to ten minutes."""
        from esteira.errors import Unfinished

        if isinstance(exception, Unfinished):
            return RetryDecision.retry(timedelta(minutes=min(2 ** (try_number - 1), 10)), "the source is not whole yet")
        if try_number > RETRIES:
            return RetryDecision.fail("tried often enough")
        return super().evaluate(exception, try_number, *given, **options)


RETRIES = 2
ATTEMPT = OutagesOnly(rules=[])
WAITING, LOOKS = Waiting(rules=PERMANENT.rules), 12
LARGEST = 2**31 - 1  # a number that a form takes at most


def predictions_asset(spec: ModelSpec) -> Asset:
    """The asset whose partitions are the scored days of a model."""
    return Asset(name=f"predictions_{spec.name}", uri=f"esteira://predictions/{spec.name}")


def dag_of(spec: ModelSpec, kind: str, doc: str, **options: Any) -> DAG:
    """A DAG of a model, without its tasks."""
    return DAG(
        dag_id=f"{spec.name}_{kind}",
        description=doc.partition("\n")[0],
        doc_md=doc,
        tags={"esteira", spec.name, kind},
        auto_register=False,  # dags/models.py names the DAGs that there are: all three of a model, or none
        owner_links={spec.owner: f"mailto:{spec.owner}"},
        default_args={
            "owner": spec.owner,
            "retries": RETRIES,
            "retry_delay": timedelta(seconds=5),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=5),
            "retry_policy": PERMANENT,
            "on_failure_callback": alerts.mail_failure_of(spec),
            "execution_timeout": timedelta(minutes=spec.timeout),
            "pre_execute": end_with_its_process,
        },
        **options,
    )


def start_of(spec: ModelSpec, day: date | None) -> datetime | None:
    """When the schedule starts; without a day the first run is the next one due, not one of the past."""
    return datetime.combine(day, datetime.min.time(), tzinfo=ZoneInfo(spec.time.timezone)) if day else None


class Schema(dict[str, Any]):
    """What a field takes. Nobody changes it, so it is shared by the copies of a DAG's params, of which Airflow makes four a task."""

    def __deepcopy__(self, _: object) -> Schema:
        return self


def field(default: object, about: str | None = None, **schema: Any) -> Param:
    """A field of the form with which a run is started by hand."""
    return Param(default, description=about, schema=Schema(schema))


def day_field(spec: ModelSpec, title: str, about: str) -> Param:
    """A field for a day that has begun in the model's time zone; a later one is refused in the form."""
    begun = [{"format": until_today(spec.time.timezone)}]
    return field(None, about, type=["null", "string"], format="date", allOf=begun, title=title)


def number_field(title: str, about: str, least: int = 1, most: int = LARGEST) -> Param:
    """A field for a whole number, that may be left empty."""
    return field(None, about, type=["null", "integer"], minimum=least, maximum=most, title=title)


def context_of_run() -> tuple[Mapping[str, Any], str, str | None]:
    """The run's params, its name, and the day that it is a partition of, if it is one."""
    context = get_current_context()
    run, params = context["dag_run"], context["params"]
    known = list(context["dag"].params)  # context["params"] holds whatever the configuration has
    unknown = sorted(set(run.conf or {}) - set(known))
    if unknown:  # which Airflow passes on without a word: the run would be one of another day, or version
        raise AirflowFailException(
            f"unknown key {unknown[0]!r} in the run's configuration; allowed: {', '.join(known)}{nearest(unknown[0], known)}"
        )
    return params, f"{run.dag_id}/{run.run_id}", run.partition_key


def asked_by() -> str:
    """Who started the run: the user who triggered it, else the run."""
    run = get_current_context()["dag_run"]
    return str(getattr(run, "triggering_user_name", None) or f"{run.dag_id}/{run.run_id}")


def run_day(spec: ModelSpec) -> date:
    """The run's day, or the first of its days."""
    return run_days(spec)[0]


def run_days(spec: ModelSpec) -> tuple[date, date]:
    """The first and the last day of the run. A form refuses wrong ones, but a partition, and a conf from elsewhere, pass no form."""
    params, _, partition = context_of_run()
    run = get_current_context()["dag_run"]
    due = run.logical_date or run.run_after  # the same for every task of the run, however long it takes
    first, last = days_asked(spec, params, partition, due)
    for day in (first, last):
        if fault := fault_of_day(day, today(spec.time.timezone)):
            raise AirflowFailException(f"day {fault}")
    return first, last


def days_asked(spec: ModelSpec, given: Mapping[str, Any], partition: str | None, due: datetime) -> tuple[date, date]:
    """A run's first and last day: its partition, those that its conf gives, or the day that was over when it was due."""
    over = due.astimezone(ZoneInfo(spec.time.timezone)).date() - timedelta(days=1)
    first = partition or given.get("day") or str(over)
    last = first if partition else given.get("last_day") or first
    return date.fromisoformat(first), date.fromisoformat(last)
