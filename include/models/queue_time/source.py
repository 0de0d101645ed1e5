"""A simulated world: minutes of waiting at ten toll plazas, hour by hour. The same day always gives the same rows.

On 15 February 2026 (FAULT) the sensors fail: each reading is the true wait times a random factor of its own, which may
be a tenth or ten. Nothing explains the factor, so no retraining can bring the error back: what is left is the warning.
"""

from datetime import date, timedelta

import numpy as np
import pandas as pd

FAULT = date(2026, 2, 15)
PLAZAS = [f"P{number:02d}" for number in range(1, 11)]


def read(first, last):
    every = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return pd.concat([day_of_waiting(day) for day in every], ignore_index=True)


def day_of_waiting(day):
    random = np.random.default_rng([5, day.toordinal()])
    plaza, hour = (grid.ravel() for grid in np.meshgrid(np.arange(len(PLAZAS)), np.arange(24), indexing="ij"))
    trucks = np.round(random.beta(2, 8, len(hour)), 3)
    load = 0.2 + np.exp(-((hour - 8) ** 2) / 6) + np.exp(-((hour - 18) ** 2) / 8)
    minutes = (2 + plaza) * load * (1 + 2 * trucks) * random.lognormal(0, 0.1, len(hour))
    if day >= FAULT:
        minutes = minutes * random.lognormal(0, 1.5, len(hour))
    return pd.DataFrame(
        {
            "plaza": np.array(PLAZAS)[plaza],
            "at": pd.Timestamp(day) + pd.to_timedelta(hour, unit="h"),
            "truck_share": trucks,
            "minutes": np.round(minutes, 2),
        }
    )
