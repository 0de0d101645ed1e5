"""By what a version is scored: compiled trees, where that is worth it and exact, else scikit-learn."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from functools import cache

import pandas as pd

from esteira.data import days
from esteira.learning import trees
from esteira.learning.predicting import Model, design
from esteira.learning.trees import CantCompile
from esteira.lifecycle.events import Registered
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
    from esteira.learning import compiled  # scikit-learn takes a second to import, and scoring needs none of it

    began = time.perf_counter()
    model = runs.load(spec, run_id, digest=digest)
    content = compiled.build(model)
    built = time.perf_counter()
    fast = replace(model, pipeline=trees.loaded(content, model.classes, lambda: model))
    share = compiled.compared(model, fast, _matrices(spec, model, seen, read))
    if asked == "auto" and share > FASTER:
        raise CantCompile(f"compiled trees take {share:.2f} of its time on this machine")
    sha256 = hashlib.sha256(content).hexdigest()
    runs.keep(run_id, _name(sha256), content)
    copies.keep(sha256, content)
    took = built - began, time.perf_counter() - built
    log.info(
        "model %s: compiled in %.1f s and compared in %.1f s; takes %.2f of scikit-learn's time",
        spec.name,
        *took,
        share,
    )
    return Engine(sha256)


def _matrices(spec: ModelSpec, model: Model, seen: DaysSeen, read: DataVersions | None) -> Iterator[pd.DataFrame]:
    """The features that the model was trained on, as it takes them, batch by batch: as many rows as a training takes at most."""
    left = spec.train.max_rows
    for rows in lake.batches("features", spec.name, at=read.features if read else None, day=(seen.first, seen.last)):
        yield design(spec, rows.head(left), model.columns)
        left -= len(rows)
        if left <= 0:
            return


def scorer(spec: ModelSpec, known: Registered, own: Callable[[], Model]) -> Model:
    """The model of a version, to score with: by its libraries, if these are the ones that were registered, else `own()`."""
    if not known.compiled or spec.score.engine == "sklearn":
        return own()
    content = _kept(known.by, known.compiled)
    why = "is gone" if content is None else "is not the one that was registered"
    if content is not None and hashlib.sha256(content).hexdigest() == known.compiled:
        try:
            pipeline = trees.loaded(content, known.classes, cache(own))
            return Model(pipeline, known.classes, date.fromisoformat(known.trained_through), known.version)
        except CantCompile as error:
            why = f"can't be used: {error}"
    log.warning(
        "model %s: the compiled library of version %d %s; scikit-learn scores, with the same results and more slowly",
        spec.name,
        known.version,
        why,
    )
    return own()


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
