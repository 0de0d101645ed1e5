"""What a registry of runs and versions has to do, whatever it keeps them in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from esteira.learning.drift import Profile
from esteira.learning.predicting import Model
from esteira.spec import ModelSpec


@dataclass(frozen=True)
class Run:
    """A tracked run: what was noted of it."""

    id: str
    status: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def commit(self) -> str:
        """The git commit of the code that made it; empty where that is not known."""
        return self.tags.get("code", "")

    @property
    def has_model(self) -> bool:
        """Whether it keeps a model."""
        return "model_uri" in self.tags


@dataclass(frozen=True)
class Version:
    """A registered version, the run that made it, and the lineage that it keeps."""

    number: int
    run_id: str
    tags: Mapping[str, str]


class Tracking(Protocol):
    """Runs with what they keep, registered versions, and aliases that point at them."""

    @property
    def identity(self) -> str:
        """What tells this registry from others: what it keeps for good is read once under this name."""

    def get(self, run_id: str) -> Run:
        """A run."""

    def search(self, spec: ModelSpec, tags: Mapping[str, str]) -> list[Run]:
        """The model's runs that have all the tags, the newest first."""

    def start(self, spec: ModelSpec, name: str, tags: Mapping[str, str]) -> str:
        """Begin a run; returns its id."""

    def end(self, run_id: str, status: str) -> None:
        """End a run, as FINISHED or FAILED."""

    def delete(self, run_id: str) -> None:
        """Remove a run."""

    def log(
        self, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Note more of a run."""

    def log_file(self, run_id: str, path: Path) -> None:
        """Keep a file beside a run."""

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep bytes beside a run, under a name."""

    def kept(self, run_id: str, name: str) -> bytes | None:
        """What was kept under a name; None where there is nothing."""

    def log_figures(self, run_id: str, make: Callable[[], Mapping[str, Any]]) -> None:
        """Keep matplotlib figures, by file name, beside a run."""

    def log_model(self, spec: ModelSpec, run_id: str, model: Model, example: pd.DataFrame, profile: Profile) -> None:
        """Keep a model, an example of its input and its reference profile with a run."""

    def profile(self, run_id: str) -> Profile:
        """The reference profile that was kept with a run."""

    def load(self, run_id: str, digest: str) -> Model | None:
        """The model that a run kept; None where its file has not the digest (SHA-256) that is given. Raises ModelRefused."""

    def digest(self, run_id: str) -> str:
        """The SHA-256 of the model file that a run kept."""

    def register(self, spec: ModelSpec, run_id: str) -> int:
        """Register a run's model as the next version."""

    def versions(self, spec: ModelSpec) -> list[Version]:
        """The registered versions."""

    def run_of(self, model: str, version: int) -> str:
        """The run that made a version. Raises UnknownVersion where there is none."""

    def aliases(self, spec: ModelSpec) -> dict[str, int]:
        """The model's aliases; none where it has no version yet."""

    def set_alias(self, spec: ModelSpec, name: str, version: int | None) -> None:
        """Point an alias at a version, or remove it. Raises UnknownVersion."""

    def link(self, spec: ModelSpec, run_id: str) -> str:
        """Where pages show a run; empty where nobody reaches them."""
