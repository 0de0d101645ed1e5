"""A blend: weights by recent losses on what a member has not seen, a calibration, one file."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skops.io
from esteira.learning import blending, pipelines, predicting
from esteira.learning.blending import Blend, Blended
from esteira.learning.predicting import Model
from esteira.spec import ModelSpec
from esteira.store import model_files

from tests import models

LAST = date(2026, 1, 30)
BINARY = models.BINARY.replace("numeric: [load]", "numeric: [hour]")


class Constant:
    """A pipeline that says the same of every row: a number, or the chance of the second class."""

    feature_names_in_ = np.array(["hour"])

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, matrix: pd.DataFrame) -> np.ndarray:
        return np.full(len(matrix), self.value)


class Chance(Constant):
    def predict_proba(self, matrix: pd.DataFrame) -> np.ndarray:
        return np.tile([1 - self.value, self.value], (len(matrix), 1))


def rows(values: list[float], last: date = LAST, a_day: int = 4) -> pd.DataFrame:
    """Rows of as many days as there are values, each day with that label."""
    days = pd.date_range(end=pd.Timestamp(last), periods=len(values)).repeat(a_day)
    return pd.DataFrame({"day": days, "hour": 1, "label": np.repeat(values, a_day)})


def model(value: float, seen: date = date(2025, 1, 1), classes: tuple[str, ...] = ()) -> Model:
    return Model(Chance(value) if classes else Constant(value), classes, seen)


def blend(spec: ModelSpec, given: list[Model], frame: pd.DataFrame) -> Blended | None:
    return blending.blend(spec, blending.known(spec, given, frame), frame["day"].max().date())


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return models.write(tmp_path, yaml=models.YAML.replace("mae_over_mean: {{max: 0.3}}, ", "mae: {{max: 3}}, "))


def test_the_better_a_member_the_more_it_weighs(spec: ModelSpec) -> None:
    found = blend(spec, [model(9.96), model(10.0), model(14.0)], rows([11.0] * 20))
    assert found is not None
    assert found.members == (1, 0)  # the third loses three times as much
    assert found.weights[1] / found.weights[0] == pytest.approx(np.exp(-30 * (1.04 / 1.0 - 1)))
    assert sum(found.weights) == pytest.approx(1)


def test_a_late_loss_counts_more_than_an_early_one(spec: ModelSpec) -> None:
    """The first is right on the first 60 days, the second on the last 24."""
    found = blend(spec, [model(10.0), model(20.0)], rows([10.0] * 60 + [20.0] * 24))
    assert found is not None
    assert found.members == (1,)


def test_a_loss_counts_only_on_days_that_a_member_has_not_seen(spec: ModelSpec) -> None:
    """The second is wrong on what it has seen, and right after."""
    frame = rows([10.0] * 20 + [20.0] * 10)
    knows = model(20.0, frame["day"].unique()[19].date())
    found = blend(spec, [model(12.0), knows], frame)
    assert found is not None
    assert found.members == (1,)
    assert found.model.trained_through == LAST
    late = replace(knows, trained_through=date(2026, 1, 27))
    only = blend(spec, [model(12.0), late], frame)
    assert only is not None
    assert only.members == (0,), "of three days nothing is known yet"
    assert blend(spec, [late], frame) is None


def test_what_is_blended_has_seen_what_its_members_and_its_weights_have(spec: ModelSpec) -> None:
    frame = rows([10.0] * 20)
    found = blend(spec, [model(10.0, date(2026, 1, 20))], frame)
    assert found is not None
    assert found.model.trained_through == LAST


@pytest.mark.parametrize(
    ("labels", "kind", "predicted"),
    [([11.0] * 20, "factor", 11.0), ([-1.0] * 20, "shift", -1.0), ([0.0] * 20, "shift", 0.0)],
)
def test_a_regression_is_calibrated(spec: ModelSpec, labels: list[float], kind: str, predicted: float) -> None:
    found = blend(spec, [model(10.0)], rows(labels))
    assert found is not None
    assert found.kind == kind
    assert found.model.pipeline.predict(pd.DataFrame({"hour": [1.0]})) == pytest.approx([predicted])


def test_a_row_of_nothing_or_a_return_leaves_a_factor_where_no_day_comes_to_so_little(spec: ModelSpec) -> None:
    frame = pd.concat([rows([25.0] * 20), rows([-3.0] * 20)]).sort_values("day", kind="stable", ignore_index=True)
    found = blend(spec, [model(10.0)], frame)
    assert found is not None
    assert (found.kind, found.value) == ("factor", pytest.approx(1.1))


def test_a_binary_task_is_calibrated_by_its_log_odds(tmp_path: Path) -> None:
    spec = models.write(tmp_path, yaml=BINARY.replace("roc_auc", "brier").replace("{{min: 0.6}}", "{{max: 0.2}}"))
    frame = rows([0.0, 1.0, 1.0, 1.0] * 5).assign(label=lambda all_: all_["label"].map({0.0: "0", 1.0: "1"}))
    found = blend(spec, [model(0.5, classes=("0", "1"))], frame)
    assert found is not None
    recent = 0.5 ** ((pd.Timestamp(LAST) - frame["day"]).dt.days / 14)
    share = recent[frame["label"] == "1"].sum() / recent.sum()
    assert found.kind == "logit"
    chances = found.model.pipeline.predict_proba(pd.DataFrame({"hour": [1.0]}))
    assert chances[0] == pytest.approx([1 - share, share])
    assert found.model.pipeline.predict(pd.DataFrame({"hour": [1.0]})) == [1]


def test_where_the_metric_sees_the_order_only_nothing_is_calibrated(tmp_path: Path) -> None:
    spec = models.write(tmp_path, yaml=BINARY)
    frame = rows([0.0, 1.0, 1.0, 1.0] * 5).assign(label=lambda all_: all_["label"].map({0.0: "0", 1.0: "1"}))
    found = blend(spec, [model(0.5, classes=("0", "1"))], frame)
    assert found is not None
    assert (found.kind, found.value) == ("none", 0.0)


def test_several_classes_are_weighted_and_not_calibrated(tmp_path: Path) -> None:
    spec = models.write(
        tmp_path, yaml=BINARY.replace("task: binary", "task: multiclass").replace("roc_auc", "accuracy")
    )

    class Three(Constant):
        def predict_proba(self, matrix: pd.DataFrame) -> np.ndarray:
            return np.tile([0.1, 0.2, 0.7], (len(matrix), 1))

    frame = rows([0.0] * 10).assign(label="c")
    found = blend(spec, [Model(Three(0), ("a", "b", "c"), date(2025, 1, 1))], frame)
    assert found is not None
    assert found.kind == "none"
    assert found.model.pipeline.predict_proba(frame[["hour"]])[0] == pytest.approx([0.1, 0.2, 0.7])
    unknown = blend(spec, [Model(Three(0), ("a", "b", "c"), date(2025, 1, 1))], frame.assign(label="d"))
    assert unknown is not None, "a class that no member knows is a loss of each"


def test_at_most_so_many_members_as_are_asked_for(spec: ModelSpec) -> None:
    asked = spec.model_copy(update={"members": 3})
    found = blend(asked, [model(10.0 + 0.01 * n) for n in range(10)], rows([11.0] * 20))
    assert found is not None
    assert found.members == (9, 8, 7)


def test_it_is_one_file_of_allowed_types(spec: ModelSpec, tmp_path: Path) -> None:
    frame = models.labelled(spec)
    frame = frame.assign(day=pd.to_datetime(frame["day"]))
    chosen = spec.train.candidates
    parts = [
        pipelines.fit(spec, chosen[0], {"max_depth": 5}, frame[frame["day"] < frame["day"].unique()[10]]),
        pipelines.fit(spec, chosen[1], {}, frame[frame["day"] < frame["day"].unique()[8]]),
    ]
    found = blend(spec, parts, frame)
    assert found is not None
    path = tmp_path / "model.skops"
    skops.io.dump(found.model.pipeline, path)
    loaded = replace(found.model, pipeline=model_files.load(path))
    before, after = (predicting.predict(spec, each, frame)["prediction"] for each in (found.model, loaded))
    pd.testing.assert_series_equal(before, after)
    assert loaded.columns == list(spec.features.all)


def test_members_may_want_other_features() -> None:
    class Other(Constant):
        feature_names_in_ = np.array(["heat", "hour"])

    found = Blend([Constant(1.0), Other(3.0)], [0.25, 0.75], "none", 0.0)
    assert list(found.feature_names_in_) == ["hour", "heat"]
    assert found.predict(pd.DataFrame({"hour": [1.0], "heat": [2.0]})) == pytest.approx([2.5])


def test_its_importance_is_that_to_its_members() -> None:
    assert blending.importance([{"a": 1.0}, {"a": 3.0, "b": 2.0}], [0.75, 0.25]) == {"a": 1.5, "b": 0.5}
