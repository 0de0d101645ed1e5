"""MLflow: runs, models, versions and aliases; a model is loaded only if every type in its file is allowed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import lru_cache
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import psutil
import skops.io
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema

from esteira.data import skip_instance_metadata
from esteira.errors import EsteiraError, ModelRefused, UnknownVersion
from esteira.learning.drift import Profile
from esteira.learning.pipelines import Model, design
from esteira.settings import PROJECT, settings
from esteira.spec import ModelSpec, digest
from esteira.store import lake

ALLOWED_TYPES = (
    # What a model file may hold beside the types that skops trusts by itself. A list that travels with a file is not asked.
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "xgboost.core.Booster",
    "xgboost.sklearn.XGBClassifier",
    "xgboost.sklearn.XGBRegressor",
)


SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
SAME_START = 2  # seconds by which a clock that is set may move the time at which a process started


def uri() -> str:
    """The tracking server: MLFLOW_TRACKING_URI, else that of `make up` while it runs, else the database file of that server.

    The file is under lake.home(). client() sets MLFLOW_TRACKING_URI: a process stays with what it has begun with.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return given or _running_server(lake.home()) or f"sqlite:///{lake.home()}/mlflow/mlflow.db"


def _running_server(home: Path) -> str:
    """The address of the MLflow that `make up` has started for this state folder; empty where it does not run any more.

    Nothing is asked over the network: another server may have its port by now. Its supervisor, known by its number and the
    time of its start, is looked for.
    """
    try:
        running = json.loads((home / "running.json").read_text(encoding="utf-8"))
        supervisor = running["supervisor"]
        alive = abs(psutil.Process(supervisor["pid"]).create_time() - supervisor["created"]) < SAME_START
        return str(running["mlflow"]) if alive else ""
    except (OSError, ValueError, TypeError, KeyError, psutil.Error):
        return ""


