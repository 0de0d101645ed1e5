"""Data drift: reference profiles saved with the model, the drift against them, and Evidently for the report."""

from __future__ import annotations

import hashlib
import html
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from esteira.spec import ModelSpec, canonical

BINS = 10
FLOOR = 1e-4  # the share that an empty bin is taken to have
CHANCE, DRAWS, MANY = 0.99, 200, 2_000  # what so many draws of fewer rows stay below is no drift but chance
LABEL, PREDICTION, ERROR, LABELLED = (
    "(label)",
    "(prediction)",
    "(error)",
    "(labelled)",
)  # beside features, whose names have no brackets
OUTCOMES = (LABEL, PREDICTION, ERROR)

Profile = dict[str, dict[str, Any]]
Shares = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Statistic:
    """How far one spread is from another: `function` takes the shares of the same bins then and now; above `limit` it drifted.

    `name` is what the metrics table calls it, `title` what people do.
    """

    name: str
    title: str
    limit: float
    function: Callable[[Shares, Shares], float]


def _psi(then: Shares, now: Shares) -> float:
    then, now = np.maximum(then, FLOOR), np.maximum(now, FLOOR)
    return float(np.sum((now - then) * np.log(now / then)))


# The population stability index: the sum of (now - then) * ln(now / then) over bins (Siddiqi 2006, Credit Risk Scorecards), 0
# where the spread is the same. Its usual reading: below 0.1 stable, above 0.2 drifted.
STATISTIC = Statistic("psi", "PSI", 0.2, _psi)


def profile(spec: ModelSpec, frame: pd.DataFrame, weights: Mapping[str, float] | None = None) -> Profile:
    """How each feature is spread over at most 10 bins (numbers, by quantiles) or categories, with a bin for empty ones.

    So is the `label`, where `frame` has it, of all rows and by segment. Numbers have two more bins, for what lies below and above all that was seen. `weights`, the features' importance, are
    kept beside.
    """
    numeric = {*spec.features.numeric, *spec.features.boolean}
    found = {
        name: _numeric_profile(frame[name])
        if name in numeric
        else _category_profile(frame[name], hidden=name in spec.personal)
        for name in spec.features.all
    }
    for name, weight in (weights or {}).items():
        found[name]["importance"] = weight
    return (
        found | _by_segment(spec, frame, frame[["label"]].rename(columns={"label": LABEL}))
        if "label" in frame
        else found
    )


def outcomes(spec: ModelSpec, rows: pd.DataFrame) -> pd.DataFrame:
    """Of rows with `label`, `prediction` and `probability` the label, what was predicted (of a binary task the probability), the error.

    The error is the distance of the two, of a binary task that of the probability, of a multiclass one whether it was wrong.
    """
    label, predicted = rows["label"], rows["prediction"]
    if spec.task == "regression":
        error = (label - predicted).abs()
    elif spec.task == "binary":
        predicted = rows["probability"]
        error = ((label == spec.positive_class) - predicted).abs()
    else:
        error = (label != predicted).astype(float)
    return pd.DataFrame({LABEL: label, PREDICTION: predicted, ERROR: error}, index=rows.index)


def outcome_profile(spec: ModelSpec, rows: pd.DataFrame) -> Profile:
    """How predictions and errors are spread over rows that the model had not seen, all of them and by segment."""
    return _by_segment(spec, rows, outcomes(spec, rows)[[PREDICTION, ERROR]]) if len(rows) else {}


def _by_segment(spec: ModelSpec, rows: pd.DataFrame, known: pd.DataFrame) -> Profile:
    found = {str(name): _shape(spec, known[name]) for name in known}
    for column in spec.check.segments:
        for value, part in known.groupby(segment_names(rows[column])):
            found |= {f"{name} {column}={value}": _shape(spec, part[name]) for name in known}
    return found


def segment_names(values: pd.Series) -> pd.Series:
    """How the segments of a column are called."""
    return values.map(canonical, na_action="ignore").astype("object").fillna("(empty)")


def _shape(spec: ModelSpec, values: pd.Series) -> dict[str, Any]:
    numeric = pd.api.types.is_numeric_dtype(values)
    return _numeric_profile(values) if numeric else _category_profile(values, hidden=spec.target in spec.personal)


def of_outcomes(known: Profile) -> Profile:
    """What a profile says of predictions and errors."""
    return {name: shape for name, shape in known.items() if name.startswith((PREDICTION, ERROR))}


