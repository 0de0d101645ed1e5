"""The watchdog: what Airflow knows of runs that failed, or hang, and that no callback of theirs can have told.

A process that is killed at each of its tries, or can't start, ends without its callback. So Airflow itself is asked, by its REST
API and with an account of its own, and who was not told yet is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx

from esteira.errors import EsteiraError, OutOfReach
from esteira.notify import messages
from esteira.spec import ModelSpec
from esteira.store.outbox import Mail

DAYS = timedelta(days=2)  # how long ago a run may have ended
QUEUED = timedelta(hours=1)  # how long a task may wait for a slot, or for a worker that begins with it
# How much longer than its model's timeout a task may run: it should have been ended by then.
GRACE = timedelta(minutes=30)
PAGE = 100  # entries that are asked for at once
PATIENCE = 30.0  # seconds for an answer
BACKFILL = "backfill__"  # how the ids of runs begin that are queued all at once, and wait for each other
UNFINISHED = ("scheduled", "queued", "running")


@dataclass(frozen=True)
class Task:
    """A task of a run, at its last try; `since` is when it came into its state."""

    task_id: str
    state: str
    number: int
    since: datetime | None = None
    index: int = -1  # of a mapped task

    @property
    def name(self) -> str:
        """By what mails know it."""
        return f"{self.task_id}[{self.index}]" if self.index >= 0 else self.task_id

    @property
    def page(self) -> str:
        """The page of its log, below that of its run."""
        mapped = f"/mapped/{self.index}" if self.index >= 0 else ""
        return f"tasks/{self.task_id}{mapped}?try_number={self.number}"

    @property
    def row(self) -> list[str]:
        """The task as a row of a mail's table."""
        return [self.name, self.state, str(self.number), f"{self.since:%Y-%m-%d %H:%M %Z}" if self.since else "unknown"]


@dataclass(frozen=True)
class Run:
    """A run of a DAG with those of its tasks that have failed, or hang.

    `since` is what a mail must be younger than to tell of it, `began` when the run did.
    """

    dag_id: str
    run_id: str
    since: datetime
    began: datetime | None
    tasks: tuple[Task, ...] = ()

    @property
    def name(self) -> str:
        """By what mails know it."""
        return f"{self.dag_id}/{self.run_id}"


