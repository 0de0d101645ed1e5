"""The three DAGs of a model, and those that look after all of them. What is heavy is imported inside the tasks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (  # type: ignore[attr-defined]  # not in its stub
    DAG,
    Asset,
    AsyncCallback,
    CronPartitionTimetable,
    CronTriggerTimetable,
    DeadlineAlert,
    ExceptionRetryPolicy,
    Label,
    Param,
    PartitionedAssetTimetable,
    RetryAction,
    RetryDecision,
    RetryRule,
    TaskGroup,
    TriggerRule,
    get_current_context,
    get_parsing_context,
    task,
)
from airflow.sdk.exceptions import AirflowFailException, AirflowTaskTimeout
from asgiref.sync import sync_to_async

from esteira.deadlines import SinceQueued
from esteira.forms import until_today
from esteira.spec import (
    CENTURY,
    FIRST_DAY,
    EsteiraError,
    ModelSpec,
    OutOfReach,
    SpecError,
    find,
    load,
    model_files,
    nearest,
    require_one,
)
from esteira.text import counted, printable
from esteira.timeouts import TooSlow, end_with_its_process, within

if TYPE_CHECKING:
    from esteira.steps.mails import Mail

log = logging.getLogger(__name__)

KINDS = ("train", "score", "check")
SMTP = "smtp_default"
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
        from esteira import steps

        if steps.is_outage(exception):
            return RetryDecision.retry(reason="out of reach")
        return RetryDecision.fail("an attempt that did not improve")


class Waiting(ExceptionRetryPolicy):
    """For tasks that read a source: one that is not whole yet is waited for, an hour and a half; all else as usual."""

    def evaluate(self, exception: BaseException, try_number: int, *given: Any, **options: Any) -> RetryDecision:
        """The pauses before an unfinished source is looked at again grow to ten minutes."""
        from esteira.data import Unfinished

        if isinstance(exception, Unfinished):
            return RetryDecision.retry(timedelta(minutes=min(2 ** (try_number - 1), 10)), "the source is not whole yet")
        if try_number > RETRIES:
            return RetryDecision.fail("tried often enough")
        return super().evaluate(exception, try_number, *given, **options)


RETRIES = 2
ATTEMPT = OutagesOnly(rules=[])
WAITING, LOOKS = Waiting(rules=PERMANENT.rules), 12
# Seconds to read one model.yaml, and to build its DAGs; usual are some hundredths, on a busy machine tenths.
BUDGET = 10.0
# Seconds that such models may cost in all; beyond these each has LEAST, so that those of the others are built before
# Airflow's own limit for a file (AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT in config/airflow.env).
LOST, LEAST = 60.0, 1.0
LARGEST = 2**31 - 1  # a number that a form takes at most


def build() -> dict[str, DAG]:
    """The DAGs of every model whose spec is right, by id; where a task runs, only the one DAG that it asks for."""
    asked = get_parsing_context().dag_id
    dags: dict[str, DAG] = {}
    files, budget = model_files(), Budget()
    for path in files:
        name = path.parent.name
        kinds = [kind for kind in KINDS if asked in (None, f"{name}_{kind}")]
        if not kinds:
            continue
        try:
            spec = _loaded(path, files, budget)
        except Exception as error:  # whatever it is: dags/broken_models.py shows it, and the other models' DAGs stay
            log.error("%s", error)
            continue
        try:
            with budget.of(f"{path}: to build its DAGs"):
                dags |= {f"{name}_{kind}": BUILDERS[kind](spec) for kind in kinds}
        except Exception as error:  # Airflow refused what the spec allowed: shown as a DAG, and the other models' stay
            log.exception("model %s: its DAGs can't be built", name)
            dags[f"{name}_broken"] = _broken(name, error)
    return dags


class Budget:
    """The time that models may take, one after the other, before they are given up."""

    def __init__(self) -> None:
        self.lost = 0.0

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """Give the block a model's time. Raises TooSlow where it takes longer."""
        seconds = BUDGET if self.lost < LOST else LEAST
        try:
            with within(seconds, what):
                yield
        except TooSlow:
            self.lost += seconds
            raise


