"""What takes too long is ended: by a signal where Python runs, with its process where it does not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import pytest
from esteira.dags.timeouts import within
from esteira.errors import TooSlow


def test_a_block_that_takes_too_long_is_ended() -> None:
    def read() -> None:
        with within(0.05, "reading"):
            while True:
                sum(range(100))

    with pytest.raises(TooSlow, match=r"reading takes longer than 0\.05 s"):
        read()


def test_a_timer_that_was_set_before_still_rings() -> None:
    """Airflow limits the whole file in the same way."""
    rang = threading.Event()
    before = signal.signal(signal.SIGALRM, lambda *_: rang.set())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with within(60, "reading"):
            pass
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.3
        assert rang.wait(5)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_another_thread_has_no_limit() -> None:
    done = []

    def work() -> None:
        with within(0.01, "reading"):
            time.sleep(0.05)  # longer than the limit, were there one
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


STUCK = """
import json, sqlite3, sys
from datetime import timedelta
from types import SimpleNamespace

from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CommsDecoder
from esteira.dags import timeouts

timeouts.GRACE = 0.2
told = []

class Comms(CommsDecoder):
    def send(self, msg):
        print(json.dumps({"state": msg.state, "told": told}), flush=True)

task_runner.SUPERVISOR_COMMS = Comms(socket=None)
task = SimpleNamespace(
    execution_timeout=timedelta(seconds=0.1),
    on_failure_callback=[lambda context: told.append(str(context["exception"]))],
)
timeouts.end_with_its_process({"task": task, "ti": SimpleNamespace(rendered_map_index=None)})
query = "with recursive n(x) as (select 1 union all select x + 1 from n) select count(*) from n"
sqlite3.connect(":memory:").execute(query).fetchall()  # never ends, and no signal is seen until it does
"""


def test_c_code_that_no_signal_reaches_is_ended_with_its_process() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (
        done.stderr
    )  # Airflow takes the state that was sent only from a process that ended well
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["state"] == "failed"
    assert said["told"] == [
        "it took longer than its timeout, 0:00:00.100000, in code that does not react to it: its process was ended"
    ]