def client() -> MlflowClient:
    """A client of the tracking server."""
    skip_instance_metadata()
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    scheme = uri().partition(":")[0].partition("+")[0]
    if scheme not in SCHEMES:
        raise EsteiraError(
            f"MLFLOW_TRACKING_URI can't be used: it begins with {scheme[:20]!r}; allowed: {', '.join(SCHEMES)}, such as "
            "http://127.0.0.1:5000"
        )
    if uri().startswith("sqlite:///"):
        lake.make_home()
        Path(uri().removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        _require_database(Path(uri().removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri())
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # warns of pip's own version at each model
    return MlflowClient()


def _require_database(path: Path) -> None:
    """Let one process make a registry's database: of several that begin at once the others would find half of it."""
    if path.exists():
        return
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    with FileLock(f"{path}.lock", timeout=300):
        if not path.exists():
            draft = path.with_suffix(".part")
            draft.unlink(missing_ok=True)
            engine = create_engine(f"sqlite:///{draft}")
            _initialize_tables(engine)
            engine.dispose()
            draft.replace(path)


def experiment(spec: ModelSpec) -> str:
    """The id of the model's experiment, made if need be."""
    api = client()
    found = api.get_experiment_by_name(spec.name)
    if found is not None and found.lifecycle_stage == "deleted":
        raise EsteiraError(
            f"model {spec.name}: its experiment {found.experiment_id} was deleted in MLflow, and so its runs with it; bring them back: "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    if found is not None:
        return str(found.experiment_id)
    local = uri().startswith("sqlite:///")
    place = (lake.home() / "mlflow" / "artifacts").as_uri() if local else None
    try:
        return str(api.create_experiment(spec.name, artifact_location=place))
    except MlflowException:  # another task was faster
        found = api.get_experiment_by_name(spec.name)
        if found is None:
            raise
        return str(found.experiment_id)


def search(spec: ModelSpec, **tags: object) -> list[Run]:
    """The model's runs that have all the tags, the newest first."""
    # A condition has no way to escape a quote: a value with one is compared here.
    wanted = {name: str(value) for name, value in tags.items()}
    plain = {name: value for name, value in wanted.items() if not re.search(r"[^\w:/. +-]", value)}
    condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in plain.items())
    found = client().search_runs([experiment(spec)], condition)
    return [each for each in found if all(each.data.tags.get(name) == value for name, value in wanted.items())]


@contextmanager
def tracked(spec: ModelSpec, key: str, name: str, **tags: object) -> Iterator[str]:
    """A tracked run, known by `key`: running a task again replaces the run that it left before."""
    api = client()
    cited = {version.run_id for version in api.search_model_versions(f"name = '{spec.name}'")}
    for old in search(spec, key=key):
        if old.info.run_id not in cited:  # a registered version needs the run that made it
            api.delete_run(old.info.run_id)
    given = {"key": key, "model_yaml": digest(spec), "code": code_version(spec), "lock": lock_digest(), **tags}
    started = api.create_run(experiment(spec), run_name=name, tags={tag: str(value) for tag, value in given.items()})
    run_id = str(started.info.run_id)
    try:
        yield run_id
    except BaseException:  # also a task that is killed by its timeout must not leave a run that seems to go on
        api.set_terminated(run_id, "FAILED")
        raise
    api.set_terminated(run_id, "FINISHED")


def code_version(spec: ModelSpec) -> str:
    """The git commit that the model's folder is at, '+' where it has changes; where git does not know it ESTEIRA_COMMIT, which an image has."""
    told = settings().commit
    try:
        command = ["git", "-C", str(spec.folder), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or told  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return told


def lock_digest() -> str:
    """SHA-256 of requirements.txt; empty where it is not installed beside the package."""
    lock = PROJECT / "requirements.txt"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else ""


def log(
    run_id: str,
    *,
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, object] | None = None,
) -> None:
    """Add parameters, metrics (those that are numbers) and tags to a run."""
    api = client()
    for name, value in (params or {}).items():
        api.log_param(run_id, name, str(value)[:500])
    for name, number in (metrics or {}).items():
        if number == number:
            api.log_metric(run_id, name, number)
    for name, value in (tags or {}).items():
        api.set_tag(run_id, name, str(value))


def log_file(run_id: str, path: Path) -> None:
    """Keep a file beside a run."""
    client().log_artifact(run_id, str(path))


def log_figures(run_id: str, figures: Mapping[str, Any]) -> None:
    """Keep matplotlib figures beside a run, as PNG."""
    for name, figure in figures.items():
        client().log_figure(run_id, figure, name)


def log_model(spec: ModelSpec, run_id: str, model: Model, example: pd.DataFrame, profile: Profile) -> None:
    """Keep the model (skops), its signature, an example of its input and its reference profile with the run."""
    matrix = design(spec, example, model.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hints of MLflow's about its own formats
        client()
        with mlflow.start_run(run_id=run_id):
            info = mlflow.sklearn.log_model(
                model.pipeline,
                name="model",
                signature=_signature(spec, model, matrix),
                input_example=matrix,
                pip_requirements=[
                    f"{name}=={installed(name)}" for name in ("scikit-learn", "skops", "pandas", "numpy")
                ],
                serialization_format="skops",
                skops_trusted_types=list(ALLOWED_TYPES),
                metadata={"classes": list(model.classes), "trained_through": str(model.trained_through)},
            )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "profile.json"
        path.write_text(json.dumps(profile), encoding="utf-8")
        log_file(run_id, path)
    log(
        run_id,
        tags={
            "model_uri": info.model_uri,
            "trained_through": model.trained_through,
            "classes": json.dumps(model.classes),
        },
    )


def _signature(spec: ModelSpec, model: Model, matrix: pd.DataFrame) -> ModelSignature:
    def kind(name: str) -> str:
        return "double" if pd.api.types.is_numeric_dtype(matrix[name]) else "string"

    inputs = Schema([ColSpec(kind(name), name, required=False) for name in model.columns])
    return ModelSignature(inputs, Schema([ColSpec("double" if spec.task == "regression" else "long")]))


def profile(run_id: str) -> Profile:
    """The reference profile that was kept with a run."""
    return _profile(uri(), run_id)


@lru_cache(maxsize=8)  # what a finished run kept does not change
def _profile(_: str, run_id: str) -> Profile:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(client().download_artifacts(run_id, "profile.json", folder)).read_text(encoding="utf-8")
    found: Profile = json.loads(text)
    return found


def register(spec: ModelSpec, run_id: str) -> int:
    """The version that the run's model is registered as; the same one when it is asked again."""
    api = client()
    tags = api.get_run(run_id).data.tags
    try:
        api.create_registered_model(spec.name, tags={"owner": spec.owner})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = version_of(spec, run_id)
    if known is not None:
        return known
    lineage = {name: value for name, value in tags.items() if not name.startswith("mlflow.")}
    model_id = tags["model_uri"].removeprefix("models:/")
    return int(
        api.create_model_version(spec.name, tags["model_uri"], run_id=run_id, tags=lineage, model_id=model_id).version
    )


def version_of(spec: ModelSpec, run_id: str) -> int | None:
    """The version that a run's model is registered as; None where it is not."""
    found = client().search_model_versions(f"name = '{spec.name}'")
    return next((int(version.version) for version in found if version.run_id == run_id), None)


def alias(spec: ModelSpec, name: str, version: int | None) -> None:
    """Point an alias at a version, or remove it; nothing is written where it already is so. Raises UnknownVersion."""
    api = client()
    now = aliases(spec).get(name)
    if version is None and now is not None:
        api.delete_registered_model_alias(spec.name, name)
    elif version is not None and now != version:
        try:
            api.set_registered_model_alias(spec.name, name, str(version))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise _unknown(spec.name, version) from None


def aliases(spec: ModelSpec) -> dict[str, int]:
    """The model's aliases; none where it has no version yet."""
    try:
        return {name: int(version) for name, version in client().get_registered_model(spec.name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def run_of(spec: ModelSpec, version: int) -> str:
    """The run that made a version. Raises UnknownVersion where there is none."""
    return _run_of(uri(), spec.name, version)


@lru_cache(maxsize=64)  # a version is of one run for good
def _run_of(_: str, name: str, version: int) -> str:
    try:
        return str(client().get_model_version(name, str(version)).run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise _unknown(name, version) from None


def _unknown(name: str, version: int) -> UnknownVersion:
    return UnknownVersion(
        f"model {name} has no version {version}; see `esteira status {name}`. If it was deleted in MLflow, restore it there, go to "
        f"another one (`esteira rollback {name} --to …`), or train anew"
    )


def load(spec: ModelSpec, run_id: str, version: int = 0, digest: str = "") -> Model:
    """The model that a run kept. Raises ModelRefused, before anything is loaded, where its file holds a type not allowed.

    With a `digest` (SHA-256) its file must have it, too.
    """
    try:
        model = _loaded(uri(), run_id, digest) if digest else _load(run_id, "")
    except _AnotherFile:
        raise ModelRefused(
            f"model {spec.name}: the file of version {version} is not the one that was registered; put that back (its "
            f"SHA-256 is {digest}), or roll back and train anew"
        ) from None
    return replace(model, version=version)


class _AnotherFile(Exception):
    """A model's file is not the one that was asked for."""


@lru_cache(maxsize=4)  # by its digest: a process that walks through many days loads a version once
def _loaded(_: str, run_id: str, digest: str) -> Model:
    return _load(run_id, digest)


def _load(run_id: str, digest: str) -> Model:
    tags = client().get_run(run_id).data.tags
    with tempfile.TemporaryDirectory() as folder:
        path = _model_file(tags["model_uri"], folder)
        if digest and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise _AnotherFile
        pipeline = _load_file(path)
    return Model(pipeline, tuple(json.loads(tags["classes"])), date.fromisoformat(tags["trained_through"]))


def _model_file(model_uri: str, folder: str) -> Path:
    return Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=folder)) / "model.skops"


def model_digest(run_id: str) -> str:
    """The SHA-256 of the model file that a run kept."""
    with tempfile.TemporaryDirectory() as folder:
        path = _model_file(client().get_run(run_id).data.tags["model_uri"], folder)
        return hashlib.sha256(path.read_bytes()).hexdigest()


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise ModelRefused(
            f"{path.name} is not in the model's folder: only models in the skops format are loaded; log it again"
        )
    foreign = sorted(set(skops.io.get_untrusted_types(file=path)) - set(ALLOWED_TYPES))
    if foreign:
        raise ModelRefused(
            f"the model file holds types that are not allowed: {', '.join(foreign)}; allowed beside scikit-learn's own: "
            f"{', '.join(ALLOWED_TYPES)}. If it is yours and safe, add the type to registry.ALLOWED_TYPES"
        )
    return skops.io.load(path, trusted=list(ALLOWED_TYPES))


def load_version(spec: ModelSpec, version: int, digest: str = "") -> Model:
    """The model of a registered version; with a `digest` its file must have it."""
    return load(spec, run_of(spec, version), version, digest)


def run_link(spec: ModelSpec, run_id: str) -> str:
    """Where MLflow's pages show a run; empty where nobody reaches them: a database file, or ESTEIRA_MLFLOW_URL is empty."""
    told = settings().mlflow_url
    base = told if told is not None else uri() if uri().startswith("http") else ""
    return f"{base}/#/experiments/{experiment(spec)}/runs/{run_id}" if base else ""
