"""A small simulated model, written to a folder: what tests declare, train, score and check."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
from esteira import data, steps
from esteira.spec import ModelSpec, load
from esteira.steps.scoring import Request

YAML = """\
name: {name}
owner: team@example.com
task: regression
source: {{kind: python, function: source.read}}
time: {{column: at}}
key: [site, at]
target: amount
label_delay: 1d
features: {{numeric: [hour, heat], categorical: [site], boolean: [open]}}
expect: {{heat: {{min: -50, max: 60}}, site: {{in: [A, B, C]}}, amount: {{min: -1000}}}}
train:
  window: 28d
  candidates:
    - {{estimator: sklearn.tree.DecisionTreeRegressor, search: {{max_depth: {{int: [5, 9]}}}}, trials: 2}}
    - {{estimator: sklearn.linear_model.Ridge}}
check:
  every: 7d
  slice: 7d
  metrics: {{mae_over_mean: {{max: 0.3}}, r2: {{min: 0.1}}}}
retrain: [{{window: 28d}}, {{window: 7d}}]
retrain_first: none
promote: {{min_gain: 0.01, refit: false}}
alerts: {{email: [ops@example.com]}}
"""

# From CHANGE on the amounts of the sites are shuffled; from NOISE on they are mostly noise.
SOURCE = '''\
"""Hourly amounts at three sites. The world changes on {change}, and turns to noise on {noise}."""
from datetime import date, timedelta

import numpy as np
import pandas as pd

CHANGE, NOISE = date.fromisoformat("{change}"), date.fromisoformat("{noise}")


def read(first, last):
    return pd.concat([day_of(first + timedelta(days=n)) for n in range((last - first).days + 1)], ignore_index=True)


def day_of(day):
    random = np.random.default_rng(day.toordinal())
    hour = np.tile(np.arange(24), 3)
    site = np.repeat(np.arange(3), 24)
    size = np.array([90, 10, 50] if day >= CHANGE else [10, 50, 90])[site]
    amount = size * (1 + 0.5 * np.sin(hour / 24 * 6.28)) * random.lognormal(0, 0.1, len(hour))
    if day >= NOISE:
        amount = amount * random.lognormal(0, 2, len(hour))
    return pd.DataFrame({{
        "site": np.array(["A", "B", "C"])[site],
        "at": pd.Timestamp(day) + pd.to_timedelta(hour, unit="h"),
        "hour": hour,
        "heat": np.round(random.normal(20, 5, len(hour)), 1),
        "open": True,
        "amount": np.round(amount, 3),
    }})
'''

NEVER = "2100-01-01"
AS_OF = date(2026, 1, 31)
FIRST = AS_OF + timedelta(days=1)
CHANGE = FIRST + timedelta(days=7)


def write(folder: Path, name: str = "sales", change: str = NEVER, noise: str = NEVER, yaml: str = YAML) -> ModelSpec:
    """Write the model into `folder`/name and load it."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.yaml").write_text(yaml.format(name=name))
    (place / "source.py").write_text(SOURCE.format(change=change, noise=noise))
    return load(place / "model.yaml")


def score_days(spec: ModelSpec, days: list[date], run: str = "r", version: int | None = None) -> None:
    steps.extract(spec, days)
    steps.validate(spec, days)
    steps.features(spec, days)
    steps.score(spec, days, run, Request(version))
    steps.publish(spec, days, run)


def labelled(spec: ModelSpec, last: date = date(2026, 1, 30), length: int = 20) -> pd.DataFrame:
    """Feature rows of the model with their label, straight from its source."""
    rows = data.read(spec, last - timedelta(days=length - 1), last)
    built = data.build_features(spec, rows)
    return built.merge(rows[["site", "at", "amount"]], on=["site", "at"]).rename(columns={"amount": "label"})


BINARY = """\
name: {name}
owner: team@example.com
task: binary
source: {{kind: python, function: source.read}}
time: {{column: at}}
key: [id]
target: late
features: {{numeric: [load]}}
train: {{window: 28d, candidates: [{{estimator: sklearn.linear_model.LogisticRegression}}]}}
check: {{every: 7d, slice: 7d, metrics: {{roc_auc: {{min: 0.6}}}}}}
"""
# Both classes on the days before `until`, one class from then on.
LATE = """\
from datetime import date, timedelta

import numpy as np
import pandas as pd

UNTIL = date.fromisoformat("{until}")


def read(first, last):
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    return pd.concat([of(day) for day in days], ignore_index=True)


def of(day):
    load = np.random.default_rng(day.toordinal()).normal(size=40)
    late = (load > 0).astype(int) if day < UNTIL else np.zeros(40, dtype=int)
    at = pd.Timestamp(day) + pd.to_timedelta(np.arange(40), unit="min")
    return pd.DataFrame({{"id": np.arange(40), "at": at, "load": load, "late": late}})
"""


def write_late(folder: Path, until: date) -> ModelSpec:
    """Write a binary model whose labels are of both classes until a day, and of one from then on."""
    place = folder / "flights"
    place.mkdir(parents=True)
    (place / "model.yaml").write_text(BINARY.format(name="flights"))
    (place / "source.py").write_text(LATE.format(until=until))
    return load(place / "model.yaml")


# The example of the design, whole: every key that there is has its line here.
FULL = """\
name: bike_demand
owner: demand@example.com
task: regression
source: {kind: csv, path: "${DATA}/hour.csv"}
time: {column: dteday, hour: hr}
key: [dteday, hr]
target: cnt
label_delay: 1d
features: {numeric: [temp, hum, hr], categorical: [season, weathersit], boolean: [holiday]}
expect: {temp: {min: 0, max: 1}, weathersit: {in: [1, 2, 3, 4]}, cnt: {min: 0}}
train:
  schedule: "@monthly"
  window: 180d
  candidates:
    - {estimator: sklearn.ensemble.HistGradientBoostingRegressor, search: {learning_rate: {log: [0.02, 0.3]}, max_leaf_nodes: {int: [15, 127]}}, trials: 20}
    - {estimator: sklearn.linear_model.Ridge}
score: {schedule: "0 6 * * *", shards: 1}
check:
  every: 7d
  metrics: {mae_over_mean: {max: 0.20}}
  violated: {at_least: 2, of_last: 3}
  min_days: 5
  slice: 14d
  drift: {max_share: 0.5}
retrain:
  - {window: 180d}
  - {window: 60d, half_life: 14d, keep_old: 0.2}
  - {window: 120d, trials: 40}
promote: {approval: none, min_gain: 0.005, confidence: 0.95, refit: false}
alerts: {email: [demand@example.com]}
"""
MINIMAL = """\
name: bike_demand
owner: demand@example.com
task: regression
source: {kind: parquet, path: rides.parquet}
time: {column: at}
key: [at]
target: rides
features: {numeric: [temp]}
train: {candidates: [{estimator: sklearn.linear_model.Ridge}]}
check: {metrics: {mae: {max: 10}}}
"""
