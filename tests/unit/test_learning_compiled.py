"""Compiled trees predict what the pipelines do that they were made of, and whatever can't be compiled is said."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from esteira.learning import blending, compiled, pipelines, predicting, trees
from esteira.learning.predicting import Model
from esteira.learning.trees import CantCompile
from esteira.spec import ModelSpec, load
from sklearn.dummy import DummyRegressor

DAY = date(2026, 1, 1)
YAML = """\
name: trees
owner: team@example.com
task: {task}
source: {{kind: csv, path: "x.csv"}}
time: {{column: at}}
key: [id]
target: y
features: {{numeric: [a, b, none], categorical: [c, many], boolean: [f]}}
train:
  window: 28d
  {more}
  candidates: [{{estimator: sklearn.ensemble.{estimator}, params: {{{params}}}}}]
check: {{every: 7d, metrics: {{{metric}: {{min: -1}}}}}}
"""


def declared(folder: Path, estimator: str, params: str = "", task: str = "regression", more: str = "") -> ModelSpec:
    metric = "r2" if task == "regression" else "balanced_accuracy"
    text = YAML.format(task=task, estimator=estimator, params=params, more=more, metric=metric)
    (folder / "trees").mkdir()
    (folder / "trees" / "model.yaml").write_text(text + ("positive: '1'\n" if task == "binary" else ""))
    return load(folder / "trees" / "model.yaml")


def rows(spec: ModelSpec, count: int = 3_000) -> pd.DataFrame:
    """Rows with features that are empty now and then, one of which always is, and their label."""
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({"a": draw.normal(size=count), "b": draw.normal(7, 1e4, size=count), "none": np.nan})
    frame.loc[::9, "a"] = np.nan
    frame["c"] = pd.Series(draw.choice(["x", "y", "z", None], count), dtype="str")
    frame["many"] = pd.Series([f"v{number}" for number in draw.integers(0, 400, count)], dtype="str")
    frame["f"] = draw.choice([0.0, 1.0, np.nan], count)
    amount = frame["a"].fillna(2) + (frame["c"] == "x") * 3 + frame["b"] / 1e4 + frame["f"].fillna(0) * 2
    frame["label"] = amount if spec.task == "regression" else (amount > 1).astype(int).astype("str")
    if spec.task == "multiclass":
        frame["label"] = np.digitize(amount, [0, 2]).astype("str")
    frame["day"] = pd.Timestamp(DAY) + pd.to_timedelta(np.arange(count) % 20, unit="D")
    return frame


def fitted(spec: ModelSpec, frame: pd.DataFrame) -> Model:
    return pipelines.fit(spec, spec.train.candidates[0], {}, frame)


def fast_of(model: Model, content: bytes | None = None) -> Model:
    """The model by its compiled trees, or by those of a file."""
    return replace(model, pipeline=trees.loaded(content or compiled.build(model), model.classes, lambda: model))


def matrix_of(spec: ModelSpec, model: Model, frame: pd.DataFrame) -> pd.DataFrame:
    return predicting.design(spec, frame, model.columns)


SHAPES: list[tuple[str, str, str, str]] = [
    ("HistGradientBoostingRegressor", "max_iter: 8", "regression", ""),
    ("HistGradientBoostingRegressor", "max_iter: 8", "regression", "feature_selection: {percentile: 40}"),
    ("HistGradientBoostingRegressor", "max_iter: 8, loss: gamma", "regression", ""),
    ("HistGradientBoostingClassifier", "max_iter: 8", "binary", ""),
    ("HistGradientBoostingClassifier", "max_iter: 5", "multiclass", ""),
    ("RandomForestRegressor", "n_estimators: 6, max_depth: 6", "regression", ""),
    ("RandomForestClassifier", "n_estimators: 6, max_depth: 6", "binary", "feature_selection: {percentile: 40}"),
    ("ExtraTreesClassifier", "n_estimators: 6, max_depth: 6", "multiclass", ""),
    ("GradientBoostingRegressor", "n_estimators: 8", "regression", ""),
    ("GradientBoostingClassifier", "n_estimators: 8", "binary", ""),
]


@pytest.mark.parametrize(("estimator", "params", "task", "more"), SHAPES)
def test_compiled_trees_predict_what_the_pipeline_does(
    tmp_path: Path, estimator: str, params: str, task: str, more: str
) -> None:
    spec = declared(tmp_path, estimator, params, task, more)
    frame = rows(spec)
    if more:  # the test that selects warns of a column that is always empty
        frame["none"] = frame["a"].fillna(1) ** 2
    if "gamma" in params:
        frame["label"] = np.exp(frame["label"] / 10)
    model = fitted(spec, frame)
    fast = fast_of(model)
    share = compiled.compared(model, fast, [matrix_of(spec, model, frame)])
    assert 0 < share < 100
    assert isinstance(fast.pipeline, trees.Trees)
    assert (fast.trained_through, fast.classes) == (model.trained_through, model.classes)
    new = rows(spec).sample(500, random_state=1).assign(many="never seen", a=lambda had: had["a"] * 3)
    wanted, found = predicting.predict(spec, model, new), predicting.predict(spec, fast, new)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return declared(tmp_path, "HistGradientBoostingRegressor", "max_iter: 8")


@pytest.fixture
def model(spec: ModelSpec) -> Model:
    return fitted(spec, rows(spec))


def test_values_that_the_trees_would_take_for_others_are_left_to_scikit_learn(
    spec: ModelSpec, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tl2cgen takes a number for none where the lower half of its bits is all ones: 0.49999999999999994 is such a one."""
    fast = fast_of(model).pipeline
    frame = rows(spec).head(50)
    frame.loc[[3, 4, 5], "f"] = [np.nextafter(0.5, 0), np.nextafter(1, 0), np.nextafter(0.5, 1)]
    frame.loc[7, "b"] = 1e200
    matrix = matrix_of(spec, model, frame)
    assert list(np.flatnonzero(fast.prepare(matrix)[1])) == [3, 4, 7]
    asked: list[pd.DataFrame] = []
    slow = model.pipeline.predict
    monkeypatch.setattr(model.pipeline, "predict", lambda given: [asked.append(given), slow(given)][1], raising=False)
    np.testing.assert_allclose(fast.predict(matrix), slow(matrix), rtol=1e-12, atol=1e-12)
    assert [list(given.index) for given in asked if len(given) < 50] == [[3, 4, 7]]


