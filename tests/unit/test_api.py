"""The client of Airflow's REST API, on a server that fails as it is told to."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from ops import api
from ops.api import Airflow

Answer = httpx.Response | Exception
LOST = httpx.ReadTimeout("no answer")


class Server:
    """Answers in turn, the last answer for good; keeps what it was asked and how long it was left in peace."""

    def __init__(self, *answers: Answer) -> None:
        self.answers, self.asked, self.pauses = list(answers), [], []  # type: ignore[var-annotated]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/auth/token":
            return httpx.Response(201, json={"access_token": "t"})
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def airflow(self) -> Airflow:
        return Airflow("http://airflow", "admin", "x", httpx.MockTransport(self), self.pauses.append)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Seconds that pass before each look at the clock."""
    now = [0.0]

    def passes(seconds: float) -> None:
        def monotonic() -> float:
            now[0] += seconds
            return now[0]

        monkeypatch.setattr(api.time, "monotonic", monotonic)

    return passes


@pytest.mark.parametrize("method", ["GET", "PATCH"])
@pytest.mark.parametrize("fault", [httpx.Response(500), httpx.Response(503), LOST, httpx.ConnectError("refused")])
def test_what_is_safe_to_repeat_is_tried_again(method: str, fault: Answer) -> None:
    server = Server(fault, fault, httpx.Response(200, json={"is": "well"}))
    assert server.airflow().call(method, "/dags/x", json={"is_paused": False}) == {"is": "well"}
    assert len(server.asked) == 3
    assert server.asked[0].content == server.asked[2].content
    assert server.pauses == [0.2, 0.5]


def test_the_tries_are_bounded_and_the_server_s_own_words_are_shown() -> None:
    server = Server(httpx.Response(500, text="database is locked"))
    with pytest.raises(RuntimeError, match="GET /dags: 500 database is locked, the answer to 6 tries"):
        server.airflow().call("GET", "/dags")
    assert server.pauses == sorted(server.pauses)
    assert len(server.asked) == 6


def test_a_server_that_is_not_there_is_said_so_in_the_end() -> None:
    server = Server(httpx.ConnectError("refused"))
    with pytest.raises(httpx.ConnectError):
        server.airflow().call("GET", "/dags")
    assert len(server.asked) == 6


def test_slow_faults_are_not_repeated_for_ever(clock: Callable[[float], None]) -> None:
    server = Server(LOST)
    airflow = server.airflow()
    clock(40)
    with pytest.raises(httpx.ReadTimeout):
        airflow.call("GET", "/dags")
    assert len(server.asked) == 2


@pytest.mark.parametrize("fault", [httpx.Response(500), LOST])
def test_a_call_that_may_not_be_repeated_is_not(fault: Answer) -> None:
    server = Server(fault)
    with pytest.raises((RuntimeError, httpx.ReadTimeout)):
        server.airflow().call("POST", "/backfills", json={})
    assert len(server.asked) == 1
    assert server.pauses == []


@pytest.mark.parametrize("status", [400, 401, 404, 409, 422])
def test_a_refusal_is_not_tried_again(status: int) -> None:
    server = Server(httpx.Response(status, text="no"))
    with pytest.raises(RuntimeError, match=f"PATCH /dags/x: {status} no$"):
        server.airflow().unpause("x")
    assert len(server.asked) == 1


def test_a_trigger_whose_answer_was_lost_is_repeated_under_the_same_id_and_made_once() -> None:
    server = Server(LOST, httpx.Response(409, text="exists"))
    run_id = server.airflow().trigger("x_score", partition="2026-02-01", check=False)
    bodies = [json.loads(request.content) for request in server.asked]
    assert bodies[0] == bodies[1]
    assert bodies[0] == {
        "dag_run_id": run_id,
        "logical_date": None,
        "conf": {"check": False},
        "partition_key": "2026-02-01",
    }


def test_a_conflict_at_the_first_try_is_an_error() -> None:
    server = Server(httpx.Response(409, text="exists"))
    with pytest.raises(RuntimeError, match="409 exists"):
        server.airflow().trigger("x_score")


def test_two_triggers_are_two_runs() -> None:
    server = Server(httpx.Response(200, json={"dag_run_id": "given back"}))
    airflow = server.airflow()
    assert airflow.trigger("x_score") == "given back"
    airflow.trigger("x_score")
    first, second = (json.loads(request.content)["dag_run_id"] for request in server.asked)
    assert first != second
