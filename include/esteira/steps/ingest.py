"""From the source to the feature store: extract, validate, features, labels."""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from datetime import date, timedelta
from typing import Literal

import numpy as np
import pandas as pd

from esteira import data
from esteira.errors import DataError, Superseded, Unaccounted
from esteira.spec import ModelSpec, PythonSource, Source, SqlSource, canonical
from esteira.steps import quality
from esteira.store import lake
from esteira.store.labels import latest
from esteira.store.labels import read as read_labels
from esteira.store.lineage import DataVersions
from esteira.text import counted, shown_days

TRIES = 20  # to store labels while others do
TIMELESS = ("time", "short")  # the rules by which a row without a time is in quarantine

log = logging.getLogger(__name__)


def _mark(spec: ModelSpec, *blocks: str) -> int:
    """A number that changes when the blocks of the spec, or the model's own code, do: what was made before is stale then."""
    asked = spec.model_dump(mode="json", include=set(blocks), exclude={"labels": {"settle"}})
    if asked.get("labels") and asked["labels"].get("source") is None:
        asked["labels"] = None  # as where there is no such block: labels are the source's own
    text = json.dumps(asked, sort_keys=True)
    secrets = [source.url.get_secret_value() for source in _sources(spec) if isinstance(source, SqlSource)]
    return zlib.crc32("".join([text, *secrets]).encode() + spec.code)


def _sources(spec: ModelSpec) -> list[Source]:
    return [spec.source, *([spec.labels.source] if spec.labels and spec.labels.source else [])]


def features_mark(spec: ModelSpec) -> int:
    """The mark of feature days: another source, key, feature or expectation makes them stale."""
    return _mark(spec, "source", "time", "key", "features", "expect", "inputs")


def labels_mark(spec: ModelSpec) -> int:
    """The mark of days of labels: another source, key, target, task or expectation makes them stale."""
    return _mark(spec, "source", "time", "key", "target", "task", "labels", "expect")


WhenGone = Literal["refuse", "keep", "replace"]


def extract(spec: ModelSpec, days: list[date], when_gone: WhenGone = "refuse") -> int:
    """Read the source's rows of the days into the raw table; returns how many. A day without rows is an empty day.

    A row that the table can't take (no time, no key, a value that is not of its column's type) goes to quarantine at once.
    `when_gone` is for days that had rows, of which the source has none any more. A day to be scored is refused, by a DataError,
    unless a person has said that it is to be replaced; for a training the rows that are known are kept.
    """
    if not days:
        return 0
    rows = data.read(spec, min(days), max(days))
    late = rows[rows["day"] < pd.Timestamp(min(days))]
    rows = rows[rows["day"].isin(pd.to_datetime(days))]
    filled = set(rows["day"].dt.date)
    days = _settled(spec, days, [day for day in days if day not in filled], when_gone)
    if not days:
        return 0
    good, bad = data.storable(spec, rows, lake.types("raw", spec.name))
    bad = _new(spec, bad, days)
    _quarantine(spec, bad, days, "extract")
    lake.replace_days("raw", spec.name, good.assign(read_at=pd.Timestamp(lake.clock())), days)
    _keep_late(spec, late, min(days))
    if len(lake.read("quarantine", spec.name, columns=["day"], stage="late", day=(min(days), max(days)))):
        _quarantine(spec, pd.DataFrame(), days, "late")  # now they are read
    read = len(good) + len(bad)
    log.info("model %s: %s read for %s", spec.name, counted(read, "row"), _span(days))
    return read


