"""A simulated stream of 24 rows a day at three sites, with noise that neighbouring days share. The same seed, the same rows.

ESTEIRA_STREAM says what changes on CHANGE: `stationary` (nothing), `sudden` (the sites' effects swap at once), `gradual`
(the same over eight weeks), `recurring` (they swap while the tariff is B, which comes for five weeks in every ten).
ESTEIRA_STREAM_SEED is the seed.
"""

import os
from datetime import date

import numpy as np
import pandas as pd

CHANGE = date(2025, 7, 1)
FIRST = date(2025, 1, 1)
DAYS = 600
OLD, NEW = np.array([10.0, 50.0, 90.0]), np.array([90.0, 50.0, 10.0])


def read(first, last):
    kind, seed = os.environ.get("ESTEIRA_STREAM", "stationary"), int(os.environ.get("ESTEIRA_STREAM_SEED", "0"))
    shared = _shared_noise(seed)
    days = [day.date() for day in pd.date_range(max(first, FIRST), last)]
    return pd.concat([_day(kind, seed, shared, day) for day in days], ignore_index=True) if days else pd.DataFrame()


def _shared_noise(seed):
    """What all rows of a day have in common: an autoregression of order one over days, with a standard deviation of 5."""
    random = np.random.default_rng([seed, 1])
    steps = random.normal(0, 5 * np.sqrt(1 - 0.4**2), DAYS)
    noise = np.zeros(DAYS)
    for day in range(1, DAYS):
        noise[day] = 0.4 * noise[day - 1] + steps[day]
    return noise


def _day(kind, seed, shared, day):
    number, since = (day - FIRST).days, (day - CHANGE).days
    random = np.random.default_rng([seed, 2, number])
    site, hour = np.arange(24) % 3, np.arange(24)
    heat = random.normal(20, 5, 24)
    tariff = "B" if kind == "recurring" and since >= 0 and since % 70 < 35 else "A"
    turned = {
        "stationary": 0.0,
        "sudden": float(since >= 0),
        "gradual": float(np.clip(since / 56, 0, 1)),
        "recurring": float(tariff == "B"),
    }[kind]
    effect = OLD + turned * (NEW - OLD)
    amount = 100 + effect[site] + 20 * np.sin(hour / 24 * 2 * np.pi) + heat + shared[number] + random.normal(0, 10, 24)
    return pd.DataFrame(
        {
            "at": pd.Timestamp(day) + pd.to_timedelta(hour, unit="h"),
            "hour": hour,
            "heat": heat,
            "site": np.array(["north", "centre", "south"])[site],
            "tariff": tariff,
            "amount": amount,
        }
    )
