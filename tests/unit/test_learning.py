from __future__ import annotations

import math
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from esteira.errors import SpecError
from esteira.learning import evaluation, pipelines, predicting, tuning
from esteira.learning.metrics import METRICS
from esteira.lifecycle.policy import gate
from esteira.spec import Candidate, ModelSpec
from sklearn import ensemble
from sklearn import metrics as sk
from threadpoolctl import threadpool_info, threadpool_limits

from tests import models

LAST = pd.Timestamp("2026-01-30")


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return models.write(tmp_path)


@pytest.fixture
def frame(spec: ModelSpec) -> pd.DataFrame:
    return models.labelled(spec, LAST.date())


def classified(tmp_path: Path, frame: pd.DataFrame, task: str) -> tuple[ModelSpec, pd.DataFrame]:
    yaml = models.YAML.replace("task: regression", f"task: {task}").replace(
        "{{mae_over_mean: {{max: 0.3}}, r2: {{min: 0.1}}}}", "{{accuracy: {{min: 0.5}}}}"
    )
    yaml = yaml.replace("DecisionTreeRegressor", "DecisionTreeClassifier").replace(
        "linear_model.Ridge", "linear_model.LogisticRegression"
    )
    yaml += "positive: high\n" if task == "binary" else ""
    levels = ["low", "high"] if task == "binary" else ["low", "middle", "high"]
    label = pd.qcut(frame["label"], len(levels), labels=levels).astype("str")
    return models.write(tmp_path / task, yaml=yaml), frame.assign(label=label)


def test_metrics_are_those_of_scikit_learn(spec: ModelSpec) -> None:
    rows = pd.DataFrame({"label": [1.0, 2.0, 4.0], "prediction": [1.5, 2.0, 3.0], "probability": np.nan})
    found = evaluation.evaluate(spec, rows, ["mae", "rmse", "mape", "mae_over_mean", "r2"])
    assert found["mae"] == pytest.approx(0.5)
    assert found["mae_over_mean"] == pytest.approx(0.5 / (7 / 3))
    assert found["r2"] == pytest.approx(sk.r2_score(rows["label"], rows["prediction"]))
    assert all(math.isnan(value) for value in evaluation.evaluate(spec, rows.head(0), ["mae"]).values())


def test_binary_metrics_know_the_positive_class(tmp_path: Path, frame: pd.DataFrame) -> None:
    spec, _ = classified(tmp_path, frame, "binary")
    rows = pd.DataFrame(
        {
            "label": ["high", "low", "low", "high"],
            "prediction": ["high", "low", "high", "low"],
            "probability": [0.9, 0.2, 0.6, 0.4],
        }
    )
    found = evaluation.evaluate(spec, rows, [name for name, about in METRICS.items() if "binary" in about.tasks])
    assert found["accuracy"] == found["balanced_accuracy"] == found["f1"] == 0.5
    assert found["roc_auc"] == 0.75
    assert found["brier"] == pytest.approx(np.mean([0.01, 0.04, 0.36, 0.36]))
    one_class = evaluation.evaluate(spec, rows.head(1), ["roc_auc", "accuracy", "log_loss"])
    assert math.isnan(one_class["roc_auc"])
    assert one_class["accuracy"] == 1


def test_the_pipeline_takes_empty_and_unseen_values(spec: ModelSpec, frame: pd.DataFrame) -> None:
    spoilt = frame.copy()
    spoilt.loc[spoilt.index[:40], "heat"] = np.nan
    spoilt.loc[spoilt.index[20:60], "site"] = None
    spoilt.loc[spoilt.index[30:50], "open"] = np.nan
    for candidate in spec.train.candidates:
        model = pipelines.fit(spec, candidate, {}, spoilt)
        unseen = spoilt.head(80).assign(site="a site never seen")
        assert np.isfinite(predicting.predict(spec, model, unseen)["prediction"]).all()


