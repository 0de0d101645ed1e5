"""The events that change which version's predictions are published: of all of them there is one order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, ClassVar, Self

from esteira.lifecycle.events import Event, Kept

ROLLBACK = "rollback/"  # who a rollback of version 0.1 was by; its row looked like a promotion's


@dataclass(frozen=True, kw_only=True)
class Numbered(Event):
    """An event that changes which version's predictions are published.

    All kinds of them share one sequence and so one kind of id: of two that were made at once only one is written, and the
    other looks again.
    """

    serves: ClassVar[bool] = False  # whether its version is from `day` on the one that serves

    number: int

    @property
    def id(self) -> str:
        """`champion:` for every kind, as promotions have been called since 0.1."""
        return f"champion:{self.number}"


@dataclass(frozen=True, kw_only=True)
class Promoted(Numbered):
    """A version serves from `day` on, and takes the place of what was published from `replaces_from` on.

    `measured` is the champion that it was compared with. Rows of 0.1 do not say `replaces_from`. Where the version was fitted
    again for serving, `twin` is the one that was measured in its place, and `seen` the last day of what it was fitted on: the
    predictions of days until then are the twin's, which was fitted on less.
    """

    state: ClassVar[str] = "champion"
    before: ClassVar[str] = "challenger"
    serves: ClassVar[bool] = True

    version: int
    measured: int | None
    replaces_from: date | None = None
    twin: int | None = None
    seen: date | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def of(self, day: date) -> int:
        """The version that it publishes for a day."""
        return self.twin if self.twin is not None and self.seen is not None and day <= self.seen else self.version

    @classmethod
    def of_row(cls, kept: Kept) -> Promoted | RolledBack:
        """From a row of its kind; of 0.1 a roll-back's looks the same."""
        number = int(kept.rest)
        if kept.about["by"].startswith(ROLLBACK):
            bad = int(kept.facts["rolled_back"])
            return RolledBack(number=number, version=kept.of_version, bad=bad, voids=None, **kept.about)
        return cls(
            number=number,
            version=kept.of_version,
            measured=kept.facts.get("replaces"),
            replaces_from=kept.day("replaces_from"),
            twin=kept.facts.get("evaluated"),
            seen=kept.day("seen"),
            facts=kept.others("replaces", "replaces_from", "evaluated", "seen"),
            **kept.about,
        )

    def evidence(self) -> Mapping[str, Any]:
        """What it was judged by, from which day on it replaces, and what was measured in its place."""
        days = {"replaces_from": self.replaces_from, "seen": self.seen}
        said = {name: str(day) for name, day in days.items() if day}
        return {**self.facts, **said, **({"evaluated": self.twin} if self.twin else {}), "replaces": self.measured}


@dataclass(frozen=True, kw_only=True)
class RolledBack(Numbered):
    """The promotions of the numbers `voids` count no more: `version` serves again from `day` on.

    With `first_day` only the days from then on go back. Rows of 0.1 do not say what they void: `bad`, the version that was
    champion, tells.
    """

    state: ClassVar[str] = "rolled back to"
    before: ClassVar[str] = "champion"
    serves: ClassVar[bool] = True

    version: int
    bad: int
    voids: tuple[int, ...] | None
    first_day: date | None = None

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        bad, voids = int(kept.facts["rolled_back"]), tuple(kept.facts["voids"])
        first = kept.day("first_day")
        return cls(number=int(kept.rest), version=kept.of_version, bad=bad, voids=voids, first_day=first, **kept.about)

    def evidence(self) -> Mapping[str, Any]:
        """What it voids, and from which day on."""
        first = {"first_day": str(self.first_day)} if self.first_day else {}
        return {"rolled_back": self.bad, "voids": list(self.voids or ()), **first}


@dataclass(frozen=True, kw_only=True)
class Undone(Numbered):
    """The roll-back of the number `undoes` counts no more: `version` serves again from `day` on."""

    state: ClassVar[str] = "roll-back undone"
    before: ClassVar[str] = "champion"
    serves: ClassVar[bool] = True

    version: int
    undoes: int

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        return cls(number=int(kept.rest), version=kept.of_version, undoes=int(kept.facts["undoes"]), **kept.about)

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

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        last, run = date.fromisoformat(kept.facts["last_day"]), str(kept.facts.get("run", ""))
        return cls(number=int(kept.rest), version=kept.of_version, last=last, run=run, **kept.about)

    def evidence(self) -> Mapping[str, Any]:
        """The last day, and the run."""
        return {"last_day": str(self.last), "run": self.run}


@dataclass(frozen=True, kw_only=True)
class Released(Numbered):
    """For the days `day` to `last` no pin counts that was made before; by a `run`, which rows of 0.1 do not say."""

    state: ClassVar[str] = "released"

    last: date
    run: str = ""

    @classmethod
    def of_row(cls, kept: Kept) -> Self:
        """From a row of its kind."""
        last, run = date.fromisoformat(kept.facts["last_day"]), str(kept.facts.get("run", ""))
        return cls(number=int(kept.rest), last=last, run=run, **kept.about)

    def evidence(self) -> Mapping[str, Any]:
        """The last day, and the run."""
        return {"last_day": str(self.last), "run": self.run}
