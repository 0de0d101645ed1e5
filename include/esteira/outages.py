"""What is out of reach, as against what is wrong: an outage ends by itself, so the task is tried again."""

from __future__ import annotations

from esteira.errors import Conflict

WRONG_PLACE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
# By name, so that nothing need be imported: errors of a network or a server, which may end by themselves.
TRANSIENT = frozenset(
    [
        "httpx.TransportError",
        "sqlalchemy.InterfaceError",
        "sqlalchemy.OperationalError",
        "sqlalchemy.TimeoutError",
        "urllib3.HTTPError",
    ]
)


def is_outage(error: BaseException) -> bool:
    """Whether an error is of the lake, MLflow, the mail server, a disk or a network, and not of the data or the code."""
    if isinstance(error, Conflict):  # after so many tries; Delta's other errors are OutOfReach by now
        return True
    if "mlflow.MlflowException" in _names(error):
        return int(error.get_http_status_code()) >= 500  # type: ignore[attr-defined]
    return is_transient(error)


def is_transient(error: BaseException) -> bool:
    """Whether an error is of a disk, a network or a server, whoever met it: a model's own code, too.

    MLflow is not asked about: where its client is used wrongly it may say the same as where its server has failed.
    """
    if isinstance(error, OSError):
        return not isinstance(error, WRONG_PLACE)
    return bool(_names(error) & TRANSIENT)


def _names(error: BaseException) -> set[str]:
    return {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
