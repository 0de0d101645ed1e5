"""Airflow's REST API, as much of it as the demo and the end-to-end tests use."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import httpx

ENDED = ("success", "failed")
REPEATABLE = ("GET", "HEAD", "PUT", "PATCH", "DELETE")  # said twice they leave what they leave once
PAUSES = (0.2, 0.5, 1.0, 2.0, 4.0)  # seconds before each further try
PATIENCE = 60.0  # seconds after which nothing is tried again


class RunTimeout(RuntimeError):
    """A run did not end in time."""


class Airflow:
    """A logged-in user of an Airflow. Calls that are safe to repeat are tried again while the server is at fault."""

    def __init__(
        self,
        address: str,
        user: str,
        password: str,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.http = httpx.Client(base_url=address, timeout=30, transport=transport)
        self.sleep = sleep
        answer, _ = self._send("POST", "/auth/token", True, json={"username": user, "password": password})
        answer.raise_for_status()
        self.http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def call(self, method: str, path: str, **given: Any) -> Any:
        """The JSON answer of a call to /api/v2. Raises with the server's own words where it refuses."""
        answer, tries = self._send(method, f"/api/v2{path}", method in REPEATABLE, **given)
        return _content(answer, method, path, tries)

    def _send(self, method: str, path: str, repeatable: bool, **given: Any) -> tuple[httpx.Response, int]:
        """The answer, and the number of tries that it took. An outage is tried again where the call is `repeatable`."""
        limit = time.monotonic() + PATIENCE
        for tries, pause in enumerate((*PAUSES, None), 1):
            last = pause is None or not repeatable or time.monotonic() > limit
            try:
                answer = self.http.request(method, path, **given)
            except httpx.TransportError:
                if last:
                    raise
            else:
                if last or not answer.is_server_error:
                    return answer, tries
            self.sleep(pause or 0)
        raise AssertionError("unreachable")

    def wait_for_dags(self, dag_ids: list[str], seconds: float = 90) -> None:
        """Wait until the DAGs are parsed."""

        def parsed() -> bool:
            found = {dag["dag_id"] for dag in self.call("GET", "/dags", params={"limit": 1000})["dags"]}
            return set(dag_ids) <= found

        self.until(parsed, seconds, f"the DAGs {dag_ids} to be parsed")

    def unpause(self, dag_id: str, paused: bool = False) -> None:
        """Let a DAG run."""
        self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": paused})

    def trigger(self, dag_id: str, partition: str | None = None, **conf: Any) -> str:
        """Start a run; returns its id. The id is made here: a call that is repeated finds the run that it made before."""
        run_id = f"manual__{datetime.now(UTC).isoformat()}_{secrets.token_hex(4)}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        path = f"/dags/{dag_id}/dagRuns"
        answer, tries = self._send(
            "POST", f"/api/v2{path}", True, json=body | ({"partition_key": partition} if partition else {})
        )
        if answer.status_code == httpx.codes.CONFLICT and tries > 1:
            return run_id
        return str(_content(answer, "POST", path, tries)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """A run."""
        found: dict[str, Any] = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")
        return found

    def runs(self, dag_id: str, **filters: Any) -> list[dict[str, Any]]:
        """The newest runs of a DAG."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns", params={"order_by": "-run_after", "limit": 100, **filters})
        return list(found["dag_runs"])

    def wait(
        self,
        dag_id: str,
        run_id: str,
        seconds: float = 180,
        poll: float = 0.2,
        on_poll: Callable[[], None] = lambda: None,
    ) -> str:
        """Wait until a run ends; returns its state."""
        state = ""

        def ended() -> bool:
            nonlocal state
            on_poll()
            state = self.run(dag_id, run_id)["state"]
            return state in ENDED

        self.until(ended, seconds, f"{dag_id} {run_id} to end", poll)
        return state

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """The state of each task of a run."""
        found = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 200})[
            "task_instances"
        ]
        return {task["task_id"]: task["state"] for task in found}

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """What a task returned."""
        return self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value")[
            "value"
        ]

    @staticmethod
    def until(true: Callable[[], bool], seconds: float, what: str, poll: float = 0.3) -> None:
        """Poll until `true`, for a bounded time. Raises RunTimeout that names what did not come."""
        limit = time.monotonic() + seconds
        while not true():
            if time.monotonic() > limit:
                raise RunTimeout(f"waited {seconds:g} s for {what}")
            time.sleep(poll)


def _content(answer: httpx.Response, method: str, path: str, tries: int) -> Any:
    if answer.is_error:
        often = f", the answer to {tries} tries" if tries > 1 else ""
        raise RuntimeError(f"{method} {path}: {answer.status_code} {answer.text[:500]}{often}")
    return answer.json() if answer.content else None