def test_feature_selection_is_a_step_of_the_pipeline(tmp_path: Path, frame: pd.DataFrame) -> None:
    yaml = models.YAML.replace("  window: 28d", "  window: 28d\n  feature_selection: {{percentile: 50}}")
    spec = models.write(tmp_path, yaml=yaml)
    model = pipelines.fit(spec, spec.train.candidates[1], {}, frame)
    assert list(model.pipeline.named_steps) == ["prepare", "select", "model"]
    assert model.pipeline.named_steps["select"].get_support().sum() == 3


def test_a_half_life_halves_the_weight(frame: pd.DataFrame) -> None:
    weight = pipelines.weights(frame, 5, LAST.date())
    assert weight is not None
    ages = (LAST - frame["day"]).dt.days
    assert set(np.round(weight[ages == 0], 6)) == {1.0}
    assert set(np.round(weight[ages == 10], 6)) == {0.25}
    assert pipelines.weights(frame, None, LAST.date()) is None


def test_a_half_life_needs_an_estimator_that_takes_weights(spec: ModelSpec, frame: pd.DataFrame) -> None:
    neighbours = Candidate(estimator="sklearn.neighbors.KNeighborsRegressor")
    with pytest.raises(SpecError, match="KNeighborsRegressor takes no weights; remove half_life"):
        pipelines.fit(spec, neighbours, {}, frame, half_life=5)


@pytest.mark.parametrize("method", ["bayesian", "random", "grid"])
def test_tuning_finds_the_better_depth_and_is_repeatable(spec: ModelSpec, frame: pd.DataFrame, method: str) -> None:
    candidate = Candidate(
        estimator="sklearn.tree.DecisionTreeRegressor",
        search={"max_depth": {"choice": [1, 8]}},
        method=method,
        trials=6,
    )
    found = tuning.tune(spec, candidate, frame)
    assert found.params == {"max_depth": 8}
    assert found.trials == (2 if method == "grid" else 6)
    assert tuning.tune(spec, candidate, frame) == found
    assert found.value < tuning.cross_validate(spec, candidate, {"max_depth": 1}, frame)


def test_folds_never_look_ahead(spec: ModelSpec, frame: pd.DataFrame) -> None:
    folds = list(tuning._folds(spec, frame))
    assert len(folds) == spec.train.folds
    for past, future in folds:
        assert past["day"].max() < future["day"].min()
    with pytest.raises(SpecError, match="2 days with mature labels are too few to cross-validate"):
        list(tuning._folds(spec, frame[frame["day"] >= LAST - pd.Timedelta(days=1)]))


@pytest.mark.parametrize("estimator", ["HistGradientBoostingRegressor", "RandomForestRegressor"])
def test_a_candidate_on_several_cores_is_the_same(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, estimator: str
) -> None:
    candidate, found, threads = Candidate(estimator=f"sklearn.ensemble.{estimator}"), [], []
    kind = getattr(ensemble, estimator)
    fit = kind.fit

    def counted(self: object, *given: object, **more: object) -> object:
        openmp = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "openmp"]
        threads.append((max(openmp), joblib.effective_n_jobs(None)))
        return fit(self, *given, **more)

    monkeypatch.setattr(kind, "fit", counted)
    with threadpool_limits(1, "openmp"):
        for cores in (1, 2):
            yaml = models.YAML.replace("  window: 28d", f"  window: 28d\n  cores: {cores}")
            spec = models.write(tmp_path / str(cores), yaml=yaml)
            model = pipelines.fit(spec, candidate, {}, frame)
            found.append(predicting.predict(spec, model, frame)["prediction"])
    assert threads == [(1, 1), (2, 2)]
    assert found[0].equals(found[1])


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_classes_are_predicted_as_text_with_their_probability(tmp_path: Path, frame: pd.DataFrame, task: str) -> None:
    spec, rows = classified(tmp_path, frame, task)
    pipelines.check_candidates(spec)
    model = pipelines.fit(spec, spec.train.candidates[0], {"max_depth": 6}, rows)
    scored = predicting.scored(spec, model, rows)
    assert set(scored["prediction"]) == set(rows["label"])
    assert scored["probability"].between(0, 1).all()
    assert evaluation.evaluate(spec, scored, ["accuracy"])["accuracy"] > 0.8
    if task == "binary":
        assert model.classes == ("low", "high")
        assert ((scored["probability"] > 0.5) == (scored["prediction"] == "high")).all()


