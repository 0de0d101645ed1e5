"""A simulated world: hourly vehicles at ten toll plazas. The same day always gives the same rows.

The change of regime: on 15 February 2026 (CHANGE) a parallel motorway opens. Five plazas lose more than half of their
traffic to it, five feed it and gain as much, and the evening peak moves three hours later everywhere. Neither the
columns nor their ranges change, so only the metric can show it. A model that learnt the old pattern over months keeps
predicting it; one that learnt from the days since the change has seen every plaza, hour and weekday of the new one.
"""

from datetime import date, timedelta

import numpy as np
import pandas as pd

CHANGE = date(2026, 2, 15)
PLAZAS = [f"P{number:02d}" for number in range(1, 11)]
SIZE = np.linspace(200, 1100, len(PLAZAS))
AFTER = np.array([0.4, 1.7, 0.45, 1.6, 0.35, 1.8, 0.4, 1.7, 0.45, 1.6])


def read(first, last):
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return pd.concat([day_of_traffic(day) for day in every], ignore_index=True)


def day_of_traffic(day):
    random = np.random.default_rng([2026, day.toordinal()])
    plaza, hour = (grid.ravel() for grid in np.meshgrid(np.arange(len(PLAZAS)), np.arange(24), indexing="ij"))
    rain = np.round(random.gamma(0.3, 2.0, len(hour)), 1)
    evening = 21 if day >= CHANGE else 18
    shape = 0.15 + np.exp(-((hour - 8) ** 2) / 6) + 1.2 * np.exp(-((hour - evening) ** 2) / 8)
    weekend = 0.6 if day.weekday() >= 5 else 1.0
    size = SIZE * (AFTER if day >= CHANGE else 1.0)
    expected = size[plaza] * shape * weekend * (1 - 0.02 * np.minimum(rain, 10))
    vehicles = np.maximum(0, np.round(expected * random.lognormal(0, 0.1, len(hour)))).astype(int)
    return pd.DataFrame(
        {
            "plaza": np.array(PLAZAS)[plaza],
            "at": pd.Timestamp(day) + pd.to_timedelta(hour, unit="h"),
            "rain_mm": rain,
            "lanes_open": np.where(size[plaza] * shape > 600, 8, 4),
            "vehicles": vehicles,
        }
    )
