"""A sample of 100,000 flights out of New York in 2013; cancelled and diverted ones have no arrival, and so no label."""

import os
from pathlib import Path

import numpy as np
import pandas as pd


def read(first, last):
    columns = ["time_hour", "carrier", "flight", "origin", "dest", "distance", "hour", "sched_dep_time", "arr_delay"]
    rows = pd.read_parquet(Path(os.environ["ESTEIRA_DATA"]) / "flights" / "flights.parquet", columns=columns)
    rows = rows.sort_values(["time_hour", "carrier", "flight", "dest"], kind="stable", ignore_index=True)
    local = rows["time_hour"].dt.tz_convert("America/New_York")
    rows = rows.assign(
        weekday=local.dt.weekday,
        copy=rows.groupby(["time_hour", "carrier", "flight"], observed=True).cumcount(),
        outcome=np.where(rows["arr_delay"].isna(), None, np.where(rows["arr_delay"] > 15, "late", "on time")),
    ).astype({"carrier": str})
    day = local.dt.date
    return rows[(day >= first) & (day <= last)].drop(columns="arr_delay")
