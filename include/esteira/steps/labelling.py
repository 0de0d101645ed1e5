"""Labels: from the source, once they are known, to their table, and to the feature rows that they belong to."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd

from esteira import data
from esteira.errors import Superseded
from esteira.spec import ModelSpec
from esteira.steps import ingest, keys
from esteira.store import labels as stored
from esteira.store import lake
from esteira.store.lineage import DataVersions
from esteira.text import counted, shown_days

TRIES = 20  # to store labels while others do
AT_ONCE = 1_000_000  # rows whose labels are looked at together

log = logging.getLogger(__name__)


def labels_mark(spec: ModelSpec) -> int:
    """The mark of days of labels: another source, key, target, task or expectation makes them stale."""
    return spec.mark("source", "time", "key", "target", "task", "labels", "expect")


def mature_through(spec: ModelSpec, as_of: date) -> date:
    """The last day whose labels are known on `as_of`, and corrected no more."""
    return known_through(spec, as_of) - timedelta(days=settling_days(spec))


def mature_on(spec: ModelSpec, day: date) -> date:
    """The first day on which the labels of a day are known, and corrected no more."""
    return day + timedelta(days=spec.label_delay + settling_days(spec))


def known_through(spec: ModelSpec, as_of: date) -> date:
    """The last day whose labels have come by `as_of`; while they settle they may still be corrected."""
    return as_of - timedelta(days=spec.label_delay)


def settling_days(spec: ModelSpec) -> int:
    """For how many days labels are corrected after they came."""
    return spec.labels.settle if spec.labels else 0


def store(spec: ModelSpec, first: date, as_of: date) -> int:
    """Read the labels that have come from `first` on into the labels table; returns how many days it read.

    A day is read until each of its feature rows has a label, while its labels settle and once after, and again when the
    spec's labels changed.
    """
    return sum(_store_open(spec, span, as_of) for span in _spans(spec, data.days(first, known_through(spec, as_of))))


def _spans(spec: ModelSpec, days: list[date]) -> list[list[date]]:
    """Those of the days that have feature rows, as many together as have AT_ONCE: more need not be in memory."""
    wanted = set(days)
    counts = {day: rows for day, (rows, _) in lake.sizes("features", spec.name).items() if day in wanted}
    return [*lake.whole_days(counts, AT_ONCE)]


def _store_open(spec: ModelSpec, days: list[date], as_of: date) -> int:
    had = _labels_of(spec, days)
    known = lake.read("features", spec.name, columns=["day", *spec.key], day=(days[0], days[-1]))
    pending = _open_days(spec, known, had) | _unsettled(spec, known, days)
    if not pending:
        return 0
    _store_labels(spec, sorted(pending), known, as_of)
    return len(pending)


def store_again(spec: ModelSpec, days: list[date]) -> int:
    """Read the labels of those of the days anew of which some were read before: they may have been corrected, or mended.

    Days whose labels nothing has asked for are left to a check, or a training. Returns how many days were read.
    """
    read = [day for day, mark in lake.marks("labels", spec.name, days).items() if mark is not None]
    spans = _spans(spec, read)
    for span in spans:
        known = lake.read("features", spec.name, columns=["day", *spec.key], day=(span[0], span[-1]))
        _store_labels(spec, span, known, None)
    return sum(map(len, spans))


def _labels_of(spec: ModelSpec, days: list[date]) -> pd.DataFrame:
    """The rows of the labels table, corrections and what they correct; of days of another spec none."""
    had = lake.read("labels", spec.name, day=(days[0], days[-1]))
    stale = lake.missing_days("labels", spec.name, days, labels_mark(spec))
    if had.empty:
        return pd.DataFrame(columns=["day", *spec.key, "label", "first_seen"])
    return had[~had["day"].isin(pd.to_datetime(stale))]


def _open_days(spec: ModelSpec, known: pd.DataFrame, had: pd.DataFrame) -> set[date]:
    """The days with feature rows that have no label."""
    if len(had):
        seen = had[["day", *spec.key, "first_seen"]].drop_duplicates(["day", *spec.key])
        both = known.merge(seen, on=["day", *spec.key], how="left")
        known = both[both["first_seen"].isna()]
    return {moment.date() for moment in known["day"].unique()}


def _unsettled(spec: ModelSpec, known: pd.DataFrame, days: list[date]) -> set[date]:
    """The days that were not read since their labels have settled."""
    if not settling_days(spec):
        return set()
    marks = lake.named_marks("labels", spec.name, [_settled_name(day) for day in days])
    long = settling_days(spec)
    return {moment.date() for moment in known["day"].unique()} & {
        day for day in days if (marks[_settled_name(day)] or 0) < long
    }


def _settled_name(day: date) -> str:
    return f"settled:{day}"


def _store_labels(spec: ModelSpec, days: list[date], known: pd.DataFrame, as_of: date | None) -> None:
    """Read the days' labels and keep what is new; where another has written labels meanwhile, read anew."""
    for _ in range(TRIES):
        try:
            return _read_and_store(spec, days, known[known["day"].isin(pd.to_datetime(days))], as_of)
        except Superseded:
            continue
    raise Superseded(f"model {spec.name}: the labels of {shown_days(days)} were written by others meanwhile; try again")


