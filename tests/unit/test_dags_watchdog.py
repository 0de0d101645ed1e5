"""What the watchdog asks Airflow, and whom it tells of what."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from esteira.dags import watchdog
from esteira.dags.watchdog import Api, Run, Task
from esteira.errors import EsteiraError, OutOfReach
from esteira.notify import rendering
from esteira.spec import ModelSpec
from esteira.store.outbox import Mail

from tests import models

NOW = datetime(2026, 2, 2, 12, tzinfo=UTC)
DAGS = ["sales_train", "sales_score", "sales_check"]
WEB = "http://127.0.0.1:8080"
Told = list[tuple[str, datetime]]


class Airflow:
    """An Airflow's REST API, as far as the watchdog asks it: paging, filters by DAG, run and state."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.tasks: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.instead: Callable[[httpx.Request], httpx.Response | None] = lambda _: None

    def add(self, dag_id: str, run_id: str, *tasks: tuple[str, str], state: str = "failed", **given: Any) -> None:
        run = {"dag_id": dag_id, "dag_run_id": run_id, "run_after": at(90), "queued_at": at(80), "start_date": at(70)}
        self.runs.append(run | {"state": state, "end_date": at(30)} | given)
        for task_id, task_state in tasks:
            times = {"scheduled_when": at(61), "queued_when": at(61), "start_date": at(61), "end_date": at(40)}
            about = {"task_id": task_id, "state": task_state, "try_number": 3, "map_index": -1, "run_after": at(90)}
            self.tasks.append({"dag_id": dag_id, "dag_run_id": run_id} | about | times)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        self.asked.append((request.url.path, body))
        said = self.instead(request)
        if said is not None:
            return said
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "a-token"})
        assert request.headers["Authorization"] == "Bearer a-token"
        if request.url.path == "/api/v2/dags/~/dagRuns/list":
            wanted = [run for run in self.runs if run["dag_id"] in body["dag_ids"] and run["state"] in body["states"]]
            wanted = [run for run in wanted if body["end_date_gte"] <= run["end_date"] <= body["end_date_lte"]]
            return self.page("dag_runs", wanted, body)
        assert request.url.path == "/api/v2/dags/~/dagRuns/~/taskInstances/list"
        wanted = [task for task in self.tasks if task["dag_id"] in body["dag_ids"] and task["state"] in body["state"]]
        names = body.get("dag_run_ids")
        wanted = [task for task in wanted if names is None or task["dag_run_id"] in names]
        return self.page("task_instances", wanted, body)

    @staticmethod
    def page(entries: str, wanted: list[dict[str, Any]], body: dict[str, Any]) -> httpx.Response:
        assert body["order_by"] == "id"
        first = body["page_offset"]
        some = wanted[first : first + body["page_limit"]]
        return httpx.Response(200, json={entries: some, "total_entries": len(wanted)})

    def api(self) -> Api:
        return Api(WEB, "watchdog", "hunter2", httpx.MockTransport(self))

    def failed(self) -> list[Run]:
        return watchdog.failed(self.api(), DAGS, NOW - watchdog.DAYS, NOW - timedelta(minutes=15))


def at(minutes: float) -> str:
    """The moment so many minutes ago, as Airflow writes it."""
    return (NOW - timedelta(minutes=minutes)).isoformat()


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return models.write(tmp_path)


def mails(
    spec: ModelSpec, ended: list[Run], hanging: list[Run], web: str = WEB, told: Told | None = None
) -> list[Mail]:
    """The mails, where none was queued before; `told` keeps what was asked about those."""

    def queued(start: str, since: datetime) -> list[Mail]:
        if told is not None:
            told.append((start, since))
        return []

    return list(watchdog.mails(spec, DAGS, ended, hanging, NOW, web, queued))


def test_a_failed_run_is_told_with_its_task_and_its_link(spec: ModelSpec) -> None:
    airflow = Airflow()
    airflow.add("sales_train", "manual__1", ("features", "failed"), ("candidates", "upstream_failed"))
    told: Told = []
    (mail,) = mails(spec, airflow.failed(), [], told=told)
    assert mail.key == "sales/failed/sales_train/manual__1/20260202T105000/watchdog/features/3"
    assert told == [("failed/sales_train/manual__1/20260202T105000/", NOW - timedelta(minutes=70))]  # when it started
    assert mail.subject == "sales: task features failed"
    assert mail.to == ("ops@example.com",)
    text = rendering.text(mail)
    assert "Run sales_train/manual__1: task features failed at its try 3" in text
    assert f"{WEB}/dags/sales_train/runs/manual__1/tasks/features?try_number=3" in text
    assert "candidates" not in text


def test_a_failed_run_without_a_failed_task_is_told_too(spec: ModelSpec) -> None:
    airflow = Airflow()
    airflow.add("sales_score", "1", ("extract", "success"))
    (mail,) = mails(spec, airflow.failed(), [], web="")
    assert mail.subject == "sales: a run failed"
    assert "the run failed, though none of its tasks did" in mail.lead
    assert mail.links == ()


@pytest.mark.parametrize(
    "given",
    [
        {"state": "success"},
        {"state": "running"},
        {"end_date": at(10)},  # its own callback may be at it
        {"end_date": at(60 * 24 * 3)},
        {"dag_id": "other_train"},
    ],
)
def test_a_run_that_is_none_of_ours_or_not_over_is_left_alone(given: dict[str, Any]) -> None:
    airflow = Airflow()
    airflow.add(**{"dag_id": "sales_train", "run_id": "1"} | given)
    assert airflow.failed() == []


