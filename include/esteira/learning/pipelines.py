"""The pipeline of a candidate: built and fitted; beside it a naive baseline. Nothing here reads or writes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.feature_selection import SelectPercentile, f_classif, f_regression
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.utils.validation import has_fit_parameter
from threadpoolctl import threadpool_limits

from esteira.data import WEIGHT
from esteira.errors import SpecError
from esteira.learning import evaluation
from esteira.learning.predicting import Model, design, predict
from esteira.spec import Candidate, ModelSpec, nearest

if TYPE_CHECKING:
    from esteira.learning.metrics import Array

SAMPLE = 2_000  # rows that show a feature's importance well enough


def pipeline(spec: ModelSpec, candidate: Candidate, params: Mapping[str, Any]) -> Pipeline:
    """Impute, scale, encode, select, estimate: all that serving repeats is inside, so that it can't differ from training."""
    number = Pipeline(
        [("impute", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())]
    )
    flag = SimpleImputer(strategy="most_frequent", keep_empty_features=True)
    estimator = _estimator(spec, candidate)(**_seeded(spec, candidate, params))
    native = _takes_categories(spec, estimator)
    if (
        native
    ):  # a category of its own for each, at most as many as it has bins for; one not seen before is a missing value
        start = len(spec.features.numeric)
        estimator.set_params(categorical_features=list(range(start, start + len(spec.features.categorical))))
        options = {"handle_unknown": "use_encoded_value", "unknown_value": np.nan}
        encode: Any = OrdinalEncoder(max_categories=estimator.max_bins, **options)
    else:
        encode = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100, sparse_output=False)
    # None is what an empty category is in the matrix that design() makes
    empty = SimpleImputer(strategy="constant", fill_value="(empty)", missing_values=None, keep_empty_features=True)
    category = Pipeline([("impute", empty), ("encode", encode)])
    parts = (("numeric", number), ("categorical", category), ("boolean", flag))
    prepare = ColumnTransformer([(name, part, list(getattr(spec.features, name))) for name, part in parts])
    steps: list[tuple[str, Any]] = [("prepare", prepare)]
    if spec.train.feature_selection:
        test = f_regression if spec.task == "regression" else f_classif
        steps.append(("select", SelectPercentile(test, percentile=spec.train.feature_selection.percentile)))
    return Pipeline([*steps, ("model", estimator)])


def _takes_categories(spec: ModelSpec, estimator: Any) -> bool:
    """Whether the estimator is told which columns are categories, and need not be given a column for each of them.

    The univariate test of a feature selection can't read them, and what a model.yaml says itself stays.
    """
    known = estimator.get_params()
    asked = isinstance(estimator, HistGradientBoostingRegressor | HistGradientBoostingClassifier)
    untold = known.get("categorical_features") in (None, "from_dtype")
    return asked and untold and bool(spec.features.categorical) and not spec.train.feature_selection


def _estimator(spec: ModelSpec, candidate: Candidate) -> Callable[..., Any]:
    module_name, _, class_name = candidate.estimator.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise SpecError(
            f"model {spec.name}: can't import {candidate.estimator}: {error}; install it, or correct it"
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, BaseEstimator)):
        known = [name for name in dir(module) if name[0].isupper()]
        raise SpecError(f"model {spec.name}: {module_name} has no {class_name!r}{nearest(class_name, known)}")
    return found


def _seeded(spec: ModelSpec, candidate: Candidate, params: Mapping[str, Any]) -> dict[str, Any]:
    given = {**candidate.params, **params}
    try:
        known = list(_estimator(spec, candidate)().get_params())
    except TypeError as error:
        raise SpecError(
            f"model {spec.name}: {candidate.name} can't be made by itself ({error}); name another estimator"
        ) from None
    for name in given:
        if name not in known:
            raise SpecError(
                f"model {spec.name}: {candidate.name} has no parameter {name!r}{nearest(name, known)}; it has: {', '.join(known)}"
            )
    return (
        given if "random_state" in given or "random_state" not in known else {**given, "random_state": spec.train.seed}
    )


def check_candidates(spec: ModelSpec) -> None:
    """Build each candidate once, so that a wrong class or parameter is found before any data is read."""
    for candidate in (*spec.train.candidates, *(each for recipe in spec.retrain for each in recipe.candidates or ())):
        estimator = pipeline(spec, candidate, {}).named_steps["model"]
        fits = is_regressor(estimator) if spec.task == "regression" else hasattr(estimator, "predict_proba")
        if not fits:
            wanted = "a regressor" if spec.task == "regression" else "a classifier with predict_proba"
            raise SpecError(
                f"model {spec.name}: {candidate.estimator} is not {wanted}, as the task {spec.task} needs; name another"
            )
        for name in candidate.search:
            _seeded(spec, candidate, {name: None})


