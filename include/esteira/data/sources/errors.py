"""Two helpers of the readers: an error in one line, and whether it is the storage that failed."""

from __future__ import annotations

import errno

from esteira.errors import OutOfReach


def sentence(error: BaseException) -> str:
    """An error's text in one line; none where it fails to give any."""
    try:
        return " ".join(str(error).split())
    except Exception:  # a user's own error may raise where it should say what it is
        return ""


def require_reachable(path: str, error: Exception) -> None:
    """Raise OutOfReach where it is the storage that failed, and not what is in the file."""
    number = getattr(error, "errno", None)
    if "AWS Error" in str(error):
        raise OutOfReach(f"{path}: can't be read: {sentence(error)[:300]}; run the task again") from error
    if number and number not in (errno.ENOENT, errno.EISDIR):
        raise OutOfReach(
            f"{path}: can't be read: {error}; see that its volume is there, and run the task again"
        ) from error
