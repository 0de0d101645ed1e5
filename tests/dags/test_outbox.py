"""The DAG that mails: what its tasks come to, and that each failed run is told once, whoever is asked first."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowTaskTimeout
from esteira import steps
from esteira.dags import alerts, operations, watchdog
from esteira.dags.watchdog import Run, Task
from esteira.errors import EsteiraError, OutOfReach
from esteira.notify.delivery import Send, Unreachable
from esteira.spec import ModelSpec
from esteira.store import lake, outbox

from tests import models

RUN = "manual__1"


@pytest.fixture
def spec(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    return models.write(tmp_path / "models")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects of what a mail server took."""
    subjects: list[str] = []

    @contextmanager
    def connected() -> Iterator[Send]:
        def send(mail: EmailMessage, receiver: str) -> None:
            subjects.append(str(mail["Subject"]))

        yield send

    monkeypatch.setattr(alerts, "connected", connected)
    return subjects


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """The runs that Airflow says have failed; the watchdog has an account."""
    runs: list[Run] = []
    monkeypatch.setenv("ESTEIRA_API_PASSWORD", "hunter2")
    monkeypatch.setattr(watchdog, "Api", lambda *_: None)
    monkeypatch.setattr(watchdog, "failed", lambda *_: runs)
    monkeypatch.setattr(watchdog, "unfinished", lambda *_: [])
    return runs


NOW = datetime.now(UTC)


def failed(minutes_ago: float = 5, number: int = 3, dag_id: str = "sales_train", run: str = RUN) -> Run:
    began = NOW - timedelta(minutes=minutes_ago)
    return Run(dag_id, run, began, began, (Task("features", "failed", number, began),))


def watch(*specs: ModelSpec) -> dict[str, str]:
    return operations._watched(list(specs), timedelta(0))


NO = ValueError("no")


def callback(spec: ModelSpec, cleared: int = 0, number: int = 1, began: float = 5, error: Exception = NO) -> None:
    """What the failed task says itself."""
    about = {"task_id": "features", "map_index": -1, "dag_id": "sales_train", "run_id": RUN, "log_url": ""}
    context = {
        "task_instance": SimpleNamespace(**about, try_number=number),
        "dag_run": SimpleNamespace(clear_number=cleared, start_date=NOW - timedelta(minutes=began)),
        "exception": error,
    }
    alerts.mail_failure_of(spec)(context)


def test_a_failed_run_is_told_once(spec: ModelSpec, sent: list[str], failing: list[Run]) -> None:
    failing.append(failed())
    assert watch(spec) == {"sales": "1 mail queued"}
    assert watch(spec) == {"sales": "0 mails queued"}
    assert sent == ["sales: task features failed"]


def test_what_the_task_has_told_is_not_told_again(spec: ModelSpec, sent: list[str], failing: list[Run]) -> None:
    callback(spec)
    failing.append(failed())
    assert watch(spec) == {"sales": "0 mails queued"}
    assert len(sent) == 1


def test_a_run_that_was_cleared_and_fails_again_is_told_again(
    spec: ModelSpec, sent: list[str], failing: list[Run]
) -> None:
    failing.append(failed())
    watch(spec)
    failing[:] = [failed(minutes_ago=-1, number=6)]  # it began after that mail
    watch(spec)
    assert len(sent) == 2
    callback(spec, cleared=2, began=0)
    callback(spec, cleared=3, began=0)
    assert len(sent) == 4


def test_a_run_that_is_made_anew_under_its_old_id_is_told_again(
    spec: ModelSpec, sent: list[str], failing: list[Run]
) -> None:
    callback(spec, began=60)
    callback(spec, began=20)  # it was deleted in between, and so is cleared no times
    assert len(sent) == 2
    failing.append(failed(minutes_ago=20))
    assert watch(spec) == {"sales": "0 mails queued"}
    failing[:] = [failed(minutes_ago=5)]
    assert watch(spec) == {"sales": "1 mail queued"}