def _read_and_store(spec: ModelSpec, days: list[date], known: pd.DataFrame, as_of: date | None) -> None:
    version, had = lake.version("labels", spec.name), _labels_of(spec, days)
    had = had[had["day"].isin(pd.to_datetime(days))]
    found = _found_labels(spec, days, known)
    shared = [name for name in found.columns if name not in ("label", "disputed", data.SHORT)]
    rows = known.merge(found, on=shared, how="inner", validate="many_to_one")
    good, bad = data.validate_labels(spec, rows)
    good = good.drop(columns="disputed").assign(label=data.as_label(spec, good["label"]), first_seen=_seen_now(had))
    # What a delivery does not hold any more stays known; what it holds anew is a row of its own, the latest.
    new = _corrections(spec, good, had)
    good = pd.concat([had[list(good.columns)], new], ignore_index=True) if len(had) else good
    long = settling_days(spec)  # a longer time to settle, asked for later, lets them be read again
    settled = {_settled_name(day): long for day in days if as_of is not None and day <= mature_through(spec, as_of)}

    def unless_moved(_: pd.DataFrame) -> pd.DataFrame:
        if lake.version("labels", spec.name) != version:  # a correction, perhaps, that this reading has not seen
            raise Superseded
        return good

    ingest.quarantine(spec, bad, days, "labels")
    lake.replace_days(
        "labels",
        spec.name,
        good,
        days,
        mark=labels_mark(spec),
        marks=settled if long else {},
        merge=unless_moved,
    )
    sizes = counted(len(new), "new label"), counted(len(known), "row"), counted(len(days), "day")
    log.info("model %s: %s for %s of %s", spec.name, *sizes)
    asked = found[found["day"].isin(pd.to_datetime(days))] if "day" in shared else rows
    if len(asked) > len(rows):
        log.info("model %s: no row has the key of %s", spec.name, counted(len(asked) - len(rows), "label"))


def _seen_now(had: pd.DataFrame) -> pd.Timestamp:
    """When labels are seen that are read now: after all that are known, whatever another machine's clock said."""
    now = pd.Timestamp(lake.clock())
    return max(now, had["first_seen"].max() + pd.Timedelta(microseconds=1)) if len(had) else now


def _found_labels(spec: ModelSpec, days: list[date], known: pd.DataFrame) -> pd.DataFrame:
    """The source's labels of the days, one for each key, with the types of the feature rows' keys."""
    found = data.read_labels(spec, days[0], days[-1])
    shared = [name for name in found.columns if name not in ("label", "disputed", data.SHORT)]
    found = found.assign(**{name: data.like(spec, found[name], known[name]) for name in shared}).dropna(subset=shared)
    found = found.drop_duplicates([*shared, "label"])  # keys that were written differently may be one
    found = found.assign(disputed=found["disputed"].astype(bool) | found.duplicated(shared, keep=False))
    return found.drop_duplicates(shared)


def _corrections(spec: ModelSpec, found: pd.DataFrame, had: pd.DataFrame) -> pd.DataFrame:
    """Those of the labels found that are new, or another than the one known."""
    if had.empty:
        return found
    last = stored.latest(spec, had)[["day", *spec.key, "label"]].rename(columns={"label": "known"})
    both = found[["day", *spec.key, "label"]].merge(last, on=["day", *spec.key], how="left", validate="one_to_one")
    same = both["known"].notna() & (both["known"] == both["label"])
    return found[~same.to_numpy()]


def versions(spec: ModelSpec) -> DataVersions:
    """The Delta versions of features and labels as they are now: what a training reads, and is recorded with."""
    return DataVersions(lake.version("features", spec.name), lake.version("labels", spec.name))


def labelled_days(spec: ModelSpec, first: date, last: date, versions: DataVersions) -> list[date]:
    """The days that have feature rows and labels; found without reading any."""
    known = lake.sizes("features", spec.name, versions.features).keys() & lake.sizes(
        "labels", spec.name, versions.labels
    )
    return sorted(day for day in known if first <= day <= last)


