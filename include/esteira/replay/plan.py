"""What a replay goes through: a model's days, and the spans by which they are checked and reported."""

from __future__ import annotations

import calendar
import hashlib
import json
import re
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from pathlib import Path

from esteira.errors import EsteiraError
from esteira.spec import CENTURY, ModelSpec
from esteira.store import places

Span = tuple[date, date]
FORMAT = b"2"  # of the report: one of an older version is not read again


@dataclass(frozen=True)
class Plan:
    """What to replay: a model's days `first` to `last`, checked at the end of `every` span, reported in `blocks`."""

    model: str
    first: date
    last: date
    every: str
    blocks: str

    def spans(self, kind: str) -> list[Span]:
        """What a walk of a kind does at the end of: a policy is asked at each check, what it is compared with at each block."""
        return spans(self.first, self.last, self.blocks if kind in ("frozen", "always") else self.every)

    def place(self, spec: ModelSpec) -> Path:
        """The folder of this replay: another one as soon as the plan, the model.yaml or the model's code differ."""
        text = FORMAT + json.dumps(asdict(self), default=str).encode() + spec.model_dump_json().encode() + spec.code
        return places.home() / "replays" / self.model / hashlib.sha256(text).hexdigest()[:12]


def spans(first: date, last: date, every: str) -> list[Span]:
    """The days cut into spans: `month` (of the calendar), `week`, `day`, or a number of days such as 45d; the last may be short."""
    found: list[Span] = []
    start = first
    while start <= last:
        end = min(_end(start, every), last)
        found.append((start, end))
        start = end + timedelta(days=1)
    return found


def _end(start: date, every: str) -> date:
    if every == "month":
        return start.replace(day=calendar.monthrange(start.year, start.month)[1])
    length = {"week": "7d", "day": "1d"}.get(every, every)
    match = re.fullmatch(r"([1-9]\d*)d", length)
    if match is None:
        raise EsteiraError(f"got {every!r}; a span is month, week, day, or a number of days such as 45d")
    return start + timedelta(days=min(int(match[1]), CENTURY) - 1)