def _settled(spec: ModelSpec, days: list[date], empty: list[date], when_gone: WhenGone) -> list[date]:
    """The days to write, where the source has no row for those that are empty."""
    had = (
        lake.read("raw", spec.name, columns=["day"], day=(min(empty), max(empty)))
        if empty
        else pd.DataFrame({"day": []})
    )
    counts = Counter(moment.date() for moment in had["day"])
    gone = [day for day in empty if day in counts]
    never = [day for day in empty if day not in counts]
    if never:
        what = "an empty day" if len(never) == 1 else "empty days"
        log.info("model %s: the source has no row for %s: %s", spec.name, shown_days(never), what)
    if not gone or when_gone == "replace":
        return days
    rows = sum(counts[day] for day in gone)
    about = f"the source has no row for {shown_days(gone)}"
    if when_gone == "keep":
        log.warning("model %s: %s any more: what was read before (%s) is kept", spec.name, about, counted(rows, "row"))
        return [day for day in days if day not in gone]
    raise DataError(
        f"model {spec.name}: {about}, of which {counted(rows, 'row')} {'was' if rows == 1 else 'were'} read before; nothing was replaced. See that the source "
        "is whole. If there really is nothing any more, say so: `--allow-empty`, or *Allow empty days* in the form"
    )


def _span(days: list[date]) -> str:
    return f"{min(days)}" if len(days) == 1 else f"{counted(len(days), 'day')}, {min(days)} to {max(days)}"


def _keep_late(spec: ModelSpec, late: pd.DataFrame, first: date) -> None:
    """Put rows of the day before, that its own run has not seen, into its quarantine, for nothing else would tell of them."""
    before = first - timedelta(days=1)
    if lake.missing_days("raw", spec.name, [before]):  # that day's own run will read them
        return
    had = lake.read("quarantine", spec.name, columns=["row", "stage"], day=before)
    if late.empty and not (len(had) and (had["stage"] == "late").any()):
        return
    good, bad = data.storable(spec, late, lake.types("raw", spec.name))
    known = lake.read("raw", spec.name, columns=["day", *spec.key], day=before)
    if len(known) and len(good):
        good = good[~good.set_index([*spec.key]).index.isin(known.set_index([*spec.key]).index)]
    command = f"esteira requeue {spec.name} --day {before}"
    reason = f"came in the file of {first}, after {before} was run; `{command}` reads it"
    missed = late.loc[good.index.union(bad.index)].assign(rule="late", reason=reason)
    if len(had) and len(missed):
        others = {_name(spec, json.loads(row)) for row in had.loc[had["stage"] != "late", "row"]}
        missed = missed[~_as_json(missed).map(lambda row: _name(spec, json.loads(row)) in others)]
    if len(missed):
        log.warning(
            "model %s: %s of %s came after it was run; `%s` reads what is late",
            spec.name,
            counted(len(missed), "row"),
            before,
            command,
        )
    _quarantine(spec, missed, [before], "late")


def _name(spec: ModelSpec, row: dict[str, object]) -> tuple[str, ...]:
    """What tells a row in quarantine from others, whatever types its file's other rows gave its columns."""
    return tuple(canonical(row.get(name)) for name in (*spec.key, spec.time.column, spec.time.hour or ""))


def _new(spec: ModelSpec, bad: pd.DataFrame, days: list[date]) -> pd.DataFrame:
    """The bad rows without those whose time can't be read and that another day has in quarantine: they are no day's own."""
    timeless = bad[bad["event_time"].isna()] if len(bad) else bad
    own = isinstance(spec.source, PythonSource | SqlSource) or "{day}" in spec.source.path  # asked for by day
    if timeless.empty or own:
        return bad
    rules = [
        lake.read("quarantine", spec.name, columns=["day", "row"], rule=rule, stage="extract") for rule in TIMELESS
    ]
    known = pd.concat([rows for rows in rules if len(rows)] or rules[:1])
    known = known[~known["day"].isin(pd.to_datetime(days))] if len(known) else known
    again = timeless.index[_as_json(timeless).isin(set(known["row"]))] if len(known) else timeless.index[:0]
    if len(again):
        log.info(
            "model %s: in quarantine since an earlier day: %s without a time", spec.name, counted(len(again), "row")
        )
    return bad.drop(index=again)


