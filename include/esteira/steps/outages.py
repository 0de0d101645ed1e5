"""What is out of reach, as against what is wrong: an outage ends by itself, so the task is tried again."""

from __future__ import annotations

from esteira.data import TRANSIENT
from esteira.errors import Conflict, OutOfReach

WRONG = (FileNotFoundError, IsADirectoryError, NotADirectoryError)


def is_outage(error: BaseException) -> bool:
    """Whether an error is of the lake, MLflow, the mail server, a disk or a network, and not of the data or the code."""
    if isinstance(error, Conflict):  # after so many tries
        return True
    if isinstance(error, OSError):
        return isinstance(error, OutOfReach) or not isinstance(error, WRONG)
    if isinstance(error, Conflict):  # Delta's other errors are OutOfReach by now
        return True
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    if "mlflow.MlflowException" in names:
        return int(error.get_http_status_code()) >= 500  # type: ignore[attr-defined]
    return bool(names & TRANSIENT)
