"""Learning: the pipeline of a candidate, tuning, prediction, metrics, a naive baseline. Nothing here reads or writes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn import metrics as sk
from sklearn.base import BaseEstimator, is_regressor
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_selection import SelectPercentile, f_classif, f_regression
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.model_selection import TimeSeriesSplit
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.validation import has_fit_parameter

from esteira import data
from esteira.spec import Candidate, Dimension, ModelSpec, SpecError, nearest
from esteira.text import counted

Array = npt.NDArray[Any]
SAMPLE = 2_000  # rows that show a feature's importance well enough
Metric = Callable[[Array, Array, Array, Array | None], float]


@dataclass(frozen=True)
class Model:
    """A fitted pipeline, and what is needed to use it.

    `classes` are the class labels as text in the order of the pipeline's integer classes (for a binary task the
    negative one first); empty for a regression. `trained_through` is the last day of the rows it was fitted on.
    """

    pipeline: Any
    classes: tuple[str, ...] = ()
    trained_through: date = date.min
    version: int = 0

    @property
    def columns(self) -> list[str]:
        """The features that it wants, in order."""
        return [str(name) for name in self.pipeline.feature_names_in_]


@dataclass(frozen=True)
class Trial:
    """What a search found: the parameters, their cross-validated metric, and how many trials it took."""

    params: Mapping[str, Any] = field(default_factory=dict)
    value: float = math.nan
    trials: int = 0


def design(spec: ModelSpec, frame: pd.DataFrame, columns: list[str] | None = None) -> pd.DataFrame:
    """The matrix that a pipeline takes: float64 for numbers and booleans, text (object, None where empty) for categories.

    `columns` are those of an older model where they differ from the spec's. Raises SpecError where the feature table
    lacks one of them.
    """
    wanted = columns or list(spec.features.all)
    missing = [name for name in wanted if name not in frame.columns]
    if missing:
        raise SpecError(
            f"model {spec.name}: the champion was trained on {missing}, which the feature table no longer has; "
            "put them back into model.yaml, or train and promote a new version"
        )
    matrix = frame[wanted]
    texts = {name: _text(matrix[name]) for name in wanted if not pd.api.types.is_numeric_dtype(matrix[name])}
    return matrix.assign(**texts)


def _text(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), None)


def pipeline(spec: ModelSpec, candidate: Candidate, params: Mapping[str, Any]) -> Pipeline:
    """Impute, scale, encode, select, estimate: all that serving repeats is inside, so that it can't differ from training."""
    number = Pipeline(
        [("impute", SimpleImputer(strategy="median", keep_empty_features=True)), ("scale", StandardScaler())]
    )
    flag = SimpleImputer(strategy="most_frequent", keep_empty_features=True)
    encode = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=100, sparse_output=False)
    category = Pipeline(
        [
            # None is what an empty category is in the matrix that design() makes
            (
                "impute",
                SimpleImputer(strategy="constant", fill_value="(empty)", missing_values=None, keep_empty_features=True),
            ),
            ("encode", encode),
        ]
    )
    parts = (("numeric", number), ("categorical", category), ("boolean", flag))
    prepare = ColumnTransformer([(name, part, list(getattr(spec.features, name))) for name, part in parts])
    steps: list[tuple[str, Any]] = [("prepare", prepare)]
    if spec.train.feature_selection:
        test = f_regression if spec.task == "regression" else f_classif
        steps.append(("select", SelectPercentile(test, percentile=spec.train.feature_selection.percentile)))
    return Pipeline([*steps, ("model", _estimator(spec, candidate)(**_seeded(spec, candidate, params)))])


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
    """A row's weight: halved for each `half_life` days that it lies before `as_of`; None where all count alike."""
    if half_life is None:
        return None
    age = (pd.Timestamp(as_of) - frame["day"]).dt.days.to_numpy()
    return np.asarray(0.5 ** (age / half_life))


