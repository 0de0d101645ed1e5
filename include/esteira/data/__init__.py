"""Rows: read a source, give each its time, part the good from the bad, split by time. Nothing here writes."""

from esteira.data.environment import skip_instance_metadata
from esteira.data.kinds import SHORT, masked
from esteira.data.labels import as_label, like, read_labels
from esteira.data.sources import ALL, Share, batches, days, event_time, function, last_day, look, read, reader_of
from esteira.data.sources.columns import writable
from esteira.data.splitting import WEIGHT, Parts, Span, recent_and_sample, split_days, within
from esteira.data.validating import (
    asked_columns,
    build_features,
    examine,
    repeated,
    storable,
    validate,
    validate_labels,
)

__all__ = [
    "ALL",
    "SHORT",
    "WEIGHT",
    "Parts",
    "Share",
    "Span",
    "as_label",
    "asked_columns",
    "batches",
    "build_features",
    "days",
    "event_time",
    "examine",
    "function",
    "last_day",
    "like",
    "look",
    "masked",
    "read",
    "read_labels",
    "reader_of",
    "recent_and_sample",
    "repeated",
    "skip_instance_metadata",
    "split_days",
    "storable",
    "validate",
    "validate_labels",
    "within",
    "writable",
]
