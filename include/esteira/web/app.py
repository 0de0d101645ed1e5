"""What the pages ask for. Each route but those of the modules themselves asks who is there, and what that user may see.

Anonymous is 401, forbidden 403. A route about one model carries the `dag_id` of one of its DAGs, which is what Airflow's permissions are
of; lists hold only models whose check DAG the user may read.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.common.db.common import SessionDep
from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag
from airflow.models import DagModel, DagRun, TaskInstance
from airflow.utils.state import TaskInstanceState
from fastapi import Depends, FastAPI, HTTPException, Query, Response
from fastapi.responses import JSONResponse
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from esteira import spec as specs
from esteira import text, views
from esteira.errors import EsteiraError, SpecError
from esteira.spec import ModelSpec
from esteira.store import lake
from esteira.views import Condition
from esteira.web.links import mlflow_pages

log = logging.getLogger(__name__)

KINDS = ("train", "score", "check")
STATIC = Path(__file__).parent / "static"
# The pages need nothing but Airflow's own host; what a user wrote is text, whatever it looks like.
POLICY = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:; frame-ancestors 'self'"
LONGEST = 520  # weeks
MANY, RECENT = 1000, 30  # runs: that are looked through for the check of a day, and that are shown
LIMIT = 30.0  # seconds that MLflow has to answer
PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # a person waits
PATIENCE = 1.0  # seconds that tables are read for one answer, where there are many that were never read

readable = Depends(requires_access_dag(method="GET"))
editable = Depends(requires_access_dag(method="PUT"))
Weeks = Annotated[int, Query(ge=1, le=LONGEST)]


def application() -> FastAPI:
    """The application, to be mounted under /esteira."""
    for name, value in PATIENT.items():
        os.environ.setdefault(name, value)
    app = FastAPI(title="Esteira", docs_url=None, redoc_url=None, openapi_url=None)
    app.middleware("http")(_guarded)
    app.add_exception_handler(EsteiraError, _refused)
    app.add_exception_handler(OSError, _refused)
    app.get("/static/{name}")(_module)
    app.get("/models")(_alone(_models))
    app.get("/models/{dag_id}", dependencies=[readable])(_alone(_model))
    app.get("/models/{dag_id}/checks/{day}", dependencies=[readable])(_alone(_check))
    app.get("/models/{dag_id}/runs/{run_id}", dependencies=[readable])(_alone(_run))
    app.get("/models/{dag_id}/rollback", dependencies=[editable])(_alone(_rollback))
    app.get("/models/{dag_id}/row", dependencies=[readable])(_alone(_row))
    app.get("/models/{dag_id}/rows", dependencies=[readable])(_alone(_rows))
    return app


def _alone(answer: Callable[..., Any]) -> Callable[..., Any]:
    """An answer by one of two threads: each has its own tables open, and keeps what it has read of them.

    What asks MLflow, too, has two others, and a limit: where that server hangs, the pages go on.
    """
    pool, limit = (_asking, LIMIT) if answer in (_row, _rollback) else (_reading, None)

    @wraps(answer)
    async def ask(**given: Any) -> Any:
        try:
            work = asyncio.get_running_loop().run_in_executor(pool, partial(answer, **given))
            return await asyncio.wait_for(work, limit)
        except (EsteiraError, OSError, HTTPException) as error:
            if limit is not None and isinstance(error, TimeoutError):
                said = f"MLflow at {mlflow_pages() or 'MLFLOW_TRACKING_URI'} has not answered within {limit:.0f} s; see whether it runs"
                raise HTTPException(503, said) from error
            raise
        except Exception as error:  # whatever it was, the page says it
            log.exception("a page's question could not be answered")
            raise HTTPException(500, f"{type(error).__name__}: {text.said(error)[:500]}") from error

    return ask


_reading, _asking = ThreadPoolExecutor(2, "esteira"), ThreadPoolExecutor(2, "esteira-asking")


async def _guarded(request: Any, ask: Callable[..., Any]) -> Response:
    answer: Response = await ask(request)
    answer.headers["Content-Security-Policy"] = POLICY
    answer.headers["X-Content-Type-Options"] = "nosniff"
    answer.headers.setdefault("Cache-Control", "no-store")
    return answer


def _refused(_: object, error: Exception) -> JSONResponse:
    """What is wrong, and how to mend it, in words: a table that is out of reach, a day without a champion."""
    return JSONResponse({"detail": str(error)}, 503 if isinstance(error, OSError) else 422)


def _module(name: str) -> Response:
    """A module of the pages: it says nothing of any model."""
    path = STATIC / name
    if path.parent != STATIC or not path.is_file():
        raise HTTPException(404, f"there is no module {name!r}")
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(path.read_bytes(), media_type=kind, headers={"Cache-Control": "no-cache"})


# ------------------------------------------------------------------------------------------------------------ models


def _models(user: GetUserDep, session: SessionDep, worst: Annotated[int | None, Query(ge=1)] = None) -> Any:
    """How each model is that the user may see, the worst first; with `worst` so many of those that are not well, and how many are in which state.

    What has changed is read as long as there is time; the others are told as they were, or by name: who asks again finds more of them.
    """
    manager = get_auth_manager()
    seen = manager.get_authorized_dag_ids(user=user, method="GET")

    def is_seen(name: str) -> bool:
        dag_id = f"{name}_check"  # which Airflow does not know yet where the model.yaml has been wrong from the start
        return dag_id in seen or manager.is_authorized_dag(method="GET", details=DagDetails(id=dag_id), user=user)

    files = specs.model_files()
    named = specs.by_name(files)
    until = time.monotonic() + PATIENCE
    found = [_health(path, named, until) for path in files if is_seen(path.parent.name)]
    about = _airflow(session, [each["model"] for each in found])
    found = sorted((_with_airflow(each, about.get(each["model"], {})) for each in found), key=_rank)
    if worst is None:
        return [_shown(each) for each in found]
    ill = [each for each in found if each["condition"] != Condition.HEALTHY and not each.get("unread")]
    return {
        "counts": _counts(found),
        "worst": [_shown(each) for each in ill[:worst]],
        "unread": any(each.get("unread") or each.get("old") for each in found),
    }


def _counts(found: Iterable[dict[str, Any]]) -> dict[str, int]:
    """How many models are in which state, the worst first; one may be in several."""
    every = [str(name) for each in found if not each.get("unread") for name in _conditions(each)]
    order = [*map(str, Condition), "drifting"]
    return {name: every.count(name) for name in order if name in every}


def _conditions(found: dict[str, Any]) -> list[str]:
    drifting = ["drifting"] if found["drifting"] else []
    return [found["condition"], *(each["condition"] for each in found["also"]), *drifting]


def _health(path: Path, named: Mapping[str, list[Path]], until: float) -> dict[str, Any]:
    name = path.parent.name
    try:
        specs.require_one(path, named)
        spec = _spec_at(path, until)
        is_late = time.monotonic() > until
        last = views.as_last_read(spec) if spec is not None and is_late else None
        if spec is None or (last is None and is_late):
            owner = "" if spec is None else spec.owner
            return {"model": name, "owner": owner, "also": [], "trend": [], "drifting": False, **UNREAD}
        is_old = last is not None and not views.is_read(spec)
        found = last if is_old and last is not None else views.health(spec)
    except (SpecError, OSError) as error:
        broken = {"condition": str(Condition.BROKEN), "why": str(error), "drifting": False}
        return {"model": name, "owner": "", "also": [], "trend": [], **broken}
    also = [views.plain(each) for each in found.also]
    about = {"model": name, "condition": str(found.condition), "why": found.why, "also": also}
    return {**about, "drifting": found.drifting, "health": found, "old": is_old}


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    """With all of its figures: to write those of every model takes longer than all else, and the card shows five."""
    health = found.pop("health", None)
    return found if health is None else {**views.plain(health), **found}


_specs: dict[Path, tuple[int, int, ModelSpec]] = {}  # to read all of them at each look would take longer than all else


def _spec_at(path: Path, until: float) -> ModelSpec | None:
    """A model as its file is now; None where that was not read yet, and there is no time."""
    about = path.stat()
    known = _specs.get(path)
    if known is not None and known[:2] == (about.st_mtime_ns, about.st_size):
        return known[2]
    if time.monotonic() > until:
        return None
    spec = specs.load_cached(path)
    _specs[path] = about.st_mtime_ns, about.st_size, spec
    return spec


def _airflow(session: Session, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """What Airflow knows of each model: whether its score DAG is paused, when that runs next, whether attempts are at work."""
    every = list(names)
    score, check = [f"{name}_score" for name in every], [f"{name}_check" for name in every]
    rows = session.execute(
        select(DagModel.dag_id, DagModel.is_paused, DagModel.next_dagrun_create_after).where(DagModel.dag_id.in_(score))
    )
    found = {
        dag_id.removesuffix("_score"): {
            "paused": paused,
            "next_run": None if paused or after is None else after.isoformat(),
        }
        for dag_id, paused, after in rows
    }
    at_work = select(TaskInstance.dag_id).where(
        TaskInstance.dag_id.in_(check),
        TaskInstance.state == TaskInstanceState.RUNNING,
        TaskInstance.task_id.startswith("attempt_"),
    )
    for dag_id in session.scalars(at_work.distinct()):
        found.setdefault(dag_id.removesuffix("_check"), {})["retraining"] = True
    return found


def _with_airflow(found: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    """A model's health with what only Airflow knows: nothing of a DAG that is paused is late, and attempts may be at work."""
    findings = [{"condition": found["condition"], "why": found["why"]}, *found["also"]]
    if about.get("paused"):
        findings = [each for each in findings if each["condition"] != Condition.LATE]
    if about.get("retraining"):
        findings.append({"condition": str(Condition.RETRAINING), "why": "a check tries to bring it back now"})
    quiet = [each for each in findings if each["condition"] in (Condition.HEALTHY, Condition.NEW)]
    findings = sorted((each for each in findings if each not in quiet), key=_rank) or quiet or [IDLE]
    airflow = {"paused": bool(about.get("paused")), "next_run": about.get("next_run")}
    return {**found, **findings[0], "also": findings[1:], **airflow}


