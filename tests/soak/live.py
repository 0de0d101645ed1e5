"""Faults on a live Airflow: processes killed, servers and storage taken away in the middle of a score and of a check."""

from __future__ import annotations

import contextlib
import http.server
import os
import random
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psutil
from sqlalchemy import create_engine, text

from ops import database, environment, places, processes
from ops import stack as stacks
from ops.api import ENDED, Airflow
from ops.layout import BIN, Stack
from tests.ports import free_port
from tests.soak import crashes
from tests.soak.crashes import Image, Outcome
from tests.soak.runs import CHECK, QUICK, RANGE, SCORE, UNCUT, Runs, count, prepared, started, undisturbed, write_models

VICTIMS = ("task", "worker", "scheduler", "api-server")
SIZE = "96m"  # of the lake's own file system


class Live(Runs):
    """A whole set-up on free ports, its lake on a file system of its own where this machine allows to mount one."""

    def __init__(self, place: Path, names: Sequence[str]) -> None:
        self.place, self.lake = place, place / "volume" / "lake"
        write_models(place / "models", names)
        (place / "volume").mkdir()
        self.mounted = _mount(place / "volume", f"size={SIZE}")
        os.environ["ESTEIRA_HOME"] = str(place / "home")
        os.environ["ESTEIRA_MODELS"] = str(place / "models")
        os.environ["ESTEIRA_LAKE"] = str(self.lake)
        for name in ("WEB", "MLFLOW", "SMTP"):
            os.environ[f"ESTEIRA_{name}_PORT"] = str(free_port())
        from esteira.store import lake

        lake.create_lake()
        self.stack = Stack.from_environment()
        os.environ["MLFLOW_TRACKING_URI"] = self.stack.mlflow
        settings = environment.shared_settings
        environment.shared_settings = lambda: {**settings(), **QUICK}
        stacks.up(self.stack)
        super().__init__(Airflow(self.stack.web, "admin", self.stack.password.read_text()))
        self.airflow.wait_for_dags([f"{name}_check" for name in names])

    def down(self) -> None:
        """Stop everything, and give the mount back."""
        stacks.down(self.stack)
        places.remove(self.stack.home)
        if self.mounted:
            subprocess.run(["umount", "-l", self.place / "volume"], check=True)

    def supervisor(self, *words: str) -> str:
        """What supervisorctl says."""
        command = [BIN / "supervisorctl", "-c", self.stack.home / "supervisord.conf", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    def image(self, name: str) -> Image:
        """All that can be seen of a model, without its name, and the runs' ids."""
        return crashes.image_of_one(name, self.stack.home, self.stack.mails)

    def mails(self, *words: str) -> list[str]:
        """The texts of the mails that were caught and have all the words."""
        texts = [path.read_text() for path in sorted(self.stack.mails.rglob("*.eml"))]
        return [text for text in texts if all(word in text for word in words)]


def _mount(place: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place]
    return (
        shutil.which("mount") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


# ---------------------------------------------------------------------------------------------------------------- kills


def kill(live: Live, victim: str, run: tuple[str, str], tasks: Sequence[str], after: float) -> str:
    """SIGKILL a process while one of the tasks runs; returns at which. Raises where the run ended before."""
    while True:
        found = live.airflow.call("GET", f"/dags/{run[0]}/dagRuns/{run[1]}/taskInstances")["task_instances"]
        running = [each for each in found if each["state"] == "running" and each["task_id"] in tasks]
        for instance in running:
            process = _process(live, victim, instance["id"])
            if process is None:
                continue
            time.sleep(after)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil asks whether it still is the process that it was
                return str(instance["task_id"])
        assert live.state(run) not in ENDED, f"{run} ended before {victim} was killed at {tasks}"
        time.sleep(0.02)


def _process(live: Live, victim: str, instance: str) -> psutil.Process | None:
    if victim in ("scheduler", "api-server"):
        return psutil.Process(int(live.supervisor("pid", victim)))
    scheduler = int(live.supervisor("pid", "scheduler"))
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(scheduler).children(recursive=True):
            if instance in " ".join(process.cmdline()) and (process.ppid() == scheduler) == (victim == "worker"):
                return process
    return None


# -------------------------------------------------------------------------------------------------------------- outages


@contextmanager
def stopped(live: Live, program: str) -> Iterator[None]:
    """A program that is down."""
    live.supervisor("stop", program)
    try:
        yield
    finally:
        live.supervisor("start", program)


@contextmanager
def answered_by(live: Live, answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> Iterator[None]:
    """In place of MLflow another server answers."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def _any(self) -> None:
            answer(self)

        do_GET = do_POST = do_PATCH = _any  # noqa: N815  # names of the standard library's

        def log_message(self, *_: object) -> None:
            pass

    with stopped(live, "mlflow"):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", live.stack.mlflow_port), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()


def refuse(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A server that is overloaded."""
    handler.send_error(503)


def dawdle(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A server that takes a call and says nothing for long."""
    time.sleep(20)
    with contextlib.suppress(OSError):
        handler.send_error(504)


@contextmanager
def locked(live: Live) -> Iterator[None]:
    """Somebody holds Airflow's database."""
    supervisor = processes.supervisor(live.stack.home, database.data(live.stack.home))
    assert supervisor is not None, "the set-up is up"
    engine = create_engine(supervisor.environ()["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    assert engine.dialect.name == "postgresql", "another database is locked by another statement"
    try:
        with engine.connect() as held:
            held.execute(text("LOCK TABLE dag_run, task_instance IN ACCESS EXCLUSIVE MODE"))
            yield
            held.rollback()
    finally:
        engine.dispose()


@contextmanager
def full(live: Live) -> Iterator[None]:
    """The lake's file system has no room."""
    filler = live.place / "volume" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextmanager
def read_only(live: Live) -> Iterator[None]:
    """The lake's file system can't be written."""
    volume = live.place / "volume"
    live.airflow.until(
        lambda: subprocess.run(["mount", "-o", "remount,ro", volume], capture_output=True, check=False).returncode == 0,
        30,
        "ro",
    )
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", volume], check=True)


@contextmanager
def gone(live: Live) -> Iterator[None]:
    """The lake's volume is not mounted: its mount point is an empty folder."""
    volume, aside = live.place / "volume", live.place / "aside"
    aside.mkdir(exist_ok=True)
    subprocess.run(["mount", "--bind", volume, aside], check=True)
    subprocess.run(["umount", "-l", volume], check=True)
    try:
        yield
    finally:
        assert not list(volume.iterdir()), f"something was written where the lake was not: {list(volume.rglob('*'))}"
        subprocess.run(["mount", "--bind", aside, volume], check=True)
        subprocess.run(["umount", aside], check=True)


OUTAGES: dict[str, tuple[Callable[[Live], AbstractContextManager[None]], str]] = {
    # What is taken away, and the words that the failure's mail must have where it lasts.
    "MLflow down": (lambda live: stopped(live, "mlflow"), "Connection refused"),
    "MLflow refusing (503)": (lambda live: answered_by(live, refuse), "503"),
    "MLflow slow": (lambda live: answered_by(live, dawdle), ""),
    "Airflow's database locked": (locked, ""),
    "the lake full": (full, "free space there"),
    "the lake read-only": (read_only, "mount it writable"),
    "the lake gone": (gone, "is no lake"),
}
NEEDS_MOUNT = (full, read_only, gone)


# --------------------------------------------------------------------------------------------------------------- trials


def trials(place: Path, times: int) -> list[Outcome]:
    """Every kill `times` times in a score and in a check; every outage once as it passes, and once as it lasts."""
    place = place / "live"
    place.mkdir()
    kills = [(victim, number) for number in range(times) for victim in VICTIMS]
    killed = [f"killed{index}" for index in range(len(kills))]
    out = [f"outage{index}" for index in range(len(OUTAGES))]
    cuts = [(victim, task) for _ in range(times) for victim in ("task", "worker") for task in RANGE]
    cut = [f"cut{index}" for index in range(len(cuts))]
    live = Live(place, ["calm", UNCUT, "hopeless", *killed, *cut, *out])
    try:
        prepared(live, ["calm", UNCUT, "hopeless", *killed, *cut, *out])
        wanted = [undisturbed(live, "calm", kind) for kind in ("score", "check")]
        rows = _kills(live, dict(zip(killed, kills, strict=True)), wanted)
        rows += _kills_of_shards(live, dict(zip(cut, cuts, strict=True)), undisturbed(live, UNCUT, "range"))
        rows += [row for name, outage in zip(out, OUTAGES, strict=True) for row in _outage(live, name, outage, wanted)]
        return [*rows, _no_mail_server(live)]
    finally:
        live.down()


def _kills(live: Live, chosen: dict[str, tuple[str, int]], wanted: Sequence[Image]) -> list[Outcome]:
    rows: dict[str, Outcome] = {}
    moments = random.Random(1)
    for name, (victim, number) in chosen.items():
        for kind, tasks, image in (("score", SCORE, wanted[0]), ("check", CHECK, wanted[1])):
            outcome = rows.setdefault(f"{victim}{kind}", Outcome(f"live: the {victim} killed during a {kind}"))
            run = started(live, name, kind)
            at = kill(
                live, victim, run, tasks[(2 * number + VICTIMS.index(victim)) % len(tasks) :], moments.uniform(0, 0.2)
            )
            began = time.monotonic()
            state = live.ended(run)
            print(f"{outcome.fault}, at {at}: {state} {time.monotonic() - began:.0f} s later", flush=True)
            wrong = "" if state == "success" else f"{state}: {live.airflow.tasks(*run)}"
            count(outcome, image, live.image(name), wrong)
    return list(rows.values())


def _kills_of_shards(live: Live, chosen: dict[str, tuple[str, str]], wanted: Image) -> list[Outcome]:
    """A range of two days in shards, whose tasks are killed while a reader polls."""
    rows: dict[str, Outcome] = {}
    for name, (victim, task) in chosen.items():
        outcome = rows.setdefault(victim, Outcome(f"live: the {victim} killed during a range in shards"))
        with crashes.watched(live.lake / "predictions" / name) as seen:
            run = started(live, name, "range")
            at = kill(live, victim, run, [task], 0)
            state = live.ended(run)
        print(f"{outcome.fault}, at {at}: {state}", flush=True)
        wrong = "" if state == "success" else f"{state}: {live.airflow.tasks(*run)}"
        count(outcome, wanted, live.image(name), wrong, crashes.parts_of_days(seen))
    return list(rows.values())


def _outage(live: Live, name: str, what: str, wanted: Sequence[Image]) -> Iterator[Outcome]:
    taken_away, words = OUTAGES[what]
    if taken_away in NEEDS_MOUNT and not live.mounted:
        print(f"live: {what}: not tried, this machine does not let us mount a file system", flush=True)
        return
    # It passes: the same run ends well, by its retries.
    outcome = Outcome(f"live: {what} for 12 s during a score")
    with contextlib.ExitStack() as meanwhile:
        if taken_away is not locked:  # with its database locked Airflow takes no new run
            meanwhile.enter_context(taken_away(live))
        run = started(live, name, "score")
        if taken_away is locked:
            meanwhile.enter_context(taken_away(live))
        time.sleep(12)
    state = live.ended(run)
    count(outcome, wanted[0], live.image(name), "" if state == "success" else f"{state}: {live.airflow.tasks(*run)}")
    print(f"{outcome.fault}: {state}", flush=True)
    yield outcome
    if not words:
        return
    # It lasts: the run fails in bounded time, its mail names the cause, and cleared afterwards it ends well.
    kind = "check" if "MLflow" in what else "score"  # a score has a copy of its model, and does not ask for MLflow
    outcome = Outcome(f"live: {what} until a {kind} has failed")
    began = time.monotonic()
    with taken_away(live):
        run = started(live, name, kind)
        failed = live.ended(run)
        seconds = time.monotonic() - began
        told = any(words in _flat(mail) for mail in live.mails(f"{name}_{kind}", run[1][:30]))
    state = live.again(run)
    wrong = [
        "" if failed == "failed" else f"it ended in {failed} while {what}",
        "" if told else f"no mail says {words!r}",
        "" if state == "success" else f"{state} afterwards: {live.airflow.tasks(*run)}",
    ]
    got = live.image(name)
    # The failure itself is told in a mail and, where that could be written, in the ledger.
    got["ledger"] = Counter({row: count for row, count in got["ledger"].items() if ":failed/" not in row})
    got["mails"] = Counter({mail: count for mail, count in got["mails"].items() if "failed" not in mail})
    count(outcome, wanted[kind == "check"], got, *wrong)
    print(f"{outcome.fault}: failed after {seconds:.0f} s, {state} when it was cleared", flush=True)
    yield outcome


def _flat(mail: str) -> str:
    return " ".join(mail.replace("=\n", "").split())


def _no_mail_server(live: Live) -> Outcome:
    """The warning waits in the outbox, which is red, until a server is back, and is delivered once; the check is not held up."""
    outcome = Outcome("live: no mail server during a warning")
    with stopped(live, "mail-catcher"):
        run = started(live, "hopeless", "check")
        ended = live.ended(run)
        live.airflow.unpause("esteira_outbox")
        refused = live.ended(("esteira_outbox", live.airflow.trigger("esteira_outbox", minutes=0)))
    wrong = [
        "" if ended == "success" else f"the run ended in {ended} without a mail server",
        "" if refused == "failed" else f"the outbox ended in {refused} without a mail server",
        "" if not live.mails("hopeless", "retraining did not help") else "a mail was there before its server",
    ]
    delivery = ("esteira_outbox", live.airflow.trigger("esteira_outbox", minutes=0))
    wrong.append("" if live.ended(delivery) == "success" else "the outbox failed")
    sent = live.mails("hopeless", "retraining did not help")
    wrong.append("" if len(sent) == 1 else f"{len(sent)} warnings were delivered")
    outcome.tried += 1
    outcome.lost, outcome.doubled = int(not sent), max(0, len(sent) - 1)
    outcome.examples = [each for each in wrong if each]
    outcome.differing = int(bool(outcome.examples))
    print(f"{outcome.fault}: the run {ended}; {len(sent)} delivered afterwards", flush=True)
    return outcome