def _loaded(path: Path, files: list[Path], budget: Budget) -> ModelSpec:
    """The model of one of the files, read in bounded time. Raises SpecError, or TooSlow."""
    require_one(path, files)
    with budget.of(f"{path}: to read it"):
        return load(path)


def _broken(name: str, error: Exception) -> DAG:
    """A DAG without tasks, in place of a model's own, whose documentation says why those could not be built."""
    why = f"The DAGs of {name} can't be built: {type(error).__name__}: {error}"
    why = printable(why)
    return DAG(
        dag_id=f"{name}_broken", schedule=None, description=why[:500], doc_md=why, tags={"esteira", "broken", name}
    )


def raise_broken() -> None:
    """Raise what is wrong with the specs, all of it, so that Airflow shows it as an import error."""
    if get_parsing_context().dag_id:
        return
    mistakes, files, budget = [], model_files(), Budget()
    for path in files:
        try:
            _loaded(path, files, budget)
        except SpecError as error:
            mistakes.append(str(error))
        except Exception as error:  # not a mistake that load() knows: shown all the same, with its kind
            mistakes.append(f"{path}: {type(error).__name__}: {error}")
    if mistakes:
        raise SpecError("\n".join(mistakes))


def predictions_asset(spec: ModelSpec) -> Asset:
    """The asset whose partitions are the scored days of a model."""
    return Asset(name=f"predictions_{spec.name}", uri=f"esteira://predictions/{spec.name}")


def _dag(spec: ModelSpec, kind: str, doc: str, **options: Any) -> DAG:
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
            "on_failure_callback": _mail_failure(spec),
            "execution_timeout": timedelta(minutes=spec.timeout),
            "pre_execute": end_with_its_process,
        },
        **options,
    )


def _start(spec: ModelSpec, day: date | None) -> datetime | None:
    """When the schedule starts; without a day the first run is the next one due, not one of the past."""
    return datetime.combine(day, datetime.min.time(), tzinfo=ZoneInfo(spec.time.timezone)) if day else None


def _day(spec: ModelSpec, title: str, about: str) -> Param:
    """A field for a day that has begun in the model's time zone; a later one is refused in the form."""
    return Param(
        None,
        type=["null", "string"],
        format="date",
        allOf=[{"format": until_today(spec.time.timezone)}],
        title=title,
        description=about,
    )


def _number(title: str, about: str, least: int = 1, most: int = LARGEST) -> Param:
    return Param(None, type=["null", "integer"], minimum=least, maximum=most, title=title, description=about)


def _context() -> tuple[Mapping[str, Any], str, str | None]:
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


def _run_day(spec: ModelSpec) -> date:
    """The run's day: its partition, the one asked for, or the day that was over when the run was due."""
    params, _, partition = _context()
    given = partition or params["day"]
    if given:
        return _past(spec, given)
    run = get_current_context()["dag_run"]
    due = run.logical_date or run.run_after  # the same for every task of the run, however long it takes
    return due.astimezone(ZoneInfo(spec.time.timezone)).date() - timedelta(days=1)


def _past(spec: ModelSpec, given: str) -> date:
    """A day that was asked for. A form refuses wrong ones, but a partition, and a conf from elsewhere, pass no form."""
    day = date.fromisoformat(given)
    if day > datetime.now(ZoneInfo(spec.time.timezone)).date():
        raise AirflowFailException(f"day {day} is in the future; give a day that has ended")
    if day < FIRST_DAY:
        raise AirflowFailException(f"day {day} is too early; give a day from {FIRST_DAY} on")
    return day


# ------------------------------------------------------------------------------------------------------------- train