UNREAD = {"condition": str(Condition.NEW), "why": "its tables are being read", "unread": True}
IDLE = {"condition": str(Condition.HEALTHY), "why": "nothing is due while its score DAG is paused"}


def _rank(found: dict[str, Any]) -> tuple[list[int], str]:
    """The worst first; what is not read yet comes last."""
    if found.get("unread"):
        return [len(Condition) + 1], found["model"]
    every = [found["condition"], *(each["condition"] for each in found.get("also", []))]
    return [*(Condition(each).rank for each in every), len(Condition)], found.get("model", "")


# ------------------------------------------------------------------------------------------------------------- model


def _spec_of(dag_id: str) -> ModelSpec:
    name, _, kind = dag_id.rpartition("_")
    if kind not in KINDS or name not in {path.parent.name for path in specs.model_files()}:
        raise HTTPException(
            404, f"There is no model {name}, of which {dag_id} would be a DAG; all models are listed under Models."
        )
    spec = specs.find(name)
    lake.require_all(name)  # else it would look as if nothing had ever happened
    return spec


def _model(dag_id: str, user: GetUserDep, session: SessionDep, weeks: Weeks = 8) -> dict[str, Any]:
    """All that the page of a model shows of the last weeks."""
    spec = _spec_of(dag_id)
    found = views.overview(spec, weeks)
    health = {**views.plain(found.health), "drifting": found.health.drifting}
    about = _airflow(session, [spec.name]).get(spec.name, {})
    airflow = {"runs": _runs(session, spec), "recent": _recent(session, spec), "may": _may(user, spec.name)}
    return {**views.plain(found), "health": _with_airflow(health, about), "mlflow": mlflow_pages(), **airflow}


