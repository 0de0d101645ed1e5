from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import PROJECT


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Airflow's own database, in the temporary AIRFLOW_HOME."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's own, while it makes its tables
        from airflow.utils.db import initdb

        initdb()


@pytest.fixture
def dag_bag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., object]:
    """Parse the DAG files of the project, with the models of the folders given."""

    def parse(*folders: Path):
        if "ESTEIRA_HOME" not in os.environ:  # the specs are cached in it
            monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path / "state"))
        if folders:
            monkeypatch.setenv("ESTEIRA_MODELS", ":".join(map(str, folders)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Airflow's own, while it is imported
            from airflow.dag_processing.dagbag import DagBag

            return DagBag(dag_folder=str(PROJECT / "dags"))

    return parse
