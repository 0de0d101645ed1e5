"""A day has to be scored by its deadline; one that is late is mailed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import spec as specs
from esteira.lifecycle.events import Registered
from esteira.notify import rendering
from esteira.store import lake, ledger
from esteira.store.outbox import Mail

from tests import models

LATE_RUN = {
    "dag_id": "sales_score",
    "dag_run_id": "scheduled__1",
    "state": "failed",
    "partition_key": "2026-02-01",
    "logical_date": None,
    "run_after": "2026-02-02T06:00:00Z",
    "conf": {},
}


def test_a_day_has_a_deadline_unless_its_model_wants_none(home: Path, tmp_path: Path) -> None:
    from esteira.dags.score import score_dag

    (alert,) = score_dag(models.write(tmp_path)).deadline
    assert alert.interval == timedelta(hours=6)
    assert alert.callback.path == "esteira.dags.score.late"
    none = models.write(tmp_path, "patient", yaml=models.YAML + "score: {{deadline: null}}\n")
    assert not score_dag(none).deadline


@pytest.fixture
def late(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Mail]]:
    """Miss the deadline of LATE_RUN, with what is given in place of its own; returns the mails of all such runs."""
    from esteira.dags import alerts, score

    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    models.write(tmp_path / "models")
    sent: list[Mail] = []
    monkeypatch.setattr(alerts, "deliver_now", lambda spec, mail: sent.append(mail))

    def late(**given: object) -> list[Mail]:
        deadline = {"id": "1", "deadline_time": "2026-02-02 12:00:00+00:00"}
        asyncio.run(score.late("sales", {"dag_run": LATE_RUN | given, "deadline": deadline}))
        return sent

    return late


def test_a_late_day_is_mailed_once(late: Callable[..., list[Mail]]) -> None:
    late()
    (mail,) = late()
    assert mail.subject == "sales: 2026-02-01 is not scored yet"
    assert "by 2026-02-02 12:00:00+00:00, 6 hours after the run sales_score/scheduled__1 was queued" in rendering.text(
        mail
    )


def test_of_a_late_run_only_the_days_that_no_run_has_scored_are_mailed(late: Callable[..., list[Mail]]) -> None:
    registered = Registered(version=1, sha256="0", day=date(2026, 2, 1), by="train", why="registered")
    ledger.write(specs.find("sales"), registered)
    lake.replace_days("predictions", "sales", pd.DataFrame(), [date(2026, 2, day) for day in (1, 2, 4)])
    by_hand = {"partition_key": None, "conf": {"day": "2026-02-01", "last_day": "2026-02-03"}}
    late(dag_run_id="scheduled__2")
    late(dag_run_id="2", **by_hand)
    late(dag_run_id="3", partition_key=None)
    # As for its tasks, its day is that of its logical date.
    late(dag_run_id="5", partition_key=None, logical_date="2026-02-05T06:00:00Z", run_after="2026-02-10T06:00:00Z")
    sent = late(dag_run_id="4", run_type="backfill", partition_key="2026-02-09")
    assert [mail.subject for mail in sent] == ["sales: 2026-02-03 is not scored yet"]


def test_a_late_day_is_told_where_the_lake_is_why(
    late: Callable[..., list[Mail]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from esteira.dags import alerts

    given: list[tuple[str, str]] = []
    monkeypatch.setattr(alerts, "send", lambda message, receiver: given.append((message["Subject"], receiver)))
    monkeypatch.setenv("ESTEIRA_LAKE", str(tmp_path / "not mounted"))
    assert late() == []
    assert given == [("sales: 2026-02-01 is not scored yet", "ops@example.com")]
