"""Every error of ours that crosses a module: what a user can mend, and what comes back by itself."""

from __future__ import annotations

from esteira.text import printable


class EsteiraError(Exception):
    """What a user can mend; the text says how."""


class OutOfReach(OSError):
    """Storage or a server can't be reached just now: the text says which, why, and how to mend it. Trying again may help."""


class SpecError(EsteiraError):
    """A model.yaml is wrong. The text has a line for each mistake: where, what was got, what is allowed, the mend.

    Airflow keeps it in its database, which takes no NUL and no half a character: such signs are escaped.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(printable(text))


class DataError(EsteiraError):
    """A source can't be used as it is. The text says what was wrong, where, and how to mend it."""


class Unfinished(OutOfReach):
    """A file is still being written, or is not there yet: trying again helps, unless it was cut off for good."""


class Unaccounted(Exception):
    """A day's rows read are not its rows published and quarantined.

    Not for the user to mend: another writer of the day is at work, and a retry sees its end.
    """


class NoChampion(EsteiraError):
    """No version was promoted for a day yet."""


class Conflict(Exception):
    """Another writer of the same rows was faster. Nothing was written; trying again, from a fresh read, helps."""


class Superseded(Exception):
    """What was to be written was computed from a state that is no longer the last one. Nothing was written; it is done anew."""


class ModelRefused(EsteiraError):
    """A model file holds types outside the allow-list, or is not in the skops format."""


class Damaged(EsteiraError):
    """A table's log can't be read, or is gone. Nothing that runs again mends it; the text says what does."""


class UnknownVersion(EsteiraError):
    """A model has no such version."""


class Refused(EsteiraError):
    """What the state of a model's life does not allow; the text says why, and what to do."""


class UnknownEvent(EsteiraError):
    """A row of the ledger changes what is published, and this version does not know how."""


class TooSlow(Exception):
    """Something took longer than it may."""
