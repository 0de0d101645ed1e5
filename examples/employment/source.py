"""The ACS of Massachusetts, as shipped by NannyML. It has a year only: the rows of each year are spread over its days in order.

The labels of 2016 and later lie in a file of their own.
"""

import os
from pathlib import Path

import pandas as pd


def read(first, last):
    folder = Path(os.environ["ESTEIRA_DATA"]) / "acs"
    later = pd.read_parquet(folder / "employment_MA_analysis.pq").merge(
        pd.read_parquet(folder / "employment_MA_analysis_target.pq"), on="id", validate="one_to_one"
    )
    rows = pd.concat([pd.read_parquet(folder / "employment_MA_reference.pq"), later], ignore_index=True)
    rows = rows.sort_values(["year", "id"], ignore_index=True)
    start = pd.to_datetime(rows["year"].astype(str) + "-01-01")
    share = rows.groupby("year").cumcount() / rows.groupby("year")["id"].transform("size")
    length = 365 + start.dt.is_leap_year
    day = start + pd.to_timedelta((share * length).astype(int), unit="D")
    rows = rows.assign(day_of_row=day.dt.strftime("%Y-%m-%d")).drop(columns=["prediction", "predicted_probability"])
    return rows[day.between(pd.Timestamp(first), pd.Timestamp(last))]
