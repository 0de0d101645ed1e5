"""What keeps a model's tables small and fast: compaction, the removal of files that nothing needs, checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Set
from datetime import timedelta
from typing import get_args

from esteira.spec import ModelSpec
from esteira.store import handover, lake, runs, schemas
from esteira.store.lineage import DataVersions
from esteira.text import counted

log = logging.getLogger(__name__)


def maintain(spec: ModelSpec, days: int = 7) -> str:
    """Maintain each of the model's tables; returns what was done, as a sentence.

    A file that a newer version of its table does not have stays for `days`, and for good where it belongs to a Delta
    version that a registered model version cites. What tasks left for a publish that never came goes after as long.
    """
    compacted = removed = 0
    for kind in get_args(schemas.Kind):
        merged, gone = lake.maintain(kind, spec.name, keep=_cited(spec, kind), hours=24 * days)
        compacted, removed = compacted + merged, removed + gone
    handover.remove_older(spec.name, lake.clock() - timedelta(days=days))
    said = f"{counted(compacted, 'file')} compacted, {counted(removed, 'file')} removed"
    log.info("model %s: %s", spec.name, said)
    return said


def _cited(spec: ModelSpec, kind: schemas.Kind) -> Set[int]:
    """The Delta versions of a table that registered model versions were trained on."""
    if kind not in ("features", "labels"):
        return set()
    cited = [DataVersions.cited(each.tags) for each in runs.versions(spec)]
    return {each.features if kind == "features" else each.labels for each in cited if each is not None}
