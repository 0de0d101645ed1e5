"""Versions: registered, promoted; MLflow's aliases follow the ledger."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import date
from typing import Any

from esteira.errors import UnknownVersion
from esteira.learning.predicting import Model
from esteira.lifecycle import changes
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Registered, effective_day
from esteira.lifecycle.sequence import Promoted
from esteira.lifecycle.state import Serving
from esteira.spec import ModelSpec
from esteira.steps import engines
from esteira.store import ledger, runs

log = logging.getLogger(__name__)


def promote(spec: ModelSpec, proposal: Proposal) -> Promoted | None:
    """Make a version champion; returns the event, None where the version is champion. Raises Refused as changes.promote() does."""
    ledger.settle(spec)
    event = ledger.change(spec, lambda known: changes.promote(known, proposal))
    assert event is None or isinstance(event, Promoted), "nothing else is asked for"
    if event is not None:
        told = event.version, event.day, event.why, _shown(event.facts)
        log.info("model %s: version %d is champion from %s on: %s%s", spec.name, *told)
    repair_aliases(spec)
    return event


def _shown(given: Mapping[str, Any]) -> str:
    """The numbers behind a promotion, and the commit of its notebook, for the log."""
    parts = []
    if given.get("gain") is not None:
        bounds = [given.get(name) for name in ("gain_lower", "gain_upper")]
        shown = " to ".join("unknown" if bound is None else f"{bound:.4g}" for bound in bounds)
        parts.append(f"gain {given['gain']:.4g} (interval {shown})")
    parts += [f"commit {given['commit']}"] if given.get("commit") else []
    return "".join(f"; {part}" for part in parts)


def register(spec: ModelSpec, run_id: str, as_of: date) -> int:
    """Register a run's model, compiled where that is worth it; returns the version, the digests of whose files the ledger keeps."""
    known = runs.version_of(spec, run_id)
    if known is not None and ledger.registered(spec, known) is not None:
        return known
    digest = runs.model_digest(run_id)
    engine = engines.choose(spec, run_id, digest)
    version, tags = runs.register(spec, run_id), runs.get(run_id).tags
    event = Registered(
        version=version,
        sha256=digest,
        compiled=engine.sha256,
        not_compiled=engine.why,
        classes=tuple(json.loads(tags["classes"])),
        trained_through=tags["trained_through"],
        day=effective_day(as_of),
        why="registered",
        by=run_id,
    )
    ledger.write(spec, event)
    return version


def load_version(spec: ModelSpec, version: int) -> Model:
    """The model of a version. Raises ModelRefused where its file is not the one that was registered."""
    known = ledger.registered(spec, version)
    return runs.load_version(spec, version, known.sha256 if known else "")


def load_scorer(spec: ModelSpec, version: int) -> Model:
    """The model of a version, to score with: by its compiled trees where it has some.

    The ledger says of which run it is: where this machine has a copy of its file, MLflow is not asked, which may be down.
    """
    known = ledger.registered(spec, version)
    if known is None or not known.trained_through:
        return load_version(spec, version)
    return engines.scorer(spec, known, lambda: runs.copy_of(known) or runs.load(spec, known.by, version, known.sha256))


def load_judges(spec: ModelSpec, version: int) -> tuple[Model, ...]:
    """The models by which a version is judged: its own, and for the days that it has seen its twin, where there is one."""
    own, twin = load_version(spec, version), ledger.twin(spec, version)
    if twin is None:
        return (own,)
    try:
        return own, load_version(spec, twin)
    except UnknownVersion:  # somebody deleted it
        return (own,)


def repair_aliases(spec: ModelSpec) -> None:
    """Point MLflow's alias `champion` at the ledger's champion; a challenger that became champion is none any more."""
    while True:
        now = ledger.champion(spec)
        _repair_aliases(spec, now)
        if ledger.champion(spec) == now:  # else another one was set meanwhile, and this would have put the old one back
            return


def _repair_aliases(spec: ModelSpec, now: Serving | None) -> None:
    known = runs.aliases(spec)
    if now is None:
        if "champion" in known and ledger.exists(spec):  # a lake that is gone takes no alias along
            log.warning(
                "model %s: removing the alias champion from version %d: the ledger has no champion",
                spec.name,
                known["champion"],
            )
            runs.alias(spec, "champion", None)
        return
    if known.get("champion") != now.version:
        try:
            runs.alias(spec, "champion", now.version)
        except UnknownVersion as error:  # a new training must still be able to replace it
            log.error("%s", error)
            return
    if known.get("challenger") == now.version:
        runs.alias(spec, "challenger", None)