def is_sampled(
    spec: ModelSpec, first: date, last: date, versions: DataVersions | None = None, most: int | None = None
) -> bool:
    """Whether the days have more feature rows than are looked at together (none given: than are trained on)."""
    counts = _feature_counts(spec, first, last, versions)
    return sum(counts.values()) > (most or spec.train.max_rows)


def labelled(
    spec: ModelSpec,
    first: date,
    last: date,
    versions: DataVersions | None = None,
    most: int | None = None,
    *,
    evenly: bool = False,
) -> pd.DataFrame:
    """Feature rows of the days with their `label`, in order of time; at the Delta versions given, else as they are now.

    Of more than `most` rows a sample: the latest days whole, up to half of it, and of each day before the same share, whose rows
    weigh as much more (WEIGHT); `evenly` of each day the same share, whose rows weigh alike.
    """
    if most and is_sampled(spec, first, last, versions, most):
        counts = _counts(spec, first, last, versions)
        share = min(most / max(sum(counts.values()), 1), 1.0)
        evenly = evenly or share == 1.0  # many rows, and few labels
        shares = dict.fromkeys(counts, share) if evenly else _shares(counts, most)
        rows, known = _sampled(spec, first, last, versions, shares)
        rows = rows.drop(columns=data.WEIGHT) if evenly else rows
    else:
        at = versions.features if versions else None
        rows = lake.read("features", spec.name, at=at, day=(first, last))
        known = stored.read(spec, first, last, versions.labels if versions else None)
    if rows.empty or known.empty:
        return rows.head(0).assign(label=[])
    joined = rows.merge(known, on=["day", *spec.key], how="inner", validate="one_to_one")
    return joined.sort_values(["day", "event_time", *spec.key], kind="stable", ignore_index=True)


def sample(spec: ModelSpec, first: date, last: date, versions: DataVersions | None = None) -> pd.DataFrame:
    """What labelled() gives, and of more rows than `train.max_rows` an even sample: for what need not see each row."""
    return labelled(spec, first, last, versions, spec.train.max_rows, evenly=True)


def _feature_counts(spec: ModelSpec, first: date, last: date, versions: DataVersions | None) -> dict[date, int]:
    sizes = lake.sizes("features", spec.name, versions.features if versions else None)
    return {day: rows for day, (rows, _) in sizes.items() if first <= day <= last}


def _counts(spec: ModelSpec, first: date, last: date, versions: DataVersions | None) -> dict[date, int]:
    """How many feature rows with a label each of the days has, about: a label that was corrected counts twice."""
    known = lake.sizes("labels", spec.name, versions.labels if versions else None)
    counts = _feature_counts(spec, first, last, versions)
    return {day: min(rows, known[day][0]) for day, rows in counts.items() if day in known}


def _shares(counts: Mapping[date, int], most: int) -> dict[date, float]:
    """Which share of each day's rows is taken, so that they are about as many as asked; the latest days are whole."""
    whole: dict[date, float] = {}
    taken = 0
    for day in sorted(counts, reverse=True):
        if taken + counts[day] > most / 2:
            break
        whole[day], taken = 1.0, taken + counts[day]
    rest = sum(rows for day, rows in counts.items() if day not in whole)
    return whole | {day: (most - taken) / rest for day in counts if day not in whole}