def measure_outcomes(
    spec: ModelSpec, reference: Profile, rows: pd.DataFrame, segment: str = ""
) -> dict[str, tuple[float, float]]:
    """The drift of `label`, `prediction` and `error`, and above which it is one; of a segment's rows beside what it was then."""
    known = outcomes(spec, rows).rename(columns={name: f"{name} {segment}".strip() for name in OUTCOMES})
    found = measure({name: reference[name] for name in known.columns if name in reference}, known)
    most = limits(reference, found, known, rows["day"])
    return {name.partition(")")[0][1:]: (value, most[name]) for name, value in found.items()}


def importance(known: Profile) -> dict[str, float]:
    """The features' importance that a profile keeps."""
    return {name: shape["importance"] for name, shape in known.items() if "importance" in shape}


def _numeric_profile(values: pd.Series) -> dict[str, Any]:
    given = values.dropna().to_numpy(dtype="float64")
    if not len(given):
        return {"edges": [], "shares": _numeric_shares(values, np.array([]))}
    # Outer bins hold what lies below and above all that was seen; a constant column needs them to show that it moved.
    inner = np.quantile(given, np.linspace(0, 1, BINS + 1)[1:])
    edges = np.unique([np.nextafter(given.min(), -np.inf), *inner])
    return {"edges": edges.tolist(), "shares": _numeric_shares(values, edges)}


def _numeric_shares(values: pd.Series, edges: np.ndarray[Any, Any]) -> list[float]:
    counts = np.bincount(_numeric_bins(values, edges), minlength=len(edges) + 2)
    return [float(count) / max(len(values), 1) for count in counts]