def classes(spec: ModelSpec, labels: pd.Series) -> tuple[str, ...]:
    """The classes seen, the negative one first for a binary task. Raises SpecError where they are not what the task needs."""
    if spec.task == "regression":
        return ()
    seen = sorted(labels.unique())
    if spec.task == "multiclass":
        if len(seen) < 2:
            raise SpecError(f"model {spec.name}: the labels hold one class only, {seen}; widen the window")
        return tuple(seen)
    positive = spec.positive_class
    if len(seen) != 2 or positive not in seen:
        raise SpecError(
            f"model {spec.name}: a binary task needs two classes of which one is the positive, {positive!r}; the labels "
            f"hold {seen}. Correct 'positive'{_quoted(spec)} or 'target' in model.yaml, widen train.window, or train for a later day"
        )
    return (*(name for name in seen if name != positive), positive)


def _quoted(spec: ModelSpec) -> str:
    """What YAML makes of a class such as yes, where it has made something of it."""
    return (
        f" (YAML reads yes, no, on and off as {spec.positive}: write the word in quotes)"
        if isinstance(spec.positive, bool)
        else ""
    )


def weights(frame: pd.DataFrame, half_life: int | None, as_of: date) -> Array | None:
    """A row's weight: as many rows as it stands for, halved for each `half_life` days that it lies before `as_of`; None where all count alike."""
    sampled = frame[WEIGHT].to_numpy() if WEIGHT in frame else None
    if half_life is None:
        return sampled
    age = (pd.Timestamp(as_of) - frame["day"]).dt.days.to_numpy()
    recent = np.asarray(0.5 ** (age / half_life))
    return recent if sampled is None else recent * sampled


def fit(
    spec: ModelSpec, candidate: Candidate, params: Mapping[str, Any], frame: pd.DataFrame, half_life: int | None = None
) -> Model:
    """Fit a candidate on the rows of `frame` (features and `label`), weighted by recency where a half-life is given."""
    names = classes(spec, frame["label"])
    model = pipeline(spec, candidate, params)
    last = frame["day"].max().date()
    weight = weights(frame, half_life, last)
    options: dict[str, Any] = {}
    if weight is not None and not has_fit_parameter(model.named_steps["model"], "sample_weight"):
        weight = None  # of a sample each row counts as one, then
        if half_life is not None:
            raise SpecError(
                f"model {spec.name}: {candidate.name} takes no weights; remove half_life, or choose another estimator"
            )
    if weight is not None:
        options["model__sample_weight"] = weight
    with _on_cores(spec.train.cores):
        model.fit(design(spec, frame), _target(frame["label"], names), **options)
    return Model(model, names, last)


@contextmanager
def _on_cores(cores: int | str) -> Iterator[None]:
    """Let histogram boosting, and the trees of a forest, use so many cores; what they come to does not depend on it."""
    number = joblib.cpu_count() if cores == "all" else int(cores)
    if number == 1:
        yield
        return
    with threadpool_limits(number, "openmp"), joblib.parallel_config("threading", n_jobs=number):
        yield


def baseline(spec: ModelSpec, frame: pd.DataFrame) -> Model:
    """The naive model: the median of the past, or how often each class came."""
    names = classes(spec, frame["label"])
    dummy = DummyRegressor(strategy="median") if spec.task == "regression" else DummyClassifier(strategy="prior")
    last = frame["day"].max().date()
    dummy.fit(design(spec, frame), _target(frame["label"], names), sample_weight=weights(frame, None, last))
    return Model(dummy, names, last)


def evened(frame: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Of rows that stand for others, some more than others, as many as stand for as many each; other rows as they are."""
    if WEIGHT not in frame:
        return frame
    share = frame[WEIGHT] / frame[WEIGHT].max()
    kept: pd.DataFrame = frame[np.random.default_rng(seed).random(len(frame)) < share]
    return kept.drop(columns=WEIGHT)


def _target(labels: pd.Series, names: tuple[str, ...]) -> Array:
    if not names:
        return labels.to_numpy(dtype="float64")
    return labels.map({name: index for index, name in enumerate(names)}).to_numpy(dtype="int64")


def importance(spec: ModelSpec, model: Model, rows: pd.DataFrame) -> dict[str, float]:
    """How much worse the gate's metric on a sample of `rows` (features and `label`) gets when a feature is shuffled.

    0 where the metric can't be computed.
    """
    sample = rows.sample(min(SAMPLE, len(rows)), random_state=spec.train.seed)
    name, sign = spec.check.metric, 1 if spec.higher_is_better(spec.check.metric) else -1

    def score(_: Any, matrix: pd.DataFrame, labels: pd.Series) -> float:
        return sign * evaluation.evaluate(spec, predict(spec, model, matrix).assign(label=labels), (name,))[name]

    found = permutation_importance(
        model.pipeline,
        design(spec, sample, model.columns),
        sample["label"],
        scoring=score,
        n_repeats=3,
        random_state=spec.train.seed,
    )
    return dict(zip(model.columns, map(float, np.nan_to_num(found.importances_mean)), strict=True))
