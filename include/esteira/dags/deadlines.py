"""From when on a run's deadline counts; plugins/esteira_plugin.py makes it known to Airflow."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from airflow.sdk import BaseDeadlineReference, deadline_reference  # type: ignore[attr-defined]  # not in its stub

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@deadline_reference
class SinceQueued(BaseDeadlineReference):  # type: ignore[misc]  # as above
    """When a run was queued.

    With Airflow's own DAGRUN_QUEUED_AT, clearing a task of a run that has a deadline is an error (Airflow 3.3.2); its other
    references need a logical date, which a run by a partition has not.
    """

    required_kwargs = frozenset({"dag_id", "run_id"})

    def _evaluate_with(self, *, session: Session, dag_id: str, run_id: str) -> datetime | None:
        from airflow.models import DagRun
        from sqlalchemy import select

        return session.scalar(select(DagRun.queued_at).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
