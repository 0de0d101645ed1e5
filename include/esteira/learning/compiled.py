"""Pipelines of trees as machine code: translated by treelite, compiled by tl2cgen, and compared with what they were made of.

Only the trees are compiled. What comes before them is whole-column arithmetic, the same as scikit-learn's to the last bit.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from esteira.learning import trees
from esteira.learning.blending import Blend
from esteira.learning.predicting import Model
from esteira.learning.trees import CantCompile

if TYPE_CHECKING:
    from esteira.learning.metrics import Array

HISTOGRAMS = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
FORESTS = (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
COMPILERS = ("gcc", "clang")
MOST_NODES = 100_000  # of the trees of a pipeline; a compiler takes 0.15 ms for each
NODES_OF_A_FILE = 500  # a compiler takes longer for one large file than for several small ones
EXACT = 1e-12  # of the prediction, or of 1
EDGES = 255  # values of a column at which trees branch that are tried
UNSEEN = "\0never seen"
FOREIGN = "it is not a pipeline of this version"


def build(model: Model) -> bytes:
    """The libraries of a model's pipelines, and what comes before the trees, as a zip file. Raises CantCompile."""
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None:
        raise CantCompile(f"there is no C compiler here ({' or '.join(COMPILERS)})")
    kept = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(kept, "w") as archive:
        for number, pipeline in enumerate(trees.members(model)):
            library = _library(pipeline, compiler, Path(folder) / f"{number}.so")
            archive.writestr(zipfile.ZipInfo(library.name), library.read_bytes(), zipfile.ZIP_DEFLATED)
        archive.writestr(zipfile.ZipInfo(trees.PREPARATION), json.dumps(plan(model)), zipfile.ZIP_DEFLATED)
    return kept.getvalue()


