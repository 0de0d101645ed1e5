"""A query through SQLAlchemy. What a driver says may hold a piece of the password, so no error shows it as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

import numpy as np
import pandas as pd

from esteira.data.kinds import EXACT
from esteira.data.sources.columns import plain
from esteira.data.sources.errors import sentence
from esteira.data.sources.reader import BATCH, Part, Reader
from esteira.errors import DataError, OutOfReach
from esteira.spec.sources import SqlSource

HIDDEN = "***"
SHORTEST = 3  # a piece of a secret that is hidden; shorter ones would be found in any text
# SQLSTATE classes of an outage: connection, resources, operator, system, rollback.
OUTAGES = ("08", "40", "53", "57", "58")
SQLITE_WRONG = 1  # SQLITE_ERROR: the statement is wrong; all other codes are of the file


@dataclass(frozen=True)
class SqlReader(Reader):
    """Runs a query."""

    source: SqlSource

    def parts(self, first: date, last: date) -> Iterator[Part]:
        """The rows of the query, some at a time. Raises OutOfReach where the database can't be reached, DataError where the query is wrong.

        Neither has the driver's own error as its cause or context, for that shows the address and the parameters.
        """
        key = "source" if self.source is self.spec.source else "labels.source"
        where = f"model {self.spec.name}: its sql source ({key} in model.yaml)"
        for found in _read(self.source, where, first, last):
            if isinstance(found, Exception):
                raise found
            yield plain(found, "the query", self.spec), ("the query's result", None)


Found = Iterator[pd.DataFrame | DataError | OutOfReach]  # an error ends it


def _read(source: SqlSource, where: str, first: date, last: date) -> Found:
    import sqlalchemy

    failure = None
    try:
        engine = sqlalchemy.create_engine(source.url.get_secret_value())
    except Exception as error:  # whatever a driver raises: its text may hold the password
        failure = DataError(
            f"{where}: the url can't be used: {type(error).__name__}; it is dialect+driver://user:password@host/database, the "
            "driver must be installed, and signs such as @ or / in the password are written %40, %2F"
        )
    if failure is not None:
        yield failure
        return
    try:
        yield from _queried(engine, source, where, first, last)
    finally:
        engine.dispose()


def _queried(engine: Any, source: SqlSource, where: str, first: date, last: date) -> Found:
    import sqlalchemy

    failure = None
    try:
        connection = engine.connect().execution_options(
            stream_results=True
        )  # not all rows at once, where the driver can
    except Exception as error:
        kind = OutOfReach if _is_of_the_network(error) else DataError
        failure = kind(
            f"{where}: can't connect to the database: {_named(error)}{_of_sqlite(error, source)}; see that it is up, and that host, "
            "port, user, password and options in the url are right"
        )
    if failure is not None:  # outside of the except block, so that nothing of the driver's comes with it
        yield failure
        return
    try:
        bounds = {"first": first.isoformat(), "last": last.isoformat()}
        with connection.execute(sqlalchemy.text(source.query), bounds) as found:
            names, rows = [*found.keys()], found.fetchmany(BATCH)
            yield _framed(names, rows)
            while rows := found.fetchmany(BATCH):
                yield _framed(names, rows)
    except Exception as error:
        failure = _failed(error, source, where)
    finally:
        with suppress(Exception):  # it may say what it must not
            connection.close()
    if failure is not None:
        yield failure


def _framed(names: list[str], rows: Sequence[Any]) -> pd.DataFrame:
    """Rows as a frame; numbers with more digits than a float stay what they are where one is empty, or a decimal."""
    made = pd.DataFrame.from_records([tuple(row) for row in rows], columns=names, coerce_float=True)
    for at in range(len(names)):
        values = made.iloc[:, at]
        if values.dtype == "float64" and (values.abs() > EXACT).any():
            given = [row[at] for row in rows]
            if any(isinstance(value, int | Decimal) for value in given):
                made.isetitem(at, np.array(given, dtype=object))
    return made


def _failed(error: Exception, source: SqlSource, where: str) -> DataError | OutOfReach:
    if _is_outage(error):
        return OutOfReach(f"{where}: the database failed: {_named(error)}; see that it is up, and run the task again")
    said = _without_secrets(sentence(getattr(error, "orig", None) or error)[:1000], source.url.get_secret_value())
    return DataError(f"{where}: the query failed: {_named(error)}: {said[:500]}; correct the query in model.yaml")


def _named(error: Exception) -> str:
    """The class of an error, and of the driver's own within it: nothing that either says."""
    inner = getattr(error, "orig", None)
    return type(error).__name__ + (f" ({type(inner).__module__}.{type(inner).__name__})" if inner is not None else "")


def _of_sqlite(error: Exception, source: SqlSource) -> str:
    """What SQLite says, which has no user and no password; what other drivers say of a connection may be their address."""
    inner = getattr(error, "orig", None)
    if inner is None or type(inner).__module__ != "sqlite3":
        return ""
    return f": {_without_secrets(sentence(inner), source.url.get_secret_value())}"


def _is_of_the_network(error: Exception) -> bool:
    """Whether a connection may succeed the next time: not with an option that the driver does not know."""
    import sqlalchemy.exc as known

    kinds = known.OperationalError | known.InterfaceError | known.InternalError | known.TimeoutError | OSError
    return isinstance(error, kinds)


def _is_outage(error: Exception) -> bool:
    """Whether it is the database that failed, and not the query: by the driver's code where it gives one."""
    import sqlalchemy.exc as known

    if isinstance(error, known.InterfaceError | known.TimeoutError | OSError) or getattr(
        error, "connection_invalidated", False
    ):
        return True
    inner = getattr(error, "orig", None)
    state = getattr(inner, "sqlstate", None) or getattr(inner, "pgcode", None)
    if isinstance(state, str):
        return state.startswith(OUTAGES)
    code = getattr(inner, "sqlite_errorcode", None)
    if code is not None:
        return bool(code != SQLITE_WRONG) and isinstance(error, known.OperationalError)
    return isinstance(error, known.OperationalError)


def _without_secrets(text: str, url: str) -> str:
    """The text without any piece of the address's user, password, host or query, however it is written."""
    for piece in sorted(set(_pieces(url)), key=len, reverse=True):
        text = re.sub(re.escape(piece), HIDDEN, text, flags=re.IGNORECASE)
    return text


def _pieces(url: str) -> Iterator[str]:
    import sqlalchemy

    made = sqlalchemy.make_url(url)
    database = made.database or ""
    secrets = [made.username, made.password, made.host, database if re.search("[@/]", database) else ""]
    secrets += [value for given in made.query.values() for value in ([given] if isinstance(given, str) else given)]
    for secret in filter(None, secrets):
        for written in (
            secret,
            unquote(secret),
            unquote_plus(secret),
            quote(secret, safe=""),
            quote_plus(secret),
            repr(secret),
        ):
            yield from (piece for piece in (written, *re.split(r"[\W_]+", written)) if len(piece) >= SHORTEST)