def test_what_is_infinite_is_refused_as_scikit_learn_refuses_it(spec: ModelSpec, model: Model) -> None:
    fast = fast_of(model)
    matrix = matrix_of(spec, model, rows(spec).head(5).assign(a=np.inf))
    with pytest.raises(ValueError, match="infinity"):
        model.pipeline.predict(matrix)
    with pytest.raises(ValueError, match="infinity"):
        fast.pipeline.predict(matrix)


def test_a_library_of_another_model_is_refused(spec: ModelSpec, model: Model) -> None:
    frame = rows(spec)
    other = fitted(spec, frame.assign(label=frame["label"] * 1.001))
    fast = fast_of(model, compiled.build(other))
    with pytest.raises(CantCompile, match=r"differ from scikit-learn's by 0\.00"):
        compiled.compared(model, fast, [matrix_of(spec, model, frame)])


def test_a_blend_is_compiled_member_by_member(spec: ModelSpec, model: Model) -> None:
    frame = rows(spec)
    older = fitted(spec, frame[frame["day"] < pd.Timestamp(DAY + timedelta(days=9))])
    both = blending.Blend([model.pipeline, older.pipeline], [0.7, 0.3], "factor", 1.1)
    blend = Model(both, (), model.trained_through)
    fast = fast_of(blend)
    assert isinstance(fast.pipeline, blending.Blend)
    assert [type(member) for member in fast.pipeline.members] == [trees.Trees] * 2
    compiled.compared(blend, fast, [matrix_of(spec, blend, frame)])


@pytest.mark.parametrize(
    ("estimator", "params", "why"),
    [
        ("HistGradientBoostingRegressor", "max_iter: 900, max_leaf_nodes: 90, min_samples_leaf: 1", "nodes"),
        ("BaggingRegressor", "", "BaggingRegressor is not of trees"),
        ("GradientBoostingRegressor", "init: zero, n_estimators: 2", ""),
    ],
)
def test_what_cant_be_compiled_says_why(
    tmp_path: Path, estimator: str, params: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MOST_NODES", 2_000)
    spec = declared(tmp_path, estimator, params)
    model = fitted(spec, rows(spec, 500))
    if not why:
        assert compiled.build(model)
        return
    with pytest.raises(CantCompile, match=why):
        compiled.build(model)


def test_without_a_compiler_it_is_said(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(CantCompile, match="no C compiler"):
        compiled.build(model)


def test_a_compiler_that_fails_is_a_reason(model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "gcc").write_text("#!/bin/sh\necho out of space >&2\nexit 1\n")
    (tmp_path / "gcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CantCompile, match="gcc can't"):
        compiled.build(model)


def test_a_library_that_is_none_is_a_reason(model: Model) -> None:
    broken = io.BytesIO()
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("0.so", b"not a library")
        archive.writestr(trees.PREPARATION, json.dumps(compiled.plan(model)))
    with pytest.raises(CantCompile, match="for another machine"):
        fast_of(model, broken.getvalue())


def test_a_library_of_an_older_version_is_a_reason(model: Model) -> None:
    older = io.BytesIO()
    with zipfile.ZipFile(older, "w") as archive:
        archive.writestr("0.so", b"a library by itself")
    with pytest.raises(CantCompile, match="by an older version of Esteira"):
        fast_of(model, older.getvalue())


def test_a_pipeline_that_was_not_made_here_is_left_alone() -> None:
    dummy: Any = DummyRegressor()
    with pytest.raises(CantCompile, match="not a pipeline of this version"):
        compiled.build(Model(dummy))
