"""Every DAG parses, keeps the house's policy, costs little to parse, and does not take others down with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

import pytest
from esteira.dags.timeouts import end_with_its_process
from esteira.errors import EsteiraError, OutOfReach

from tests import models
from tests.conftest import PROJECT

EXAMPLES = PROJECT / "examples"
OWN = PROJECT / "include" / "models"
TASKS = {
    "train": "extract validate features candidates candidate select evaluate register promote",
    "score": "score earlier.score_span earlier.publish_span publish",
    "check": "labels measure decide keep wait drift_report verify attempt_0.blend attempt_0.verdict attempt_0_later.blend "
    "attempt_0_later.verdict attempt_1.retrain attempt_1.recheck attempt_1.verdict "
    "attempt_2.retrain attempt_2.recheck attempt_2.verdict attempt_3.retrain attempt_3.recheck attempt_3.verdict "
    "commit_notebook register promote rescore warn",
}

OPERATIONS = {"esteira_maintenance", "esteira_outbox", "esteira_reconcile", "esteira_rollback"}


@pytest.fixture
def dags(dag_bag, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ESTEIRA_DATA", "/nowhere")
    bag = dag_bag(OWN, EXAMPLES)
    assert bag.import_errors == {}
    return bag.dags


def test_each_model_has_its_three_dags(dags) -> None:
    names = {path.parent.name for root in (OWN, EXAMPLES) for path in root.glob("*/model.yaml")}
    assert len(names) >= 4
    assert set(dags) == {f"{name}_{kind}" for name in names for kind in ("train", "score", "check")} | OPERATIONS


def test_operations_look_after_every_model(dags) -> None:
    for name in OPERATIONS:
        dag = dags[name]
        assert {"esteira", "operations"} == set(dag.tags)
        assert dag.doc_md
        assert (dag.catchup, dag.max_active_runs, dag.is_paused_upon_creation) == (False, 1, False)
    assert dags["esteira_maintenance"].get_task("maintain").on_failure_callback
    deliver = dags["esteira_outbox"].get_task("deliver")
    assert (deliver.upstream_task_ids, deliver.trigger_rule) == ({"watch"}, "all_done")


@pytest.mark.parametrize("kind", TASKS)
def test_a_dag_has_the_tasks_that_the_design_names(dags, kind: str) -> None:
    assert set(dags[f"toll_traffic_{kind}"].task_ids) == set(TASKS[kind].split())


def test_policy(dags) -> None:
    from esteira.dags.common import OutagesOnly

    for dag in (dag for name, dag in dags.items() if name not in OPERATIONS):
        assert {"esteira"} < set(dag.tags), dag.dag_id
        assert dag.doc_md, dag.dag_id
        assert dag.catchup is False, dag.dag_id
        assert dag.max_active_runs == (4 if dag.dag_id.endswith("_score") else 1), dag.dag_id
        for task in dag.tasks:
            attempt = task.task_id.endswith((".blend", ".retrain", ".recheck"))
            assert "@" in task.owner, task.task_id
            assert task.retries, task.task_id
            assert isinstance(task.retry_policy, OutagesOnly) == attempt, task.task_id
            assert bool(task.on_failure_callback) != attempt, task.task_id


def test_an_attempt_that_raises_has_failed_but_for_an_outage() -> None:
    from airflow.sdk import RetryAction
    from esteira.dags.common import ATTEMPT
    from mlflow.exceptions import MlflowException

    for error, action in (
        (ValueError("a NaN"), RetryAction.FAIL),
        (EsteiraError("too few rows"), RetryAction.FAIL),
        (OutOfReach("the lake"), RetryAction.RETRY),
        (ConnectionRefusedError(), RetryAction.RETRY),
        (MlflowException("API request to http://127.0.0.1:5000 failed"), RetryAction.RETRY),
    ):
        assert ATTEMPT.evaluate(error, 1, 4).action is action, error


def test_the_scheduled_score_takes_the_day_before(dags) -> None:
    timetable = dags["toll_traffic_score"].timetable
    assert (timetable.run_offset, timetable.key_format) == (-1, "%Y-%m-%d")
    assert "the day\nbefore" in dags["toll_traffic_score"].doc_md


def test_the_trigger_form_offers_what_the_issue_names(dags) -> None:
    assert set(dags["toll_traffic_train"].params) == {"day", "window", "candidates", "promote", "again"}
    assert set(dags["toll_traffic_score"].params) == {
        "day",
        "last_day",
        "version",
        "check",
        "allow_empty",
        "champion",
    }
    assert set(dags["toll_traffic_check"].params) == {"day"}


@pytest.mark.parametrize(
    ("name", "value"), [("day", "31.01.2026"), ("window", 3), ("candidates", ["none such"]), ("promote", "perhaps")]
)
def test_a_wrong_param_is_refused(dags, name: str, value: object) -> None:
    from airflow.sdk.exceptions import ParamValidationError

    param = dags["toll_traffic_train"].params.get_param(name)
    with pytest.raises(ParamValidationError):
        param.resolve(value)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        ("train", "window", 10**30),
        ("train", "window", 36_501),
        ("score", "version", 10**30),
        ("score", "version", 0),
        ("score", "last_day", str(date.today() + timedelta(days=2))),  # noqa: DTZ011  # two days: whatever the zone
        ("train", "day", "9999-12-31"),
        ("check", "day", "0001-01-01"),
    ],
)
def test_forms_are_bounded(dags, kind: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what Airflow's API server checks: the schema, with the formats that the plugin makes known to it."""
    import jsonschema
    from esteira.dags import forms

    schema = dags[f"toll_traffic_{kind}"].params.get_param(name).schema
    known = dict(jsonschema.FormatChecker.checkers)
    monkeypatch.setattr(jsonschema.FormatChecker, "checkers", known)  # known to this test only
    forms.register()
    check = jsonschema.FormatChecker()
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema, format_checker=check)
    for good in (None, "2026-01-31") if "day" in name else (None, 28):
        jsonschema.validate(good, schema, format_checker=check)


