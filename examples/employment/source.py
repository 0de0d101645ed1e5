"""The ACS of Massachusetts, as shipped by NannyML: a year for each row, and no day.

The first half of each year's rows is spread over the days of its first half-year and the rest over those of the second, in
a random order with a fixed seed: in the file the residents of institutions, whom no model knows well, stand together at
the end of each year. The labels of 2016 and later lie in a file of their own.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd


def read(first, last):
    folder = Path(os.environ["ESTEIRA_DATA"]) / "acs"
    later = pd.read_parquet(folder / "employment_MA_analysis.pq").merge(
        pd.read_parquet(folder / "employment_MA_analysis_target.pq"), on="id", validate="one_to_one"
    )
    rows = pd.concat([pd.read_parquet(folder / "employment_MA_reference.pq"), later], ignore_index=True)
    day = pd.concat([days_of(year, part) for year, part in rows.groupby("year")]).reindex(rows.index)
    asked = day.between(pd.Timestamp(first), pd.Timestamp(last))
    rows = rows[asked].assign(day_of_row=day[asked].dt.strftime("%Y-%m-%d"))
    return rows.drop(columns=["prediction", "predicted_probability"]).sort_values(["day_of_row", "id"])


def days_of(year, rows):
    random = np.random.default_rng(year)
    summer, end = pd.Timestamp(year, 7, 1), pd.Timestamp(year + 1, 1, 1)
    halves = [(pd.Timestamp(year, 1, 1), summer), (summer, end)]
    found = []
    for part, (start, stop) in zip(np.array_split(rows["id"].sort_values().index, 2), halves, strict=True):
        found.append(
            pd.Series(start + pd.to_timedelta(random.integers(0, (stop - start).days, len(part)), unit="D"), part)
        )
    return pd.concat(found)
