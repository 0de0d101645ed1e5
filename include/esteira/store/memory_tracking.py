"""Runs, versions and aliases in this process's memory, for simulations by the thousand. Models are kept as they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd

from esteira.errors import UnknownVersion
from esteira.learning.drift import Profile
from esteira.learning.predicting import Model
from esteira.spec import ModelSpec
from esteira.store.tracking import Run, Version


@dataclass
class MemoryTracking:
    """What MLflow keeps, without its files: figures are not drawn, and a model has no digest of its own but its run's id."""

    runs: dict[str, Run] = field(default_factory=dict)
    models: dict[str, tuple[Model, Profile]] = field(default_factory=dict)
    of_model: dict[str, list[str]] = field(default_factory=dict)
    registered: dict[str, list[Version]] = field(default_factory=dict)
    pointers: dict[str, dict[str, int]] = field(default_factory=dict)
    files: dict[tuple[str, str], bytes] = field(default_factory=dict)
    started: int = 0
    identity: str = field(default_factory=lambda: uuid4().hex)

    def copied(self) -> MemoryTracking:
        """Another registry, that begins with all that this one has."""
        return replace(deepcopy(self), identity=uuid4().hex)

    def get(self, run_id: str) -> Run:
        """A run."""
        return self.runs[run_id]

    def search(self, spec: ModelSpec, tags: Mapping[str, str]) -> list[Run]:
        """The runs that have all the tags, the newest first."""
        mine = [self.runs[each] for each in reversed(self.of_model.get(spec.name, [])) if each in self.runs]
        return [each for each in mine if tags.items() <= each.tags.items()]

    def start(self, spec: ModelSpec, name: str, tags: Mapping[str, str]) -> str:
        """Begin a run."""
        self.started += 1
        run_id = f"run{self.started}"
        self.runs[run_id] = Run(run_id, "RUNNING", {**tags, "name": name}, {}, {})
        self.of_model.setdefault(spec.name, []).append(run_id)
        return run_id

    def end(self, run_id: str, status: str) -> None:
        """End a run."""
        self.runs[run_id] = replace(self.runs[run_id], status=status)

    def delete(self, run_id: str) -> None:
        """Remove a run."""
        self.runs.pop(run_id, None)

    def log(
        self, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        """Note more of a run."""
        had = self.runs[run_id]
        noted = {
            "params": {**had.params, **params},
            "metrics": {**had.metrics, **metrics},
            "tags": {**had.tags, **tags},
        }
        self.runs[run_id] = replace(had, **noted)  # type: ignore[arg-type]

    def log_file(self, run_id: str, path: Path) -> None:
        """Nothing: files are for people."""

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep bytes."""
        self.files[run_id, name] = content

    def kept(self, run_id: str, name: str) -> bytes | None:
        """What was kept."""
        return self.files.get((run_id, name))

    def log_figures(self, run_id: str, make: Callable[[], Mapping[str, Any]]) -> None:
        """Nothing: they are not even drawn."""

    def log_model(self, spec: ModelSpec, run_id: str, model: Model, example: pd.DataFrame, profile: Profile) -> None:
        """Keep the model and its profile."""
        self.models[run_id] = (model, profile)
        about = {
            "trained_through": str(model.trained_through),
            "classes": json.dumps(model.classes),
            "model_uri": run_id,
        }
        self.log(run_id, {}, {}, about)

    def profile(self, run_id: str) -> Profile:
        """The reference profile."""
        return self.models[run_id][1]

    def load(self, run_id: str, digest: str) -> Model | None:
        """The model."""
        return self.models[run_id][0] if digest in ("", run_id) else None

    def digest(self, run_id: str) -> str:
        """The run's id."""
        return run_id

    def register(self, spec: ModelSpec, run_id: str) -> int:
        """The next version."""
        mine = self.registered.setdefault(spec.name, [])
        mine.append(Version(len(mine) + 1, run_id, self.runs[run_id].tags))
        return len(mine)

    def versions(self, spec: ModelSpec) -> list[Version]:
        """The registered versions."""
        return list(self.registered.get(spec.name, ()))

    def run_of(self, model: str, version: int) -> str:
        """The run of a version."""
        for each in self.registered.get(model, ()):
            if each.number == version:
                return each.run_id
        raise UnknownVersion(f"model {model} has no version {version}")

    def aliases(self, spec: ModelSpec) -> dict[str, int]:
        """The model's aliases."""
        return dict(self.pointers.get(spec.name, {}))

    def set_alias(self, spec: ModelSpec, name: str, version: int | None) -> None:
        """Point an alias at a version, or remove it."""
        mine = self.pointers.setdefault(spec.name, {})
        if version is None:
            mine.pop(name, None)
        else:
            self.run_of(spec.name, version)
            mine[name] = version

    def link(self, spec: ModelSpec, run_id: str) -> str:
        """Nobody reaches it."""
        return ""
