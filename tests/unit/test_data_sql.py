"""A database that fails: what is said of it has no piece of its address."""

from __future__ import annotations

import logging
import re
import sqlite3
import traceback
from datetime import date
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy
from esteira import data
from esteira.data.sources import sql
from esteira.errors import DataError, OutOfReach
from esteira.spec import ModelSpec

from tests import models

DAY = date(2026, 1, 2)
PASSWORDS = ["p@ss/w%rd one", "tor://n@do", "50%40off", "plain-secret", "ab:cd?ef=gh#ij", "quo'te\"d"]
QUERY = "select * from t where at between :first and :last"


def declare(tmp_path: Path, url: str, query: str = QUERY) -> ModelSpec:
    source = f'{{{{kind: sql, url: "{url}", query: "{query}"}}}}'
    return models.write(tmp_path, yaml=models.YAML.replace("{{kind: python, function: source.read}}", source))


def everything(error: BaseException) -> str:
    """All that a log could show of an error, and of those that it hangs on."""
    assert error.__cause__ is None
    assert error.__context__ is None
    return "".join(traceback.format_exception(error))


def pieces(password: str) -> list[str]:
    return [
        password,
        quote(password, safe=""),
        *(part for part in re.split(r"\W+", password) if len(part) > 2),
    ]


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_database_out_of_reach_is_named_without_its_address(
    tmp_path: Path, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    written = quote(password, safe="")
    spec = declare(tmp_path, f"postgresql+psycopg2://us3rname:{written}@127.0.0.1:1/db?application_name=t0ken")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(OutOfReach, match=r"model sales: its sql source .*can't connect") as said,
    ):
        data.read(spec, DAY, DAY)
    shown = everything(said.value) + caplog.text
    assert "OperationalError" in shown
    for secret in (*pieces(password), "us3rname", "127.0.0.1", "t0ken"):
        assert secret not in str(said.value) + caplog.text


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_that_is_not_written_as_a_url_wants_it_is_not_shown_either(tmp_path: Path, password: str) -> None:
    url = f"postgresql+psycopg2://us3rname:{password}@nowhere.invalid:1/db".replace('"', "'")
    with pytest.raises((DataError, OutOfReach), match="model sales: its sql source") as said:
        data.read(declare(tmp_path, url), DAY, DAY)
    assert everything(said.value)
    for secret in (*pieces(password), "us3rname", "nowhere"):
        assert secret not in str(said.value)


@pytest.mark.parametrize(
    "url", ["no url", "frob://u:sekret@h/d", "postgresql+frob://u:sekret@h/d", "postgresql://u:sekret@h:port/d"]
)
def test_a_url_that_can_not_be_used_is_a_persons_matter(tmp_path: Path, url: str) -> None:
    with pytest.raises(DataError, match=r"the url can't be used: \w+; it is dialect\+driver://") as said:
        data.read(declare(tmp_path, url), DAY, DAY)
    assert "sekret" not in everything(said.value)


def test_a_wrong_query_is_a_persons_matter_and_shows_no_parameters(tmp_path: Path) -> None:
    spec = declare(tmp_path, f"sqlite:///{tmp_path}/x.db")
    with pytest.raises(
        DataError, match=r"the query failed: OperationalError \(sqlite3.OperationalError\): no such table: t; c"
    ) as said:
        data.read(spec, DAY, DAY)
    assert "2026-01-02" not in everything(said.value)


def test_a_database_that_is_locked_is_tried_again(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "x.db") as connection:
        connection.execute("create table t (at text)")
    holder = sqlite3.connect(tmp_path / "x.db", isolation_level=None)
    holder.execute("begin exclusive")
    try:
        with pytest.raises(OutOfReach, match="the database failed: OperationalError"):
            data.read(declare(tmp_path, f"sqlite:///{tmp_path}/x.db?timeout=0.1"), DAY, DAY)
    finally:
        holder.close()


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_a_database_says_of_a_query_has_no_piece_of_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    class SaidByDriver(Exception):
        pgcode = "42501"

    text = f"permission denied for us3rname at h0st.example with {password} {quote(password)} {password.upper()}"

    def execute(*_: object, **__: object) -> None:
        raise sqlalchemy.exc.ProgrammingError("select", {"first": "t0ps"}, SaidByDriver(text))

    monkeypatch.setattr(sqlalchemy.Connection, "execute", execute)
    url = f"sqlite:///{tmp_path}/x.db"
    secret = f"postgresql://us3rname:{quote(password, safe='')}@h0st.example/db"
    monkeypatch.setattr(sql, "_without_secrets", lambda said, _, real=sql._without_secrets: real(said, secret))
    with pytest.raises(DataError, match=r"the query failed: ProgrammingError .*permission denied for") as said:
        data.read(declare(tmp_path, url), DAY, DAY)
    assert everything(said.value)
    for piece in (*pieces(password), "us3rname", "h0st", "example", "t0ps"):
        assert piece.lower() not in str(said.value).lower()


@pytest.mark.parametrize(
    ("state", "outage"), [("08006", True), ("57P01", True), ("40001", True), ("42P01", False), ("22012", False)]
)
def test_the_drivers_code_tells_an_outage_from_a_wrong_query(state: str, outage: bool) -> None:
    inner = Exception("x")
    inner.sqlstate = state  # type: ignore[attr-defined]
    assert sql._is_outage(sqlalchemy.exc.OperationalError("select", {}, inner)) == outage


def test_an_option_that_the_driver_does_not_know_is_a_persons_matter(tmp_path: Path) -> None:
    spec = declare(tmp_path, "postgresql+psycopg2://u:s3cret@127.0.0.1:1/d?t0psecret=s3cret")
    with pytest.raises(
        DataError, match=r"can't connect to the database: ProgrammingError .*; see that it is up"
    ) as said:
        data.read(spec, DAY, DAY)
    for secret in ("s3cret", "t0psecret"):
        assert secret not in str(said.value)
    assert everything(said.value)


def test_keys_keep_their_digits_where_one_is_empty(tmp_path: Path) -> None:
    big = 1_400_000_000_000_000_001
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("create table t (site integer, at text, hour integer, heat real, open integer, amount real)")
        rows = [(number, "2026-01-02", 1, 2.5, 1, 7.0) for number in (big, None, big + 1)]
        connection.executemany("insert into t values (?, ?, ?, ?, ?, ?)", rows)
    connection.close()
    found = data.read(declare(tmp_path, f"sqlite:///{tmp_path}/t.db"), DAY, DAY)
    assert list(found["site"]) == [big, None, big + 1]
    assert (found["heat"].dtype, found["hour"].dtype) == ("float64", "int64")