class Api:
    """Airflow's REST API for an account that may read runs and their tasks."""

    def __init__(self, address: str, user: str, password: str, transport: httpx.BaseTransport | None = None) -> None:
        self.address, self.user = address, user
        self.http = httpx.Client(base_url=address, timeout=PATIENCE, transport=transport)
        answer = self._post("/auth/token", {"username": user, "password": password})
        self.http.headers["Authorization"] = f"Bearer {answer['access_token']}"

    def all(self, path: str, entries: str, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every entry that a list has, page by page."""
        offset, total = 0, 1
        while offset < total:
            page = self._post(
                f"/api/v2/dags/~/{path}/list", {**asked, "order_by": "id", "page_limit": PAGE, "page_offset": offset}
            )
            yield from page[entries]
            if not page[entries]:
                return  # it became shorter meanwhile
            offset, total = offset + len(page[entries]), page["total_entries"]

    def note(self, dag_id: str, run_id: str, text: str) -> None:
        """Write the note of a run, in the place of the one that it has."""
        path = f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
        self._ask("PATCH", path, {"note": text})

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return self._ask("POST", path, body)

    def _ask(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        try:
            answer = self.http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise OutOfReach(f"Airflow's API at {self.address} (ESTEIRA_API_URL) can't be reached: {error}") from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise EsteiraError(
                f"Airflow refuses the account {self.user!r} (ESTEIRA_API_USER, ESTEIRA_API_PASSWORD): {path} answers "
                f"{answer.status_code}. It must exist, and may read DAGs, DAG runs and task instances, and edit runs, for their notes"
            )
        if not answer.is_success:
            raise OutOfReach(f"Airflow's API: {path} answers {answer.status_code} {answer.text[:300]}")
        found: dict[str, Any] = answer.json()
        return found


# ------------------------------------------------------------------------------------------------------------ looking


def failed(api: Api, dag_ids: Sequence[str], since: datetime, until: datetime) -> list[Run]:
    """The runs that failed between two moments, each with its tasks that did."""
    span = {"end_date_gte": since.isoformat(), "end_date_lte": until.isoformat()}
    asked = {"dag_ids": list(dag_ids), "states": ["failed"], **span}
    runs = {(run.dag_id, run.run_id): run for run in map(_run, api.all("dagRuns", "dag_runs", asked))}
    names = sorted({run_id for _, run_id in runs})
    for first in range(0, len(names), PAGE):
        some = {"dag_ids": list(dag_ids), "dag_run_ids": names[first : first + PAGE], "state": ["failed"]}
        for entry in _tasks(api, some):
            run = runs.get(_place(entry))  # runs of several DAGs can have the same id
            if run is not None:
                runs[_place(entry)] = replace(run, tasks=(*run.tasks, _task(entry)))
    return list(runs.values())


def unfinished(api: Api, dag_ids: Sequence[str]) -> list[Run]:
    """The runs that have tasks which wait or run, with these."""
    found: dict[tuple[str, str], Run] = {}
    for entry in _tasks(api, {"dag_ids": list(dag_ids), "state": list(UNFINISHED)}):
        place = _place(entry)
        run = found.get(place) or Run(*place, _moment(entry["run_after"]), None)
        found[place] = replace(run, tasks=(*run.tasks, _task(entry)))
    return list(found.values())


def _tasks(api: Api, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return api.all("dagRuns/~/taskInstances", "task_instances", asked)


def _place(entry: Mapping[str, Any]) -> tuple[str, str]:
    return entry["dag_id"], entry["dag_run_id"]


def _run(entry: Mapping[str, Any]) -> Run:
    # Where tasks of a run are cleared it is queued again, though it may have started before: what failed then was told then.
    moments = [_moment(entry[name]) for name in ("start_date", "queued_at") if entry[name]]
    began = _moment(entry["start_date"]) if entry["start_date"] else None
    return Run(*_place(entry), max(moments) if moments else _moment(entry["run_after"]), began)


def _task(entry: Mapping[str, Any]) -> Task:
    began = {"scheduled": "scheduled_when", "queued": "queued_when", "running": "start_date"}
    since = entry[began.get(entry["state"], "end_date")]
    moment = _moment(since) if since else None
    return Task(entry["task_id"], entry["state"], entry["try_number"], moment, entry["map_index"])


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


# ----------------------------------------------------------------------------------------------------------- deciding


def stuck(run: Run, now: datetime, timeout: timedelta) -> Run | None:
    """The run with those of its tasks that have waited, or run, for too long; None where there are none.

    The runs of a backfill wait for each other, and that is no fault.
    """
    waiting = timedelta.max if run.run_id.startswith(BACKFILL) else QUEUED
    limits = {"scheduled": waiting, "queued": waiting, "running": timeout + GRACE}
    late = [(each.since, each) for each in run.tasks if each.since and now - each.since > limits[each.state]]
    return replace(run, since=min(since for since, _ in late), tasks=tuple(each for _, each in late)) if late else None


Queued = Callable[[str, datetime], list[Mail]]  # the mails whose name begins so, that were queued since


def mails(
    spec: ModelSpec,
    dag_ids: Sequence[str],
    ended: Iterable[Run],
    hanging: Iterable[Run],
    now: datetime,
    web: str,
    queued: Queued,
) -> Iterator[Mail]:
    """The mails about a model's runs that tell of what no mail of `queued` has told of."""
    for run in ended:
        if run.dag_id in dag_ids:
            told = messages.tasks_told(queued(messages.of_run(run.name, run.began), run.since))
            run = replace(run, tasks=tuple(each for each in run.tasks if each.name not in told))
            if run.tasks or not told:
                rows = [each.row for each in run.tasks]
                yield messages.unreported(spec, run.name, run.began, rows, _links(run, web))
    late = (stuck(run, now, timedelta(minutes=spec.timeout)) for run in hanging if run.dag_id in dag_ids)
    for run in filter(None, late):
        told = messages.tasks_told(queued(messages.of_stuck(run.name), run.since))
        run = replace(run, tasks=tuple(each for each in run.tasks if each.name not in told))
        if run.tasks and "" not in told:
            yield messages.stuck(spec, run.name, [each.row for each in run.tasks], _links(run, web))


def _links(run: Run, web: str) -> list[tuple[str, str]]:
    page = f"{web}/dags/{run.dag_id}/runs/{run.run_id}"
    tasks = [(f"The log of {each.name}", f"{page}/{each.page}") for each in run.tasks]
    return [("The run in Airflow", page), *tasks] if web else []
