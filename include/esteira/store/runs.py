"""Runs, models, versions and aliases: MLflow's, or of a simulation's memory."""

from __future__ import annotations

import hashlib
import math
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from esteira.errors import ModelRefused, OutOfReach
from esteira.learning.drift import Profile
from esteira.learning.predicting import Model
from esteira.lifecycle.events import Registered
from esteira.settings import PROJECT, settings
from esteira.spec import ModelSpec, digest
from esteira.store import copies
from esteira.store.mlflow_tracking import MlflowTracking
from esteira.store.tracking import Run, Tracking, Version

__all__ = ["Run", "Version"]

_backend: Tracking = MlflowTracking()


@contextmanager
def using(backend: Tracking) -> Iterator[None]:
    """Keep runs and versions elsewhere, as long as the context lasts."""
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


def get(run_id: str) -> Run:
    """A run."""
    return _backend.get(run_id)


def search(spec: ModelSpec, **tags: object) -> list[Run]:
    """The model's runs that have all the tags, the newest first."""
    return _backend.search(spec, {name: str(value) for name, value in tags.items()})


@contextmanager
def tracked(spec: ModelSpec, key: str, name: str, **tags: object) -> Iterator[str]:
    """A tracked run, known by `key`: running a task again replaces the run that it left before.

    Raises OutOfReach where another process has begun the same meanwhile, and so has replaced this one.
    """
    cited = {version.run_id for version in versions(spec)}
    for old in search(spec, key=key):
        if old.id not in cited:  # a registered version needs the run that made it
            _backend.delete(old.id)
    given = {"key": key, "model_yaml": digest(spec), "code": code_version(spec), "lock": lock_digest(), **tags}
    run_id = _backend.start(spec, name, {tag: str(value) for tag, value in given.items()})
    try:
        yield run_id
    except BaseException as error:  # also a task that is killed by its timeout must not leave a run that seems to go on
        if isinstance(error, Exception) and all(each.id != run_id for each in search(spec, key=key)):
            raise OutOfReach(
                f"model {spec.name}: another process makes {name} at the same time, and has replaced the run of this one; let one "
                "of them end"
            ) from error
        _backend.end(run_id, "FAILED")
        raise
    _backend.end(run_id, "FINISHED")


def code_version(spec: ModelSpec) -> str:
    """The git commit that the model's folder is at, '+' where it has changes; where git does not know it ESTEIRA_COMMIT, which an image has."""
    told = settings().commit
    try:
        command = ["git", "-C", str(spec.folder), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip() or told  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return told


def lock_digest() -> str:
    """SHA-256 of requirements.txt; empty where it is not installed beside the package."""
    lock = PROJECT / "requirements.txt"
    return hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else ""


def finished(spec: ModelSpec, key: str, run_id: str) -> str:
    """The run `run_id`, which is known by `key`; where another process has replaced it, the newest one that has finished."""
    every = {each.id: each.status for each in search(spec, key=key)}
    return run_id if run_id in every else next((each for each, status in every.items() if status == "FINISHED"), run_id)


def log(
    run_id: str,
    *,
    params: Mapping[str, object] | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, object] | None = None,
) -> None:
    """Add parameters, metrics (those that are numbers) and tags to a run."""
    _backend.log(
        run_id,
        {name: str(value)[:500] for name, value in (params or {}).items()},
        {name: number for name, number in (metrics or {}).items() if not math.isnan(number)},
        {name: str(value) for name, value in (tags or {}).items()},
    )


def log_file(run_id: str, path: Path) -> None:
    """Keep a file beside a run."""
    _backend.log_file(run_id, path)


def keep(run_id: str, name: str, content: bytes) -> None:
    """Keep bytes beside a run, under a name."""
    _backend.keep(run_id, name, content)


def kept(run_id: str, name: str) -> bytes | None:
    """What was kept beside a run under a name; None where there is nothing."""
    return _backend.kept(run_id, name)