def train_dag(spec: ModelSpec) -> DAG:
    """extract → validate → features → candidates → select → evaluate → register → promote."""
    doc = f"""Train {spec.name} and promote the new version if it is better than the champion.

Only rows whose labels were mature on the as-of day are seen ({spec.label_delay}d after the event). The days are split
70/15/15 in order of time: candidates are tuned on the first part and compared on the second; the best one is measured on
the last, against a naive baseline and the champion. A version promoted for an as-of day serves from the day after."""
    names = [f"{index}: {candidate.name}" for index, candidate in enumerate(spec.train.candidates)]
    params = {
        "day": _day(spec, "As-of day", "Train as if this day had just ended; empty: yesterday."),
        "window": _number("Window", f"Days to train on; empty: {spec.train.window}.", 7, CENTURY),
        "candidates": Param(
            names, type="array", examples=names, items={"type": "string", "enum": names}, title="Candidates"
        ),
        "promote": Param(True, type="boolean", title="Promote", description="Promote the new version if it is better."),
        "again": Param(
            False,
            type="boolean",
            title="Again",
            description="Register a second version even where one of the same day, model.yaml and data is there.",
        ),
    }
    timetable = (
        CronTriggerTimetable(spec.train.schedule, timezone=spec.time.timezone, run_immediately=LATE)
        if spec.train.schedule
        else None
    )
    options = {
        "schedule": timetable,
        "start_date": _start(spec, spec.train.start),
        "catchup": False,
        "max_active_runs": 1,
    }
    with _dag(spec, "train", doc, params=params, **options) as dag:

        @task(retries=LOOKS, retry_policy=WAITING)
        def extract() -> int:
            from esteira import steps

            return steps.extract(spec, steps.lacking(spec, _run_day(spec), _context()[0]["window"]), when_gone="keep")

        @task
        def validate() -> int:
            from esteira import steps

            return steps.validate(spec, steps.lacking(spec, _run_day(spec), _context()[0]["window"]))

        @task
        def features() -> str:
            from esteira import steps

            day, window = _run_day(spec), _context()[0]["window"]
            return steps.prepare(spec, day, window, steps.lacking(spec, day, window))

        @task
        def candidates() -> list[int]:
            chosen = _context()[0]["candidates"]
            return [names.index(name) for name in chosen] or list(range(len(names)))

        @task(map_index_template="{{ name }}")
        def candidate(index: int, versions: str) -> str:
            from esteira import steps

            get_current_context()["name"] = names[index]  # type: ignore[typeddict-unknown-key]
            params, run, _ = _context()
            return steps.candidate(spec, _run_day(spec), index, versions, run, params["window"])

        @task
        def select(candidate_runs: Sequence[str]) -> str:
            from esteira import steps

            return steps.select(spec, list(candidate_runs))

        @task
        def evaluate(candidate_run: str, versions: str) -> str:
            from esteira import steps

            params, run, _ = _context()
            return steps.evaluate(spec, _run_day(spec), candidate_run, versions, run, params["window"])

        @task
        def register(model_run: str) -> int:
            from esteira import steps

            return steps.register(spec, model_run, _run_day(spec), again=_context()[0]["again"])

        @task
        def promote(version: int) -> str:
            from esteira import steps

            params, run, _ = _context()
            if not params["promote"]:
                return f"version {version} is registered as challenger; the run was asked not to promote"
            return steps.promote(spec, _run_day(spec), version, run)

        valid, versions, chosen = validate(), features(), candidates()
        extract() >> valid >> [versions, chosen]
        runs = candidate.partial(versions=versions).expand(index=chosen)
        promote(register(evaluate(select(runs), versions)))
    return dag


# ------------------------------------------------------------------------------------------------------------- score


