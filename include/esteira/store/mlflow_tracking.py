"""Runs, versions and aliases in MLflow, which is imported where it is needed: a day is scored without it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd
import psutil
from filelock import FileLock

from esteira.data import skip_instance_metadata
from esteira.errors import EsteiraError, UnknownVersion
from esteira.learning.drift import Profile
from esteira.learning.predicting import Model, design
from esteira.settings import settings
from esteira.spec import ModelSpec
from esteira.store import copies, places
from esteira.store.lineage import described
from esteira.store.tracking import Run, Version

if TYPE_CHECKING:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

T = TypeVar("T")

SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")
SAME_START = 2  # seconds by which a clock that is set may move the time at which a process started


def uri() -> str:
    """The tracking server: MLFLOW_TRACKING_URI, else that of `make up` while it runs, else the database file of that server.

    The file is under places.home(). client() sets MLFLOW_TRACKING_URI: a process stays with what it has begun with.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    return given or _running_server(places.home()) or f"sqlite:///{places.home()}/mlflow/mlflow.db"


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
    import mlflow

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
        places.make_home()
        Path(uri().removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        _require_database(Path(uri().removeprefix("sqlite:///")))
    mlflow.set_tracking_uri(uri())
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # warns of pip's own version at each model
    return mlflow.MlflowClient()


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
    from mlflow.exceptions import MlflowException

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
    place = (settings().artifacts or (places.home() / "mlflow" / "artifacts").as_uri()) if local else None
    try:
        return str(api.create_experiment(spec.name, artifact_location=place))
    except MlflowException:  # another task was faster
        found = api.get_experiment_by_name(spec.name)
        if found is None:
            raise
        return str(found.experiment_id)


def _signature(spec: ModelSpec, model: Model, matrix: pd.DataFrame) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    def kind(name: str) -> str:
        return "double" if pd.api.types.is_numeric_dtype(matrix[name]) else "string"

    inputs = Schema([ColSpec(kind(name), name, required=False) for name in model.columns])
    return ModelSignature(inputs, Schema([ColSpec("double" if spec.task == "regression" else "long")]))


def unknown(name: str, version: int) -> UnknownVersion:
    """The error that says that a model has no such version."""
    return UnknownVersion(
        f"model {name} has no version {version}; see `esteira status {name}`. If it was deleted in MLflow, restore it there, go to "
        f"another one (`esteira rollback {name} --to …`), or train anew"
    )


def _found(call: Callable[[], T]) -> T | None:
    """What a call of MLflow's returns; None where what it asks for does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return call()
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


class MlflowTracking:
    """MLflow, by its tracking server or a database file."""

    @property
    def identity(self) -> str:
        """Its address."""
        return uri()

    def get(self, run_id: str) -> Run:
        """A run."""
        return _run(client().get_run(run_id))

    def search(self, spec: ModelSpec, tags: Mapping[str, str]) -> list[Run]:
        """The runs that have all the tags, the newest first."""
        # A condition has no way to escape a quote: a value with one is compared here.
        plain = {name: value for name, value in tags.items() if not re.search(r"[^\w:/. +-]", value)}
        condition = " and ".join(f"tags.`{name}` = '{value}'" for name, value in plain.items())
        found = client().search_runs([experiment(spec)], condition)
        return [_run(each) for each in found if all(each.data.tags.get(name) == value for name, value in tags.items())]

    def start(self, spec: ModelSpec, name: str, tags: Mapping[str, str]) -> str:
        """Begin a run."""
        return str(client().create_run(experiment(spec), run_name=name, tags=dict(tags)).info.run_id)

    def end(self, run_id: str, status: str) -> None:
        """End a run."""
        client().set_terminated(run_id, status)

    def delete(self, run_id: str) -> None:
        """Remove a run."""
        client().delete_run(run_id)

    def log(
        self, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Note more of a run."""
        api = client()
        for name, value in params.items():
            api.log_param(run_id, name, value)
        for name, number in metrics.items():
            api.log_metric(run_id, name, number)
        for name, value in tags.items():
            api.set_tag(run_id, name, value)

    def log_file(self, run_id: str, path: Path) -> None:
        """Keep a file as an artifact."""
        client().log_artifact(run_id, str(path))

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep bytes as an artifact."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self.log_file(run_id, path)

    def kept(self, run_id: str, name: str) -> bytes | None:
        """The artifact's bytes."""
        with tempfile.TemporaryDirectory() as folder:
            if all(each.path != name for each in client().list_artifacts(run_id)):
                return None
            return Path(client().download_artifacts(run_id, name, folder)).read_bytes()

    def log_figures(self, run_id: str, make: Callable[[], Mapping[str, Any]]) -> None:
        """Keep figures as PNG."""
        for name, figure in make().items():
            client().log_figure(run_id, figure, name)

    def log_model(self, spec: ModelSpec, run_id: str, model: Model, example: pd.DataFrame, profile: Profile) -> None:
        """Keep the model (skops) with its signature."""
        import mlflow

        from esteira.store.model_files import ALLOWED_TYPES

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
        self.keep(run_id, "profile.json", json.dumps(profile).encode())
        tags = {
            "model_uri": str(info.model_uri),
            "trained_through": str(model.trained_through),
            "classes": json.dumps(model.classes),
        }
        self.log(run_id, {}, {}, tags)

    def profile(self, run_id: str) -> Profile:
        """The reference profile."""
        with tempfile.TemporaryDirectory() as folder:
            text = Path(client().download_artifacts(run_id, "profile.json", folder)).read_text(encoding="utf-8")
        found: Profile = json.loads(text)
        return found

    def load(self, run_id: str, digest: str) -> Model | None:
        """The model, if its file has the digest; a copy of it is kept on this machine then."""
        from esteira.store import model_files

        tags = client().get_run(run_id).data.tags
        with tempfile.TemporaryDirectory() as folder:
            path = _model_file(tags["model_uri"], folder)
            content = path.read_bytes() if digest else b""
            if digest and _sha256(content) != digest:
                return None
            model = _model(model_files.load(path), tags)
        if digest:
            copies.keep(digest, content)
        return model

    def digest(self, run_id: str) -> str:
        """The SHA-256 of the model's file."""
        with tempfile.TemporaryDirectory() as folder:
            content = _model_file(client().get_run(run_id).data.tags["model_uri"], folder).read_bytes()
        sha256 = _sha256(content)
        copies.keep(sha256, content)  # the first day that is scored here need not fetch it again
        return sha256

    def register(self, spec: ModelSpec, run_id: str) -> int:
        """Register a run's model with the run's lineage."""
        from mlflow.exceptions import MlflowException

        api = client()
        tags = api.get_run(run_id).data.tags
        try:
            api.create_registered_model(spec.name, tags={"owner": spec.owner})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        lineage = {name: value for name, value in tags.items() if not name.startswith("mlflow.")}
        model_id = tags["model_uri"].removeprefix("models:/")
        about = {"tags": lineage, "model_id": model_id, "description": described(lineage)}
        made = api.create_model_version(spec.name, tags["model_uri"], run_id=run_id, **about)
        return int(made.version)

    def versions(self, spec: ModelSpec) -> list[Version]:
        """The registered versions."""
        found = client().search_model_versions(f"name = '{spec.name}'")
        return [Version(int(each.version), str(each.run_id), dict(each.tags)) for each in found]

    def run_of(self, model: str, version: int) -> str:
        """The run of a version."""
        found = _found(lambda: client().get_model_version(model, str(version)))
        if found is None:
            raise unknown(model, version)
        return str(found.run_id)

    def aliases(self, spec: ModelSpec) -> dict[str, int]:
        """The model's aliases."""
        found = _found(lambda: client().get_registered_model(spec.name))
        return {name: int(version) for name, version in found.aliases.items()} if found else {}

    def set_alias(self, spec: ModelSpec, name: str, version: int | None) -> None:
        """Point an alias at a version, or remove it."""
        if version is None:
            client().delete_registered_model_alias(spec.name, name)
            return
        self.run_of(spec.name, version)  # there must be one
        client().set_registered_model_alias(spec.name, name, str(version))

    def link(self, spec: ModelSpec, run_id: str) -> str:
        """By ESTEIRA_MLFLOW_URL, else the tracking server's own pages; a database file has none."""
        told = settings().mlflow_url
        base = told if told is not None else uri() if uri().startswith("http") else ""
        return f"{base}/#/experiments/{experiment(spec)}/runs/{run_id}?workflowType=machine_learning" if base else ""


def _run(found: mlflow.entities.Run) -> Run:
    data = found.data
    return Run(str(found.info.run_id), str(found.info.status), data.tags, data.params, data.metrics)


def _model_file(model_uri: str, folder: str) -> Path:
    import mlflow

    return Path(mlflow.artifacts.download_artifacts(model_uri, dst_path=folder)) / "model.skops"


def _model(pipeline: Any, tags: Mapping[str, str]) -> Model:
    return Model(pipeline, tuple(json.loads(tags["classes"])), date.fromisoformat(tags["trained_through"]))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
