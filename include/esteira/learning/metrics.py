"""The metrics, as one table: which tasks each measures, which way is better, how it is computed, and what a row adds to it.

Whoever reads a model.yaml asks it, too, so nothing heavy is imported before a metric is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Function = Callable[[Array, Array, Array, Array | None], float]
    Loss = Callable[[Array, Array], Array]

Task = Literal["regression", "binary", "multiclass"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    `function` takes labels, predictions, probabilities, and weights of the rows or None. Of a binary task the labels and
    predictions are 1 for the positive class and 0 for the other, and the probability is that of the positive class; of a
    multiclass task they are text. It gives NaN where the rows can't tell.

    `by_class`: it is made of the rows of each class by themselves, so that a few of one say little. `ranks`: of probabilities only
    the order counts.

    A metric of a regression is made of what each row loses: `loss` takes labels and predictions, `whole` the mean loss and
    the predictions. By them it can be estimated before there are labels.
    """

    tasks: tuple[Task, ...]
    higher_is_better: bool
    function: Function
    loss: Loss | None = None
    whole: Callable[[float, Array], float] = lambda mean, _: mean
    by_class: bool = False
    ranks: bool = False

    @property
    def best(self) -> int:
        """The value that nothing can be better than."""
        return 1 if self.higher_is_better else 0


def _sklearn(name: str, **options: Any) -> Function:
    """A function of scikit-learn's over predictions."""

    def function(y: Array, p: Array, _: Array, w: Array | None) -> float:
        from sklearn import metrics as sk

        return float(getattr(sk, name)(y, p, sample_weight=w, **options))

    return function


def _of_chances(name: str, **options: Any) -> Function:
    """A function of scikit-learn's over probabilities."""
    found = _sklearn(name, **options)
    return lambda y, _, q, w: found(y, q, q, w)


def _mae_over_mean(y: Array, p: Array, _: Array, __: Array | None) -> float:
    mean = abs(float(y.mean()))
    return float(abs(y - p).mean()) / mean if mean else math.nan


def _r2(y: Array, p: Array, q: Array, w: Array | None) -> float:
    return _sklearn("r2_score")(y, p, q, w) if len(y) > 1 else math.nan


def _balanced_accuracy(y: Array, p: Array, q: Array, w: Array | None) -> float:
    import numpy as np

    return _sklearn("recall_score", labels=np.unique(y), average="macro", zero_division=0)(y, p, q, w)


def _f1(y: Array, p: Array, q: Array, w: Array | None) -> float:
    average = "binary" if y.dtype.kind == "i" else "macro"
    return _sklearn("f1_score", average=average, zero_division=0)(y, p, q, w)


def _roc_auc(y: Array, _: Array, q: Array, w: Array | None) -> float:
    known = y if w is None else y[w > 0]
    return _of_chances("roc_auc_score")(y, q, q, w) if len(set(known.tolist())) > 1 else math.nan


def _average_precision(y: Array, _: Array, q: Array, w: Array | None) -> float:
    return _of_chances("average_precision_score")(y, q, q, w) if y.any() else math.nan


def _absolute(y: Array, p: Array) -> Array:
    return abs(y - p)


def _squared(y: Array, p: Array) -> Array:
    squared: Array = (y - p) ** 2
    return squared


def _relative(y: Array, p: Array) -> Array:
    import numpy as np

    return np.asarray(abs(y - p) / np.maximum(abs(y), np.finfo(float).eps))


def _pinball(percent: int) -> Metric:
    level = percent / 100

    def loss(y: Array, p: Array) -> Array:
        import numpy as np

        short = y - p
        return np.asarray(np.maximum(level * short, (level - 1) * short))

    return Metric(("regression",), False, _sklearn("mean_pinball_loss", alpha=level), loss)


def _over_mean(mean: float, p: Array) -> float:
    middle = abs(float(p.mean()))
    return mean / middle if middle else math.nan


def _explained(mean: float, p: Array) -> float:
    """R², where the labels spread as far as the predictions do, and by the squared loss around them."""
    spread = float(p.var()) + mean
    return 1 - mean / spread if spread else math.nan


def best_of(name: str) -> int:
    """The value that nothing can be better than, from which errors are counted; of a user's own metric 0."""
    return METRICS[name].best if name in METRICS else 0


METRICS: Mapping[str, Metric] = {
    "mae": Metric(("regression",), False, _sklearn("mean_absolute_error"), _absolute),
    "rmse": Metric(
        ("regression",), False, _sklearn("root_mean_squared_error"), _squared, lambda mean, _: math.sqrt(mean)
    ),
    "mape": Metric(("regression",), False, _sklearn("mean_absolute_percentage_error"), _relative),
    "mae_over_mean": Metric(("regression",), False, _mae_over_mean, _absolute, _over_mean),
    **{f"pinball_{percent:02}": _pinball(percent) for percent in range(1, 100)},
    "r2": Metric(("regression",), True, _r2, _squared, _explained),
    "accuracy": Metric(("binary", "multiclass"), True, _sklearn("accuracy_score")),
    "balanced_accuracy": Metric(("binary", "multiclass"), True, _balanced_accuracy, by_class=True),
    "f1": Metric(("binary", "multiclass"), True, _f1, by_class=True),
    "roc_auc": Metric(("binary",), True, _roc_auc, by_class=True, ranks=True),
    "average_precision": Metric(("binary",), True, _average_precision, by_class=True, ranks=True),
    "log_loss": Metric(("binary",), False, _of_chances("log_loss", labels=[0, 1])),
    "brier": Metric(("binary",), False, _of_chances("brier_score_loss", pos_label=1)),
}
