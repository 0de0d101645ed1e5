"""Half-hourly electricity prices of New South Wales, 1996 to 1998 (Harries 1999), with a clock made from the row order.

The file's own date column is unusable; its rows are in order of time, 48 a day from 7 May 1996.
"""

import os
from pathlib import Path

import pandas as pd

COLUMNS = [
    "date",
    "day_of_week",
    "period",
    "nswprice",
    "nswdemand",
    "vicprice",
    "vicdemand",
    "transfer",
    "class",
]


def read(first, last):
    path = Path(os.environ["ESTEIRA_DATA"]) / "elec2" / "elecNormNew.arff"
    with path.open(encoding="utf-8") as file:
        header = next(number for number, line in enumerate(file, start=1) if line.strip().lower() == "@data")
    rows = pd.read_csv(path, skiprows=header, names=COLUMNS).drop(columns="date")
    rows = rows.assign(at=pd.Timestamp(1996, 5, 7) + pd.to_timedelta(rows.index * 30, unit="min"))
    return rows[rows["at"].between(pd.Timestamp(first), pd.Timestamp(last) + pd.Timedelta(days=1), inclusive="left")]
