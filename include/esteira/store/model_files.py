"""The files that models are kept in (skops): one is loaded only if every type in it is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import skops.io
from skops.io.exceptions import UntrustedTypesFoundException

from esteira.errors import ModelRefused

ALLOWED_TYPES = (
    # What a model file may hold beside the types that skops trusts by itself. A list that travels with a file is not asked.
    "esteira.learning.blending.Blend",
    "functools.partial",  # of an allowed function only: it is a node of its own, and asked for as well
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils.validation.check_array",
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRegressor",
)


def load(path: Path) -> Any:
    """The pipeline in a file. Raises ModelRefused, before anything is loaded, where it holds a type not allowed."""
    if not path.is_file():
        raise ModelRefused(
            f"{path.name} is not in the model's folder: only models in the skops format are loaded; log it again"
        )
    return loads(path.read_bytes())


def loads(content: bytes) -> Any:
    """The same of a file's content."""
    try:
        return skops.io.loads(content, trusted=list(ALLOWED_TYPES))  # it looks at every type before it makes anything
    except UntrustedTypesFoundException as error:
        foreign = sorted(set(skops.io.get_untrusted_types(data=content)) - set(ALLOWED_TYPES))
        raise ModelRefused(
            f"the model file holds types that are not allowed: {', '.join(foreign)}; allowed beside scikit-learn's own: "
            f"{', '.join(ALLOWED_TYPES)}. If it is yours and safe, add the type to store/model_files.py's ALLOWED_TYPES"
        ) from error
