"""What happened in a model's life, as the ledger keeps it: each event has an id of its own, a sentence, and a row."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, ClassVar

from esteira.errors import UnknownEvent

ROLLBACK = "rollback/"  # who a rollback of version 0.1 was by; its row looked like a promotion's
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Event(ABC):
    """A change in a model's life. `day` is the first day that it is about, `by` who or what made it, `why` the sentence."""

    state: ClassVar[str]  # the row's to_state
    before: ClassVar[str] = ""  # the row's from_state

    day: date
    by: str
    why: str

    @property
    @abstractmethod
    def id(self) -> str:
        """Under which the ledger takes it once."""

    @property
    def of_version(self) -> int | None:
        """The version that it is about, if it is about one."""
        return getattr(self, "version", None)

    def evidence(self) -> Mapping[str, Any]:
        """What else the row keeps."""
        return {}

    def row(self) -> Row:
        """The row that keeps it, without the time at which it was written."""
        return {
            "id": self.id,
            "effective_day": self.day,
            "version": self.of_version,
            "from_state": self.before,
            "to_state": self.state,
            "why": self.why,
            "evidence": json.dumps(self.evidence(), sort_keys=True),
            "by": self.by,
        }


@dataclass(frozen=True, kw_only=True)
class Numbered(Event):
    """An event that changes which version's predictions are published.

    All kinds of them share one sequence and so one kind of id: of two that were made at once only one is written, and the
    other looks again.
    """

    number: int

    @property
    def id(self) -> str:
        """`champion:` for every kind, as promotions have been called since 0.1."""
        return f"champion:{self.number}"


@dataclass(frozen=True, kw_only=True)
class Registered(Event):
    """A version was registered from the run `by`; `sha256` is its model file's."""

    state: ClassVar[str] = "challenger"

    version: int
    sha256: str = ""

    @property
    def id(self) -> str:
        """One for a version."""
        return f"challenger:{self.version}"

    def evidence(self) -> Mapping[str, Any]:
        """The digest of the model's file."""
        return {"sha256": self.sha256}


@dataclass(frozen=True, kw_only=True)
class Promoted(Numbered):
    """A version serves from `day` on, and takes the place of what was published from `replaces_from` on.

    `measured` is the champion that it was compared with. Rows of 0.1 do not say `replaces_from`.
    """

    state: ClassVar[str] = "champion"
    before: ClassVar[str] = "challenger"

    version: int
    measured: int | None
    replaces_from: date | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def evidence(self) -> Mapping[str, Any]:
        """What it was judged by, and from which day on it replaces."""
        since = {"replaces_from": str(self.replaces_from)} if self.replaces_from else {}
        return {**self.facts, **since, "replaces": self.measured}


@dataclass(frozen=True, kw_only=True)
class RolledBack(Numbered):
    """The promotions of the numbers `voids` count no more: `version` serves again from `day` on.

    With `first_day` only the days from then on go back. Rows of 0.1 do not say what they void: `bad`, the version that was
    champion, tells.
    """

    state: ClassVar[str] = "rolled back to"
    before: ClassVar[str] = "champion"

    version: int
    bad: int
    voids: tuple[int, ...] | None
    first_day: date | None = None

    def evidence(self) -> Mapping[str, Any]:
        """What it voids, and from which day on."""
        first = {"first_day": str(self.first_day)} if self.first_day else {}
        return {"rolled_back": self.bad, "voids": list(self.voids or ()), **first}


@dataclass(frozen=True, kw_only=True)
class Undone(Numbered):
    """The roll-back of the number `undoes` counts no more: `version` serves again from `day` on."""

    state: ClassVar[str] = "roll-back undone"
    before: ClassVar[str] = "champion"

    version: int
    undoes: int

    def evidence(self) -> Mapping[str, Any]:
        """The roll-back."""
        return {"undoes": self.undoes}


@dataclass(frozen=True, kw_only=True)
class Pinned(Numbered):
    """A person chose the version for the days `day` to `last`, whatever is promoted, until it is released; by a `run`."""

    state: ClassVar[str] = "pinned"

    version: int
    last: date
    run: str = ""

    def evidence(self) -> Mapping[str, Any]:
        """The last day, and the run."""
        return {"last_day": str(self.last), "run": self.run}


@dataclass(frozen=True, kw_only=True)
class Released(Numbered):
    """For the days `day` to `last` no pin counts that was made before."""

    state: ClassVar[str] = "released"

    last: date

    def evidence(self) -> Mapping[str, Any]:
        """The last day."""
        return {"last_day": str(self.last)}


@dataclass(frozen=True, kw_only=True)
class Verified(Event):
    """The promotion of the number `promotion` was compared, over its first window, with the version that it replaced."""

    state: ClassVar[str] = "verified"
    before: ClassVar[str] = "champion"

    promotion: int
    version: int
    replaced: int
    worse: bool
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """One for a promotion."""
        return f"verified:{self.promotion}"

    def row(self) -> Row:
        """The row; its state says how it ended."""
        return {**super().row(), "to_state": "worse" if self.worse else self.state}

    def evidence(self) -> Mapping[str, Any]:
        """What it was judged by."""
        return {**self.facts, "replaced": self.replaced}


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """The loop did not bring the champion `version` back into its range on the window that ends with `last`."""

    state: ClassVar[str] = "warned"

    version: int
    last: date

    @property
    def id(self) -> str:
        """One for a champion and a window."""
        return f"warned:{self.version}:{self.last}"


