"""The embedded set-up: what it stops, what it leaves alone, what it writes. tests/e2e starts a whole one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock

from ops import database, environment, places, processes, stack, supervision
from ops.database import Database
from ops.layout import Stack, StackError

SLEEPER = "import sys, time; print('up', flush=True); time.sleep(120)"
# Ignores SIGTERM, and has a child in a session of its own, as what has escaped has.
ESCAPED = (
    "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True, stdout=subprocess.PIPE); "
    "child.stdout.readline(); print(child.pid, flush=True); time.sleep(120)"
)
LISTENER = (
    "import socket, sys, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
    "print(s.getsockname()[1], flush=True); time.sleep(120)"
)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """A set-up, in a folder with a space and a per cent sign in its name, that was not started."""
    home = tmp_path / "a 100% home"
    home.mkdir()
    for name in ("ESTEIRA_DATABASE_URL", "ESTEIRA_LAKE"):
        monkeypatch.delenv(name, raising=False)
    yield Stack(home, 1, 2, 3)
    shutil.rmtree(places.short_folder(home), ignore_errors=True)


@pytest.fixture
def start() -> Iterator[Callable[..., tuple[psutil.Process, str]]]:
    """Start a program with the environment given; returns its process and its first line."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str, **environment: str) -> tuple[psutil.Process, str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        return psutil.Process(process.pid), process.stdout.readline().strip()

    yield run
    for process in started:
        process.kill()
        process.wait(10)


def own(made: Stack, name: str) -> dict[str, str]:
    return {**processes.environment(made.home), "SUPERVISOR_PROCESS_NAME": name}


def ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_orphans_are_stopped_and_named(made: Stack, start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    scheduler, _ = start(SLEEPER, **own(made, "scheduler"))
    api_server, _ = start(SLEEPER, **own(made, "api-server"))
    mlflow, _ = start(SLEEPER, **own(made, "mlflow"))
    stack.down_all(made)
    assert capsys.readouterr().out == "stopped the set-up: airflow, mlflow\n"
    assert all(map(ended, (scheduler, api_server, mlflow)))
    stack.down_all(made)
    assert capsys.readouterr().out == "nothing is up\n"


def test_the_demo_is_named_as_such(made: Stack, start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    start(SLEEPER, **{**own(made, "mlflow"), **processes.environment(made.home / "demo")})
    stack.down_all(made)
    assert capsys.readouterr().out == "stopped the demo: mlflow\n"


def test_what_escaped_and_what_does_not_listen_is_stopped(
    made: Stack, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_WITHIN", 1)
    parent, child = start(ESCAPED, **own(made, "mlflow"))
    escaped = psutil.Process(int(child))
    assert stack.down(made) == ["mlflow"]
    assert ended(parent)
    assert ended(escaped)


def test_other_processes_are_left_alone(made: Stack, start: Any) -> None:
    stranger, _ = start(SLEEPER)
    other, _ = start(SLEEPER, **processes.environment(made.home.with_name("another")))
    assert stack.down(made) == []
    assert not ended(stranger)
    assert not ended(other)


def test_a_port_that_stays_taken_is_named(made: Stack, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "FREE_WITHIN", 0.5)
    _, port = start(LISTENER)
    start(SLEEPER, **own(made, "mlflow"))
    (made.home / stack.RUNNING).write_text(json.dumps({"ports": [int(port)]}))
    with pytest.raises(StackError, match=f"port {port} is taken by a process that is none of them"):
        stack.down(made)


def test_what_a_killed_set_up_left_is_stopped_before_the_next(
    made: Stack, start: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    left, _ = start(SLEEPER, **own(made, "triggerer"))
    stack._stop_what_was_left(made)
    assert ended(left)
    assert capsys.readouterr().out == "stopping what a killed set-up has left: airflow\n"


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StackError, match=rf"port {port} is taken \(.+\); choose another: ESTEIRA_WEB_PORT="):
            stack._check_port("WEB", port)


@pytest.mark.parametrize("given", ["abc", "0", "99999", "-1", "٣"])
def test_a_port_that_is_none_is_a_sentence(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("ESTEIRA_WEB_PORT", given)
    with pytest.raises(StackError, match=f"ESTEIRA_WEB_PORT is '{given}'; a port is a number from 1 to 65535"):
        Stack.from_environment()


@pytest.mark.parametrize("given", ["garbage", "oracle://user:word@host/x", "postgresql+nothing://user:word@host/x"])
def test_a_database_that_can_not_be_used_is_named_without_its_password(
    made: Stack, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("ESTEIRA_DATABASE_URL", given)
    with pytest.raises(database.UrlError, match="ESTEIRA_DATABASE_URL can't be used") as raised:
        database.prepare(made.home, print)
    assert "word" not in str(raised.value).replace("password", "")


def test_what_fails_to_start_leaves_nothing_behind(made: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_check_port", lambda name, port: None)
    monkeypatch.setattr(database, "prepare", lambda *_: Database("sqlite:///x"))
    stopped: list[Stack] = []
    monkeypatch.setattr(stack, "down", stopped.append)

    def fails(*_: object) -> None:
        raise StackError("Airflow's database can't be prepared")

    monkeypatch.setattr(stack, "_start", fails)
    with pytest.raises(StackError, match="can't be prepared"):
        stack.up(made)
    assert stopped == [made]


def test_a_process_that_was_stopped_is_woken_to_end(made: Stack, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[signal.Signals] = []
    real = processes._send
    monkeypatch.setattr(processes, "_send", lambda some, how: sent.extend([how] * len(some)) or real(some, how))
    left, _ = start(SLEEPER, **own(made, "scheduler"))
    left.suspend()
    assert stack.down(made) == ["airflow"]
    assert ended(left)
    assert sent == [signal.SIGTERM]  # no SIGKILL, much later


def test_two_calls_at_once_do_not_start_it_twice(made: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "_check_port", lambda name, port: None)
    monkeypatch.setattr(stack, "_bring_up", lambda made: pytest.fail("it was started"))
    stack._make_home(made)
    with FileLock(made.home / "up.lock"), pytest.raises(StackError, match="it is being started already, by another"):
        stack.up(made)


def test_what_is_in_the_way_of_the_socket_is_named(made: Stack) -> None:
    stack._make_home(made)
    supervision.write_config(made, Database("sqlite:///x"))
    supervision.socket_path(made).mkdir()
    with pytest.raises(StackError, match=r"supervisor\.sock is in the way of supervisord's socket; remove it"):
        stack._start(made, Database("sqlite:///x"), {})


def test_no_key_or_password_is_in_the_configuration(made: Stack) -> None:
    stack._make_home(made)
    settings = environment.of(made, Database("sqlite:///x"))
    supervision.write_config(made, Database("sqlite:///x"))
    written = (made.home / "supervisord.conf").read_text()
    users = json.loads((made.home / "airflow-users.json").read_text())
    assert users == {"admin": made.password.read_text(), "watchdog": settings["ESTEIRA_API_PASSWORD"]}
    for secret in (*users.values(), *json.loads((made.home / "secrets.json").read_text()).values()):
        assert secret not in written
    again = environment.of(made, Database("sqlite:///x"))
    assert again["ESTEIRA_API_PASSWORD"] != settings["ESTEIRA_API_PASSWORD"]
    assert settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == "sqlite:///x"


def test_clean_removes_what_the_set_up_wrote_and_nothing_else(made: Stack) -> None:
    for home in (made.home, made.home / "demo"):
        each = Stack(home, 1, 2, 3)
        stack._make_home(each)
        environment.of(each, Database("sqlite:///x"))
        places.own_folder(places.short_folder(home))
        (home / "postgres").symlink_to("/nowhere")
    (made.home / "notebooks.lock").touch()
    (made.home / "mine.txt").write_text("a user's own")
    stack.clean(made)
    assert [path.name for path in made.home.iterdir()] == ["mine.txt"]
    for home in (made.home, made.home / "demo"):
        assert not places.short_folder(home).exists()


def test_clean_leaves_no_folder_where_only_a_demo_ran(made: Stack) -> None:
    demo = Stack(made.home / "demo", 1, 2, 3)
    stack._make_home(demo)
    environment.of(demo, Database("sqlite:///x"))
    stack.clean(made)
    assert not made.home.exists()


def test_clean_leaves_a_folder_that_is_no_set_up_s(made: Stack) -> None:
    (made.home / "lake").mkdir()
    stack.clean(made)
    assert (made.home / "lake").exists()


class Fake:
    """An Airflow that has one DAG."""

    def __init__(self, *_: object) -> None:
        self.unpaused: list[str] = []
        Fake.made = self

    def wait_for_dags(self, dag_ids: list[str], seconds: float) -> None:
        if dag_ids != ["kept_score"]:
            raise stack.RunTimeout(f"waited {seconds:g} s")

    def unpause(self, dag_id: str) -> None:
        self.unpaused.append(dag_id)


def test_dags_that_ran_on_sqlite_run_on_after_the_move(
    made: Stack, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack._make_home(made)
    made.password.write_text("x")
    monkeypatch.setattr(stack, "Airflow", Fake)
    old = database.sqlite_file(made.home)
    with closing(sqlite3.connect(old)) as connection:
        connection.execute("CREATE TABLE dag (dag_id TEXT, is_paused BOOLEAN, is_stale BOOLEAN)")
        rows = [("kept_score", 0, 0), ("paused_score", 1, 0), ("gone_score", 0, 0), ("stale_score", 0, 1)]
        connection.executemany("INSERT INTO dag VALUES (?, ?, ?)", rows)
        connection.commit()
    stack._carry_over(made, Database("sqlite:///x"))
    assert old.exists()
    stack._carry_over(made, Database("postgresql://"))
    assert Fake.made.unpaused == ["kept_score"]
    said = capsys.readouterr().out
    assert f"the old one, with connections and variables made in the web UI, is in {old.parent}" in said
    assert "these DAGs are not there any more, or stay paused: gone_score" in said
    assert not old.exists()
