"""What is an outage, which ends by itself, and what is wrong."""

from __future__ import annotations

import smtplib

import httpx
import pytest
import sqlalchemy.exc
from esteira.errors import Conflict, OutOfReach
from esteira.outages import is_outage, is_transient
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException

LOCKED = sqlalchemy.exc.OperationalError("select 1", {}, Exception("locked"))


@pytest.mark.parametrize(
    ("error", "outage", "transient"),
    [
        (OutOfReach("the lake"), True, True),
        (ConnectionRefusedError(), True, True),
        (smtplib.SMTPServerDisconnected(), True, True),
        (httpx.ConnectError("refused"), True, True),
        (LOCKED, True, True),
        (Conflict("a conflict"), True, False),
        (MlflowException("API request failed"), True, False),
        (MlflowException("no such run", INVALID_PARAMETER_VALUE), False, False),
        (sqlalchemy.exc.ArgumentError("a wrong address"), False, False),
        (FileNotFoundError("features.csv"), False, False),
        (ValueError("NaN"), False, False),
        (MemoryError(), False, False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_wrong_is_no_outage(error: BaseException, outage: bool, transient: bool) -> None:
    assert (is_outage(error), is_transient(error)) == (outage, transient)
