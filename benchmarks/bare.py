"""Airflow DAGs as those of include/models/toll_traffic, from literals: no model.yaml is read, and nothing of Esteira imported.

benchmarks/parse.py copies this file into a folder of DAGs, to compare with what Airflow takes by itself. A test holds that
these DAGs are those that Esteira builds: tasks, operators, dependencies, params, timetables, defaults, documentation.
"""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import (
    DAG,
    Asset,
    AsyncCallback,
    CronPartitionTimetable,
    DeadlineAlert,
    DeadlineReference,
    ExceptionRetryPolicy,
    Label,
    Param,
    PartitionedAssetTimetable,
    RetryAction,
    RetryRule,
    TaskGroup,
    TriggerRule,
    task,
    task_group,
)

RULES = [
    RetryRule(exception=ValueError, action=RetryAction.FAIL, reason="someone has to mend this"),
    RetryRule(exception=TimeoutError, action=RetryAction.FAIL, reason="it would take as long again"),
    RetryRule(exception=[ImportError, SyntaxError], action=RetryAction.FAIL, reason="the code can't be loaded"),
]
PERMANENT = ExceptionRetryPolicy(rules=RULES)
WAITING = {"retries": 12, "retry_policy": ExceptionRetryPolicy(rules=RULES)}
ATTEMPT = {"retries": 4, "retry_policy": ExceptionRetryPolicy(rules=[]), "on_failure_callback": None}
NAMES = ["0: HistGradientBoostingRegressor", "1: Ridge"]
TRAIN = """Train {name} and promote the new version if it is better than the champion.

Only rows whose labels were mature on the as-of day are seen (1d after the event). The days are split
70/15/15 in order of time: candidates are tuned on the first part and compared on the second; the best one is measured on
the last, against a naive baseline and the champion. A version promoted for an as-of day serves from the day after."""
SCORE = """Score a day of {name} with the champion of that day, into the Delta table of predictions.

The task **score** reads the source, puts bad rows aside for quarantine, builds features and predicts, some rows at a time;
nobody sees any of it before **publish** names all of it at once. Of a range longer than a month each calendar
month is scored and published by itself, by the group **earlier**, on whatever workers are free.

A day is a partition: the run that starts by the schedule (0 6 * * *, America/Sao_Paulo) scores **the day
before**. By hand, give a day or a range of days. Scoring a day again replaces its predictions; what was served first
stays in the table `served`. A check follows by itself: of the day, or of the last day of a range."""
CHECK = """Check the champion of {name}: mae_over_mean ≤ 0.18.

It follows each scored day and can be run by hand for any day. The metrics of the last whole windows of
7 days decide: it is violated when the latest, and 2 of the last 3,
are out of range, and so is their mean. Then a blend of what was trained before, and up to 3 attempts that retrain, each judged on the latest 7 mature days, which
neither version has seen. One that recovers is promoted and the days since the violation are scored again; when none
does, a warning is mailed, once in 8 windows, and the next loop waits for longer."""


def begin(context):
    """Called before each task."""


def dag_of(name, kind, doc, **options):
    """A DAG without tasks."""

    def mail(context):
        pass

    doc = doc.format(name=name)
    return DAG(
        dag_id=f"{name}_{kind}",
        description=doc.partition("\n")[0],
        doc_md=doc,
        tags={"esteira", name, kind},
        auto_register=False,
        owner_links={"traffic@example.com": "mailto:traffic@example.com"},
        default_args={
            "owner": "traffic@example.com",
            "retries": 2,
            "retry_delay": timedelta(seconds=5),
            "retry_exponential_backoff": True,
            "max_retry_delay": timedelta(minutes=5),
            "retry_policy": PERMANENT,
            "on_failure_callback": mail,
            "execution_timeout": timedelta(minutes=60),
            "pre_execute": begin,
        },
        **options,
    )


