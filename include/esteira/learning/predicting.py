"""A fitted pipeline, and what it predicts: what scoring needs of learning, without the libraries that fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from esteira.errors import SpecError
from esteira.spec import ModelSpec


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


def design(spec: ModelSpec, frame: pd.DataFrame, columns: list[str] | None = None) -> pd.DataFrame:
    """The matrix that a pipeline takes: float64 for numbers and booleans, text (object, None where empty) for categories.

    `columns` are those of an older model where they differ from the spec's. Raises SpecError where the feature table
    lacks one of them.
    """
    wanted = columns or list(spec.features.all)
    known = {*spec.features.all} & {
        *frame.columns
    }  # the table keeps the columns that model.yaml once had: they are empty
    missing = [name for name in wanted if name not in known]
    if missing:
        raise SpecError(
            f"model {spec.name}: a version was trained on {missing}, which model.yaml no longer has among its features; "
            "put them back into model.yaml, or train and promote a new version"
        )
    matrix = frame[wanted]
    texts = {name: _text(matrix[name]) for name in wanted if not pd.api.types.is_numeric_dtype(matrix[name])}
    return matrix.assign(**texts)


def _text(values: pd.Series) -> pd.Series:
    return values.astype(object).where(values.notna(), None)


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


def scored(spec: ModelSpec, model: Model, frame: pd.DataFrame) -> pd.DataFrame:
    """`day` and `label` of the rows beside what `model` predicts for them."""
    return frame[["day", "label"]].join(predict(spec, model, frame))


def unseen(spec: ModelSpec, models: Sequence[Model], frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `frame` with what the models predict for them: each by the first one that has not seen its day, in their order.

    Rows that all of them have seen are left out.
    """
    parts, left = [], frame
    for model in models:
        new = left["day"] > pd.Timestamp(model.trained_through)
        if new.any():
            parts.append(left[new].join(predict(spec, model, left[new])))
        left = left[~new]
    return pd.concat(parts).sort_index() if parts else frame.head(0).assign(prediction=[], probability=[])
