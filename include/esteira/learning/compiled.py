"""Pipelines of trees as machine code: translated by treelite, compiled by tl2cgen, and compared with what they were made of.

Only the trees are compiled. What comes before them is whole-column arithmetic, the same as scikit-learn's to the last bit.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
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

from esteira.learning.blending import Blend
from esteira.learning.pipelines import Model

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
LARGE = 1e30  # what is larger, and what is infinite, is left to scikit-learn: it may refuse it
EXACT = 1e-12  # of the prediction, or of 1
EDGES = 255  # values of a column at which trees branch that are tried
UNSEEN = "\0never seen"
# A number whose lower half is this, tl2cgen takes for none.
MISSING = -1
LOW = 0 if sys.byteorder == "little" else 1
FOREIGN = "it is not a pipeline of this version"


class CantCompile(Exception):
    """Why a pipeline stays with scikit-learn."""


class Trees:
    """A regression by compiled trees, in the place of the pipeline that they were made of. For one thread at a time."""

    of_classes = False

    def __init__(self, pipeline: Any, ask: Callable[[Array], Array]) -> None:
        self.pipeline = pipeline
        self.feature_names_in_ = pipeline.feature_names_in_
        self.prepare, self.ask = _preparation(pipeline), ask

    def predict(self, matrix: pd.DataFrame) -> Array:
        """What the pipeline predicts of the rows of design()'s matrix."""
        return self._by_both(matrix, self.pipeline.predict).reshape(-1)

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
        return self._by_both(matrix, self.pipeline.predict_proba)


def build(model: Model) -> bytes:
    """The libraries of a model's pipelines, as a zip file. Raises CantCompile."""
    compiler = next((name for name in COMPILERS if shutil.which(name)), None)
    if compiler is None:
        raise CantCompile(f"there is no C compiler here ({' or '.join(COMPILERS)})")
    kept = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(kept, "w") as archive:
        for number, pipeline in enumerate(_members(model)):
            library = _library(pipeline, compiler, Path(folder) / f"{number}.so")
            archive.writestr(zipfile.ZipInfo(library.name), library.read_bytes(), zipfile.ZIP_DEFLATED)
    return kept.getvalue()


