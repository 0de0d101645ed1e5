"""How long a first start takes on a busy machine, and how often Airflow's REST API fails under writers: `make bench-start N=10`.

Each round is a first start: a state folder of its own, a cold file cache where this machine lets us empty it, and both
cores kept busy. The outbox is due every minute, so that it runs while the first calls come. Everything listens on the
loopback and is stopped in the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from ops import database, places
from ops import stack as stacks
from ops.api import Airflow, RunTimeout
from ops.layout import LOOPBACK, Stack, StackError

FIRST = "toll_traffic_train"
WRITTEN = ("queue_time_train", "queue_time_score")  # by one client each
OUTBOX = "esteira_outbox"
OUTBOX_EVERY = 2.0  # seconds
CACHES = Path("/proc/sys/vm/drop_caches")


class Counted(httpx.HTTPTransport):
    """Counts the calls, and those that ended in an answer of 5xx or in none; keeps the longest."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.failures, self.slowest = 0, 0, 0.0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """One call."""
        began, failed = time.monotonic(), True
        try:
            answer = super().handle_request(request)
            failed = answer.is_server_error
        finally:
            self.calls += 1
            self.failures += failed
            self.slowest = max(self.slowest, time.monotonic() - began)
        return answer


@contextmanager
def set_up(sqlite: bool) -> Iterator[tuple[Stack, float]]:
    """A set-up that was just started, and when its start began; nothing is left of it."""
    home = Path(tempfile.mkdtemp(prefix="esteira-bench-"))
    for name in ("WEB", "MLFLOW", "SMTP"):
        os.environ[f"ESTEIRA_{name}_PORT"] = str(_free_port())
    os.environ.update({"ESTEIRA_HOME": str(home), "ESTEIRA_OUTBOX_SCHEDULE": "* * * * *"})
    os.environ.pop("ESTEIRA_DATABASE_URL", None)
    if sqlite:
        os.environ["ESTEIRA_DATABASE_URL"] = f"sqlite:///{database.sqlite_file(home)}"
    stack = Stack.from_environment()
    try:
        began = time.monotonic()
        started = subprocess.run([sys.executable, "-m", "ops.stack", "up"], capture_output=True, text=True)
        if started.returncode:
            raise StackError(f"a set-up did not start: {started.stderr[-1000:]}")
        yield stack, began
    finally:
        stacks.down(stack)
        places.remove(home)
        shutil.rmtree(home)


@contextmanager
def busy(children: int = 2) -> Iterator[None]:
    """Processes that do nothing but work, in the same order of priority as the set-up's."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(children)]
    try:
        yield
    finally:
        for child in started:
            child.kill()
            child.wait()


def first_trigger(sqlite: bool) -> tuple[float, int]:
    """Seconds from the start until the first run's trigger was answered, and the calls that failed until then."""
    with busy(), set_up(sqlite) as (stack, began):
        counted = Counted()
        airflow = _log_in(stack, counted)
        airflow.wait_for_dags([FIRST])
        airflow.unpause(FIRST)
        airflow.trigger(FIRST)
        return time.monotonic() - began, counted.failures


def writers(seconds: float, sqlite: bool) -> Counted:
    """Two clients that write without a pause beside an outbox that runs every 2 s. None of their calls is repeated."""
    total = Counted()
    with set_up(sqlite) as (stack, _):
        airflow = _log_in(stack, None)
        airflow.wait_for_dags([*WRITTEN, OUTBOX])
        limit = time.monotonic() + seconds
        counts = [Counted() for _ in WRITTEN]
        threads = [
            threading.Thread(target=_write, args=(stack, counted, dag_id, limit))
            for dag_id, counted in zip(WRITTEN, counts, strict=True)
        ]
        for thread in threads:
            thread.start()
        while time.monotonic() < limit:
            airflow.trigger(OUTBOX, minutes=0)
            time.sleep(OUTBOX_EVERY)  # the load's own rhythm, which is what is measured: nothing is waited for
        for thread in threads:
            thread.join()
    for counted in counts:
        total.calls += counted.calls
        total.failures += counted.failures
        total.slowest = max(total.slowest, counted.slowest)
    return total


def _write(stack: Stack, counted: Counted, dag_id: str, limit: float) -> None:
    airflow = _log_in(stack, counted)
    paused = False
    while time.monotonic() < limit:
        paused = not paused
        try:
            airflow.http.patch(f"/api/v2/dags/{dag_id}", json={"is_paused": paused})
        except httpx.TransportError:
            continue  # it is counted


def _log_in(stack: Stack, transport: Counted | None) -> Airflow:
    return Airflow(stack.web, "admin", stack.password.read_text(encoding="utf-8"), transport)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _empty_caches() -> str:
    """Empty the kernel's file cache; why it could not be done, else nothing."""
    try:
        os.sync()
        CACHES.write_text("3")
    except OSError as error:
        return str(error)
    return ""


def main() -> None:
    """Print seconds and failures of each round, the median, and what the writers met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=10, help="first starts; 0: the writers only")
    parser.add_argument("--seconds", type=float, default=60, help="how long the writers write; 0: not at all")
    parser.add_argument("--sqlite", action="store_true", help="Airflow's metadata on SQLite, to compare")
    given = parser.parse_args()
    print(f"Airflow's metadata on {'SQLite' if given.sqlite else 'PostgreSQL'}; {os.cpu_count()} cores", flush=True)
    times, failures = [], 0
    for number in range(1, given.rounds + 1):
        warm = _empty_caches()
        took, failed = first_trigger(given.sqlite)
        times.append(took)
        failures += failed
        cache = f"; the file cache is warm: {warm}" if warm else ""
        print(f"round {number}: {took:.1f} s to the first trigger, {failed} calls failed{cache}", flush=True)
    if times:
        print(
            f"median {statistics.median(times):.1f} s, slowest {max(times):.1f} s, {failures} calls failed", flush=True
        )
    if given.seconds:
        met = writers(given.seconds, given.sqlite)
        print(
            f"two clients that write beside an outbox every {OUTBOX_EVERY:g} s, {given.seconds:g} s: {met.calls} calls, "
            f"{met.failures} failed (5xx or no answer), the slowest {met.slowest:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    try:
        main()
    except (*stacks.FAULTS, RunTimeout) as error:
        sys.exit(f"esteira: {error}")
