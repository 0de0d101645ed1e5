"""What is out of reach, as against what is wrong: an outage ends by itself, so the task is tried again."""

from __future__ import annotations

REMOTE = ("deltalake", "mlflow", "requests", "sqlalchemy", "urllib3")


def is_outage(error: BaseException) -> bool:
    """Whether an error is of the lake, MLflow, the mail server, a disk or a network, and not of the data or the code."""
    kinds = type(error).__mro__
    return issubclass(kinds[0], OSError) or any(kind.__module__.partition(".")[0] in REMOTE for kind in kinds)