def day(title, about):
    """A field for a day."""
    return Param(
        None,
        type=["null", "string"],
        format="date",
        allOf=[{"format": "day from 1900-01-01 until today in America/Sao_Paulo"}],
        title=title,
        description=about,
    )


def number(title, about, least=1, most=2**31 - 1):
    """A field for a number."""
    return Param(None, type=["null", "integer"], minimum=least, maximum=most, title=title, description=about)


def flag(default, title, about):
    """A field for yes or no."""
    return Param(default, type="boolean", title=title, description=about)


def train(name):
    """Nine tasks, one of them mapped."""
    params = {
        "day": day("As-of day", "Train as if this day had just ended; empty: yesterday."),
        "window": number("Window", "Days to train on; empty: 120.", 7, 36_500),
        "candidates": Param(
            NAMES, type="array", examples=NAMES, items={"type": "string", "enum": NAMES}, title="Candidates"
        ),
        "promote": flag(True, "Promote", "Promote the new version if it is better."),
        "again": flag(
            False,
            "Again",
            "Register a second version even where one of the same day, model.yaml and data is there.",
        ),
    }
    options = {"schedule": None, "start_date": None, "catchup": False, "max_active_runs": 1}
    with dag_of(name, "train", TRAIN, params=params, **options) as dag:

        @task(**WAITING)
        def extract() -> int:
            pass

        @task
        def validate() -> int:
            pass

        @task
        def features() -> str:
            pass

        @task
        def candidates() -> list[int]:
            pass

        @task(map_index_template="{{ name }}")
        def candidate(index: int, versions: str) -> str:
            pass

        @task
        def select(candidate_runs) -> str:
            pass

        @task
        def evaluate(candidate_run: str, versions: str) -> str:
            pass

        @task
        def register(model_run: str) -> int:
            pass

        @task
        def promote(version: int) -> str:
            pass

        valid, versions = validate(), features()
        extract() >> valid >> versions
        chosen = candidates()
        best = evaluate(select(candidate.partial(versions=versions).expand(index=chosen)), versions)
        valid >> chosen
        promote(register(best))
    return dag


def score(name):
    """Four tasks, two of them in a mapped group, by a partition a day, with a deadline."""
    timetable = CronPartitionTimetable(
        "0 6 * * *",
        timezone="America/Sao_Paulo",
        run_offset=-1,
        run_immediately=timedelta(minutes=1),
        key_format="%Y-%m-%d",
    )
    params = {
        "day": day("Day", "The day to score; empty: the run's partition, or yesterday."),
        "last_day": day("Last day", "For a range: the last day to score, included."),
        "version": number("Version", "Score with this version in place of the champion."),
        "champion": flag(False, "Champion again", "Let go a version that was chosen for these days by hand."),
        "check": flag(
            True,
            "Check",
            "Let a check follow: of the day, or of the last day of a range, whose every whole window it measures (a run of a "
            "partition always does).",
        ),
        "allow_empty": flag(
            False,
            "Allow empty days",
            "Take it that days that had rows have none any more. Otherwise the run fails, and nothing is replaced.",
        ),
    }
    late = AsyncCallback("asyncio.sleep", kwargs={"model": name})
    deadline = DeadlineAlert(reference=DeadlineReference.DAGRUN_QUEUED_AT, interval=timedelta(hours=6), callback=late)
    options = {"schedule": timetable, "start_date": None, "catchup": False, "max_active_runs": 4, "deadline": deadline}
    with dag_of(name, "score", SCORE, params=params, **options) as dag:

        @task(map_index_template="{{ name }}", **WAITING)
        def score(number: int = 0, every: tuple[int, ...] = (0,)) -> list[list[str]]:
            pass

        @task_group
        def earlier(span: list[str]) -> None:
            """The days of a long range but the last ones: a span by itself each, published by itself."""

            @task(map_index_template="{{ name }}", **WAITING)
            def score_span(span: list[str]) -> None:
                pass

            @task(map_index_template="{{ name }}")
            def publish_span(span: list[str]) -> str:
                pass

            score_span(span) >> publish_span(span)

        @task(
            outlets=[Asset(name=f"predictions_{name}", uri=f"esteira://predictions/{name}")],
            trigger_rule=TriggerRule.NONE_FAILED,
        )
        def publish(every: tuple[int, ...] = (0,)) -> str:
            pass

        staged = score()
        staged >> earlier.expand(span=staged) >> publish()
    return dag


