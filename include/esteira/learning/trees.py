"""Models as compiled.py has made them: each pipeline a library of its trees and, as data, what it does to a matrix before them.

Nothing of scikit-learn is imported for it, which takes longer than to score a small day.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from esteira.learning.blending import Blend
from esteira.learning.predicting import Model

if TYPE_CHECKING:
    from esteira.learning.metrics import Array

PREPARATION = "preparation.json"
LARGE = 1e30  # what is larger, and what is infinite, is left to scikit-learn: it may refuse it
# A number whose lower half is this, tl2cgen takes for none.
MISSING = -1
LOW = 0 if sys.byteorder == "little" else 1


class CantCompile(Exception):
    """Why a pipeline stays with scikit-learn."""


Prepared = tuple["Array", "Array"]


class Trees:
    """A regression by compiled trees, in the place of the pipeline that they were made of. For one thread at a time.

    Rows that are not for them are predicted by the pipeline, which is asked for only then.
    """

    of_classes = False

    def __init__(self, plan: Mapping[str, Any], ask: Callable[[Array], Array], pipeline: Callable[[], Any]) -> None:
        self.feature_names_in_ = plan["columns"]
        self.prepare, self.ask, self.pipeline = preparation(plan), ask, pipeline

    def predict(self, matrix: pd.DataFrame) -> Array:
        """What the pipeline predicts of the rows of design()'s matrix."""
        return self._by_both(matrix, lambda rows: self.pipeline().predict(rows)).reshape(-1)

    def _by_both(self, matrix: pd.DataFrame, slow: Callable[[pd.DataFrame], Any]) -> Array:
        """By the trees, and rows that are not for them by scikit-learn."""
        prepared, left = self.prepare(matrix)
        found = self.ask(prepared).reshape(len(matrix), -1)
        if self.of_classes and found.shape[1] == 1:  # of two classes only the chance of the second is told
            found = np.column_stack([1 - found, found])
        if left.any():
            found[left] = np.asarray(slow(matrix[left])).reshape(-1, found.shape[1])
        return found


class ClassTrees(Trees):
    """A classification by compiled trees."""

    of_classes = True

    def predict(self, matrix: pd.DataFrame) -> Array:
        """The number of each row's class."""
        return np.asarray(self.predict_proba(matrix).argmax(axis=1))

    def predict_proba(self, matrix: pd.DataFrame) -> Array:
        """The chance of each class."""
        return self._by_both(matrix, lambda rows: self.pipeline().predict_proba(rows))


def members(model: Model) -> Sequence[Any]:
    """The pipelines of a model: of a blend several."""
    return model.pipeline.members if isinstance(model.pipeline, Blend) else [model.pipeline]


def loaded(content: bytes, classes: tuple[str, ...], own: Callable[[], Model]) -> Any:
    """What predicts by the libraries of compiled.build()'s file, in the place of the pipeline of `own()`, a model of these classes.

    They are machine code: whoever calls this knows where they are from. Raises CantCompile where they can't be loaded.
    """
    import tl2cgen

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(content)) as archive:
        if PREPARATION not in archive.namelist():
            raise CantCompile("it was compiled by an older version of Esteira; the next version is compiled anew")
        plan = json.loads(archive.read(PREPARATION))
        found: list[Trees] = []
        for number, each in enumerate(plan["pipelines"]):
            path = archive.extract(f"{number}.so", folder)
            try:
                library = tl2cgen.Predictor(path, nthread=_threads())  # what is loaded stays, when its file is gone
            except tl2cgen.TL2cgenError as error:
                raise CantCompile(
                    f"it can't be loaded: compiled for another machine, or nothing may run from {folder}: {error}"
                ) from error
            kind = ClassTrees if classes else Trees
            found.append(kind(each, _asked(library), partial(_member, own, number)))
    return Blend(found, **plan["blend"]) if plan["blend"] else found[0]


def _member(own: Callable[[], Model], number: int) -> Any:
    return members(own())[number]


def _threads() -> int:
    """As many as scikit-learn takes."""
    import joblib

    return int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or joblib.cpu_count())


def _asked(library: Any) -> Callable[[Array], Array]:
    import tl2cgen

    return lambda prepared: cast("Array", library.predict(tl2cgen.DMatrix(prepared, dtype="float64")))


def preparation(plan: Mapping[str, Any]) -> Callable[[pd.DataFrame], Prepared]:
    """What makes of design()'s matrix what a pipeline's estimator is given, and says which rows are for scikit-learn only."""
    parts = [_categories(part["categories"]) if "categories" in part else _numbers(**part) for part in plan["parts"]]
    kept, single = plan["kept"], plan["single"]

    def prepared(matrix: pd.DataFrame) -> Prepared:
        made = [part(matrix) for part in parts]
        whole = made[0] if len(made) == 1 else np.hstack(made)
        within = whole.min(initial=0) >= -LARGE and whole.max(initial=0) <= LARGE  # not so where there is a NaN
        left = np.zeros(len(whole), dtype=bool) if within else _any_of_row(np.abs(whole) > LARGE)
        whole = whole if kept is None else whole[:, kept]
        whole = np.ascontiguousarray(whole.astype(np.float32) if single else whole, dtype="float64")
        return whole, left | _any_of_row(whole.view(np.int32)[:, LOW::2] == MISSING)

    return prepared


def _any_of_row(found: Array) -> Array:
    """Which rows have any: as nearly always none has, the rows are looked at only then."""
    return np.asarray(found.any(axis=1)) if found.any() else np.zeros(len(found), dtype=bool)


def _numbers(
    columns: Sequence[str], filled: Sequence[float], mean: Sequence[float] | None, scale: Sequence[float] | None
) -> Callable[[pd.DataFrame], Array]:
    """Empty values filled, and scaled where there is a scale."""

    def numbers(matrix: pd.DataFrame) -> Array:
        every = np.empty((len(columns), len(matrix)))
        # A column at a time stays in the processor's cache.
        for number, (name, values) in enumerate(zip(columns, every, strict=True)):
            values[:] = matrix[name].to_numpy(dtype="float64", na_value=np.nan)
            missing = np.isnan(values)
            if missing.any():
                values[missing] = filled[number]
            if mean is not None and scale is not None:
                values -= mean[number]
                values /= scale[number]
        return every.T

    return numbers


def _categories(tables: Sequence[Mapping[str, Any]]) -> Callable[[pd.DataFrame], Array]:
    """By a table of what is made of each value that the encoder knows, of any other one, and of none."""
    known = [pa.array(table["known"], pa.string()) for table in tables]
    made = [np.asarray(table["made"], dtype="float64").reshape(len(table["known"]) + 2, -1) for table in tables]

    def categories(matrix: pd.DataFrame) -> Array:
        return np.hstack(
            [_looked_up(matrix[table["column"]], *each) for table, *each in zip(tables, known, made, strict=True)]
        )

    return categories


def _looked_up(values: pd.Series, known: pa.Array, table: Array) -> Array:
    texts = pa.array(values, pa.string(), from_pandas=True)
    found = pc.index_in(texts, value_set=known).fill_null(len(known)).to_numpy(zero_copy_only=False)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    return np.asarray(table[np.where(missing, len(known) + 1, found)])