@pytest.mark.parametrize("minutes", [-10, 10])
def test_a_worker_whose_clock_is_wrong_neither_silences_a_cleared_run_nor_tells_at_every_tick(
    spec: ModelSpec, sent: list[str], failing: list[Run], minutes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake, "clock", lambda: NOW + timedelta(minutes=minutes))
    callback(spec, began=8)
    failing.append(failed(minutes_ago=2))  # cleared, it failed without a word
    watch(spec)
    assert watch(spec) == {"sales": "0 mails queued"}
    assert len(sent) == 2


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


def test_an_error_that_can_t_say_what_it_is_is_mailed_all_the_same(spec: ModelSpec, sent: list[str]) -> None:
    callback(spec, error=Speechless())
    assert sent == ["sales: task features failed"]
    (lead,) = [mail["lead"] for mail in queued(spec)]
    assert "failed: Speechless, which can't say what it is: its text raises RuntimeError\n" in lead


def queued(spec: ModelSpec) -> list[dict[str, Any]]:
    """The mails that were queued, as the ledger keeps them."""
    rows = lake.read("ledger", spec.name, to_state="queued")
    return [json.loads(text)["mail"] for text in rows["evidence"]]


def test_a_callback_that_is_called_late_tells_nothing_that_the_watchdog_has_told(
    spec: ModelSpec, sent: list[str], failing: list[Run]
) -> None:
    failing.append(failed())
    watch(spec)
    callback(spec)
    assert len(sent) == 1


def test_of_two_tasks_of_a_run_the_one_that_was_killed_is_told_though_the_other_told_itself(
    spec: ModelSpec, sent: list[str], failing: list[Run]
) -> None:
    callback(spec)
    run = failed()
    failing.append(replace(run, tasks=(*run.tasks, replace(run.tasks[0], task_id="warn"))))
    assert watch(spec) == {"sales": "1 mail queued"}
    assert watch(spec) == {"sales": "0 mails queued"}
    assert sent == ["sales: task features failed", "sales: task warn failed"]
    (mail,) = [each for each in outbox.mails(spec, "failed/") if "/watchdog/" in each.key]
    assert [row[0] for row in mail.sections[0][2]] == ["warn"]


def test_of_two_tasks_that_the_watchdog_has_told_of_neither_tells_again(
    spec: ModelSpec, sent: list[str], failing: list[Run]
) -> None:
    run = failed()
    failing.append(replace(run, tasks=(replace(run.tasks[0], task_id="extract"), *run.tasks)))
    watch(spec)
    callback(spec)
    assert watch(spec) == {"sales": "0 mails queued"}
    assert sent == ["sales: task extract failed"]


def test_a_task_that_airflow_runs_once_more_by_itself_tells_once(spec: ModelSpec, sent: list[str]) -> None:
    """As it does where it did not hear how the first ended."""
    callback(spec, number=1)
    callback(spec, number=2)
    assert len(sent) == 1


