"""The note of a run: one sentence that says which day it is about, and what came of it.

The scheduler names runs that an asset starts, so that their names say nothing; Airflow shows a note beside them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from airflow.sdk import get_current_context

from esteira.dags import alerts
from esteira.settings import settings

log = logging.getLogger(__name__)


def note(said: Callable[[], str]) -> None:
    """Write the note of the run that is at work, as the watchdog's account. What fails here fails no task: it is told in the log."""
    from esteira.dags import watchdog

    given, run = settings(), get_current_context()["dag_run"]
    password = given.api_password.get_secret_value()
    if not password:
        log.info("the run has no note: ESTEIRA_API_PASSWORD is not set")
        return
    try:
        api = watchdog.Api(given.api_url or alerts.api_url(), given.api_user, password)
        api.note(run.dag_id, run.run_id, said())
    except Exception as error:  # whatever it was: the task has done its work
        log.warning("the run has no note: %s", error)