def _library(pipeline: Any, compiler: str, path: Path) -> Path:
    import tl2cgen

    ensemble = _imported(pipeline)
    files = min(ensemble.num_tree, 1 + _nodes(ensemble) // NODES_OF_A_FILE)
    try:
        with _quietly():
            tl2cgen.export_lib(
                ensemble, toolchain=compiler, libpath=path, params={"parallel_comp": files}, options=["-Os"]
            )
    except (tl2cgen.TL2cgenError, ValueError, OSError, RuntimeError) as error:
        raise CantCompile(f"{compiler} can't: {error}") from error
    return path


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what the libraries print: an older treelite in tl2cgen says that it is older. What they make is compared."""
    sys.stderr.flush()
    before = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)


def compared(model: Model, fast: Model, matrices: Iterable[pd.DataFrame]) -> float:
    """The share of the model's processor time that its compiled trees take for some batches of design()'s matrix.

    Raises CantCompile where the two predict otherwise of any row, or of rows made of them that are hard to get right.
    """
    times = np.zeros(2)
    for number, matrix in enumerate(matrices):
        if number == 0:
            for pipeline in trees.members(model):
                _require_equal(model, fast, _hard(pipeline, matrix))
        times += _require_equal(model, fast, matrix)
    if not times.all():
        raise CantCompile("there is no row to compare it by")
    return float(times[1] / times[0])


def _require_equal(model: Model, fast: Model, matrix: pd.DataFrame) -> Array:
    """The seconds that each took."""
    began = time.process_time()
    wanted = _predictions(model, matrix)
    half = time.process_time()
    found = _predictions(fast, matrix)
    done = time.process_time()
    off = np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)
    if not (off <= EXACT).all():
        raise CantCompile(f"they differ from scikit-learn's by {np.max(off):.2g}")
    return np.array([half - began, done - half])


def _predictions(model: Model, matrix: pd.DataFrame) -> Array:
    asked = model.pipeline.predict_proba if model.classes else model.pipeline.predict
    return np.asarray(asked(matrix), dtype="float64")


def _imported(pipeline: Any) -> Any:
    """The pipeline's trees as treelite has them."""
    import treelite

    estimator = _steps(pipeline)[-1]
    if not isinstance(estimator, HISTOGRAMS + FORESTS):
        raise CantCompile(f"{type(estimator).__name__} is not of trees that can be compiled")
    try:
        found = treelite.sklearn.import_model(estimator)
    except (treelite.TreeliteError, NotImplementedError, AssertionError) as error:
        raise CantCompile(f"treelite can't translate this {type(estimator).__name__}: {error}") from error
    nodes = _nodes(found)
    if nodes > MOST_NODES:
        raise CantCompile(f"its trees have {nodes:,} nodes, and more than {MOST_NODES:,} take too long to compile")
    return found


def _nodes(ensemble: Any) -> int:
    return sum(len(ensemble.get_tree_accessor(number).get_field("split_index")) for number in range(ensemble.num_tree))


def _steps(pipeline: Any) -> tuple[ColumnTransformer, Any, Any]:
    """The steps of a pipeline that pipelines.pipeline() has made: preparation, selection of columns or None, estimator."""
    if not isinstance(pipeline, Pipeline) or not isinstance(pipeline[0], ColumnTransformer):
        raise CantCompile(FOREIGN)
    return pipeline[0], pipeline.named_steps.get("select"), pipeline[-1]


# ------------------------------------------------------------------------------------------------------- preparation


def plan(model: Model) -> dict[str, Any]:
    """What trees.loaded() is to know of a model beside its libraries. Raises CantCompile."""
    whole = model.pipeline
    blend = {name: getattr(whole, name) for name in ("weights", "kind", "value")} if isinstance(whole, Blend) else None
    return {"pipelines": [_plan(each) for each in trees.members(model)], "blend": blend}


def _plan(pipeline: Any) -> dict[str, Any]:
    prepare, select, estimator = _steps(pipeline)
    return {
        "columns": [str(name) for name in pipeline.feature_names_in_],
        "parts": [
            _categories(transformer, columns) if name == "categorical" else _numbers(transformer, columns)
            for name, transformer, columns in prepare.transformers_
            if len(columns) and transformer != "drop"
        ],
        "kept": None if select is None else select.get_support(indices=True).tolist(),
        "single": isinstance(estimator, FORESTS),  # trees of this kind see single precision
    }


def _numbers(transformer: Any, columns: Sequence[str]) -> dict[str, Any]:
    steps = [transformer] if isinstance(transformer, SimpleImputer) else [step for _, step in transformer.steps]
    if [type(step) for step in steps] not in ([SimpleImputer], [SimpleImputer, StandardScaler]):
        raise CantCompile(FOREIGN)
    empty = pd.DataFrame(np.nan, index=[0], columns=list(columns))
    scaler = steps[1] if len(steps) > 1 else None
    return {
        "columns": list(columns),
        "filled": np.asarray(steps[0].transform(empty), dtype="float64")[0].tolist(),
        "mean": None if scaler is None else scaler.mean_.tolist(),
        "scale": None if scaler is None else scaler.scale_.tolist(),
    }


def _categories(transformer: Any, columns: Sequence[str]) -> dict[str, Any]:
    """Tables of what is made of each value that the encoder knows, of any other one, and of none."""
    encoder = transformer[-1]
    tables = []
    end = 0
    for number, name in enumerate(columns):
        known = [value for value in encoder.categories_[number] if isinstance(value, str)]
        rows = pd.DataFrame([[None] * len(columns)] * (len(known) + 2), columns=list(columns), dtype=object)
        rows[name] = pd.Series([*known, UNSEEN, None], dtype=object)
        made = np.asarray(transformer.transform(rows), dtype="float64")
        width = int(encoder._n_features_outs[number]) if isinstance(encoder, OneHotEncoder) else 1
        start, end = end, end + width
        tables.append({"column": name, "known": known, "made": made[:, start:end].tolist()})
    if end != made.shape[1]:
        raise CantCompile(FOREIGN)
    return {"categories": tables}


# --------------------------------------------------------------------------------------------------------- hard rows


def _hard(pipeline: Any, matrix: pd.DataFrame) -> pd.DataFrame:
    """Rows made of the first ones of a matrix: no value, 0, the largest and smallest, categories known and unknown, and for
    each number those at which a tree branches, and their neighbours.
    """
    prepare, select, _ = _steps(pipeline)
    edges = _edges(_imported(pipeline), select)
    rows = []
    for name, transformer, columns in prepare.transformers_:
        for number, column in enumerate(columns if transformer != "drop" else ()):
            tried: list[Any]
            if name == "categorical":
                tried = [*transformer[-1].categories_[number][:EDGES], UNSEEN, "", None]
            else:
                at = prepare.output_indices_[name].start + number
                raw = edges.get(at, np.zeros(0))
                if name == "numeric":
                    raw = raw * transformer[-1].scale_[number] + transformer[-1].mean_[number]
                near = [raw, np.nextafter(raw, np.inf), np.nextafter(raw, -np.inf)]
                tried = [*np.concatenate(near), np.nan, 0.0, -0.0, 1.0, -1.0, 5e-324, 1e29, -1e29]
            some = matrix.iloc[np.arange(len(tried)) % len(matrix)].reset_index(drop=True)
            rows.append(some.assign(**{column: pd.Series(tried, dtype=object if name == "categorical" else "float64")}))
    return pd.concat(rows, ignore_index=True)


def _edges(ensemble: Any, select: Any) -> dict[int, Array]:
    """By the number of the column that is prepared: values at which the trees branch."""
    every: dict[int, list[Array]] = {}
    for number in range(ensemble.num_tree):
        tree = ensemble.get_tree_accessor(number)
        columns, values = tree.get_field("split_index"), tree.get_field("threshold")
        for column in np.unique(columns[columns >= 0]):
            every.setdefault(int(column), []).append(values[columns == column])
    kept = None if select is None else select.get_support(indices=True)
    found = {}
    for column, parts in every.items():
        values = np.unique(np.concatenate(parts))
        values = values[np.linspace(0, len(values) - 1, min(len(values), EDGES)).astype(int)]
        found[column if kept is None else int(kept[column])] = values[np.isfinite(values)]
    return found
