"""A live Airflow, started as `make up` starts it, on free ports and in a folder of its own."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine, create_engine

from ops import database, environment, places, processes
from ops import stack as stacks
from ops.api import Airflow
from ops.stack import Stack
from tests import models
from tests.conftest import PROJECT
from tests.e2e.given import SECRET
from tests.ports import free_port

CLOCKWORK = models.YAML + "score: {{schedule: null}}\n"
VAULT_URL = f"sqlite:////nowhere/{SECRET}/sales.db"  # of a folder that isn't there: a run of it fails
VAULTED = CLOCKWORK.replace(
    "source: {{kind: python, function: source.read}}",
    "source: {{kind: sql, url: '${{VAULT_URL}}', query: 'select * from sales where at between :first and :last'}}",
)
# What features.py does is in files beside it: its process is killed, as for its memory, at its first tries; then it fails when
# it is told to.
DOOMED = """\
import os
import signal
import time
from pathlib import Path

PLACE = Path(__file__).parent


def build(rows):
    left = int((PLACE / "kills").read_text())
    if left:
        (PLACE / "kills").write_text(str(left - 1))
        os.kill(os.getpid(), signal.SIGKILL)
    (PLACE / "failing").touch()
    limit = time.monotonic() + 60
    while not (PLACE / "go").exists() and time.monotonic() < limit:
        time.sleep(0.05)
    raise RuntimeError("the world has ended")
"""


def _with_others(given: dict[str, str]) -> dict[str, str]:
    """With two more accounts: one that may start runs and change nothing else, and one that may only look.

    Their passwords are set here: Airflow writes those that it draws itself into its log.
    """
    users = "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"
    file = Path(given["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    more = {name: secrets.token_urlsafe(16) for name in ("operator", "viewer")}
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))
    return {**given, users: f"{given[users]},operator:op,viewer:viewer"}


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The whole set-up, with the project's own models, the examples where their data is there, and some of the tests'."""
    place = tmp_path_factory.mktemp("live")
    own = place / "models"
    models.write(own, "clockwork", yaml=CLOCKWORK)
    models.write(own, "untrained", yaml=CLOCKWORK)
    models.write(own, "sharded", yaml=models.YAML + "score: {{schedule: null, shards: 2}}\n")
    (models.write(own, "doomed", yaml=CLOCKWORK).folder / "features.py").write_text(DOOMED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAULT_URL", VAULT_URL)
        models.write(own, "vaulted", yaml=VAULTED)
    models.write(own, "hopeless", noise=str(models.AS_OF + timedelta(days=8)))
    broken = models.write(own, "broken").folder / "model.yaml"
    broken.write_text(broken.read_text().replace("task: regression", "task: regresion"))
    folders = [own, PROJECT / "include" / "models"]
    if os.environ.get("ESTEIRA_DATA"):
        folders.append(PROJECT / "examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ESTEIRA_HOME", str(place / "home"))
        patch.setenv("VAULT_URL", VAULT_URL)
        patch.setenv("ESTEIRA_MODELS", ":".join(map(str, folders)))
        for name in ("WEB", "MLFLOW", "SMTP"):
            patch.setenv(f"ESTEIRA_{name}_PORT", str(free_port()))
        # The tasks of a killed scheduler are taken up sooner than at Airflow's five minutes.
        sooner = {**environment.shared_settings(), "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "15"}
        patch.setattr(environment, "shared_settings", lambda: sooner)
        given = environment.of
        patch.setattr(environment, "of", lambda *about: _with_others(given(*about)))
        stack = Stack.from_environment()
        patch.setenv("MLFLOW_TRACKING_URI", stack.mlflow)
        try:
            stacks.up(stack)
            yield stack
        finally:
            started = _processes(stack)
            stacks.down(stack)
            left = [process for process in started if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
            assert left == [], "make down must leave nothing behind"
            kept = os.environ.get("ESTEIRA_KEEP_LOGS")
            if kept:
                shutil.copytree(stack.home / "logs", kept, dirs_exist_ok=True)
            places.remove(stack.home)


def _processes(stack: Stack) -> list[psutil.Process]:
    """Every process of the set-up; none where it did not start."""
    pid = stack.home / "supervisord.pid"
    if not pid.exists():
        return []
    supervisor = psutil.Process(int(pid.read_text()))
    return [supervisor, *supervisor.children(recursive=True)]


@pytest.fixture(scope="session")
def metadata(stack: Stack) -> Iterator[Engine]:
    """Airflow's database, whichever it runs on."""
    supervisor = processes.supervisor(stack.home, database.data(stack.home))
    assert supervisor is not None
    engine = create_engine(supervisor.environ()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def airflow(stack: Stack) -> Airflow:
    """The user admin of the live Airflow."""
    found = Airflow(stack.web, "admin", stack.password.read_text())
    found.wait_for_dags(["toll_traffic_train", "clockwork_check", "hopeless_check"])
    return found


@pytest.fixture(scope="session")
def screenshots() -> Path:
    """Where screenshots are kept for a person to look at: ESTEIRA_SCREENSHOTS, else a folder under .esteira."""
    place = Path(os.environ.get("ESTEIRA_SCREENSHOTS") or PROJECT / ".esteira" / "screenshots")
    place.mkdir(parents=True, exist_ok=True)
    return place
