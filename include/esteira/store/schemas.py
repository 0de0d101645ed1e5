"""The tables of a model, and the columns of those that this system makes up itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pyarrow as pa

Kind = Literal["raw", "quarantine", "features", "predictions", "served", "labels", "metrics", "ledger"]

METRICS = pa.schema(
    {
        "check_day": pa.date32(),
        "attempt": pa.int64(),  # 0: the check itself; k: the k-th attempt; below 0: what measurements.py says
        "role": pa.string(),  # records.Role
        "version": pa.int64(),  # empty while a challenger has none
        "run_id": pa.string(),
        "first_day": pa.date32(),
        "last_day": pa.date32(),
        "window": pa.string(),  # records.Window
        "segment": pa.string(),  # empty: all rows
        "metric": pa.string(),
        "value": pa.float64(),
        "min": pa.float64(),
        "max": pa.float64(),
        "in_range": pa.bool_(),
        "n_rows": pa.int64(),
        "n_days": pa.int64(),
        "gain": pa.float64(),
        "gain_lower": pa.float64(),
        "gain_upper": pa.float64(),
        "outcome": pa.string(),
        "why": pa.string(),
    }
)
LEDGER = pa.schema(
    {
        "id": pa.string(),
        "at": pa.timestamp("us", tz="UTC"),
        "effective_day": pa.date32(),
        "version": pa.int64(),
        "from_state": pa.string(),
        "to_state": pa.string(),
        "why": pa.string(),
        "evidence": pa.string(),
        "by": pa.string(),
    }
)

SCHEMAS: Mapping[str, pa.Schema] = {"metrics": METRICS, "ledger": LEDGER}