@dataclass(frozen=True, kw_only=True)
class Rejected(Event):
    """The evaluation of a version did not allow its promotion."""

    state: ClassVar[str] = "rejected"
    before: ClassVar[str] = "challenger"

    version: int

    @property
    def id(self) -> str:
        """One for a version."""
        return f"rejected:{self.version}"


@dataclass(frozen=True, kw_only=True)
class Drifted(Event):
    """Too many features of the window that ends with `last` drifted since the champion `version` was trained."""

    state: ClassVar[str] = "drifted"

    version: int
    last: date

    @property
    def id(self) -> str:
        """One for a champion and a window."""
        return f"drifted:{self.version}:{self.last}"

    @property
    def of_version(self) -> int | None:
        """None: its rows have never named the version but in their id."""
        return None


@dataclass(frozen=True, kw_only=True)
class Dated(Event):
    """From `day` on the promotion of the number `promotion`, of a row of 0.1 that does not say so, had replaced predictions."""

    state: ClassVar[str] = "dated"
    before: ClassVar[str] = "champion"

    promotion: int
    version: int

    @property
    def id(self) -> str:
        """One for a promotion."""
        return f"dated:{self.promotion}"


@dataclass(frozen=True, kw_only=True)
class Noted(Event):
    """Any other row, such as those of mails: kept as it is, and no part of the state."""

    state: ClassVar[str] = ""  # each has its own

    name: str
    to_state: str
    from_state: str = ""
    about: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The row's own."""
        return self.name

    @property
    def of_version(self) -> int | None:
        """The row's own."""
        return self.about

    def evidence(self) -> Mapping[str, Any]:
        """The row's own."""
        return self.facts

    def row(self) -> Row:
        """The row as it was."""
        return {**super().row(), "to_state": self.to_state, "from_state": self.from_state}


def effective_day(as_of: date) -> date:
    """The first day that a version of `as_of` serves: what it learnt was known when `as_of` had ended."""
    return as_of + timedelta(days=1)


def from_row(row: Mapping[str, Any]) -> Event:
    """The event that a row of the ledger keeps. Raises UnknownEvent where it changes what is published in a way not known."""
    facts = json.loads(row["evidence"] or "{}")
    name, state = str(row["id"]), str(row["to_state"])
    about = {"day": row["effective_day"], "by": str(row["by"] or ""), "why": str(row["why"] or "")}
    version = None if row["version"] is None else int(row["version"])
    kind, _, rest = name.partition(":")
    if kind == "champion":
        return _numbered(int(rest), state, version, facts, about)
    if kind == "challenger" and version is not None:
        return Registered(version=version, sha256=facts.get("sha256", ""), **about)
    if kind == "verified" and version is not None:
        replaced = int(facts.pop("replaced"))
        worse = state == "worse"
        return Verified(promotion=int(rest), version=version, replaced=replaced, worse=worse, facts=facts, **about)
    if kind == "rejected" and version is not None:
        return Rejected(version=version, **about)
    if kind == "dated" and version is not None:
        return Dated(promotion=int(rest), version=version, **about)
    if kind in ("warned", "drifted"):
        number, _, last = rest.partition(":")
        made = Warned if kind == "warned" else Drifted
        return made(version=int(number), last=date.fromisoformat(last), **about)
    return Noted(
        name=name, to_state=state, from_state=str(row["from_state"] or ""), about=version, facts=facts, **about
    )


def _numbered(number: int, state: str, version: int | None, facts: dict[str, Any], about: dict[str, Any]) -> Numbered:
    given = {"number": number, **about}
    if state == Released.state:
        return Released(last=date.fromisoformat(facts["last_day"]), **given)
    if version is None or state not in (Promoted.state, RolledBack.state, Undone.state, Pinned.state):
        raise UnknownEvent(
            f"the ledger's row champion:{number} is {state!r}, which this version of Esteira does not know; it was written by a "
            "newer one: use that"
        )
    if state == Pinned.state:
        return Pinned(
            version=version, last=date.fromisoformat(facts["last_day"]), run=str(facts.get("run", "")), **given
        )
    if state == Undone.state:
        return Undone(version=version, undoes=int(facts["undoes"]), **given)
    if state == RolledBack.state:
        first = date.fromisoformat(facts["first_day"]) if "first_day" in facts else None
        return RolledBack(
            version=version, bad=int(facts["rolled_back"]), voids=tuple(facts["voids"]), first_day=first, **given
        )
    if str(about["by"]).startswith(ROLLBACK):
        return RolledBack(version=version, bad=int(facts["rolled_back"]), voids=None, **given)
    measured = facts.pop("replaces", None)
    since = facts.pop("replaces_from", None)
    replaces_from = date.fromisoformat(since) if since else None
    return Promoted(version=version, measured=measured, replaces_from=replaces_from, facts=facts, **given)