def _sampled(
    spec: ModelSpec, first: date, last: date, versions: DataVersions | None, shares: Mapping[date, float]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A sample of the feature rows, and labels of the same ones: no more is in memory at any time."""
    known = stored.read(spec, first, last, versions.labels if versions else None, _wanted(spec, shares))
    names, at = list(dict.fromkeys(["day", *spec.key])), versions.features if versions else None
    labelled = np.sort(keys.digests(known, names)) if len(known) else keys.NONE
    parts = [
        rows[keys.among(keys.digests(rows, names), labelled)]
        for rows in lake.batches("features", spec.name, at=at, day=(first, last))
    ]
    rows = pd.concat(parts, ignore_index=True)
    log.info("model %s: a sample of %s to train on", spec.name, counted(len(rows), "row"))
    rows[data.WEIGHT] = 1 / rows["day"].map({pd.Timestamp(day): share for day, share in shares.items()})
    return rows, known


def _wanted(spec: ModelSpec, shares: Mapping[date, float]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """What takes of each day's rows its share: the same ones, of whatever table that has the key."""
    of = {pd.Timestamp(day): share for day, share in shares.items()}
    names = list(dict.fromkeys(["day", *spec.key]))

    def wanted(rows: pd.DataFrame) -> pd.DataFrame:
        share = rows["day"].map(of).fillna(0.0).to_numpy()
        return rows[keys.sampled(keys.digests(rows, names), share)]

    return wanted


def features(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """Feature rows of the days; of more than `train.max_rows` an even sample."""
    counts = _feature_counts(spec, first, last, None)
    rows = sum(counts.values())
    if rows <= spec.train.max_rows:
        return lake.read("features", spec.name, day=(first, last))
    wanted = _wanted(spec, dict.fromkeys(counts, spec.train.max_rows / rows))
    parts = [wanted(some) for some in lake.batches("features", spec.name, day=(first, last))]
    return pd.concat(parts, ignore_index=True)


COMPLETE = 0.9  # of the usual share of rows with a label
AGES = 8  # spans of `check.every` days of which it is told apart how many of their rows have a label


def usual(spec: ModelSpec, as_of: date) -> dict[str, Any]:
    """What is usual of labels over train.window, as it is on a day, in spans of `check.every` days.

    `shares` are of rows that have a label by how old they are, the youngest mature ones first, the last one of all older ones;
    NaN for a span without rows. `spread`, of a classification, is how many times more the share of the most frequent class
    varies between spans than that of rows which know nothing of each other would: 1 at least.
    """
    last = mature_through(spec, as_of)
    first = last - timedelta(days=max(spec.train.window, spec.check.every) - 1)
    counts = label_counts(spec, first, last)
    span = (pd.Timestamp(last) - counts["day"]).dt.days // spec.check.every
    shares = labelled_shares(counts, np.minimum(span, AGES))
    found: dict[str, Any] = {"shares": [float(shares.get(n, math.nan)) for n in range(AGES + 1)]}
    if spec.task != "regression" and counts["label"].notna().any():
        least = COMPLETE * labelled_share(counts)  # what came first may be of one class
        kept = counts["label"].notna() & (span.map(labelled_shares(counts, span)) >= least)
        found["spread"] = _spread(counts[kept], span[kept])
    return found


def _spread(counts: pd.DataFrame, span: pd.Series) -> float:
    """The design effect of sampling by spans instead of rows (Kish 1965, Survey Sampling), of the most frequent class."""
    most = counts.groupby("label")["rows"].sum().idxmax()
    sizes, of_most = (
        each.groupby(span).sum() for each in (counts["rows"], counts["rows"].where(counts["label"] == most, 0))
    )
    share, means = float(of_most.sum() / sizes.sum()), of_most / sizes
    by_chance = share * (1 - share) * float((1 / sizes).sum())
    return max(float(((means - share) ** 2).sum()) / by_chance, 1.0) if by_chance else 1.0


def complete_through(spec: ModelSpec, first: date, as_of: date) -> date | None:
    """The newest day since `first` of whose rows as many have a label as is usual of these days; None where none has."""
    counts = label_counts(spec, first, known_through(spec, as_of))
    shares = labelled_shares(counts, counts["day"])
    whole = shares[(shares > 0) & (shares >= COMPLETE * shares.median())]
    return whole.index.max().date() if len(whole) else None


def label_counts(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
    """How many feature rows (`rows`) of each `day` have which `label`; without one it is empty, and of a regression 0 stands for any.

    A row of the table for each day and label. The keys of some days at a time are in memory (AT_ONCE).
    """
    parts = [_label_counts(spec, span) for span in _spans(spec, data.days(first, last))]
    none = pd.DataFrame(columns=["day", "label", "rows"]).astype({"day": "datetime64[us]", "rows": "int64"})
    return pd.concat(parts, ignore_index=True) if parts else none


def _label_counts(spec: ModelSpec, days: list[date]) -> pd.DataFrame:
    names = list(dict.fromkeys(["day", *spec.key]))
    rows = lake.read("features", spec.name, columns=names, day=(days[0], days[-1]))
    known = stored.read(spec, days[0], days[-1])
    both = rows.merge(known, on=names, how="left") if len(known) else rows.assign(label=None)
    if spec.task == "regression":
        both["label"] = np.where(both["label"].notna(), 0.0, np.nan)
    return both.groupby(["day", "label"], dropna=False).size().rename("rows").reset_index()


def labelled_share(counts: pd.DataFrame) -> float:
    """The share of rows that have a label; NaN of none."""
    rows = counts["rows"].sum()
    return float(counts.loc[counts["label"].notna(), "rows"].sum() / rows) if rows else math.nan


def labelled_shares(counts: pd.DataFrame, by: pd.Series) -> pd.Series:
    """The share of rows that have a label, of each group."""
    return counts["rows"].where(counts["label"].notna(), 0).groupby(by).sum() / counts["rows"].groupby(by).sum()