def test_a_mail_that_no_server_takes_waits(
    spec: ModelSpec, failing: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def down() -> Iterator[Send]:
        raise Unreachable("nobody is there")
        yield

    monkeypatch.setattr(alerts, "connected", down)
    failing.append(failed())
    assert watch(spec) == {"sales": "1 mail queued"}
    assert len(outbox.waiting(spec)) == 1


def test_where_the_lake_can_not_be_written_nothing_is_sent_and_it_is_raised(
    spec: ModelSpec, sent: list[str], failing: list[Run], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A mail that was only sent would be sent again at each tick. The other models are told of meanwhile."""
    other = models.write(tmp_path / "models", "costs")
    failing += [failed(), failed(dag_id="costs_train")]
    real = lake.append_once

    def full(model: str, *rows: Mapping[str, Any]) -> int:
        if model == "sales":
            raise OSError("no space left")
        return real(model, *rows)

    monkeypatch.setattr(lake, "append_once", full)
    with pytest.raises(RuntimeError, match="sales: no space left"):
        watch(spec, other)
    assert sent == ["costs: task features failed"]


def test_the_api_is_asked_where_tasks_reach_it(
    spec: ModelSpec, failing: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(watchdog, "Api", lambda *given: asked.append(given))
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://airflow-apiserver:8080/execution/")
    watch(spec)
    monkeypatch.setenv("ESTEIRA_API_URL", "http://elsewhere:1")
    monkeypatch.setenv("ESTEIRA_API_USER", "somebody")
    watch(spec)
    assert asked == [
        ("http://airflow-apiserver:8080", "watchdog", "hunter2"),
        ("http://elsewhere:1", "somebody", "hunter2"),
    ]


@pytest.fixture
def tick(airflow_db, dag_bag, spec: ModelSpec):
    """Run the DAG; returns its tasks' states, and under "" the run's."""

    def run() -> dict[str, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Airflow's own
            ended = dag_bag(spec.folder.parent).dags["esteira_outbox"].test(run_conf={"minutes": 0})
            states = {task.task_id: str(task.state) for task in ended.get_task_instances()}
        return {**states, "": str(ended.state)}

    return run


def test_without_an_account_it_says_so_and_mails_are_sent_nevertheless(
    tick, spec: ModelSpec, sent: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("ESTEIRA_API_PASSWORD", raising=False)
    steps.queue(spec, outbox.Mail("sales/one", ("ops@example.com",), "one", ""), datetime.now(UTC).date(), "r")
    assert tick() == {"watch": "skipped", "deliver": "success", "watched": "success", "": "success"}
    assert sent == ["one"]
    said = "".join(capfd.readouterr())
    assert "runs whose tasks are killed are told to nobody: ESTEIRA_API_PASSWORD is not set" in said


def test_a_watch_that_fails_is_red_and_mails_are_sent_nevertheless(
    tick, spec: ModelSpec, sent: list[str], failing: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise EsteiraError("Airflow refuses the account")

    monkeypatch.setattr(watchdog, "Api", refused)
    steps.queue(spec, outbox.Mail("sales/one", ("ops@example.com",), "one", ""), datetime.now(UTC).date(), "r")
    assert tick() == {"watch": "failed", "deliver": "success", "watched": "upstream_failed", "": "failed"}
    assert sent == ["one"]


def test_a_second_task_of_a_run_that_hangs_is_told(
    spec: ModelSpec, sent: list[str], failing: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    hour = timedelta(hours=1)
    tasks = tuple(Task("candidate", "queued", 1, NOW - 2 * hour + n * hour / 2, n) for n in (0, 1))
    hanging = [Run("sales_train", RUN, NOW - 3 * hour, NOW - 3 * hour, tasks[:1])]
    monkeypatch.setattr(watchdog, "unfinished", lambda *_: hanging)
    watch(spec)
    hanging[:] = [replace(hanging[0], tasks=tasks)]
    assert watch(spec) == {"sales": "1 mail queued"}
    assert watch(spec) == {"sales": "0 mails queued"}
    assert sent == [f"sales: task candidate[{n}] hangs" for n in (0, 1)]


@pytest.mark.parametrize(
    ("error", "number", "told"),
    [
        (ValueError("no"), 1, 1),
        (AirflowTaskTimeout("too long"), 1, 1),
        (OutOfReach("MLflow is down"), 1, 0),
        (OutOfReach("MLflow is down"), 3, 1),
    ],
)
def test_predictions_that_can_not_be_reconciled_are_told_once_a_day(
    spec: ModelSpec, sent: list[str], monkeypatch: pytest.MonkeyPatch, error: BaseException, number: int, told: int
) -> None:
    def fail(*_: object) -> None:
        raise error

    context = {
        "ti": SimpleNamespace(try_number=number, max_tries=2),
        "dag_run": SimpleNamespace(dag_id="d", run_id="r"),
    }
    for module in (operations, alerts):
        monkeypatch.setattr(module, "get_current_context", lambda: context)
    monkeypatch.setattr(steps, "reconcile", fail)
    for _ in range(2):
        with pytest.raises(type(error)):
            operations._reconciled(spec, "r")
    assert sent == ["sales: predictions could not be reconciled"] * told
