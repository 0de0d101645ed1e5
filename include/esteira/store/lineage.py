"""What runs, and the versions that they made, keep in their tags, as values: here alone it becomes text, and is read again.

Registries are kept for years, so the names of the tags and their text stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

Tags = Mapping[str, str]


@dataclass(frozen=True)
class DataVersions:
    """The Delta versions of features and labels that a training reads; its text, `3/4`, goes from task to task."""

    features: int
    labels: int

    def __str__(self) -> str:
        return f"{self.features}/{self.labels}"

    @classmethod
    def parse(cls, text: str) -> DataVersions:
        """Those that the text says."""
        features, labels = text.split("/")
        return cls(int(features), int(labels))

    def tags(self) -> Tags:
        """As tags of what was trained on them."""
        return {"features_version": str(self.features), "labels_version": str(self.labels)}

    @classmethod
    def cited(cls, tags: Tags) -> DataVersions | None:
        """Those that a version was trained on; None for one that does not say so: it was registered by hand."""
        features, labels = tags.get("features_version"), tags.get("labels_version")
        return cls(int(features), int(labels)) if features and labels else None


@dataclass(frozen=True)
class Tuned:
    """A candidate, by its number in the spec, with the parameters that were found for it."""

    candidate: int
    params: Mapping[str, Any]

    def tags(self) -> Tags:
        """As tags."""
        return {"candidate": str(self.candidate), "params": json.dumps(self.params)}

    @classmethod
    def of(cls, tags: Tags) -> Tuned:
        """From a run's tags."""
        return cls(int(tags["candidate"]), json.loads(tags["params"]))


@dataclass(frozen=True)
class Validated:
    """A candidate, and the value of the gate's metric that it reached on the validation part."""

    tuned: Tuned
    value: float

    def tags(self) -> Tags:
        """As tags."""
        return {**self.tuned.tags(), "value": str(self.value)}

    @classmethod
    def of(cls, tags: Tags) -> Validated:
        """From a run's tags."""
        return cls(Tuned.of(tags), float(tags["value"]))


@dataclass(frozen=True)
class Evaluation:
    """Whether a model may be promoted, and why; `measured` is the champion that it was compared with, None without any.

    `identity` tells its training from others.
    """

    accepted: bool
    why: str
    measured: int | None
    versions: DataVersions
    window: int
    identity: str

    def tags(self) -> Tags:
        """As tags."""
        return {
            "accepted": str(self.accepted),
            "why": self.why,
            "measured": str(self.measured or 0),
            "versions": str(self.versions),
            "window": str(self.window),
            "identity": self.identity,
        }

    @classmethod
    def of(cls, tags: Tags) -> Evaluation:
        """From a run's tags; the first trainings of 0.1 had no identity."""
        return cls(
            accepted=tags["accepted"] == "True",
            why=tags["why"],
            measured=int(tags["measured"]) or None,
            versions=DataVersions.parse(tags["versions"]),
            window=int(tags["window"]),
            identity=tags.get("identity", ""),
        )


@dataclass(frozen=True)
class DaysSeen:
    """The days of the rows that a model was fitted on, the first and the last."""

    first: date
    last: date

    def tags(self) -> Tags:
        """As tags."""
        return {"first_day": str(self.first), "trained_through": str(self.last)}

    @classmethod
    def of(cls, tags: Tags) -> DaysSeen:
        """From a run's tags."""
        return cls(date.fromisoformat(tags["first_day"]), date.fromisoformat(tags["trained_through"]))


def described(tags: Mapping[str, str]) -> str:
    """What a version is, in a sentence, by the tags of its run: for MLflow's page of it."""
    day, attempt = tags.get("as_of", "a day that is not known"), tags.get("attempt")
    if tags.get("kind") == "refit":
        return f"What was measured as of {day}, fitted again on all that was known then."
    if tags.get("kind") == "blend":
        back = f"Version {tags['back_to']} as it was" if tags.get("back_to") else "A blend of what was trained before"
        return f"{back}, by the check of {day}."
    return f"Attempt {attempt} of the check of {day}." if attempt else f"Trained as of {day}."
