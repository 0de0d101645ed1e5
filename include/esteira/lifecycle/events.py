"""What happened in a model's life, as the ledger keeps it: each event has an id of its own, a sentence, and a row."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any, ClassVar, Self

from esteira.errors import UnknownEvent

CHECK = "check:"  # how the runs of checks are called
Row = dict[str, Any]


@dataclass(frozen=True)
class Kept:
    """A row as the ledger keeps it; `about` is what every event has."""

    id: str
    from_state: str
    to_state: str
    version: int | None
    facts: Mapping[str, Any]
    about: Mapping[str, Any]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Self:
        """From the columns of the table."""
        about = {"day": row["effective_day"], "by": str(row["by"] or ""), "why": str(row["why"] or "")}
        version = None if row["version"] is None else int(row["version"])
        facts = json.loads(row["evidence"] or "{}")
        return cls(str(row["id"]), str(row["from_state"] or ""), str(row["to_state"]), version, facts, about)

    @property
    def kind(self) -> str:
        """How its id begins."""
        return self.id.partition(":")[0]

    @property
    def rest(self) -> str:
        """What follows in its id."""
        return self.id.partition(":")[2]

    @property
    def of_version(self) -> int:
        """The version that it names. Raises UnknownEvent where it names none."""
        if self.version is None:
            raise UnknownEvent(f"the ledger's row {self.id} ({self.to_state!r}) names no version")
        return self.version

    def day(self, name: str) -> date | None:
        """The day among its facts that has this name; None where none has."""
        return date.fromisoformat(self.facts[name]) if name in self.facts else None

    def others(self, *names: str) -> dict[str, Any]:
        """Its facts but those of these names."""
        return {name: value for name, value in self.facts.items() if name not in names}


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

    @classmethod
    @abstractmethod
    def of_row(cls, kept: Kept) -> Event:
        """The event that a row of its kind keeps."""

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
class Registered(Event):
    """A version was registered from the run `by`; `sha256` is its model file's, `compiled` that of its libraries.

    Where it has none, `not_compiled` says why scikit-learn scores it. `classes` and `trained_through` are what else it takes to
    score with the file; versions of before 0.3 have no day there.
    """

    state: ClassVar[str] = "challenger"

    version: int
    sha256: str = ""
    compiled: str = ""
    not_compiled: str = ""
    classes: tuple[str, ...] = ()
    trained_through: str = ""

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        return cls(
            version=kept.of_version,
            sha256=kept.facts.get("sha256", ""),
            compiled=kept.facts.get("compiled", ""),
            not_compiled=kept.facts.get("engine", ""),
            classes=tuple(kept.facts.get("classes", ())),
            trained_through=kept.facts.get("trained_through", ""),
            **kept.about,
        )

    @property
    def id(self) -> str:
        """One for a version."""
        return f"challenger:{self.version}"

    def evidence(self) -> Mapping[str, Any]:
        """The digests of the model's file, and of what was compiled of it, and what belongs to it."""
        more = {
            "compiled": self.compiled,
            "engine": self.not_compiled,
            "classes": list(self.classes),
            "trained_through": self.trained_through,
        }
        return {"sha256": self.sha256, **{name: value for name, value in more.items() if value}}


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

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        return cls(
            promotion=int(kept.rest),
            version=kept.of_version,
            replaced=int(kept.facts["replaced"]),
            worse=kept.to_state == "worse",
            facts=kept.others("replaced"),
            **kept.about,
        )

    @property
    def id(self) -> str:
        """One for a promotion."""
        return self.id_of(self.promotion)

    @staticmethod
    def id_of(promotion: int) -> str:
        """The id of the one about the promotion of a number."""
        return f"verified:{promotion}"

    def row(self) -> Row:
        """The row; its state says how it ended."""
        return {**super().row(), "to_state": "worse" if self.worse else self.state}

    def evidence(self) -> Mapping[str, Any]:
        """What it was judged by."""
        return {**self.facts, "replaced": self.replaced}


@dataclass(frozen=True)
class Known:
    """What was known when a loop began: what is new later opens the next one early.

    `spec` is the digest of the model.yaml and its code, `past` how many days there were to learn from, `off` by which share of the
    error that its limit allows a metric was out of range, `drifted` whether too many features had drifted.
    """

    spec: str = ""
    past: int = 0
    off: float = 0.0
    drifted: bool = False


@dataclass(frozen=True, kw_only=True)
class Unrecovered(Event):
    """A loop of attempts did not bring the champion `version` back into its range on the window that ends with `last`.

    `improved`: one of them was better, and promoted; `half_way`: by training, and by at least half of what it took. `met`: one was
    within every limit, though it was not better. `reached` is the best that they came to, by metric. `news` is what was new since the loop before.
    """

    state: ClassVar[str] = "unrecovered"
    before: ClassVar[str] = "champion"

    version: int
    last: date
    improved: bool = False
    half_way: bool = False
    met: bool = False
    reached: Mapping[str, float] = field(default_factory=dict)
    known: Known = Known()
    news: str = ""

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        version, _, last = kept.rest.partition(":")
        return cls(
            version=int(version),
            last=date.fromisoformat(last),
            improved=bool(kept.facts["improved"]),
            half_way=bool(kept.facts.get("half_way", False)),
            met=bool(kept.facts["met"]),
            reached=kept.facts["reached"],
            known=Known(**kept.facts["known"]),
            news=kept.facts["news"],
            **kept.about,
        )

    @property
    def id(self) -> str:
        """One for a champion and a window."""
        return f"unrecovered:{self.version}:{self.last}"

    def evidence(self) -> Mapping[str, Any]:
        """What came of it, and what was known then."""
        about = {"improved": self.improved, "half_way": self.half_way, "met": self.met, "news": self.news}
        return {**about, "reached": dict(self.reached), "known": vars(self.known)}


@dataclass(frozen=True, kw_only=True)
class Recovered(Event):
    """After loops that had not helped every metric of the champion `version` is in range on the window that ends with `last`.

    `healed`: and so on as many windows as a violation is judged by, which ends the row of loops.
    """

    state: ClassVar[str] = "recovered"
    before: ClassVar[str] = "unrecovered"

    version: int
    last: date
    healed: bool = False

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        version, _, last = kept.rest.partition(":")
        return cls(version=int(version), last=date.fromisoformat(last), healed=bool(kept.facts["healed"]), **kept.about)

    @property
    def id(self) -> str:
        """One for a champion and a window."""
        return f"recovered:{self.version}:{self.last}"

    def evidence(self) -> Mapping[str, Any]:
        """Whether the row of loops ends with it."""
        return {"healed": self.healed}


@dataclass(frozen=True, kw_only=True)
class Warned(Event):
    """People were told that the loop did not bring the champion `version` back on the window that ends with `last`."""

    state: ClassVar[str] = "warned"

    version: int
    last: date

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        version, _, last = kept.rest.partition(":")
        return cls(version=int(version), last=date.fromisoformat(last), **kept.about)

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

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        return cls(version=kept.of_version, **kept.about)

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

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        version, _, last = kept.rest.partition(":")
        return cls(version=int(version), last=date.fromisoformat(last), **kept.about)

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

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        return cls(promotion=int(kept.rest), version=kept.of_version, **kept.about)

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

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From any row."""
        return cls(
            name=kept.id,
            to_state=kept.to_state,
            from_state=kept.from_state,
            about=kept.version,
            facts=kept.facts,
            **kept.about,
        )

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


def run_key(day: date) -> str:
    """What the runs of a day's check are known by in MLflow, its events in the ledger, and its predictions in the tables."""
    return f"{CHECK}{day}"
