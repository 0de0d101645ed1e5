"""Airflow's database: a real PostgreSQL where there is a wheel for this machine, and what is done where there is none."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import psycopg2
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from ops import database, places
from ops.database import Database

needs_wheel = pytest.mark.skipif(
    database.importlib.util.find_spec(database.WHEEL) is None, reason=f"{database.WHEEL} has no wheel for this machine"
)


@pytest.fixture(autouse=True)
def no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ESTEIRA_DATABASE_URL", raising=False)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A state folder with a space in its path, too long for a socket."""
    place = tmp_path / "a state folder" / ("long-" * 20)
    (place / "airflow").mkdir(parents=True)
    place.chmod(0o700)
    yield place
    places.remove(place)
    assert not places.short_folder(place).exists()
    assert not places.system_folder(place).exists()


def prepared(home: Path) -> tuple[Database, list[str]]:
    said: list[str] = []
    return database.prepare(home, said.append), said


@contextmanager
def running(home: Path, made: Database) -> Iterator[psutil.Process]:
    """PostgreSQL, as supervisord would run it."""
    with (home / "postgres.log").open("ab") as log:
        server = subprocess.Popen(
            made.program, user=made.user or None, cwd=database.data(home), stdout=log, stderr=log, process_group=0
        )
    try:
        database.wait(made)
        yield psutil.Process(server.pid)
    finally:
        server.send_signal(2)
        server.wait(20)


def asked(made: Database, sql: str) -> object:
    with closing(psycopg2.connect(made.url.replace("+psycopg2", ""))) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        connection.commit()
        return cursor.fetchone()[0] if cursor.description else None


@needs_wheel
def test_it_is_reached_over_its_socket_by_its_own_role_only(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__FERNET_KEY", "a secret of Airflow's")
    made, said = prepared(home)
    assert said == ["making Airflow's database"]
    assert made.kind == "postgresql"
    with running(home, made) as server:
        assert str(asked(made, "SHOW server_version")).startswith(database.VERSION)
        assert (
            asked(made, "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = user") is False
        )
        assert server.net_connections(kind="inet") == []
        assert server.environ() == {"LC_ALL": "C", "TZ": "UTC"}
        for stranger in ("postgres", "template1"):
            with pytest.raises(psycopg2.OperationalError, match=r"no pg_hba\.conf entry"):
                asked(Database(made.url.replace("/airflow?", f"/{stranger}?")), "SELECT 1")
        for folder in (database.data(home), database._socket_folder(home)):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert folder.stat().st_uid == server.uids().real
        assert server.uids().real != 0


@needs_wheel
def test_the_asynchronous_address_reaches_it_too(home: Path) -> None:
    made, _ = prepared(home)

    async def one() -> int:
        engine = create_async_engine(made.url.replace("+psycopg2", "+asyncpg"))
        try:
            async with engine.connect() as connection:
                return int((await connection.execute(text("SELECT 1"))).scalar_one())
        finally:
            await engine.dispose()

    with running(home, made):
        assert asyncio.run(one()) == 1


@needs_wheel
def test_after_a_kill_it_starts_again_though_another_process_has_its_number(home: Path) -> None:
    made, _ = prepared(home)
    with running(home, made) as server:
        asked(made, "CREATE TABLE kept AS SELECT 7 AS number")
        children = server.children()
        server.kill()
        psutil.wait_procs([server, *children], timeout=20)
    left = database.data(home) / "postmaster.pid"
    left.write_text(left.read_text().replace(str(server.pid), "1", 1))  # of a process that lives
    made, said = prepared(home)
    assert said == []
    with running(home, made):
        assert asked(made, "SELECT number FROM kept") == 7


@needs_wheel
def test_a_server_that_still_runs_keeps_its_files(home: Path) -> None:
    made, _ = prepared(home)
    with running(home, made):
        with pytest.raises(database.DatabaseError, match="is at work in"):
            database._forget_the_dead(database.data(home), database._socket_folder(home) / database.SOCKET)
        assert (database.data(home) / "postmaster.pid").exists()


@needs_wheel
def test_a_state_folder_that_was_deleted_starts_anew(home: Path) -> None:
    prepared(home)
    shutil.rmtree(home)
    (home / "airflow").mkdir(parents=True)
    _, said = prepared(home)
    assert said == ["making Airflow's database"]


@needs_wheel
def test_data_of_another_version_are_not_touched(home: Path) -> None:
    prepared(home)
    (database.data(home) / "PG_VERSION").write_text("15\n")
    made, said = prepared(home)
    assert made.url == f"sqlite:///{home}/airflow/airflow.db"
    assert f"the data in {database.data(home)} are PostgreSQL 15's" in said[0]
    assert database.data(home).exists()


@needs_wheel
def test_half_a_database_is_made_anew(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "NAME", "no name; for SQL")
    made, said = prepared(home)
    assert made.kind == "sqlite"
    assert "postgres ended with 0" in said[-1]
    assert not database.data(home).exists()
    monkeypatch.undo()
    assert prepared(home)[0].kind == "postgresql"


def test_without_a_wheel_a_line_says_so_and_airflow_runs_on_sqlite(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "WHEEL", "no_such_wheel")
    made, said = prepared(home)
    assert made == Database(f"sqlite:///{home}/airflow/airflow.db")
    assert len(said) == 1
    assert "\n" not in said[0]
    assert "its wheel is not installed" in said[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs another user")
def test_root_without_another_user_runs_on_sqlite(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "OTHER_USER", "no-such-user")
    made, said = prepared(home)
    assert made.kind == "sqlite"
    assert "this machine has no user no-such-user" in said[0]


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("postgresql://u:p@db/airflow", "postgresql+psycopg2://u:p@db/airflow"),
        ("postgres://db/airflow", "postgresql+psycopg2://db/airflow"),
        ("postgresql+psycopg2://db/airflow", "postgresql+psycopg2://db/airflow"),
        ("sqlite:////tmp/a.db", "sqlite:////tmp/a.db"),
    ],
)
def test_another_server_is_named_by_the_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: str, url: str
) -> None:
    monkeypatch.setenv("ESTEIRA_DATABASE_URL", given)
    made, said = prepared(home)
    assert (made, said) == (Database(url), [])
    assert not (home / "postgres").exists()


def test_a_folder_of_somebody_else_s_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.symlink_to(tmp_path)
    with pytest.raises(places.PlaceError, match=f"{place} is not a folder of this user's own"):
        places.own_folder(place)