def check(name):
    """Twenty-five tasks, thirteen of them in five groups."""
    params = {"day": day("Day", "Check as if this day had just ended; empty: the run's partition, or yesterday.")}
    asset = Asset(name=f"predictions_{name}", uri=f"esteira://predictions/{name}")
    options = {"schedule": PartitionedAssetTimetable(assets=asset), "catchup": False, "max_active_runs": 1}
    with dag_of(name, "check", CHECK, params=params, **options) as dag:
        watch()
    return dag


def watch():
    """The tasks of a check."""

    @task(**WAITING)
    def labels() -> int:
        pass

    @task
    def measure() -> int:
        pass

    @task.branch
    def decide() -> list[str]:
        pass

    @task
    def drift_report() -> str:
        pass

    @task
    def verify() -> str:
        pass

    @task
    def wait() -> str:
        pass

    decided = decide()
    labels() >> measure() >> decided
    decided >> Label("in range") >> EmptyOperator(task_id="keep")
    decided >> Label("too little is known") >> wait()
    decided >> Label("drift") >> drift_report()
    decided >> Label("newly promoted") >> verify()
    groups = attempts(decided)
    commit = promotion()

    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    def warn() -> str:
        pass

    warned = warn()
    for _, verdict in groups:
        verdict >> Label("better") >> commit
    for _, judged in groups[1:]:
        judged >> Label("still out of range") >> warned


def attempts(decided):
    """The groups of the attempts, one after the other."""
    trained = [attempt(index, window) for index, window in enumerate((120, 7, 28), 1)]
    groups = [blend(), trained[0], blend("_later"), *trained[1:]]
    skipping = {1: decided, 3: trained[0][1]}
    previous, label = decided, "out of range"
    for index, (begins, verdict) in enumerate(groups):
        for before in (previous, *([skipping[index]] if index in skipping else [])):
            before >> Label(label) >> begins
            label = "not recovered"
        decided >> verdict
        previous = verdict
    return groups


def blend(later=""):
    """A group of two tasks."""
    with TaskGroup(f"attempt_0{later}", tooltip="Attempt 0: a blend of what was trained before"):

        @task(**ATTEMPT, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
        def blend() -> str:
            pass

        @task.branch(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
        def verdict() -> list[str]:
            pass

        blended, judged = blend(), verdict()
        blended >> judged
    return blended, judged


def attempt(index, window):
    """A group of three tasks."""
    with TaskGroup(f"attempt_{index}", tooltip=f"Attempt {index}: {window}d"):

        @task(**ATTEMPT, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
        def retrain() -> str:
            pass

        @task(**ATTEMPT)
        def recheck(model_run: str) -> str:
            pass

        @task.branch(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS)
        def verdict() -> list[str]:
            pass

        trained, judged = retrain(), verdict()
        recheck(trained) >> judged
    return trained, judged


def promotion():
    """Four tasks after a version that is better."""

    @task(trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    def commit_notebook() -> str:
        pass

    @task
    def register() -> int:
        pass

    @task
    def promote(version: int, commit: str) -> int:
        pass

    @task
    def rescore() -> str:
        pass

    commit, version = commit_notebook(), register()
    commit >> version
    promote(version, commit) >> rescore()
    return commit


def build(names):
    """The three DAGs of each name, by id."""
    return {dag.dag_id: dag for name in names for dag in (train(name), score(name), check(name))}


globals().update(build(os.environ.get("BARE_MODELS", "").split()))