def _raw(spec: ModelSpec, days: list[date], *, whole: bool = True) -> pd.DataFrame:
    """The raw rows of the days, without the target: neither features nor scoring may see it. Else than `whole`, those of
    their columns that features are made of.
    """
    columns = [name for name in lake.columns("raw", spec.name) if name != spec.target]
    columns = columns if whole else data.asked_columns(spec, columns)
    rows = lake.read("raw", spec.name, columns=columns or None, day=(min(days), max(days)))
    return rows[rows["day"].isin(pd.to_datetime(days))].reset_index(drop=True)


def _whole(spec: ModelSpec, days: list[date], rows: pd.DataFrame) -> pd.DataFrame:
    """All columns of raw rows that were read in part. Raises Unaccounted where they were written anew meanwhile."""
    whole = _raw(spec, days)
    if not whole[[*spec.key, "event_time"]].equals(rows[[*spec.key, "event_time"]]):
        raise Unaccounted(
            f"model {spec.name}: the raw rows of {_span(days)} were written anew while they were looked at"
        )
    return whole


def validate(spec: ModelSpec, days: list[date]) -> int:
    """Put the raw rows of the days that are not as expected into the quarantine table; returns how many."""
    if not days:
        return 0
    quality.require_extracted(spec, days)
    rows = _raw(spec, days, whole=False)
    good, bad = data.validate(spec, rows)
    if len(bad):
        bad = _whole(spec, days, rows).loc[bad.index].assign(rule=bad["rule"], reason=bad["reason"])
    _quarantine(spec, bad, days, "rows")
    log.info("model %s: raw rows %d = good %d + quarantined %d", spec.name, len(rows), len(good), len(bad))
    return len(bad)


def _quarantine(spec: ModelSpec, bad: pd.DataFrame, days: list[date], stage: str) -> None:
    """Bad rows, whole, as JSON: whatever their types are, nothing of them is lost."""
    if bad.empty:
        rows = pd.DataFrame()
        had = lake.read("quarantine", spec.name, columns=["day", "stage"], day=(min(days), max(days)))
        if had.empty or not (had["stage"] == stage).any():
            return
    else:
        found_at = pd.Timestamp(lake.clock())
        rows = bad[["day", "rule", "reason"]].assign(row=_as_json(bad), stage=stage, found_at=found_at)
    lake.replace_days("quarantine", spec.name, rows, days, stage=stage)


def _as_json(rows: pd.DataFrame) -> pd.Series:
    """Each row, as it came, as JSON text; an infinite number as a word, for JSON has none."""
    own = data.writable(rows.drop(columns=["rule", "reason", "day"]), rows.columns)
    infinite = {
        name: own[name].astype(object).where(~np.isinf(own[name]), own[name].astype("str"))
        for name in own.columns
        if pd.api.types.is_float_dtype(own[name]) and np.isinf(own[name]).any()
    }
    text = own.assign(**infinite).to_json(
        orient="records", lines=True, date_format="iso", date_unit="us", default_handler=str
    )
    return pd.Series([line for line in text.split("\n") if line], index=rows.index, dtype="str")


def features(spec: ModelSpec, days: list[date]) -> int:
    """Build the features of the days from their good raw rows into the feature store; returns its Delta version."""
    if not days:
        return lake.version("features", spec.name)
    quality.require_extracted(spec, days)
    built = data.build_features(spec, _raw(spec, days, whole=False))
    return lake.replace_days("features", spec.name, built, days, mark=features_mark(spec))


def ensure_features(spec: ModelSpec, days: list[date]) -> None:
    """Extract, validate and build those of the days that the feature store lacks, or has of an older spec."""
    lacking = lake.missing_days("features", spec.name, days, features_mark(spec))
    extract(spec, lacking, "keep")
    validate(spec, lacking)
    quality.require_mostly_good(spec, lacking)
    features(spec, lacking)


def mature_through(spec: ModelSpec, as_of: date) -> date:
    """The last day whose labels are known on `as_of`, and corrected no more."""
    return known_through(spec, as_of) - timedelta(days=settle(spec))


def known_through(spec: ModelSpec, as_of: date) -> date:
    """The last day whose labels have come by `as_of`; while they settle they may still be corrected."""
    return as_of - timedelta(days=spec.label_delay)