def test_a_binary_task_needs_its_two_classes(tmp_path: Path, frame: pd.DataFrame) -> None:
    spec, rows = classified(tmp_path, frame, "binary")
    with pytest.raises(
        SpecError, match=r"needs two classes of which one is the positive, 'high'; the labels hold \['low'\]"
    ):
        pipelines.classes(spec, rows.loc[rows["label"] == "low", "label"])
    spec = spec.model_copy(update={"positive": True})
    with pytest.raises(SpecError, match=r"YAML reads yes, no, on and off as True: write the word in quotes"):
        pipelines.classes(spec, rows["label"])


@pytest.mark.parametrize(
    ("estimator", "params", "message"),
    [
        ("sklearn.linear_model.Rdge", {}, "sklearn.linear_model has no 'Rdge'; did you mean 'Ridge'?"),
        ("sklearn.linear_modl.Ridge", {}, "can't import sklearn.linear_modl.Ridge"),
        ("sklearn.linear_model.Ridge", {"alfa": 1}, "Ridge has no parameter 'alfa'; did you mean 'alpha'?"),
        ("sklearn.linear_model.LogisticRegression", {}, "is not a regressor, as the task regression needs"),
        ("sklearn.show_versions", {}, "sklearn has no 'show_versions'"),
        ("sklearn.multioutput.MultiOutputRegressor", {}, "MultiOutputRegressor can't be made by itself"),
        ("lightgbm.LGBMRegressor", {}, "can't import lightgbm.LGBMRegressor"),
    ],
)
def test_a_wrong_candidate_is_found_before_any_data_is_read(
    spec: ModelSpec, estimator: str, params: dict[str, int], message: str
) -> None:
    wrong = spec.model_copy(
        update={"train": spec.train.model_copy(update={"candidates": (Candidate(estimator=estimator, params=params),)})}
    )
    with pytest.raises(SpecError) as caught:
        pipelines.check_candidates(wrong)
    assert message in str(caught.value)


def test_a_champion_of_older_features_says_what_is_missing(spec: ModelSpec, frame: pd.DataFrame) -> None:
    model = pipelines.fit(spec, spec.train.candidates[1], {}, frame)
    with pytest.raises(SpecError, match=r"a version was trained on \['heat'\], which model.yaml no longer has"):
        predicting.predict(spec, model, frame.drop(columns="heat"))


@pytest.mark.parametrize("metric", ["mae", "mae_over_mean", "r2", "rmse"])
def test_daily_gains_have_the_whole_gain_as_their_mean(spec: ModelSpec, frame: pd.DataFrame, metric: str) -> None:
    good = predicting.scored(spec, pipelines.fit(spec, spec.train.candidates[0], {"max_depth": 9}, frame), frame)
    naive = predicting.scored(spec, pipelines.baseline(spec, frame), frame)
    gains = evaluation.daily_gains(spec, metric, naive, good)
    both = (evaluation.evaluate(spec, rows, [metric])[metric] for rows in (naive, good))
    assert len(gains) == frame["day"].nunique()
    assert np.mean(gains) == pytest.approx(evaluation.better_by(spec, metric, *both))
    assert np.mean(gains) > 0


def test_pinball_loss_is_scikit_learns(spec: ModelSpec) -> None:
    rows = pd.DataFrame({"label": [1.0, 2.0, 4.0], "prediction": [1.5, 2.0, 3.0], "probability": np.nan})
    found = evaluation.evaluate(spec, rows, ["pinball_50", "pinball_90"])
    assert found["pinball_50"] == pytest.approx(0.25)
    assert found["pinball_90"] == pytest.approx(sk.mean_pinball_loss(rows["label"], rows["prediction"], alpha=0.9))


