"""One row: what was predicted for it, by which version, the label when it came, and what each feature adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

import pandas as pd

from esteira import data
from esteira.errors import DataError
from esteira.spec import ModelSpec
from esteira.store import lake, ledger, runs
from esteira.views.rows import chosen

BEFORE = 28  # days of rows that the row's features are compared with


@dataclass(frozen=True)
class Predicted:
    """A prediction of a row: by which version, in which run; `published` is the one that the table has now, the other was served first."""

    version: int
    prediction: float | str
    probability: float | None
    run: str
    published: bool


@dataclass(frozen=True)
class Explained:
    """A row of a day. `shares` are what each feature adds to `base`, the mean prediction of rows of the 28 days up to it, to make the one
    that is published; of a classification they are of the chance of the positive class, or of the class predicted. Personal values are masked.
    """

    model: str
    day: date
    key: Mapping[str, Any]
    predictions: tuple[Predicted, ...]
    label: float | str | None
    label_seen: datetime | None
    features: Mapping[str, Any]
    base: float
    shares: Mapping[str, float]


def explain(spec: ModelSpec, day: date, key: Mapping[str, str]) -> Explained:
    """Explain the row of a day that has this key, its values as text. Raises DataError where there is none, or several."""
    from esteira.learning import attribution, predicting

    published = _only(spec, _rows(spec, "predictions", day, key), day, key)
    served = _rows(spec, "served", day, key)
    features = lake.read("features", spec.name, day=(day - timedelta(days=BEFORE - 1), day))
    mine = chosen(features[features["day"] == pd.Timestamp(day)], key)
    version = int(published["version"])
    known = ledger.registered(spec, version)
    model = runs.load_version(spec, version, known.sha256 if known else "")
    place = _class_of(spec, model.classes, published)

    def predict(matrix: pd.DataFrame) -> Any:
        if not model.classes:
            return model.pipeline.predict(matrix)
        return model.pipeline.predict_proba(matrix)[:, place]

    every = predicting.design(spec, features, model.columns)
    found = attribution.attribute(predict, every.loc[mine.index], every)
    label = _rows(spec, "labels", day, key)
    label = label.sort_values("first_seen").tail(1) if len(label) else label
    row = data.masked(spec, mine[list(dict.fromkeys([*spec.key, *spec.features.all]))]).iloc[0]
    return Explained(
        model=spec.name,
        day=day,
        key={name: row[name] for name in spec.key},
        predictions=(*_first(served, published), _predicted(published, published=True)),
        label=None if label.empty else label["label"].iloc[0],
        label_seen=None if label.empty else label["first_seen"].iloc[0].to_pydatetime(),
        features={name: row[name] for name in spec.features.all},
        base=found.base,
        shares=dict(sorted(found.shares.items(), key=lambda each: -abs(each[1]))),
    )


def _class_of(spec: ModelSpec, classes: tuple[str, ...], published: Mapping[str, Any]) -> int:
    if not classes or spec.task == "binary":
        return len(classes) - 1
    return classes.index(str(published["prediction"]))


def _rows(spec: ModelSpec, kind: Any, day: date, key: Mapping[str, str]) -> pd.DataFrame:
    return chosen(lake.read(kind, spec.name, day=day), key)


def _only(spec: ModelSpec, rows: pd.DataFrame, day: date, key: Mapping[str, str]) -> dict[str, Any]:
    if len(rows) != 1:
        asked = ", ".join(f"{name}={value}" for name, value in key.items()) or "no key"
        many = "no prediction" if rows.empty else f"{len(rows)} predictions"
        raise DataError(
            f"model {spec.name}: {many} on {day} for {asked}; the key is {', '.join(spec.key)}, each as it stands in the table; "
            f"the page lists the rows of a day where the key is left open, `esteira export {spec.name} rows.csv --day {day}` writes them"
        )
    return {str(name): value for name, value in rows.iloc[0].items()}


def _first(served: pd.DataFrame, published: Mapping[str, Any]) -> list[Predicted]:
    """What was served first, where that is not what is published."""
    rows = [{str(name): value for name, value in row.items()} for row in served.to_dict("records")]
    return [_predicted(row, published=False) for row in rows if row["run"] != published["run"]]


def _predicted(row: Mapping[str, Any], *, published: bool) -> Predicted:
    chance = row.get("probability")
    known = None if chance is None or pd.isna(chance) else float(chance)
    return Predicted(int(row["version"]), row["prediction"], known, str(row["run"]), published)
