"""Fixtures. Airflow reads its place from the environment when it is imported, so that is set before anything else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from esteira.cli import progress

PROJECT = Path(__file__).resolve().parents[1]
AIRFLOW = Path(tempfile.mkdtemp(prefix="esteira-airflow-"))

os.environ.update(
    {
        "AIRFLOW_HOME": str(AIRFLOW),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "AWS_EC2_METADATA_DISABLED": "true",
        "DO_NOT_TRACK": "1",
        "OMP_NUM_THREADS": "1",
    }
)
for name in ("ESTEIRA_HOME", "ESTEIRA_LAKE", "ESTEIRA_GIT", "ESTEIRA_MODELS", "MLFLOW_TRACKING_URI"):
    os.environ.pop(name, None)


def pytest_unconfigure() -> None:
    shutil.rmtree(AIRFLOW, ignore_errors=True)


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making one takes seconds, copying it none."""
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    engine = create_engine(f"sqlite:///{path}")
    _initialize_tables(engine)
    engine.dispose()
    return path


@pytest.fixture(autouse=True)
def _no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine must not change what a command says."""
    monkeypatch.setattr(progress, "QUIET", 3600.0)


@pytest.fixture
def home(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of the test's own: lake, MLflow, notebooks."""
    place = tmp_path / "home"
    fresh_home(place, mlflow_template)
    use_home(place, monkeypatch)
    return place


def fresh_home(place: Path, mlflow_template: Path) -> None:
    """Make a state folder with an empty MLflow database."""
    (place / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, place / "mlflow" / "mlflow.db")


def use_home(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `place` the state folder. MLflow writes the tracking address into the environment; so it is undone there too."""
    monkeypatch.setenv("ESTEIRA_HOME", str(place))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place}/mlflow/mlflow.db")


@pytest.fixture(scope="session")
def object_store() -> Iterator[str]:
    """The address of an S3 server."""
    from tests import objects

    with objects.server() as address:
        yield address


def use_object_store(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the lake in a new bucket of an object store."""
    from tests import objects

    for name, value in objects.settings(address).items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def corpus_trained(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Path:
    """A state folder in which the corpus' model has a champion."""
    from tests import corpora

    place = tmp_path_factory.mktemp("corpus")
    fresh_home(place, mlflow_template)
    with pytest.MonkeyPatch.context() as patch:
        use_home(place, patch)
        corpora.train(place / "models")
    return place


@pytest.fixture
def corpus_home(corpus_trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own, in which the corpus' model has a champion."""
    from tests import corpora

    place = tmp_path / "home"
    corpora.copy_home(corpus_trained, place)
    use_home(place, monkeypatch)
    return place


@pytest.fixture(scope="session")
def esteira_data() -> Path:
    """The folder of public data sets."""
    given = os.environ.get("ESTEIRA_DATA")
    if not given or not Path(given).is_dir():
        pytest.skip("ESTEIRA_DATA does not name a folder with the public data sets; the README says where to get them")
    return Path(given)