def fit(
    spec: ModelSpec, candidate: Candidate, params: Mapping[str, Any], frame: pd.DataFrame, half_life: int | None = None
) -> Model:
    """Fit a candidate on the rows of `frame` (features and `label`), weighted by recency where a half-life is given."""
    names = classes(spec, frame["label"])
    model = pipeline(spec, candidate, params)
    last = frame["day"].max().date()
    weight = weights(frame, half_life, last)
    options: dict[str, Any] = {}
    if weight is not None:
        if not has_fit_parameter(model.named_steps["model"], "sample_weight"):
            raise SpecError(
                f"model {spec.name}: {candidate.name} takes no weights; remove half_life, or choose another estimator"
            )
        options["model__sample_weight"] = weight
    model.fit(design(spec, frame), _target(frame["label"], names), **options)
    return Model(model, names, last)


def baseline(spec: ModelSpec, frame: pd.DataFrame) -> Model:
    """The naive model: the median of the past, or how often each class came."""
    names = classes(spec, frame["label"])
    dummy = DummyRegressor(strategy="median") if spec.task == "regression" else DummyClassifier(strategy="prior")
    dummy.fit(design(spec, frame), _target(frame["label"], names))
    return Model(dummy, names, frame["day"].max().date())


def _target(labels: pd.Series, names: tuple[str, ...]) -> Array:
    if not names:
        return labels.to_numpy(dtype="float64")
    return labels.map({name: index for index, name in enumerate(names)}).to_numpy(dtype="int64")


def predict(spec: ModelSpec, model: Model, frame: pd.DataFrame) -> pd.DataFrame:
    """`prediction` (float64, or a class as text) and `probability` (of the positive or else of the predicted class; NaN for a regression)."""
    matrix = design(spec, frame, model.columns)
    if not model.classes:
        values = np.asarray(model.pipeline.predict(matrix), dtype="float64")
        return pd.DataFrame({"prediction": values, "probability": np.nan}, index=frame.index)
    likely = np.asarray(model.pipeline.predict_proba(matrix))
    best = likely.argmax(axis=1)
    shown = likely[:, 1] if spec.task == "binary" else likely[np.arange(len(best)), best]
    predicted = pd.Series(np.array(model.classes, dtype=object)[best], index=frame.index, dtype="str")
    return pd.DataFrame({"prediction": predicted, "probability": shown}, index=frame.index)


def _mae_over_mean(y: Array, p: Array) -> float:
    mean = abs(float(np.mean(y)))
    return float(sk.mean_absolute_error(y, p)) / mean if mean else math.nan


def _pinball(percent: int) -> Metric:
    return lambda y, p, _, w: sk.mean_pinball_loss(y, p, sample_weight=w, alpha=percent / 100)


def _known_classes(y: Array, w: Array | None) -> int:
    return len(np.unique(y if w is None else y[w > 0]))


# Each takes labels, predictions, probabilities, and weights of the rows or None. Of a binary task the labels and
# predictions are 1 for the positive class and 0 for the other, and the probability is that of the positive class; of a
# multiclass task they are text.
FUNCTIONS: Mapping[str, Metric] = {
    "mae": lambda y, p, _, w: sk.mean_absolute_error(y, p, sample_weight=w),
    "rmse": lambda y, p, _, w: sk.root_mean_squared_error(y, p, sample_weight=w),
    "mape": lambda y, p, _, w: sk.mean_absolute_percentage_error(y, p, sample_weight=w),
    "mae_over_mean": lambda y, p, _, w: _mae_over_mean(y, p),
    **{f"pinball_{percent:02}": _pinball(percent) for percent in range(1, 100)},
    "r2": lambda y, p, _, w: sk.r2_score(y, p, sample_weight=w) if len(y) > 1 else math.nan,
    "accuracy": lambda y, p, _, w: sk.accuracy_score(y, p, sample_weight=w),
    "balanced_accuracy": lambda y, p, _, w: sk.recall_score(
        y, p, labels=np.unique(y), average="macro", zero_division=0, sample_weight=w
    ),
    "f1": lambda y, p, _, w: sk.f1_score(
        y, p, average="binary" if y.dtype.kind == "i" else "macro", zero_division=0, sample_weight=w
    ),
    "roc_auc": lambda y, _, q, w: sk.roc_auc_score(y, q, sample_weight=w) if _known_classes(y, w) > 1 else math.nan,
    "average_precision": lambda y, _, q, w: sk.average_precision_score(y, q, sample_weight=w) if y.any() else math.nan,
    "log_loss": lambda y, _, q, w: sk.log_loss(y, q, labels=[0, 1], sample_weight=w),
    "brier": lambda y, _, q, w: sk.brier_score_loss(y, q, pos_label=1, sample_weight=w),
}


