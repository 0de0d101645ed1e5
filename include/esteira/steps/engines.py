"""By what a version is scored: compiled trees, where that is worth it and exact, else scikit-learn."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from esteira.data import days
from esteira.learning import compiled
from esteira.learning.compiled import CantCompile
from esteira.learning.pipelines import Model, design
from esteira.spec import ModelSpec
from esteira.store import copies, lake, runs
from esteira.store.lineage import DataVersions, DaysSeen

log = logging.getLogger(__name__)

WORTH = 50_000  # rows of a day from which on compiling gains more than it costs
FASTER = 0.9  # of scikit-learn's time: what takes longer is not worth another engine


@dataclass(frozen=True)
class Engine:
    """What scores a version: the libraries with the digest (SHA-256), or where there is none scikit-learn, and why."""

    sha256: str = ""
    why: str = ""

    def tags(self) -> dict[str, str]:
        """As tags of a run, which its version takes over."""
        return {"engine": "compiled"} if self.sha256 else {"engine": "sklearn", "engine_why": self.why}


def choose(spec: ModelSpec, run_id: str, digest: str) -> Engine:
    """Compile the model that a run kept, keep the libraries beside it, and note on the run which engine it is to be scored by."""
    try:
        engine = _compiled(spec, run_id, digest)
    except CantCompile as error:
        engine = Engine(why=str(error))
        log.info("model %s: run %s is scored by scikit-learn: %s", spec.name, run_id, error)
    runs.log(run_id, tags=engine.tags())
    return engine


def _compiled(spec: ModelSpec, run_id: str, digest: str) -> Engine:
    asked = spec.score.engine
    if asked == "sklearn":
        raise CantCompile("model.yaml asks for it")
    tags = runs.get(run_id).tags
    seen, read = DaysSeen.of(tags), DataVersions.cited(tags)
    span = days(seen.first, seen.last)
    counts = lake.sizes("features", spec.name)
    largest = max((counts[day][0] for day in span if day in counts), default=0)  # a model's days may have grown
    if asked == "auto" and largest < WORTH:
        raise CantCompile(
            f"days of {largest:,} rows at most are scored in no time; score.engine: compiled asks for it nevertheless"
        )
    began = time.perf_counter()
    model = runs.load(spec, run_id, digest=digest)
    content = compiled.build(model)
    built = time.perf_counter()
    fast = compiled.loaded(model, content)
    share = compiled.compared(model, fast, _matrices(spec, model, seen, read))
    if asked == "auto" and share > FASTER:
        raise CantCompile(f"compiled trees take {share:.2f} of its time on this machine")
    name = _name(hashlib.sha256(content).hexdigest())
    runs.keep(run_id, name, content)
    took = built - began, time.perf_counter() - built
    log.info(
        "model %s: compiled in %.1f s and compared in %.1f s; takes %.2f of scikit-learn's time",
        spec.name,
        *took,
        share,
    )
    return Engine(hashlib.sha256(content).hexdigest())


def _matrices(spec: ModelSpec, model: Model, seen: DaysSeen, read: DataVersions | None) -> Iterator[pd.DataFrame]:
    """The features that the model was trained on, as it takes them, batch by batch: as many rows as a training takes at most."""
    left = spec.train.max_rows
    for rows in lake.batches("features", spec.name, at=read.features if read else None, day=(seen.first, seen.last)):
        yield design(spec, rows.head(left), model.columns)
        left -= len(rows)
        if left <= 0:
            return


def by_engine(spec: ModelSpec, run_id: str, model: Model, sha256: str) -> Model:
    """The model with its libraries in the place of its pipelines, if these are the ones that were registered; else as it is."""
    if not sha256 or spec.score.engine == "sklearn":
        return model
    content = _kept(run_id, sha256)
    why = "is gone" if content is None else "is not the one that was registered"
    if content is not None and hashlib.sha256(content).hexdigest() == sha256:
        try:
            return compiled.loaded(model, content)
        except CantCompile as error:
            why = f"can't be used: {error}"
    log.warning(
        "model %s: the compiled library of version %d %s; scikit-learn scores, with the same results and more slowly",
        spec.name,
        model.version,
        why,
    )
    return model


def _kept(run_id: str, sha256: str) -> bytes | None:
    """The libraries that a run kept: from the copy on this machine, where there is one."""
    content = copies.read(sha256)
    if content is not None:
        return content
    content = runs.kept(run_id, _name(sha256))
    if content is not None and hashlib.sha256(content).hexdigest() == sha256:
        copies.keep(sha256, content)
    return content


def _name(sha256: str) -> str:
    return f"compiled-{sha256[:16]}.zip"
