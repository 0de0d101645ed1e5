from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import skops.io
from esteira.errors import EsteiraError, ModelRefused, OutOfReach, UnknownVersion
from esteira.learning import drift, pipelines, predicting
from esteira.spec import ModelSpec
from esteira.store import mlflow_tracking, model_files, runs
from sklearn.preprocessing import FunctionTransformer

from tests import models


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return models.write(tmp_path)


@pytest.fixture
def frame(spec: ModelSpec) -> pd.DataFrame:
    return models.labelled(spec)


class Foreign:
    """A type that no model file may hold."""


def logged(spec: ModelSpec, frame: pd.DataFrame, key: str = "k") -> str:
    with runs.tracked(spec, key, "test", kind="test") as run_id:
        model = pipelines.fit(spec, spec.train.candidates[0], {}, frame)
        runs.log_model(spec, run_id, model, frame.head(3), drift.profile(spec, frame))
    return run_id


@pytest.fixture
def run_id(home: Path, spec: ModelSpec, frame: pd.DataFrame) -> str:
    return logged(spec, frame)


def test_a_loaded_model_predicts_what_the_logged_one_did(run_id: str, spec: ModelSpec, frame: pd.DataFrame) -> None:
    again = runs.load(spec, run_id)
    fresh = pipelines.fit(spec, spec.train.candidates[0], {}, frame)
    assert predicting.predict(spec, again, frame).equals(predicting.predict(spec, fresh, frame))
    assert again.trained_through == date(2026, 1, 30)
    assert again.columns == list(spec.features.all)


@pytest.mark.parametrize(
    "estimator",
    [
        "sklearn.ensemble.HistGradientBoostingRegressor",
        "sklearn.ensemble.RandomForestRegressor",
        "sklearn.ensemble.GradientBoostingRegressor",
        "sklearn.linear_model.ElasticNet",
        "sklearn.neural_network.MLPRegressor",
        "sklearn.svm.SVR",
    ],
)
def test_common_estimators_are_kept_and_loaded(home: Path, tmp_path: Path, frame: pd.DataFrame, estimator: str) -> None:
    yaml = models.YAML.replace("sklearn.linear_model.Ridge", estimator).replace(
        "  window: 28d", "  window: 28d\n  feature_selection: {{percentile: 90}}"
    )
    spec = models.write(tmp_path / "other", yaml=yaml)
    small = frame.tail(300)
    params = {"max_iter": 2000, "early_stopping": True} if "MLP" in estimator else {}
    model = pipelines.fit(spec, spec.train.candidates[1], params, small)
    with runs.tracked(spec, "k", "test") as run_id:
        runs.log_model(spec, run_id, model, small.head(3), drift.profile(spec, small))
    assert predicting.predict(spec, runs.load(spec, run_id), small).equals(predicting.predict(spec, model, small))


def test_a_foreign_type_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model.skops"
    skops.io.dump({"model": Foreign()}, path)
    with pytest.raises(ModelRefused, match=r"types that are not allowed: .*Foreign; allowed beside"):
        model_files.load(path)


def test_a_call_of_something_else_is_refused_though_calls_with_fixed_arguments_are_allowed(tmp_path: Path) -> None:
    path, ran = tmp_path / "model.skops", tmp_path / "ran"
    skops.io.dump(FunctionTransformer(partial(os.system, f"touch {ran}")), path)
    with pytest.raises(ModelRefused, match=r"types that are not allowed: posix\.system; allowed beside"):
        model_files.load(path)
    assert not ran.exists()


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.pkl").write_bytes(b"\x80\x04N.")
    with pytest.raises(ModelRefused, match="only models in the skops format are loaded"):
        model_files.load(tmp_path / "model.skops")


def test_a_model_that_could_not_be_loaded_again_is_not_kept(home: Path, spec: ModelSpec, frame: pd.DataFrame) -> None:
    model = pipelines.fit(spec, spec.train.candidates[0], {}, frame)
    model.pipeline.foreign = Foreign()
    with pytest.raises(Exception, match="ntrusted types"), runs.tracked(spec, "k", "test") as run_id:
        runs.log_model(spec, run_id, model, frame.head(3), {})
    assert mlflow_tracking.client().get_run(run_id).info.status == "FAILED"