def test_a_users_own_metric_is_a_function_of_the_models_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sales"
    folder.mkdir()
    (folder / "metrics.py").write_text(
        "import numpy as np\n"
        "def cost(labels, predictions, probabilities):\n"
        "    return np.mean(np.maximum(labels - predictions, 0) * 3)\n"
        "def words(labels, predictions, probabilities):\n"
        "    return '3'\n"
    )
    own = models.YAML.replace("mae_over_mean: {{max: 0.3}}", "metrics.cost: {{max: 5}}")
    spec = models.write(tmp_path, yaml=own)
    rows = pd.DataFrame({"label": [1.0, 2.0], "prediction": [3.0, 1.0], "probability": np.nan})
    assert evaluation.evaluate(spec, rows, ["metrics.cost", "mae"]) == {"metrics.cost": 1.5, "mae": 1.5}
    assert not spec.higher_is_better("metrics.cost")
    assert evaluation.better_by(spec, "metrics.cost", 3, 1) == 2
    with pytest.raises(SpecError, match=r"metrics\.words must return a number, got str"):
        evaluation.evaluate(spec, rows, ["metrics.words"])


def test_a_recipe_may_bring_its_own_candidates_and_features(tmp_path: Path, frame: pd.DataFrame) -> None:
    recipe = "{{window: 7d, candidates: [{{estimator: sklearn.linear_model.Lasso}}], features: [hour, site]}}"
    spec = models.write(tmp_path, yaml=models.YAML.replace("{{window: 7d}}", recipe))
    asked = spec.by_recipe(spec.recipes[1])
    model = pipelines.fit(asked, asked.train.candidates[0], {}, frame)
    assert model.columns == ["hour", "site"]
    assert type(model.pipeline.named_steps["model"]).__name__ == "Lasso"
    assert spec.by_recipe(spec.recipes[0]) == spec
    assert len(predicting.predict(spec, model, frame)) == len(frame)


def test_importance_tells_what_the_model_uses(spec: ModelSpec, frame: pd.DataFrame) -> None:
    model = pipelines.fit(spec, spec.train.candidates[0], {"max_depth": 6}, frame)
    found = pipelines.importance(spec, model, frame)
    assert max(found, key=lambda name: found[name]) == "site"
    assert found["open"] == 0


def test_the_common_mean_does_not_bury_an_advantage_on_every_day(spec: ModelSpec) -> None:
    """Days of very different size, each of them a tenth better: by resampling the mean too, the gain looked like noise."""
    random = np.random.default_rng(0)
    size = np.repeat([500.0, 20.0, 400.0, 30.0, 450.0, 25.0, 500.0, 15.0, 420.0, 30.0, 480.0, 22.0, 510.0, 18.0], 24)
    days = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.repeat(np.arange(14), 24), unit="D")
    label = random.normal(size, 5)
    old = pd.DataFrame({"day": days, "label": label, "prediction": label + 30, "probability": np.nan})
    new = old.assign(prediction=label + random.normal(27, 1, len(label)))
    gains = evaluation.daily_gains(spec, "mae_over_mean", old, new)
    assert np.mean(gains) == pytest.approx(
        evaluation.evaluate(spec, old, ["mae_over_mean"])["mae_over_mean"]
        - evaluation.evaluate(spec, new, ["mae_over_mean"])["mae_over_mean"]
    )
    assert gate(gains, min_gain=0, confidence=0.95, attempts=3).lower > 0


def test_the_standard_error_of_a_window_is_that_of_its_days(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    days = np.repeat(pd.date_range("2025-01-01", periods=7), 10)
    daily = np.repeat([1.0, 2, 3, 4, 5, 6, 7], 10)
    rows = pd.DataFrame({"day": days, "label": daily, "prediction": 0.0, "probability": np.nan})
    expected = np.std([1, 2, 3, 4, 5, 6, 7], ddof=1) / math.sqrt(7)
    assert evaluation.standard_error(spec, rows, "mae") == pytest.approx(expected)
    assert math.isnan(evaluation.standard_error(spec, rows.head(10), "mae")), "of one day nothing is known"