def score_dag(spec: ModelSpec) -> DAG:
    """extract → validate → features → score → publish, for one day or a range of days."""
    doc = f"""Score a day of {spec.name} with the champion of that day, into the Delta table of predictions.

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
    params = {
        "day": _day(spec, "Day", "The day to score; empty: the run's partition, or yesterday."),
        "last_day": _day(spec, "Last day", "For a range: the last day to score, included."),
        "version": _number("Version", "Score with this version in place of the champion."),
        "check": Param(
            True,
            type="boolean",
            title="Check",
            description="Let a check follow: of the day, or of the last day of a range, whose every whole window it measures "
            "(a run of a partition always does).",
        ),
        "allow_empty": Param(
            False,
            type="boolean",
            title="Allow empty days",
            description="Take it that days that had rows have none any more. Otherwise the run fails, and nothing is replaced.",
        ),
    }
    options = {
        "schedule": timetable,
        "start_date": _start(spec, spec.score.start and spec.score.start + timedelta(days=1)),
        "catchup": spec.score.catchup,
        "max_active_runs": 4,
        "deadline": _deadline(spec),
    }
    asset = predictions_asset(spec)

    def days() -> list[date]:
        from esteira.data import days

        params, _, partition = _context()
        first = _run_day(spec)
        last = _past(spec, params["last_day"]) if params["last_day"] and not partition else first
        if last < first:
            raise AirflowFailException(f"last_day {last} is before day {first}; give the range in order")
        return days(first, last)

    with _dag(spec, "score", doc, params=params, **options) as dag:

        @task(retries=LOOKS, retry_policy=WAITING)
        def extract() -> int:
            from esteira import steps

            return steps.extract(spec, days(), when_gone="replace" if _context()[0]["allow_empty"] else "refuse")

        @task
        def validate() -> int:
            from esteira import steps

            bad = steps.validate(spec, days())
            steps.require_fit(spec, days())
            return bad

        @task
        def features() -> int:
            from esteira import steps

            return steps.features(spec, days())

        @task
        def score() -> int:
            from esteira import steps

            params, run, _ = _context()
            # A form's 1.0 is a whole number, too.
            return steps.score(spec, days(), run, None if params["version"] is None else int(params["version"]))

        # One day's run is that day's partition. A range names its last day, whose check measures what lies before it, too:
        # checks of all its days would start in any order, and only the one of the newest day decides.
        @task(outlets=[asset])
        def publish() -> str:
            from esteira import steps

            params, run, partition = _context()
            steps.publish(spec, days(), run)
            events = get_current_context()["outlet_events"][asset]
            if params["check"] and not partition:
                events.add_partitions([str(days()[-1])])
            return steps.accounted(spec, days())

        extract() >> validate() >> features() >> score() >> publish()
    return dag


def _days_asked(spec: ModelSpec, run: Mapping[str, Any]) -> list[date]:
    """The days of a run of the score DAG, of which only what Airflow tells a callback is known."""
    from esteira.data import days

    conf = run.get("conf") or {}
    due = datetime.fromisoformat(run["run_after"]).astimezone(ZoneInfo(spec.time.timezone)).date()
    first = run.get("partition_key") or conf.get("day") or str(due - timedelta(days=1))
    last = first if run.get("partition_key") else conf.get("last_day") or first
    return days(date.fromisoformat(first), date.fromisoformat(last))


def _deadline(spec: ModelSpec) -> DeadlineAlert | None:
    """The alert about a run that has not scored its days in time."""
    if spec.score.deadline is None:
        return None
    return DeadlineAlert(
        reference=SinceQueued(),
        interval=timedelta(hours=spec.score.deadline),
        callback=AsyncCallback("esteira.dags.late", kwargs={"model": spec.name}),
    )


async def late(model: str, context: Mapping[str, Any]) -> None:
    """Mail that a run's days were not scored by their deadline, unless another run has scored them; called by the triggerer."""
    await sync_to_async(_late)(model, context["dag_run"], str(context["deadline"]["deadline_time"]))