def test_every_task_has_a_timeout(dags) -> None:
    for dag in dags.values():
        for each in dag.tasks:
            if type(each).__name__ == "EmptyOperator":  # which is never run
                continue
            assert each.execution_timeout == timedelta(hours=1), f"{dag.dag_id}: {each.task_id}"
            given = each.partial_kwargs if each.is_mapped else vars(each)
            assert given.get("pre_execute" if each.is_mapped else "_pre_execute_hook") is end_with_its_process, each


def test_a_timeout_is_the_models(dag_bag, tmp_path: Path) -> None:
    models.write(tmp_path, "quick", yaml=models.YAML + "timeout: 5m\n")
    found = {each.execution_timeout for each in dag_bag(tmp_path).dags["quick_score"].tasks}
    assert found == {timedelta(minutes=5)}


def test_a_timeout_is_not_tried_again() -> None:
    from airflow.sdk import RetryAction
    from airflow.sdk.exceptions import AirflowTaskTimeout
    from esteira.dags import common

    for policy in (common.PERMANENT, common.ATTEMPT):
        assert policy.evaluate(AirflowTaskTimeout("Timeout"), 1, 3).action is RetryAction.FAIL


def test_a_source_that_is_not_whole_is_waited_for_and_nothing_else_is() -> None:
    from airflow.sdk import RetryAction
    from esteira.dags import common
    from esteira.errors import DataError, Unfinished

    waits = [common.WAITING.evaluate(Unfinished("not yet"), number, 12) for number in range(1, 13)]
    assert {each.action for each in waits} == {RetryAction.RETRY}
    assert [each.retry_delay for each in waits[:5]] == [timedelta(minutes=pause) for pause in (1, 2, 4, 8, 10)]
    assert sum((each.retry_delay for each in waits), timedelta()) == timedelta(minutes=95)
    assert common.WAITING.evaluate(DataError("wrong"), 1, 12).action is RetryAction.FAIL
    assert common.WAITING.evaluate(OutOfReach("gone"), 2, 12).action is RetryAction.DEFAULT
    assert common.WAITING.evaluate(OutOfReach("gone"), 3, 12).action is RetryAction.FAIL