def test_a_run_that_never_started_counts_from_when_it_was_queued() -> None:
    airflow = Airflow()
    airflow.add("sales_train", "1", start_date=None)
    airflow.add("sales_train", "2", start_date=None, queued_at=None)
    airflow.add("sales_train", "3", queued_at=at(50))  # some of its tasks were cleared while it ran
    assert [(NOW - run.since) // timedelta(minutes=1) for run in airflow.failed()] == [80, 90, 50]


def test_runs_of_two_dags_with_one_id_keep_their_own_tasks() -> None:
    airflow = Airflow()
    airflow.add("sales_train", "scheduled__1", ("features", "failed"))
    airflow.add("sales_score", "scheduled__1", ("publish", "failed"))
    found = {run.dag_id: [task.name for task in run.tasks] for run in airflow.failed()}
    assert found == {"sales_train": ["features"], "sales_score": ["publish"]}


def test_all_pages_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "PAGE", 3)
    airflow = Airflow()
    for number in range(8):
        airflow.add("sales_train", f"run {number}", ("features", "failed"), ("evaluate", "failed"))
    found = airflow.failed()
    assert [run.run_id for run in found] == [f"run {number}" for number in range(8)]
    assert {len(run.tasks) for run in found} == {2}
    pages = [body["page_offset"] for path, body in airflow.asked if path.endswith("/dagRuns/list")]
    assert pages == [0, 3, 6]
    assert max(len(body["dag_run_ids"]) for _, body in airflow.asked if "dag_run_ids" in body) == 3


def test_a_list_that_becomes_shorter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    airflow = Airflow()
    airflow.instead = lambda request: (
        httpx.Response(200, json={"dag_runs": [], "total_entries": 7}) if "api" in request.url.path else None
    )
    assert airflow.failed() == []


@pytest.mark.parametrize(
    ("state", "minutes", "run_id", "is_stuck"),
    [
        ("queued", 61, "1", True),
        ("queued", 59, "1", False),
        ("scheduled", 61, "1", True),
        ("scheduled", 59, "1", False),
        ("scheduled", 600, "backfill__1", False),
        ("queued", 600, "backfill__1", False),
        ("running", 89, "1", False),
        ("running", 91, "1", True),  # an hour's timeout, and the grace
        ("running", 91, "backfill__1", True),
    ],
)
def test_what_hangs(spec: ModelSpec, state: str, minutes: int, run_id: str, is_stuck: bool) -> None:
    since = NOW - timedelta(minutes=minutes)
    run = Run("sales_score", run_id, NOW - timedelta(days=1), None, (Task("extract", state, 1, since),))
    told: Told = []
    found = mails(spec, [], [run], told=told)
    assert bool(found) == is_stuck
    if found:
        (mail,) = found
        assert told == [(f"stuck/sales_score/{run_id}/", since)]
        assert mail.key == f"sales/stuck/sales_score/{run_id}/extract/1/{state}/{since:%Y-%m-%d-%H:%M}-UTC"
        assert f"task extract is {state} since 2026-02-02" in mail.lead
        assert ("The run in Airflow", f"{WEB}/dags/sales_score/runs/{run_id}") in mail.links


def test_of_a_run_that_hangs_only_what_hangs_is_told(spec: ModelSpec) -> None:
    airflow = Airflow()
    airflow.add("sales_train", "1", ("features", "running"), ("candidate", "queued"), state="running")
    airflow.add("sales_train", "2", ("features", "running"), state="running")
    airflow.add("other_train", "3", ("features", "queued"), state="running")
    airflow.tasks[1] |= {"map_index": 2}
    told: Told = []
    (mail,) = mails(spec, [], watchdog.unfinished(airflow.api(), DAGS), told=told)
    assert mail.subject == "sales: task candidate[2] hangs"
    assert [since for _, since in told] == [NOW - timedelta(minutes=61)]
    assert [row[0] for row in mail.sections[0][2]] == ["candidate[2]"]
    assert mail.links[1][1].endswith("/tasks/candidate/mapped/2?try_number=3")


def test_a_task_of_which_no_time_is_known_does_not_hang(spec: ModelSpec) -> None:
    airflow = Airflow()
    airflow.add("sales_train", "1", ("features", "queued"), state="running")
    airflow.tasks[0] |= {"queued_when": None}
    assert mails(spec, [], watchdog.unfinished(airflow.api(), DAGS)) == []


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("path", ["/auth/token", "/api/v2/dags/~/dagRuns/list"])
def test_an_account_that_is_refused_is_named_without_its_password(status: int, path: str) -> None:
    airflow = Airflow()
    airflow.instead = lambda request: httpx.Response(status, text="hunter2?") if request.url.path == path else None
    with pytest.raises(EsteiraError, match=rf"account 'watchdog' \(ESTEIRA_API_USER, .* answers {status}") as raised:
        airflow.failed()
    assert "hunter2" not in str(raised.value)


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("connection refused", request=request)


@pytest.mark.parametrize("said", [lambda _: httpx.Response(500, text="no"), refuse])
def test_an_api_that_does_not_answer_is_an_outage(said: Callable[[httpx.Request], httpx.Response]) -> None:
    airflow = Airflow()
    airflow.instead = said
    with pytest.raises(OutOfReach, match="Airflow's API"):
        airflow.api()