def _numeric_bins(values: pd.Series, edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The number of each value's bin; the last one is of those that are empty."""
    number = values.to_numpy(dtype="float64")
    # A value equal to an edge belongs below it, so that a column of a few values keeps one bin for each.
    return np.where(np.isnan(number), len(edges) + 1, np.searchsorted(edges, number, side="left"))


def _category_profile(values: pd.Series, *, hidden: bool) -> dict[str, Any]:
    shares = _categories(values, hidden).value_counts(normalize=True).head(100)
    found: dict[str, Any] = {"categories": {str(name): float(share) for name, share in shares.items()}}
    return {**found, "hidden": True} if hidden else found


def _categories(values: pd.Series, hidden: bool) -> pd.Series:
    """Categories as text; of a personal column their digests, which tell as well how often each came."""
    text = values.astype(object).where(values.notna(), "").map(str)
    return text.map(lambda value: hashlib.sha256(value.encode()).hexdigest()[:16]) if hidden else text


def category_share(reference: Profile, name: str, value: str) -> float:
    """The share that a category had of a column's values when that was profiled; 0 where it was none of the frequent ones."""
    shape = reference.get(name, {})
    told = _categories(pd.Series([value]), bool(shape.get("hidden"))).iloc[0]
    return float(shape.get("categories", {}).get(told, 0.0))


Counts = dict[str, dict[Any, Shares]]  # of each bin of a profile's columns, by day


def count(reference: Profile, frame: pd.DataFrame, days: pd.Series, before: Counts | None = None) -> Counts:
    """How often each bin of the profiled columns that `frame` has came, by day; added to what was counted `before`."""
    total = before if before is not None else {}
    if frame.empty:
        return total
    codes, known = pd.factorize(days)
    for name in (name for name in reference if name in frame.columns):
        table = _table(reference[name], frame[name], codes, len(known))
        of = total.setdefault(name, {})
        for day, row in zip(known, table, strict=True):
            of[day] = of[day] + row if day in of else row
    return total


def _table(shape: dict[str, Any], values: pd.Series, codes: np.ndarray[Any, Any], days: int) -> np.ndarray[Any, Any]:
    """How often each bin came, a row for each day."""
    most = (len(shape["edges"]) + 2) if "edges" in shape else len(shape["categories"]) + 1
    if "edges" in shape and days == 1 and len(values) >= MANY:
        return _counted(values.to_numpy(dtype="float64"), np.array(shape["edges"]))[None, :]
    found = np.bincount(codes * most + _bins(shape, values), minlength=days * most)
    return found.reshape(days, most)


def _counted(numbers: np.ndarray[Any, Any], edges: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """How often each bin came: as many comparisons as there are edges, of which each takes less than a search for each number."""
    given = len(numbers) - np.count_nonzero(np.isnan(numbers))
    up_to = [np.count_nonzero(numbers <= edge) for edge in edges]
    return np.diff([0, *up_to, given, len(numbers)])


def measure(reference: Profile, frame: pd.DataFrame) -> dict[str, float]:
    """The drift of each profiled column that `frame` has, by STATISTIC."""
    return measure_counts(reference, count(reference, frame, pd.Series(0, frame.index)))


def measure_counts(reference: Profile, counts: Counts) -> dict[str, float]:
    """The drift of each column that was counted."""
    return {
        name: STATISTIC.function(_then(reference[name]), _sum(of) / max(_sum(of).sum(), 1))
        for name, of in counts.items()
    }


def _sum(of: Mapping[Any, Shares]) -> Shares:
    return np.asarray(sum(of.values()))


def limits(reference: Profile, names: Iterable[str], frame: pd.DataFrame, days: pd.Series) -> dict[str, float]:
    """Above which drift each of the columns of `frame` did drift, whose rows are of the `days`; see limits_of_counts()."""
    wanted = [name for name in names if name in frame.columns]
    return limits_of_counts(reference, count({name: reference[name] for name in wanted}, frame[wanted], days))


def limits_of_counts(reference: Profile, counts: Counts) -> dict[str, float]:
    """Above which drift each column that was counted did drift.

    It is STATISTIC's limit, or what the drift of as many rows drawn from the reference hardly ever comes to: of a few rows
    most bins are empty by chance. Rows count for as much less as they are more alike within a day than between days.
    """
    draw = np.random.default_rng(0)
    found = {}
    for name, of in counts.items():
        rows = _worth(np.array([*of.values()]))
        chance = _by_chance(reference[name], rows, draw) if 0 < rows < MANY else 0.0
        found[name] = max(STATISTIC.limit, chance)
    return found


def _worth(table: np.ndarray[Any, Any]) -> int:
    """How many independent rows those of days, counted by bin, say as much as: theirs by the design effect of days (Kish 1965, Survey
    Sampling), one a day at least.
    """
    count, every = len(table), int(table.sum())
    if count < 2:
        return every
    sizes = table.sum(axis=1, keepdims=True)
    share = table.sum(axis=0) / every
    by_chance = float((share * (1 - share) / sizes).sum())
    if not by_chance:  # all in one bin, as where a day's rows share it
        return count
    effect = float(((table / sizes - share) ** 2).sum()) / by_chance * count / (count - 1)
    return max(round(every / max(effect, 1.0)), count)


def _bins(shape: dict[str, Any], values: pd.Series) -> np.ndarray[Any, Any]:
    """The number of each value's bin in a profile."""
    if "edges" in shape:
        return _numeric_bins(values, np.array(shape["edges"]))
    names = {name: number for number, name in enumerate(shape["categories"])}
    codes, known = pd.factorize(_categories(values, shape.get("hidden", False)))
    return np.array([names.get(name, len(names)) for name in known])[codes]


def _by_chance(shape: dict[str, Any], rows: int, draw: np.random.Generator) -> float:
    then = _then(shape)
    if then.sum() <= 0:
        return 0.0
    drawn = draw.multinomial(rows, then / then.sum(), size=DRAWS) / rows
    return float(np.quantile([STATISTIC.function(then, each) for each in drawn], CHANCE))


def _then(shape: dict[str, Any]) -> Shares:
    """The shares of a profile's bins."""
    return np.array(shape["shares"] if "edges" in shape else [*shape["categories"].values(), 0.0])


def report(spec: ModelSpec, reference: pd.DataFrame, current: pd.DataFrame, path: Path, rows: int = 5_000) -> None:
    """Write Evidently's data-drift report of the features to `path` (HTML), from at most `rows` rows of each side."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numeric = [*spec.features.numeric, *spec.features.boolean]
    shown = [name for name in spec.features.all if name not in spec.personal]
    if not shown:
        path.write_text("<!doctype html><p>Every feature is personal: none is shown here.</p>", encoding="utf-8")
        return

    def dataset(frame: pd.DataFrame) -> Any:
        known = frame[shown].dropna(axis=1, how="all")
        sample = known.sample(min(rows, len(known)), random_state=0)
        # Evidently puts values into a script of its page as they are: a category must not end that script.
        texts = {
            name: sample[name].astype(object).fillna("(empty)").map(lambda value: html.escape(str(value)))
            for name in spec.features.categorical
            if name in sample
        }
        return sample.assign(**texts)

    old, new = dataset(reference), dataset(current)
    both = [name for name in old.columns if name in new.columns]
    definition = DataDefinition(
        numerical_columns=[name for name in numeric if name in both],
        categorical_columns=[name for name in spec.features.categorical if name in both],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its divisions by empty bins
        snapshot = Report([DataDriftPreset()]).run(
            Dataset.from_pandas(new[both], data_definition=definition),
            Dataset.from_pandas(old[both], data_definition=definition),
        )
    snapshot.save_html(str(path))
