"""A task that takes too long is ended, also where it is in C code that no signal reaches."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder, TaskState

from esteira.errors import TooSlow

log = logging.getLogger(__name__)

GRACE = 120  # seconds after its timeout in which a task may still mail that it failed


@contextmanager
def within(seconds: float, what: str) -> Iterator[None]:
    """Raise TooSlow where the block takes longer. In a thread of its own, where no signal comes, there is no limit."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise TooSlow(f"{what} takes longer than {seconds:g} s")

    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, stop)
    left, _ = signal.setitimer(signal.ITIMER_REAL, seconds)  # Airflow has set one for the whole file
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001))


def end_with_its_process(context: Mapping[str, Any]) -> None:
    """Called before a task begins: end its process where Airflow's own timeout, a signal, could not end the task.

    Python code sees the signal. A driver that waits in C for its server does not; after GRACE a thread tells Airflow that
    the task has failed, which is not tried again, and mails it. Code that never lets go of Python's lock ends without
    that, and counts as a task whose process was killed.
    """
    limit = context["task"].execution_timeout
    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if limit is None or not isinstance(comms, CommsDecoder):  # as in DAG.test, whose process is not the task's own
        return
    seconds = limit.total_seconds() + GRACE
    faulthandler.dump_traceback_later(seconds + GRACE, exit=True, file=2)
    timer = threading.Timer(seconds, _end, [context, comms.send, limit])
    timer.daemon = True
    timer.start()


def _end(context: Mapping[str, Any], send: Callable[[TaskState], object], limit: object) -> None:
    error = TooSlow(
        f"it took longer than its timeout, {limit}, in code that does not react to it: its process was ended"
    )
    log.error("%s", error)
    told = context["task"].on_failure_callback or []
    for callback in told if isinstance(told, list | tuple) else [told]:
        try:
            callback({**context, "exception": error})
        except Exception:  # whatever it was, the process must end
            log.exception("the callback about the timeout failed")
    given = {"state": "failed", "end_date": datetime.now(UTC), "rendered_map_index": context["ti"].rendered_map_index}
    send(TaskState.model_validate(given))
    os._exit(0)  # a state that was sent counts only where the process ends well
