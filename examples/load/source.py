"""Hourly load of one zone of PJM (the grid's own files, by way of Kaggle), with the load two days and a week before.

The hours are local: the one that comes twice in autumn is the mean of both. An hour that is missing is left out.
"""

import os
from pathlib import Path

import pandas as pd


def read(first, last):
    zone = os.environ.get("ESTEIRA_ZONE", "PJME")
    path = Path(os.environ["ESTEIRA_DATA"]) / "pjm" / f"{zone}_hourly.csv"
    start, end = pd.Timestamp(first), pd.Timestamp(last) + pd.Timedelta(days=1)
    rows = pd.read_csv(path, engine="pyarrow", parse_dates=["Datetime"])
    rows = rows[(rows["Datetime"] >= start - pd.Timedelta(days=7)) & (rows["Datetime"] < end)]
    load = rows.groupby("Datetime")[f"{zone}_MW"].mean()
    at = load.index[load.index >= start]
    return pd.DataFrame(
        {
            "at": at,
            "hour": at.hour,
            "month": at.month,
            "weekday": at.day_name(),
            "two_days_before": load.reindex(at - pd.Timedelta(days=2)).to_numpy(),
            "week_before": load.reindex(at - pd.Timedelta(days=7)).to_numpy(),
            "megawatts": load.loc[at].to_numpy(),
        }
    )
