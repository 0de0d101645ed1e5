"""The processes of a set-up, found whoever started or orphaned them, and stopped.

Each carries the variable ESTEIRA_SETUP, which names the state folder, in the environment that it was started with; so
does each child of it, also one that has left its process group, and one whose supervisor was killed. PostgreSQL, which
is started with an empty environment, is known by its working folder. No other process is ever touched.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable
from pathlib import Path

import psutil

VARIABLE = "ESTEIRA_SETUP"
SUPERVISOR = "supervisord"
AIRFLOW = ("api-server", "scheduler", "dag-processor", "triggerer")
STOP_WITHIN = 20  # seconds, before what is left is killed


def environment(home: Path) -> dict[str, str]:
    """What the processes of a set-up are known by."""
    # With SPT_NOENV a process that changes its title, as Airflow's do, keeps its environment readable.
    return {VARIABLE: str(home), "SPT_NOENV": "1"}


def of(home: Path, data: Path) -> list[psutil.Process]:
    """The processes of the set-up at `home`, with a database in the folder `data`; not this one and those that started it."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in psutil.process_iter() if process.pid not in own and _name(process, home, data)]


def supervisor(home: Path, data: Path) -> psutil.Process | None:
    """The supervisord of the set-up at `home`, if it runs."""
    return next((process for process in of(home, data) if _name(process, home, data) == SUPERVISOR), None)


def names(processes: Iterable[psutil.Process], home: Path, data: Path) -> list[str]:
    """What the processes are, for a person to read: airflow, mlflow, mail-catcher, postgres."""
    programs = {_name(process, home, data) for process in processes} - {""}
    if len(programs) > 1:
        programs.discard(SUPERVISOR)  # which is worth a word only where it is alone
    return sorted({"airflow" if name in AIRFLOW else name for name in programs})


def stop(processes: Iterable[psutil.Process], data: Path) -> None:
    """Stop processes, PostgreSQL after those that use it; what does not stop in time is killed."""
    servers = [process for process in processes if works_in(process, data)]
    _end([process for process in processes if process not in servers], signal.SIGTERM)
    _end(servers, signal.SIGINT)  # at SIGTERM PostgreSQL waits until every client has left


def wake(processes: Iterable[psutil.Process]) -> None:
    """Let processes that were stopped (SIGSTOP) go on: one of them would hear no signal but SIGKILL, and answer nobody."""
    for process in processes:  # whatever their status: one that was told to stop a moment ago does not show it yet
        try:
            process.resume()
        except psutil.Error:
            continue


def _end(processes: list[psutil.Process], how: signal.Signals) -> None:
    _send(processes, how)
    _, alive = psutil.wait_procs(processes, timeout=STOP_WITHIN)
    _send(alive, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=5)


def _send(processes: list[psutil.Process], how: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(how)  # psutil sees to it that it still is the process that it was
        except psutil.Error:
            continue


def _name(process: psutil.Process, home: Path, data: Path) -> str:
    """The program of the set-up that the process belongs to; empty where it is none of it."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        if works_in(process, data):
            return "postgres"
        variables = process.environ()
        if variables.get(VARIABLE) != str(home):
            return ""
        return variables.get("SUPERVISOR_PROCESS_NAME") or _unsupervised(process)
    except (psutil.Error, OSError):
        return ""


def _unsupervised(process: psutil.Process) -> str:
    # A child that supervisord has forked looks like it for a moment, but does not lead the session.
    leads = os.getsid(process.pid) == process.pid
    return SUPERVISOR if leads and any(part.endswith("/supervisord") for part in process.cmdline()[:2]) else "airflow"


def works_in(process: psutil.Process, folder: Path) -> bool:
    """Whether a folder is the process's working folder, as PostgreSQL's data are for each of its processes."""
    try:
        return bool(process.cwd() == str(folder))
    except (psutil.Error, OSError):
        return False