def _library(pipeline: Any, compiler: str, path: Path) -> Path:
    import tl2cgen

    _preparation(pipeline)
    trees = _imported(pipeline)
    files = min(trees.num_tree, 1 + _nodes(trees) // NODES_OF_A_FILE)
    try:
        with _quietly():
            tl2cgen.export_lib(
                trees, toolchain=compiler, libpath=path, params={"parallel_comp": files}, options=["-Os"]
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


def loaded(model: Model, content: bytes) -> Model:
    """The model with its pipelines' libraries, of build(), in the place of them. Raises CantCompile where they can't be loaded.

    They are machine code: whoever calls this knows where they are from.
    """
    import tl2cgen

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(content)) as archive:
        found: list[Trees] = []
        for number, pipeline in enumerate(_members(model)):
            path = archive.extract(f"{number}.so", folder)
            try:
                library = tl2cgen.Predictor(path, nthread=_threads())  # what is loaded stays, when its file is gone
            except tl2cgen.TL2cgenError as error:
                raise CantCompile(
                    f"it can't be loaded: compiled for another machine, or nothing may run from {folder}: {error}"
                ) from error
            found.append((ClassTrees if model.classes else Trees)(pipeline, _asked(library)))
    whole = model.pipeline
    pipeline = Blend(found, whole.weights, whole.kind, whole.value) if isinstance(whole, Blend) else found[0]
    return Model(pipeline, model.classes, model.trained_through, model.version)


def _threads() -> int:
    """As many as scikit-learn takes."""
    return int(os.environ.get("OMP_NUM_THREADS", "").partition(",")[0] or joblib.cpu_count())


def _asked(library: Any) -> Callable[[Array], Array]:
    import tl2cgen

    return lambda prepared: cast("Array", library.predict(tl2cgen.DMatrix(prepared, dtype="float64")))


def compared(model: Model, fast: Model, matrices: Iterable[pd.DataFrame]) -> float:
    """The share of the model's processor time that its compiled trees take for some batches of design()'s matrix.

    Raises CantCompile where the two predict otherwise of any row, or of rows made of them that are hard to get right.
    """
    times = np.zeros(2)
    for number, matrix in enumerate(matrices):
        if number == 0:
            for pipeline in _members(model):
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


def _members(model: Model) -> Sequence[Any]:
    return model.pipeline.members if isinstance(model.pipeline, Blend) else [model.pipeline]


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


def _nodes(trees: Any) -> int:
    return sum(len(trees.get_tree_accessor(number).get_field("split_index")) for number in range(trees.num_tree))


def _steps(pipeline: Any) -> tuple[ColumnTransformer, Any, Any]:
    """The steps of a pipeline that pipelines.pipeline() has made: preparation, selection of columns or None, estimator."""
    if not isinstance(pipeline, Pipeline) or not isinstance(pipeline[0], ColumnTransformer):
        raise CantCompile(FOREIGN)
    return pipeline[0], pipeline.named_steps.get("select"), pipeline[-1]


# ------------------------------------------------------------------------------------------------------- preparation


Prepared = tuple["Array", "Array"]


def _preparation(pipeline: Any) -> Callable[[pd.DataFrame], Prepared]:
    """What makes of design()'s matrix what the pipeline's estimator is given, and says which rows are for scikit-learn only."""
    prepare, select, estimator = _steps(pipeline)
    parts = [
        _categories(transformer, columns) if name == "categorical" else _numbers(transformer, columns)
        for name, transformer, columns in prepare.transformers_
        if len(columns) and transformer != "drop"
    ]
    kept = None if select is None else select.get_support(indices=True)
    single = isinstance(estimator, FORESTS)  # trees of this kind see single precision

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


def _numbers(transformer: Any, columns: Sequence[str]) -> Callable[[pd.DataFrame], Array]:
    steps = [transformer] if isinstance(transformer, SimpleImputer) else [step for _, step in transformer.steps]
    if [type(step) for step in steps] not in ([SimpleImputer], [SimpleImputer, StandardScaler]):
        raise CantCompile(FOREIGN)
    empty = pd.DataFrame(np.nan, index=[0], columns=list(columns))
    filled = np.asarray(steps[0].transform(empty), dtype="float64")[0]
    scaler = steps[1] if len(steps) > 1 else None

    def numbers(matrix: pd.DataFrame) -> Array:
        every = np.empty((len(columns), len(matrix)))
        # A column at a time stays in the processor's cache.
        for number, (name, values) in enumerate(zip(columns, every, strict=True)):
            values[:] = matrix[name].to_numpy(dtype="float64", na_value=np.nan)
            missing = np.isnan(values)
            if missing.any():
                values[missing] = filled[number]
            if scaler is not None:
                values -= scaler.mean_[number]
                values /= scaler.scale_[number]
        return every.T

    return numbers


def _categories(transformer: Any, columns: Sequence[str]) -> Callable[[pd.DataFrame], Array]:
    """By a table of what is made of each value that the encoder knows, of any other one, and of none."""
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
        tables.append((name, pa.array(known, pa.string()), made[:, start:end]))
    if end != made.shape[1]:
        raise CantCompile(FOREIGN)

    def categories(matrix: pd.DataFrame) -> Array:
        return np.hstack([_looked_up(matrix[name], known, table) for name, known, table in tables])

    return categories


def _looked_up(values: pd.Series, known: pa.Array, table: Array) -> Array:
    texts = pa.array(values, pa.string(), from_pandas=True)
    found = pc.index_in(texts, value_set=known).fill_null(len(known)).to_numpy(zero_copy_only=False)
    missing = texts.is_null().to_numpy(zero_copy_only=False)
    return np.asarray(table[np.where(missing, len(known) + 1, found)])


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


def _edges(trees: Any, select: Any) -> dict[int, Array]:
    """By the number of the column that is prepared: values at which the trees branch."""
    every: dict[int, list[Array]] = {}
    for number in range(trees.num_tree):
        tree = trees.get_tree_accessor(number)
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