def evaluate(spec: ModelSpec, rows: pd.DataFrame, names: tuple[str, ...] | list[str]) -> dict[str, float]:
    """The metrics `names` over rows with `label`, `prediction` and `probability`; NaN where one can't be computed.

    A name with a dot is a function of the model's own: it gets labels, predictions and probabilities as arrays.
    """
    if rows.empty:
        return dict.fromkeys(names, math.nan)
    labels, predictions, shown = arrays(spec, rows)
    return {
        name: _own(spec, name, labels, predictions, shown)
        if "." in name
        else float(FUNCTIONS[name](labels, predictions, shown, None))
        for name in names
    }


def arrays(spec: ModelSpec, rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Labels, predictions and probabilities as metrics take them."""
    labels, predictions = rows["label"].to_numpy(), rows["prediction"].to_numpy()
    if spec.task == "binary":
        labels, predictions = ((values == spec.positive_class).astype(int) for values in (labels, predictions))
    return labels, predictions, rows["probability"].to_numpy(dtype="float64")


def _own(spec: ModelSpec, name: str, labels: Array, predictions: Array, shown: Array) -> float:
    found = data.function(spec.folder, name)(labels, predictions, shown)
    try:
        if isinstance(found, str | bytes):
            raise TypeError
        return float(found)
    except (TypeError, ValueError):
        raise SpecError(
            f"model {spec.name}: the metric {name} must return a number, got {type(found).__name__}"
        ) from None


def better_by(spec: ModelSpec, name: str, old: float, new: float) -> float:
    """How much better `new` is than `old` in the metric's own unit; negative where it is worse."""
    return new - old if spec.higher_is_better(name) else old - new


def daily_gains(spec: ModelSpec, name: str, champion: pd.DataFrame, challenger: pd.DataFrame) -> list[float]:
    """The gain of each day, in order of days, whose mean is the gain over all (jackknife pseudo-values over days).

    Both frames have the same rows with `day`, `label`, `prediction`, `probability`. Pseudo-values carry a metric that
    is no mean over rows (AUC, F1, MAE over mean) to numbers that can be resampled by day
    (Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11).
    """

    def gain(old: pd.DataFrame, new: pd.DataFrame) -> float:
        return better_by(spec, name, evaluate(spec, old, [name])[name], evaluate(spec, new, [name])[name])

    if name == "mae_over_mean":
        # Both divide by the same mean, which says nothing of who is better: to resample it would bury a plain advantage.
        mean = abs(float(champion["label"].mean())) if len(champion) else 0.0
        return [each / (mean or math.nan) for each in daily_gains(spec, "mae", champion, challenger)]
    every = sorted(champion["day"].unique())
    if len(every) < 2:
        return [gain(champion, challenger)] * len(every)
    whole, n = gain(champion, challenger), len(every)
    without = [gain(champion[champion["day"] != day], challenger[challenger["day"] != day]) for day in every]
    pseudo = [n * whole - (n - 1) * part for part in without]
    offset = whole - math.fsum(pseudo) / n  # the jackknife's bias: the gain reported is the plain one
    return [value + offset for value in pseudo]


def importance(spec: ModelSpec, model: Model, rows: pd.DataFrame) -> dict[str, float]:
    """How much worse the gate's metric on a sample of `rows` (features and `label`) gets when a feature is shuffled.

    0 where the metric can't be computed.
    """
    sample = rows.sample(min(SAMPLE, len(rows)), random_state=spec.train.seed)
    name, sign = spec.check.metric, 1 if spec.higher_is_better(spec.check.metric) else -1

    def score(_: Any, matrix: pd.DataFrame, labels: pd.Series) -> float:
        return sign * evaluate(spec, predict(spec, model, matrix).assign(label=labels), (name,))[name]

    found = permutation_importance(
        model.pipeline,
        design(spec, sample, model.columns),
        sample["label"],
        scoring=score,
        n_repeats=3,
        random_state=spec.train.seed,
    )
    return dict(zip(model.columns, map(float, np.nan_to_num(found.importances_mean)), strict=True))


def tune(
    spec: ModelSpec,
    candidate: Candidate,
    frame: pd.DataFrame,
    half_life: int | None = None,
    trials: int | None = None,
    *,
    only: bool = False,
) -> Trial:
    """Search a candidate's parameters by time-series cross-validation over the days of `frame`; the metric is the gate's.

    The `only` candidate, with nothing to search, is compared with nothing, so its value is not asked for: NaN.
    """
    if not candidate.search:
        if only:
            return Trial({}, math.nan, 0)
        return Trial({}, cross_validate(spec, candidate, {}, frame, half_life), 1)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    direction = "maximize" if spec.higher_is_better(spec.check.metric) else "minimize"
    study = optuna.create_study(direction=direction, sampler=_sampler(spec, candidate))

    def objective(trial: optuna.Trial) -> float:
        params = {name: _suggest(trial, name, dimension) for name, dimension in candidate.search.items()}
        return cross_validate(spec, candidate, params, frame, half_life)

    count = None if candidate.method == "grid" else trials or candidate.trials
    study.optimize(objective, n_trials=count)
    return Trial(study.best_params, study.best_value, len(study.trials))


def _sampler(spec: ModelSpec, candidate: Candidate) -> Any:
    import optuna

    if candidate.method == "grid":
        return optuna.samplers.GridSampler(
            {name: list(dim.choice or ()) for name, dim in candidate.search.items()}, seed=spec.train.seed
        )
    if candidate.method == "random":
        return optuna.samplers.RandomSampler(seed=spec.train.seed)
    return optuna.samplers.TPESampler(seed=spec.train.seed)


def _suggest(trial: Any, name: str, dimension: Dimension) -> Any:
    if dimension.choice is not None:
        return trial.suggest_categorical(name, list(dimension.choice))
    low, high = dimension.bounds
    if dimension.whole:
        return trial.suggest_int(name, int(low), int(high))
    return trial.suggest_float(name, low, high, log=dimension.log is not None)


def cross_validate(
    spec: ModelSpec,
    candidate: Candidate,
    params: Mapping[str, Any],
    frame: pd.DataFrame,
    half_life: int | None = None,
    metric: str = "",
) -> float:
    """A metric (the gate's unless another is named): its mean over folds that train on the days before those they measure."""
    name = metric or spec.check.metric
    values = []
    for past, future in _folds(spec, frame):
        if spec.task != "regression" and past["label"].nunique() < 2:
            continue
        model = fit(spec, candidate, params, past, half_life)
        values.append(evaluate(spec, scored(spec, model, future), [name])[name])
    values = [value for value in values if not math.isnan(value)]
    if not values:
        raise SpecError(
            f"model {spec.name}: no fold of the {counted(len(frame), 'row')} can be measured by {name}; widen the window"
        )
    return float(np.mean(values))


def _folds(spec: ModelSpec, frame: pd.DataFrame) -> Iterator[tuple[pd.DataFrame, pd.DataFrame]]:
    every = np.sort(frame["day"].unique())
    if len(every) < 3:
        raise SpecError(
            f"model {spec.name}: {counted(len(every), 'day')} with mature labels {'is' if len(every) == 1 else 'are'} too few to cross-validate; widen train.window in model.yaml, or give an as-of day that more days of data come before"
        )
    folds = min(spec.train.folds, len(every) - 1)
    for past, future in TimeSeriesSplit(n_splits=folds).split(every):
        yield frame[frame["day"].isin(every[past])], frame[frame["day"].isin(every[future])]


def scored(spec: ModelSpec, model: Model, frame: pd.DataFrame) -> pd.DataFrame:
    """`day` and `label` of the rows beside what `model` predicts for them."""
    return frame[["day", "label"]].join(predict(spec, model, frame))