def _may(user: Any, model: str) -> dict[str, bool]:
    """What the user may start: Airflow asks the same again when it is started."""
    manager = get_auth_manager()

    def starts(dag_id: str) -> bool:
        run = DagAccessEntity.RUN
        return manager.is_authorized_dag(method="POST", access_entity=run, details=DagDetails(id=dag_id), user=user)

    edits = manager.is_authorized_dag(method="PUT", details=DagDetails(id=f"{model}_check"), user=user)
    return {
        "check": starts(f"{model}_check"),
        "score": starts(f"{model}_score"),
        "rollback": edits and starts("esteira_rollback"),
    }


def _runs(session: Session, spec: ModelSpec) -> dict[str, str]:
    """By day the last run of its check, of the newest ones."""
    newest = select(DagRun).where(DagRun.dag_id == f"{spec.name}_check").order_by(DagRun.run_after.desc()).limit(MANY)
    found: dict[str, str] = {}
    for run in session.scalars(newest):
        found.setdefault(str(_days(spec, run)[-1]), run.run_id)
    return found


def _recent(session: Session, spec: ModelSpec) -> list[dict[str, Any]]:
    """The newest runs of its DAGs: how each ended, how long it took, and its note."""
    dags = [f"{spec.name}_{kind}" for kind in KINDS]
    mine = select(DagRun).where(DagRun.dag_id.in_(dags)).order_by(DagRun.run_after.desc()).limit(RECENT)
    backs = select(DagRun).where(DagRun.dag_id == "esteira_rollback").order_by(DagRun.run_after.desc()).limit(MANY)
    with_notes = selectinload(DagRun.dag_run_note)
    every = [
        *session.scalars(mine.options(with_notes)),
        *(run for run in session.scalars(backs.options(with_notes)) if (run.conf or {}).get("model") == spec.name),
    ]
    return [
        {
            "dag_id": run.dag_id,
            "run_id": run.run_id,
            "state": str(run.state),
            "at": None if run.start_date is None else run.start_date.isoformat(),
            "seconds": (run.end_date - run.start_date).total_seconds() if run.end_date and run.start_date else None,
            "note": run.note,
        }
        for run in sorted(every, key=lambda run: run.run_after, reverse=True)[:RECENT]
    ]


