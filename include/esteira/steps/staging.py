"""What a pass over a source's rows has written, and how one task tells another of it."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from esteira.steps import keys
from esteira.steps.ingest import Before, joined_late
from esteira.steps.scoring import Predicted
from esteira.store.backend import Part
from esteira.store.schemas import Kind

FORM = 4  # of what is told
NAMES = ("json", "late", "seen")  # of its files; the first is written last, and goes first


@dataclass(frozen=True)
class Staged:
    """What a pass over a source's rows of some days has written, for nobody to see before it is published.

    `rows` is how many the source had of each day, `read` how many of them all, `unread` are the days, and those beside them, whose
    own file was not there; `late` are rows of the days beside; `seen` are digests of the keys, of a share of the days only. `mark` is the model.yaml's, `source` tells one state of the source from another,
    of a share only; `before` is what there was of the days when the reading began.
    """

    mark: int
    source: str
    before: Before
    read: int
    rows: Mapping[date, int]
    unread: frozenset[date]
    parts: Mapping[Kind, tuple[Part, ...]]
    late: pd.DataFrame
    seen: keys.Digests
    predicted: Predicted


def to_files(staged: Staged) -> dict[str, bytes]:
    """It as files by name, of which `json` is to be written last."""
    schemas: list[pa.Schema] = []
    predicted = staged.predicted
    told = {
        "form": FORM,
        "mark": staged.mark,
        "before": [staged.before.raw, staged.before.quarantine, sorted(map(str, staged.before.unwritten))],
        "source": staged.source,
        "read": staged.read,
        "rows": {str(day): rows for day, rows in staged.rows.items()},
        "unread": sorted(map(str, staged.unread)),
        "parts": {kind: [_told(part, schemas) for part in parts] for kind, parts in staged.parts.items()},
        "chosen": {str(day): version for day, version in predicted.chosen.items()},
        "predictions": [_told(part, schemas) for part in predicted.parts],
        "served": None if predicted.served is None else [_told(part, schemas) for part in predicted.served],
        "served_at": predicted.served_at,
        "predictions_at": predicted.at,
    }
    told["schemas"] = [base64.b64encode(schema.serialize().to_pybytes()).decode() for schema in schemas]
    late, seen = io.BytesIO(), io.BytesIO()
    if len(staged.late):
        staged.late.to_parquet(late)
    np.save(seen, staged.seen, allow_pickle=False)
    files = {"late": late.getvalue(), "seen": seen.getvalue()}
    told["digests"] = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    return {**files, "json": json.dumps(told).encode()}


def _told(part: Part, schemas: list[pa.Schema]) -> list[Any]:
    if part.schema not in schemas:
        schemas.append(part.schema)
    return [str(part.day), part.path, part.size, part.rows, schemas.index(part.schema)]


def from_files(content: Callable[[str], bytes | None]) -> Staged | None:
    """What to_files() told, by a function that gives a file's content; None where that is not there whole, or of another version of this code."""
    given, late, seen = (content(name) for name in NAMES)
    if given is None or late is None or seen is None:
        return None
    try:
        told = json.loads(given)
    except ValueError:  # cut off, as a machine that stops may leave a file
        return None
    digests = {"late": hashlib.sha256(late).hexdigest(), "seen": hashlib.sha256(seen).hexdigest()}
    if told.get("form") != FORM or told["digests"] != digests:
        return None
    raw, quarantine, unwritten = told["before"]
    schemas = [pa.ipc.read_schema(pa.py_buffer(base64.b64decode(each))) for each in told["schemas"]]

    def parts(given: list[list[Any]]) -> tuple[Part, ...]:
        return tuple(
            Part(date.fromisoformat(day), path, size, rows, schemas[schema]) for day, path, size, rows, schema in given
        )

    chosen = {date.fromisoformat(day): version for day, version in told["chosen"].items()}
    served = None if told["served"] is None else parts(told["served"])
    return Staged(
        mark=told["mark"],
        before=Before(raw, quarantine, frozenset(map(date.fromisoformat, unwritten))),
        source=told["source"],
        read=told["read"],
        rows={date.fromisoformat(day): rows for day, rows in told["rows"].items()},
        unread=frozenset(map(date.fromisoformat, told["unread"])),
        parts={kind: parts(each) for kind, each in told["parts"].items()},
        late=joined_late([pd.read_parquet(io.BytesIO(late))] if late else []),
        seen=np.load(io.BytesIO(seen), allow_pickle=False),
        predicted=Predicted(chosen, parts(told["predictions"]), served, told["served_at"], told["predictions_at"]),
    )
