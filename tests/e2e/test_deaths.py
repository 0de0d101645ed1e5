"""Processes of a live Airflow that die at the worst moment: what comes after them goes on."""

from __future__ import annotations

import psutil
import pytest
from sqlalchemy import Engine, text

from ops import supervision
from ops.api import Airflow
from ops.layout import Stack
from tests.models import AS_OF

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]

HOLDERS = text("SELECT pid FROM pg_locks WHERE relation = 'slot_pool'::regclass AND mode = 'RowShareLock'")


@pytest.mark.slow
def test_a_scheduler_that_is_killed_as_it_hands_out_tasks_holds_back_no_later_one(
    airflow: Airflow, stack: Stack, metadata: Engine
) -> None:
    """Its workers live on, and with them its connections: the server must end the transaction by itself."""
    scheduler = psutil.Process(supervision.interface(stack).getProcessInfo("scheduler")["pid"])
    with metadata.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        held: set[int] = set()

        def caught() -> bool:
            if not connection.scalar(HOLDERS):
                return False
            scheduler.suspend()
            held.update(connection.scalars(HOLDERS))
            if not held:
                scheduler.resume()
            return bool(held)

        airflow.until(caught, 60, "the scheduler to hold the pools", poll=0.001)
        scheduler.kill()
        airflow.unpause("clockwork_train")
        run_id = airflow.trigger("clockwork_train", day=str(AS_OF))
        assert airflow.wait("clockwork_train", run_id, 240) == "success"
        # The scheduler that runs now may hold them for a moment, by a connection of its own.
        assert not held & set(connection.scalars(HOLDERS))