def test_a_model_that_takes_too_long_stops_no_other(dag_bag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from esteira.dags import building

    for name in ("eager", "slow", "zealous"):
        models.write(tmp_path, name)
    real = building.load_cached

    def load(path: Path):
        while path.parent.name == "slow":  # for ever, were there no budget
            sum(range(1000))
        return real(path)

    monkeypatch.setattr(building, "load_cached", load)
    monkeypatch.setattr(building, "BUDGET", 0.3)
    bag = dag_bag(tmp_path)
    assert {name for name in bag.dags if not name.startswith("esteira_")} == {
        f"{name}_{kind}" for name in ("eager", "zealous") for kind in ("train", "score", "check")
    }
    (error,) = bag.import_errors.values()
    assert "slow/model.yaml: to read it takes longer than 0.3 s" in error


def test_a_name_that_two_folders_declare_is_refused(dag_bag, tmp_path: Path) -> None:
    models.write(tmp_path / "one", "good")
    models.write(tmp_path / "one", "twice")
    models.write(tmp_path / "two", "twice")
    bag = dag_bag(tmp_path / "one", tmp_path / "two")
    assert set(bag.dags) == {"good_train", "good_score", "good_check", *OPERATIONS}
    (error,) = bag.import_errors.values()
    for root in ("one", "two"):
        assert f"{tmp_path / root}/twice/model.yaml" in error
    assert "the model 'twice' is declared a second time" in error


def test_a_broken_model_shows_as_an_import_error_and_the_others_stay(dag_bag, tmp_path: Path) -> None:
    models.write(tmp_path, "good")
    broken = models.write(tmp_path, "broken").folder / "model.yaml"
    broken.write_text(broken.read_text().replace("task: regression", "task: regresion"))
    bag = dag_bag(tmp_path)
    assert set(bag.dags) == {"good_train", "good_score", "good_check", *OPERATIONS}
    assert [Path(path).name for path in bag.import_errors] == ["broken_models.py"]
    (error,) = bag.import_errors.values()
    assert (
        f"{broken}, line 3: task: got 'regresion'; allowed: regression, binary, multiclass; did you mean 'regression'?"
        in error
    )


@pytest.mark.parametrize(
    "text",
    ["name: broken\npath: {{ x }}\n", "a: &a {b: *a}\n", "name: \x07\n", "", "schedule: ["],
    ids=["braces", "loop", "bell", "empty", "open"],
)
def test_no_broken_file_takes_the_others_down(dag_bag, tmp_path: Path, text: str) -> None:
    models.write(tmp_path, "good")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.yaml").write_text(text)
    bag = dag_bag(tmp_path)
    assert set(bag.dags) == {"good_train", "good_score", "good_check", *OPERATIONS}
    (error,) = bag.import_errors.values()
    assert f"SpecError: {tmp_path}/broken/model.yaml" in error


def test_dags_that_airflow_refuses_are_shown_and_the_others_stay(
    dag_bag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from esteira.dags import building

    build_check = building.BUILDERS["check"]

    def refuse(spec):
        if spec.name == "refused":
            raise ValueError("Airflow does not take it")
        return build_check(spec)

    monkeypatch.setitem(building.BUILDERS, "check", refuse)
    models.write(tmp_path, "good")
    models.write(tmp_path, "refused")
    bag = dag_bag(tmp_path)
    assert bag.import_errors == {}
    assert set(bag.dags) == {"good_train", "good_score", "good_check", "refused_broken", *OPERATIONS}
    assert (
        bag.dags["refused_broken"].doc_md == "The DAGs of refused can't be built: ValueError: Airflow does not take it"
    )


def in_a_process_of_its_own(code: str, **environment: str) -> str:
    with tempfile.TemporaryDirectory() as home:  # the specs are cached in it
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            env={**os.environ, "ESTEIRA_HOME": home, **environment},
            check=True,
        )
    return done.stdout.strip().splitlines()[-1]


def test_parsing_imports_nothing_heavy() -> None:
    code = (
        "from airflow.dag_processing.dagbag import DagBag; import sys; before = set(sys.modules);"
        f"bag = DagBag(dag_folder={str(PROJECT / 'dags')!r}); assert len(bag.dags) >= 6, bag.import_errors;"
        "heavy = {'pandas', 'numpy', 'pyarrow', 'deltalake', 'sklearn', 'mlflow', 'optuna', 'evidently', 'matplotlib', 'papermill'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert in_a_process_of_its_own(code) == "[]"


def test_a_task_builds_only_its_own_dag() -> None:
    code = "from esteira.dags import building; print(sorted(building.build()))"
    assert (
        in_a_process_of_its_own(code, _AIRFLOW_PARSING_CONTEXT_DAG_ID="toll_traffic_score") == "['toll_traffic_score']"
    )
    assert in_a_process_of_its_own(code, _AIRFLOW_PARSING_CONTEXT_DAG_ID="another_dag") == "[]"


def test_dag_files_are_short() -> None:
    for path in (PROJECT / "dags").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= 15, path
        # Airflow skips a file without these words, and does not say so.
        assert "airflow" in text.lower(), path
        assert "dag" in text.lower(), path


@pytest.mark.parametrize("kind", ["train", "score"])
def test_a_new_dag_waits_for_its_next_tick(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpaused half an hour after its time, it must not run for the day before: that would be a check newer than any by hand."""
    from datetime import UTC, datetime

    from airflow.serialization.decoders import decode_timetable
    from airflow.serialization.encoders import encode_timetable
    from airflow.timetables import trigger
    from airflow.timetables.base import TimeRestriction
    from esteira.dags import building

    spec = models.write(
        tmp_path, yaml=models.YAML.replace("  window: 28d\n", '  window: 28d\n  schedule: "0 6 * * *"\n')
    )
    timetable = decode_timetable(encode_timetable(building.BUILDERS[kind](spec).timetable))
    now = datetime(2026, 3, 1, 6, 30, tzinfo=UTC)
    monkeypatch.setattr(trigger, "utcnow", lambda: now)
    found = timetable.next_dagrun_info(
        last_automated_data_interval=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
    )
    assert found is not None
    assert found.run_after == datetime(2026, 3, 2, 6, 0, tzinfo=UTC)