def log_figures(run_id: str, make: Callable[[], Mapping[str, Any]]) -> None:
    """Keep the matplotlib figures that `make` draws beside a run, as PNG."""
    _backend.log_figures(run_id, make)


def log_model(spec: ModelSpec, run_id: str, model: Model, example: pd.DataFrame, profile: Profile) -> None:
    """Keep the model (skops), its signature, an example of its input and its reference profile with the run."""
    _backend.log_model(spec, run_id, model, example, profile)


def profile(run_id: str) -> Profile:
    """The reference profile that was kept with a run."""
    return _profile(_backend.identity, run_id)


@lru_cache(maxsize=8)  # what a finished run kept does not change
def _profile(_: str, run_id: str) -> Profile:
    return _backend.profile(run_id)


def register(spec: ModelSpec, run_id: str) -> int:
    """The version that the run's model is registered as; the same one when it is asked again."""
    known = version_of(spec, run_id)
    return _backend.register(spec, run_id) if known is None else known


def versions(spec: ModelSpec) -> list[Version]:
    """The registered versions."""
    return _backend.versions(spec)


def version_of(spec: ModelSpec, run_id: str) -> int | None:
    """The version that a run's model is registered as; None where it is not."""
    return next((each.number for each in versions(spec) if each.run_id == run_id), None)


def alias(spec: ModelSpec, name: str, version: int | None) -> None:
    """Point an alias at a version, or remove it; nothing is written where it already is so. Raises UnknownVersion."""
    if aliases(spec).get(name) != version:
        _backend.set_alias(spec, name, version)


def aliases(spec: ModelSpec) -> dict[str, int]:
    """The model's aliases; none where it has no version yet."""
    return _backend.aliases(spec)


def run_of(spec: ModelSpec, version: int) -> str:
    """The run that made a version. Raises UnknownVersion where there is none."""
    return _run_of(_backend.identity, spec.name, version)


@lru_cache(maxsize=64)  # a version is of one run for good
def _run_of(_: str, model: str, version: int) -> str:
    return _backend.run_of(model, version)


def load(spec: ModelSpec, run_id: str, version: int = 0, digest: str = "") -> Model:
    """The model that a run kept. Raises ModelRefused, before anything is loaded, where its file holds a type not allowed.

    With a `digest` (SHA-256) its file must have it, too.
    """
    model = _loaded(_backend.identity, run_id, digest) if digest else _backend.load(run_id, "")
    if model is None:
        _loaded.cache_clear()  # it may be put back
        raise ModelRefused(
            f"model {spec.name}: the file of version {version} is not the one that was registered; put that back (its "
            f"SHA-256 is {digest}), or roll back and train anew"
        )
    return replace(model, version=version)


@lru_cache(maxsize=8)  # by its digest: an attempt asks again and again for what serves, its twin, and three from before
def _loaded(_: str, run_id: str, digest: str) -> Model | None:
    return _backend.load(run_id, digest)


def copy_of(known: Registered) -> Model | None:
    """The model of a version from the copy of its file on this machine, which no registry is asked for; None where there is none."""
    from esteira.store import model_files  # skops takes half a second to import

    content = copies.read(known.sha256)
    if content is None:
        return None
    return Model(
        model_files.loads(content), known.classes, date.fromisoformat(known.trained_through), version=known.version
    )


def model_digest(run_id: str) -> str:
    """The SHA-256 of the model file that a run kept."""
    return _backend.digest(run_id)


def load_version(spec: ModelSpec, version: int, digest: str = "") -> Model:
    """The model of a registered version; with a `digest` its file must have it."""
    return load(spec, run_of(spec, version), version, digest)


def run_link(spec: ModelSpec, run_id: str) -> str:
    """Where MLflow's pages show a run; empty where nobody reaches them: a database file, or ESTEIRA_MLFLOW_URL is empty."""
    return _backend.link(spec, run_id)
