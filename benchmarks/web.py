"""How long the pages' answers take, and what they read: `make bench-web`.

One model is walked through a year of daily checks, on disk, and copied to as many names as ESTEIRA_BENCH_MODELS says (200). Airflow's
own API server answers, with one worker, as an administrator asks: each answer's time is from the first byte of the question to the last of the answer, and
what it read is what the system counts for the server's process. The first of all is told by itself: then nothing is known yet.
"""

from __future__ import annotations

import logging
import os
import shutil
import statistics
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import httpx

from ops import serving
from ops.layout import PROJECT

MODELS = int(os.environ.get("ESTEIRA_BENCH_MODELS", "200"))
MODEL, FIRST, LAST = "toll_traffic", date(2025, 6, 1), date(2026, 5, 31)
TIMES = 7


def main() -> int:
    """Print a table; returns how many answers took longer than wanted."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    home = Path(tempfile.mkdtemp(prefix="esteira-bench-web-"))
    try:
        began = time.monotonic()
        _year(home)
        names = _copied(home)
        print(f"{len(names)} models, a year of daily checks each, made in {time.monotonic() - began:.0f} s", flush=True)
        environment = serving.settings(home, home / "models")
        serving.prepare(environment)
        with serving.serving(environment, home / "server.log") as (web, process):
            token = httpx.get(f"{web}/auth/token", timeout=60).json()["access_token"]
            with httpx.Client(base_url=web, headers={"Authorization": f"Bearer {token}"}, timeout=300) as client:
                return _measured(client, process, names[-1])
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _year(home: Path) -> None:
    os.environ |= {"ESTEIRA_HOME": str(home / "state"), "ESTEIRA_MODELS": str(PROJECT / "include" / "models")}
    (home / "state" / "mlflow").mkdir(parents=True)
    logging.disable(logging.CRITICAL)
    from esteira import replay
    from esteira import spec as specs

    replay.walk(specs.find(MODEL), replay.Plan(MODEL, FIRST, LAST, "day", "month"), "policy")


def _copied(home: Path) -> list[str]:
    names = [f"model_{number:03}" for number in range(MODELS)]
    for name in names:
        folder = home / "models" / name
        folder.mkdir(parents=True)
        for file in (PROJECT / "include" / "models" / MODEL).iterdir():
            if file.is_file():
                (folder / file.name).write_text(file.read_text().replace(f"name: {MODEL}", f"name: {name}"))
        for table in (home / "state" / "lake").glob(f"*/{MODEL}"):
            # Files of a table never change, so that a copy may be the same file.
            shutil.copytree(table, table.with_name(name), copy_function=os.link)
    return names


def _measured(client: httpx.Client, process: int, model: str) -> int:
    began, asked = time.monotonic(), 1
    while any(
        each.get("unread") or each.get("old") for each in client.get("/esteira/models").raise_for_status().json()
    ):
        asked += 1
    print(f"all read for the first time in {time.monotonic() - began:.1f} s, {asked} answers\n")
    missed = 0
    print("| answer | wanted | took, median (longest) | read from files | size |\n|---|---|---|---|---|")
    for name, path, wanted in (
        ("card of the first page", "/esteira/models?worst=5", 150),
        ("*Models*", "/esteira/models", 300),
        ("*Model*, 8 weeks", f"/esteira/models/{model}_check?weeks=8", 500),
        ("*Model*, a year", f"/esteira/models/{model}_check?weeks=52", 500),
        ("a run in words", f"/esteira/models/{model}_check/checks/{LAST}", 500),
    ):
        took, read, size = [], [], 0
        for _ in range(TIMES):
            before, began = _read_by(process), time.monotonic()
            size = len(client.get(path).raise_for_status().content)
            took.append(1000 * (time.monotonic() - began))
            read.append(_read_by(process) - before)
        middle = statistics.median(took)
        missed += middle > wanted
        print(
            f"| {name} | ≤ {wanted} ms | {middle:.0f} ms ({max(took):.0f}) | {statistics.median(read) / 1e6:.2f} MB | {size / 1e3:.0f} kB |"
        )
    return missed


def _read_by(pid: int) -> int:
    """The bytes that a process, and those that it has started, have read so far."""
    import psutil

    every = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(each.io_counters().read_chars for each in every)


if __name__ == "__main__":
    sys.exit(main())