def _days(spec: ModelSpec, run: DagRun) -> tuple[date, date]:
    """The first and the last day that a run is about."""
    from esteira.dags.common import days_asked

    return days_asked(spec, run.conf or {}, run.partition_key, run.logical_date or run.run_after)


def _check(dag_id: str, day: date) -> dict[str, Any]:
    """What a day's check measured, tried and decided."""
    spec = _spec_of(dag_id)
    found: dict[str, Any] = views.plain(views.check(spec, day))
    return found


def _run(dag_id: str, run_id: str, session: SessionDep) -> dict[str, Any]:
    """A run of a check or a score, in words."""
    from esteira import data

    spec = _spec_of(dag_id)
    run = session.scalar(select(DagRun).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
    if run is None:
        raise HTTPException(404, f"{dag_id} has no run {run_id}")
    days = data.days(*_days(spec, run))
    if dag_id.endswith("_check"):
        day = days[-1]
        title, said = views.check_title(spec, day), views.told(spec, day)
        return {"title": title, "sentences": said, "check": views.plain(views.check(spec, day))}
    if dag_id.endswith("_score"):
        now = f"Now published: {views.score_title(spec, days)}"
        return {"title": run.note or now, "sentences": [now] if run.note else [], "check": None}
    return {"title": run.note or f"train as of {days[-1]}", "sentences": [], "check": None}


def _rollback(dag_id: str, to: int | None = None, undo: bool = False) -> dict[str, Any]:
    """What a roll-back would do, line by line, and what the DAG that does it is to be given; nothing is done."""
    from esteira.steps import rollbacks

    spec = _spec_of(dag_id)
    found = rollbacks.plan(spec, rollbacks.Asked(by="", to=to, undo=undo))
    conf = {"model": spec.name, "to": None if undo else found.target, "undo": undo, "seen": found.asked.seen}
    return {"lines": list(rollbacks.shown(spec, found)), "changes": found.event is not None, "conf": conf}


def _row(dag_id: str, day: date, key: Annotated[list[str], Query()]) -> dict[str, Any]:
    """A row explained; `key` is column=value, once for each column."""
    spec = _spec_of(dag_id)
    found: dict[str, Any] = views.plain(views.explain(spec, day, _key_of(spec, key)))
    return found


def _key_of(spec: ModelSpec, given: list[str]) -> dict[str, str]:
    parts = [each.partition("=") for each in given]
    if any(not equals or name not in spec.key for name, equals, _ in parts):
        raise HTTPException(422, f"key is column=value, for the key of {spec.name}: {', '.join(spec.key)}")
    return {name: value for name, _, value in parts}


def _rows(
    dag_id: str,
    day: date,
    key: Annotated[list[str] | None, Query()] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Any]:
    """Predictions of a day with version, label and features; personal values are masked."""
    from esteira import data

    spec = _spec_of(dag_id)
    rows = views.predicted(spec, day, day, _key_of(spec, key or []))
    rows = data.masked(spec, rows.head(limit))
    return [views.plain(row) for row in rows.to_dict("records")]