def _late(model: str, run: Mapping[str, Any], deadline: str) -> None:
    from esteira import steps, tables

    if run.get("run_type") == "backfill":  # all its runs are queued at once, and nobody waits for them in the morning
        return
    spec, name = find(model), f"{run['dag_id']}/{run['dag_run_id']}"
    days = _days_asked(spec, run)
    try:
        days = tables.missing_days("predictions", model, days)
    except OutOfReach:  # which may be why the day is late
        log.exception("model %s: whether %s are scored can't be seen", model, days)
    if not days:
        return
    place = f"{_airflow_url()}/dags/{run['dag_id']}/runs/{run['dag_run_id']}"
    mail = steps.late_mail(spec, days, name, run["state"], deadline, place)
    try:
        steps.post(spec, mail, days[0], name, _send)
    except OutOfReach:  # the mail can't wait in the lake
        log.exception("model %s: the mail about %s is not in the ledger", model, days)
        _send(mail)


# ------------------------------------------------------------------------------------------------------------- check


def check_dag(spec: ModelSpec) -> DAG:
    """labels → measure → decide → up to three attempts → commit, register, promote, score again, and/or warn."""
    doc = f"""Check the champion of {spec.name}: {", ".join(f"{name} {limit}" for name, limit in spec.check.metrics.items())}.

It follows each scored day and can be run by hand for any day. The metrics of the last whole windows of
{counted(spec.check.every, "day")} decide: it is violated when the latest, and {spec.check.violated.at_least} of the last {spec.check.violated.of_last},
are out of range. Then up to {counted(len(spec.recipes), "attempt")} retrain, each judged on the latest {counted(spec.check.slice, "mature day")}, which
neither version has seen. One that recovers is promoted and the days since the violation are scored again; when none
does, a warning is mailed."""
    params = {
        "day": _day(spec, "Day", "Check as if this day had just ended; empty: the run's partition, or yesterday.")
    }
    timetable = PartitionedAssetTimetable(assets=predictions_asset(spec))
    options = {"schedule": timetable, "catchup": False, "max_active_runs": 1}
    with _dag(spec, "check", doc, params=params, **options) as dag:
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

        return steps.labels_for_check(spec, _run_day(spec))

    @task
    def measure() -> int:
        from esteira import steps

        return steps.measure(spec, _run_day(spec))

    @task.branch
    def decide() -> list[str]:
        from esteira import steps

        verdict = steps.decide(spec, _run_day(spec))
        log.info("%s: %s", verdict.decision.value, verdict.why)
        chosen = {"retrain": "attempt_1.retrain", "wait": "wait"}.get(verdict.decision.value, "keep")
        drifted = steps.drift_to_report(spec, _run_day(spec)) or chosen == "attempt_1.retrain"
        verify = steps.to_verify(spec, _run_day(spec)) is not None
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

            return steps.retrain(spec, _run_day(spec), number)

        @task(retries=4, retry_policy=ATTEMPT, on_failure_callback=None)
        def recheck(model_run: str) -> str:
            from esteira import steps

            return steps.recheck(spec, _run_day(spec), number, model_run).value

        @task.branch(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
        def verdict() -> list[str]:
            from esteira import steps

            recovered, improved = steps.standing(spec, _run_day(spec))
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

        return steps.commit_notebook(spec, _run_day(spec))

    @task
    def register() -> int:
        from esteira import steps

        return steps.chosen_version(spec, _run_day(spec))

    @task
    def promote(version: int, commit: str) -> int:
        from esteira import steps

        return steps.promote_chosen(spec, _run_day(spec), version, commit)

    @task
    def rescore(version: int) -> int:
        from esteira import steps

        return steps.rescore(spec, _run_day(spec), version)

    commit, version = commit_notebook(), register()
    commit >> version
    rescore(promote(version, commit))
    return commit


def _warn(spec: ModelSpec) -> Any:
    @task(retries=5)
    def warn() -> str:
        from esteira import steps

        day = _run_day(spec)
        mail = steps.warning(spec, day, _run_url())
        steps.post(spec, mail, day, steps.run_key(day), _send)
        return mail.subject

    return warn()


def _drift_report(spec: ModelSpec) -> Any:
    @task
    def drift_report() -> str:
        from esteira import steps

        day = _run_day(spec)
        run_id = steps.drift_report(spec, day)
        steps.report_why(spec, day, run_id)
        mail = steps.drift_mail(spec, day, _run_url())
        if mail:
            steps.post(spec, mail, day, steps.run_key(day), _send)
        return run_id

    return drift_report()


def _verify(spec: ModelSpec) -> Any:
    @task
    def verify() -> str:
        from esteira import steps

        day = _run_day(spec)
        state = steps.verify(spec, day)
        mail = steps.verification_mail(spec, day, _run_url())
        if mail:
            steps.post(spec, mail, day, steps.run_key(day), _send)
        return state

    return verify()


BUILDERS = {"train": train_dag, "score": score_dag, "check": check_dag}


# -------------------------------------------------------------------------------------------------------- operations


def operations() -> dict[str, DAG]:
    """The DAGs that look after all models at once: maintenance of the tables, and mails that no server took yet."""
    if get_parsing_context().dag_id not in (None, "esteira_maintenance", "esteira_outbox"):
        return {}
    specs, files, budget = [], model_files(), Budget()
    for path in files:
        try:
            specs.append(_loaded(path, files, budget))
        except Exception as error:  # dags/broken_models.py shows it
            log.error("%s", error)
    return {dag.dag_id: dag for dag in (_maintenance_dag(specs), _outbox_dag(specs))}


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
            _mail_failure(specs[context["task_instance"].map_index])(context)

        @task(map_index_template="{{ name }}", on_failure_callback=mail_failure)
        def maintain(index: int) -> str:
            from esteira import steps

            get_current_context()["name"] = specs[index].name  # type: ignore[typeddict-unknown-key]
            return steps.maintain(specs[index], _context()[0]["days"])

        maintain.expand(index=list(range(len(specs))))
    return dag


def _outbox_dag(specs: list[ModelSpec]) -> DAG:
    doc = """Send the mails that no mail server took when they were written.

Each is in its model's ledger until it is delivered, and always has the same Message-ID. Mails younger than the minutes given
are left to the task that wrote them, and tries to send them itself."""
    minutes = Param(
        15, type="number", minimum=0, maximum=525_600, title="Minutes", description="How old a mail must be."
    )
    schedule = os.environ.get("ESTEIRA_OUTBOX_SCHEDULE", "*/10 * * * *")
    with _operation("outbox", schedule, doc, params={"minutes": minutes}) as dag:

        @task(map_index_template="{{ name }}")
        def deliver(index: int) -> int:
            from esteira import steps

            get_current_context()["name"] = specs[index].name  # type: ignore[typeddict-unknown-key]
            return steps.deliver(specs[index], _context()[0]["minutes"], _send)

        deliver.expand(index=list(range(len(specs))))
    return dag


# -------------------------------------------------------------------------------------------------------------- mail


def _send(mail: Mail) -> None:
    """Send a mail through Airflow's SMTP connection, as text and HTML."""
    from airflow.providers.smtp.hooks.smtp import SmtpHook

    with SmtpHook(SMTP) as hook:
        client = hook._smtp_client  # the hook's own send makes HTML-only mails without a Message-ID of ours
        assert client is not None, "the hook connects when it is entered"
        client.send_message(mail.message(hook.from_email or "esteira@localhost"))


def _airflow_url() -> str:
    from airflow.configuration import conf

    return str(conf.get("api", "base_url", fallback="")).rstrip("/")


def _run_url() -> str:
    run = get_current_context()["dag_run"]
    return f"{_airflow_url()}/dags/{run.dag_id}/runs/{run.run_id}"


def _mail_failure(spec: ModelSpec) -> Any:
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
            steps.post(spec, mail, day, f"{instance.dag_id}/{instance.run_id}", _send)
        except Exception:  # the lake may be what failed: then the mail can't wait in it
            log.exception("model %s: the failure mail is not in the ledger, or was not taken", spec.name)
            _send(mail)

    return mail_failure