def test_running_a_task_again_replaces_its_run(home: Path, spec: ModelSpec, frame: pd.DataFrame) -> None:
    first, second = logged(spec, frame), logged(spec, frame)
    assert [run.id for run in runs.search(spec, key="k")] == [second] != [first]


def test_registering_twice_gives_one_version(run_id: str, spec: ModelSpec, frame: pd.DataFrame) -> None:
    assert runs.register(spec, run_id) == runs.register(spec, run_id) == 1
    assert runs.register(spec, logged(spec, frame, "other")) == 2


def test_an_alias_is_set_moved_and_removed(run_id: str, spec: ModelSpec) -> None:
    assert runs.aliases(spec) == {}
    runs.register(spec, run_id)
    runs.alias(spec, "champion", 1)
    runs.alias(spec, "champion", 1)
    assert runs.aliases(spec) == {"champion": 1}
    runs.alias(spec, "champion", None)
    assert runs.aliases(spec) == {}


def test_an_unknown_version_says_where_to_look(home: Path, spec: ModelSpec) -> None:
    with pytest.raises(UnknownVersion, match="model sales has no version 7; see `esteira status sales`"):
        runs.run_of(spec, 7)


def test_an_experiment_that_was_deleted_is_to_be_restored(run_id: str, spec: ModelSpec, frame: pd.DataFrame) -> None:
    mlflow_tracking.client().delete_experiment(mlflow_tracking.experiment(spec))
    with pytest.raises(EsteiraError, match=r"was deleted in MLflow.*`mlflow experiments restore --experiment-id \d+`"):
        logged(spec, frame)


def test_the_profile_comes_back(run_id: str, spec: ModelSpec, frame: pd.DataFrame) -> None:
    assert runs.profile(run_id) == drift.profile(spec, frame)


def test_a_database_file_has_no_pages(run_id: str, spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.run_link(spec, run_id) == ""
    monkeypatch.setattr(mlflow_tracking, "uri", lambda: "http://mlflow:5000")
    monkeypatch.setattr(mlflow_tracking, "experiment", lambda spec: "1")
    assert runs.run_link(spec, run_id).startswith("http://mlflow:5000/#/")
    monkeypatch.setenv("ESTEIRA_MLFLOW_URL", "")  # as in docker-compose.yaml, where no browser reaches MLflow
    assert runs.run_link(spec, run_id) == ""
    monkeypatch.setenv("ESTEIRA_MLFLOW_URL", "http://127.0.0.1:5000")
    assert runs.run_link(spec, run_id).startswith("http://127.0.0.1:5000/#/experiments/")


def test_a_run_is_found_by_a_key_with_quotes(home: Path, spec: ModelSpec) -> None:
    keys = ["manual__it's", 'a "b" c', "x' or tags.key != 'x", "plain/1:2 +00:00"]
    for key in keys:
        with runs.tracked(spec, key, "test", kind="attempt"):
            pass
    assert [len(runs.search(spec, key=key)) for key in keys] == [1, 1, 1, 1]


def test_a_run_that_another_process_has_replaced_is_tried_again(home: Path, spec: ModelSpec) -> None:
    def replaced() -> None:
        with runs.tracked(spec, "k", "attempt 1") as run_id:
            with runs.tracked(spec, "k", "attempt 1"):
                pass
            runs.log(run_id, tags={"a": "b"})

    with pytest.raises(OutOfReach, match="another process makes attempt 1 at the same time"):
        replaced()
    (left,) = runs.search(spec, key="k")
    assert left.status == "FINISHED"
    assert runs.finished(spec, "k", left.id) == runs.finished(spec, "k", "one that is gone") == left.id


@pytest.mark.slow
def test_processes_that_make_the_registry_at_once_all_find_it_whole(tmp_path: Path) -> None:
    code = "from esteira.store import mlflow_tracking; print(len(mlflow_tracking.client().search_experiments()))"
    environment = {
        **os.environ,
        "ESTEIRA_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow/mlflow.db",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], said