def settle(spec: ModelSpec) -> int:
    """For how many days labels are corrected after they came."""
    return spec.labels.settle if spec.labels else 0


def labels(spec: ModelSpec, first: date, as_of: date) -> int:
    """Read the labels that have come from `first` on into the labels table; returns how many days it read.

    A day is read until each of its feature rows has a label, while its labels settle and once after, and again when the
    spec's labels changed.
    """
    days = data.days(first, known_through(spec, as_of))
    if not days:
        return 0
    had = _labels_of(spec, days)
    known = lake.read("features", spec.name, columns=["day", *spec.key], day=(days[0], days[-1]))
    pending = _open_days(spec, known, had) | _unsettled(spec, known, days)
    if not pending:
        return 0
    _store_labels(spec, sorted(pending), known, as_of)
    return len(pending)


def labels_again(spec: ModelSpec, days: list[date]) -> int:
    """Read the labels of those of the days anew of which some were read before: they may have been corrected, or mended.

    Days whose labels nothing has asked for are left to a check, or a training. Returns how many days were read.
    """
    read = [day for day, mark in lake.marks("labels", spec.name, days).items() if mark is not None]
    if not read:
        return 0
    known = lake.read("features", spec.name, columns=["day", *spec.key], day=(read[0], read[-1]))
    asked = sorted({moment.date() for moment in known["day"]} & set(read))
    if asked:
        _store_labels(spec, asked, known, None)
    return len(asked)


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
    if not settle(spec):
        return set()
    marks = lake.named_marks("labels", spec.name, [_settled_name(day) for day in days])
    return {moment.date() for moment in known["day"].unique()} & {
        day for day in days if marks[_settled_name(day)] is None
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
    settled = {_settled_name(day): 1 for day in days if as_of is not None and day <= mature_through(spec, as_of)}

    def unless_moved(_: pd.DataFrame) -> pd.DataFrame:
        if lake.version("labels", spec.name) != version:  # a correction, perhaps, that this reading has not seen
            raise Superseded
        return good

    _quarantine(spec, bad, days, "labels")
    lake.replace_days(
        "labels",
        spec.name,
        good,
        days,
        mark=labels_mark(spec),
        marks=settled if settle(spec) else {},
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
    found = found.assign(**{name: data.like(found[name], known[name]) for name in shared}).dropna(subset=shared)
    found = found.drop_duplicates([*shared, "label"])  # keys that were written differently may be one
    found = found.assign(disputed=found["disputed"].astype(bool) | found.duplicated(shared, keep=False))
    return found.drop_duplicates(shared)


def _corrections(spec: ModelSpec, found: pd.DataFrame, had: pd.DataFrame) -> pd.DataFrame:
    """Those of the labels found that are new, or another than the one known."""
    if had.empty:
        return found
    last = latest(spec, had)[["day", *spec.key, "label"]].rename(columns={"label": "known"})
    both = found[["day", *spec.key, "label"]].merge(last, on=["day", *spec.key], how="left", validate="one_to_one")
    same = both["known"].notna() & (both["known"] == both["label"])
    return found[~same.to_numpy()]


def versions(spec: ModelSpec) -> DataVersions:
    """The Delta versions of features and labels as they are now: what a training reads, and is recorded with."""
    return DataVersions(lake.version("features", spec.name), lake.version("labels", spec.name))


def labelled(spec: ModelSpec, first: date, last: date, versions: DataVersions | None = None) -> pd.DataFrame:
    """Feature rows of the days with their `label`, in order of time; at the Delta versions given, else as they are now."""
    rows = lake.read("features", spec.name, at=versions.features if versions else None, day=(first, last))
    known = read_labels(spec, first, last, versions.labels if versions else None)
    if rows.empty or known.empty:
        return rows.head(0).assign(label=[])
    joined = rows.merge(known, on=["day", *spec.key], how="inner", validate="one_to_one")
    return joined.sort_values(["day", "event_time", *spec.key], kind="stable", ignore_index=True)
