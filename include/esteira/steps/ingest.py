"""From the source to the feature store: extract, validate, features."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from functools import partial
from itertools import chain, groupby, islice
from typing import Any, Literal, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from esteira import data
from esteira.errors import DataError, Superseded
from esteira.spec import ModelSpec, canonical
from esteira.steps import keys, quality
from esteira.store import lake
from esteira.store.backend import Part
from esteira.text import counted, shown_days

T = TypeVar("T")

LATE = {
    "day": "datetime64[us]",
    "row": "str",
    "name": "str",
    "values": "str",
    "digest": "UInt64",
}  # of a row of a day beside
MANY = 50_000  # raw rows of a batch, from which on to write them again as features is worth avoiding
BESIDE = {"late": timedelta(days=1), "early": timedelta(days=-1)}  # where rows that are late came from
PASSES = 5  # over rows that turn out to be other than they looked
TRIES = 5  # to publish days that others read meanwhile
DIGITS = 15  # after the point, more than which pandas does not write
TIMELESS = ("time", "short")  # the rules by which a row without a time is in quarantine

log = logging.getLogger(__name__)


def features_mark(spec: ModelSpec) -> int:
    """The mark of feature days: another source, key, feature or expectation makes them stale."""
    return spec.mark("source", "time", "key", "features", "expect", "inputs")


WhenGone = Literal["refuse", "keep", "replace"]


@dataclass(frozen=True)
class Hindsight:
    """What only all rows of some days together tell: the types of columns, and which keys may be there twice (their digests)."""

    kinds: Mapping[str, pa.DataType] = field(default_factory=dict)
    twice: keys.Digests | None = None


class SourceChanged(Exception):  # it is read again
    """The source is not what it was when the reading began."""


class RepeatedKeys(Exception):  # the rows are looked at again
    """Rows that were taken for different ones may have the same key; `digests` are of the keys."""

    def __init__(self, digests: keys.Digests) -> None:
        super().__init__(f"{len(digests)} keys may be there twice")
        self.digests = digests


def in_hindsight(once: Callable[[Hindsight], T]) -> T:
    """Do a pass over the rows of some days; once more, where they turn out to be others than they looked at first."""
    known = Hindsight()
    for _ in range(PASSES):
        try:
            return once(known)
        except lake.TypesDiffer as error:
            known = replace(known, kinds={**known.kinds, **error.kinds})
        except RepeatedKeys as error:
            known = replace(known, twice=error.digests)
        except SourceChanged:
            continue
    raise DataError(
        f"the source gave other rows each of the {PASSES} times that it was read; read it when it is at rest"
    )


@dataclass(frozen=True)
class Before:
    """What there was of some days before they were read: the versions of the raw table and of quarantine, and the days never written."""

    raw: int
    quarantine: int
    unwritten: frozenset[date]


def as_it_is(spec: ModelSpec, days: list[date]) -> Before:
    """What there is of the days now."""
    raw, quarantine = (lake.version(kind, spec.name) for kind in ("raw", "quarantine"))
    return Before(raw, quarantine, frozenset(lake.unwritten_days("raw", spec.name, days)))


class Bad:
    """Rows on their way into quarantine, batch by batch."""

    def __init__(self, spec: ModelSpec) -> None:
        self.staging = lake.Staging("quarantine", spec.name)
        self._found_at = pd.Timestamp(lake.clock())

    def add(self, rows: pd.DataFrame, stage: str) -> None:
        """Keep rows, with `rule` and `reason`, whole, as JSON: whatever their types are, nothing of them is lost."""
        if len(rows):
            shown = rows[["day", "rule", "reason"]].assign(row=_as_json(rows), stage=stage, found_at=self._found_at)
            self.staging.write(shown)


def _publish_bad(spec: ModelSpec, parts: Iterable[Part], days: list[date], *stages: str) -> None:
    """Put parts into quarantine, in place of what the days have of these stages."""
    files, wanted = [part for part in parts if part.day in set(days)], pd.to_datetime(days)
    if not files:
        if not lake.count("quarantine", spec.name, days):
            return
        had = lake.read("quarantine", spec.name, columns=["day", "stage"], day=(min(days), max(days)))
        if not (had["stage"].isin(stages) & had["day"].isin(wanted)).any():
            return
    lake.publish("quarantine", spec.name, files, days, keep=lambda had: had[~had["stage"].isin(stages)])


class Extraction:
    """The source's rows of some days, on their way into the raw table, batch by batch."""

    def __init__(self, spec: ModelSpec, days: list[date], known: Hindsight, bad: Bad) -> None:
        self.spec, self.days, self.bad = spec, days, bad
        self.raw = lake.Staging("raw", spec.name, known.kinds)
        self._kinds = {**known.kinds, **lake.types("raw", spec.name)}
        self._read_at = pd.Timestamp(lake.clock())
        self.rows: Counter[date] = Counter()
        self._files: set[date] = set()
        self._late: list[pd.DataFrame] = []
        self._taken: pa.Table | None = None
        self.read = 0
        self.digest = 0  # of all rows of a source that each share reads whole

    def batches(self, share: data.Share = data.ALL) -> Iterator[pd.DataFrame]:
        """What the source gives for the days, or a share of it; all at once where features.py wants whole days."""
        if self.spec.features.whole_day:
            return iter([data.read(self.spec, min(self.days), max(self.days), self._files)])
        see = None if share == data.ALL else self._see
        return data.batches(self.spec, min(self.days), max(self.days), share, see, self._files)

    def unread(self) -> frozenset[date]:
        """Of the days, the one before and the one after them: those whose own file was not read."""
        if not self.spec.source.is_by_day:
            return frozenset()
        edges = min(self.days) - timedelta(days=1), max(self.days) + timedelta(days=1)
        return frozenset(data.days(*edges)) - self._files

    def _see(self, rows: pd.DataFrame) -> None:
        self.digest = (self.digest + keys.total(rows)) % 2**64

    def take(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows as the raw table has them from now on; those that it can't take (no time, no key, a value that is not of its
        column's type) go to quarantine.
        """
        late = (rows["day"] < pd.Timestamp(min(self.days))) | (rows["day"] > pd.Timestamp(max(self.days)))
        if late.any():
            self._late.append(self._late_rows(rows[late]))
        own = rows["day"].isin(pd.to_datetime(self.days))
        rows = rows if own.all() else rows[own]
        for moment, count in rows["day"].value_counts().items():
            self.rows[pd.Timestamp(str(moment)).date()] += int(count)
        good, bad = data.storable(self.spec, rows, self._kinds)
        self.bad.add(bad, "extract")
        self.read += len(good) + len(bad)
        self._taken = None
        if good.empty:
            return good
        good = good.assign(read_at=self._read_at)
        self._taken = self.raw.typed(good)
        return lake.shown(self._taken, good)

    def good(self, share: data.Share = data.ALL) -> Iterator[pd.DataFrame]:
        """What take() leaves of the rows, batch by batch, each to be kept by keeping().

        Where features.py builds several days, and they are more than one batch, all are kept first, and whole days come together:
        a source has its rows in any order, and what is built of a day must not depend on which others are read with it.
        """
        batches = self.batches(share)
        some = [*islice(batches, 2)] if self.spec.has_features_code and len(self.days) > 1 else []
        if len(some) < 2:
            yield from map(self.take, chain(some, batches))
            return
        for rows in chain(some, batches):
            self.take(rows)
            self.keep()
        self._taken = None
        yield from self.raw.read_back()

    def keep(self) -> None:
        """Write the rows that were taken last."""
        self.keeping()()

    def keeping(self, *, shared: bool = False) -> Callable[[], None]:
        """What keep() does, to be done later: when other rows may have been taken. Those that are `shared` are the feature store's, too."""
        taken = self._taken
        return (lambda: None) if taken is None else lambda: self.raw.add(taken, shared=shared)

    def late(self) -> pd.DataFrame:
        """The rows of the days before and after; see _keep_late()."""
        return joined_late(self._late)

    def _late_rows(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows of the days before and after as text, and what tells whether they were read: the digest of the key, where it can be read."""
        good, _ = data.storable(self.spec, rows, self._kinds)
        typed = lake.shown(self.raw.typed(good), good).set_axis(good.index) if len(good) else good
        known = pd.Series(keys.digests(typed, [*self.spec.key]), good.index) if len(good) else pd.Series(dtype="uint64")
        text = _as_json(rows)
        names = text.map(lambda row: json.dumps(_name(self.spec, json.loads(row))))
        values = _values(self.spec, typed).reindex(rows.index).fillna("")
        return pd.DataFrame(
            {
                "day": rows["day"],
                "row": text,
                "name": names,
                "values": values,
                "digest": known.astype("UInt64").reindex(rows.index),
            }
        )


class Examination:
    """Raw rows of some days, on their way into the feature store, or into quarantine, batch by batch."""

    def __init__(
        self,
        spec: ModelSpec,
        known: Hindsight,
        bad: Bad | None,
        *,
        features: bool = True,
        raw: lake.Staging | None = None,
    ) -> None:
        self.spec, self.bad, self.raw = spec, bad, raw
        self._may_share = raw is not None and not spec.has_features_code
        self.features = lake.Staging("features", spec.name) if features else None
        self.rows = self.quarantined = 0
        self._twice = known.twice if known.twice is not None else keys.NONE
        self._seen = keys.Seen()
        self._again = keys.NONE
        self._columns = ["event_time", "day", *spec.key, *(name for name in spec.features.all if name not in spec.key)]
        self.are_raw = False  # the features that were made last: the raw rows are them, too

    def take(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The features of those of the rows that are as expected; the others go to quarantine."""
        self.are_raw = False
        hidden = rows.drop(columns=self.spec.target, errors="ignore")  # neither features nor scoring may see it
        shared = self._may_share and len(rows) >= MANY and self._are_features_already(rows)
        bad, built = data.examine(self.spec, hidden, self._repeated, as_they_are=shared)
        self.rows += len(rows)
        self.quarantined += len(bad)
        if self.bad is not None:
            self.bad.add(bad, "rows")
        if self.features is None or built.empty:
            return built
        self.are_raw = shared and bad.empty
        if self.are_raw:
            return rows[self._columns]
        return lake.shown(self.features.write(built), built)

    def _are_features_already(self, rows: pd.DataFrame) -> bool:
        """Whether raw rows that are all as expected are their own features, and have no column that is not for the feature store."""
        more = {"read_at", self.spec.time.column, self.spec.time.hour, self.spec.target} - {*self.spec.personal}
        numbers, texts = (*self.spec.features.numeric, *self.spec.features.boolean), self.spec.features.categorical
        return (
            {*rows.columns} <= {*self._columns, *more}
            and all(rows[name].dtype == "float64" for name in numbers)
            and all(rows[name].dtype == "str" for name in texts)
        )

    def _repeated(self, rows: pd.DataFrame, names: list[str]) -> pd.Series:
        """Which rows have the key of another one of the day before them: of these batches too."""
        again = data.repeated(rows, names)
        if rows.empty:
            return again
        found = keys.digests(rows, names)
        if len(self._twice):
            doubtful = keys.among(found, self._twice) & ~again.to_numpy()
            second = keys.digests(rows[doubtful], names, keys.SECOND)
            again.iloc[np.flatnonzero(doubtful)[keys.among(second, self._again)]] = True
            self._again = np.union1d(self._again, second)
        self._seen.add(found[~again.to_numpy()])
        return again

    def done(self) -> list[Part]:
        """The parts of the feature store."""
        assert self.features is not None, "they were asked for"
        if self.raw is not None:
            self.features.link(self.raw, self._columns)
        return self.features.done()

    def seen(self) -> keys.Digests:
        """Digests of the keys of all rows that were good."""
        return self._seen.all()

    def require_no_repeats(self) -> None:
        """Raises RepeatedKeys where rows of different batches may have one key, of which that was not known yet."""
        twice = np.union1d(self._seen.repeated(), self._twice)
        if len(twice) > len(self._twice):
            raise RepeatedKeys(twice)


def extract(spec: ModelSpec, days: list[date], when_gone: WhenGone = "refuse") -> int:
    """Read the source's rows of the days into the raw table; returns how many. A day without rows is an empty day.

    A row that the table can't take (no time, no key, a value that is not of its column's type) goes to quarantine at once.
    `when_gone` is for days that had rows, of which the source has none any more. A day to be scored is refused, by a DataError,
    unless a person has said that it is to be replaced; for a training the rows that are known are kept.
    """
    if not days:
        return 0
    spans = _without_gaps(days) if spec.source.is_by_day else [days]
    if len(spans) > 1:  # the file of a day after a gap may have rows of the day before
        return sum(extract(spec, span, when_gone) for span in spans)

    def once(known: Hindsight) -> tuple[Extraction, Bad]:
        bad = Bad(spec)
        taken = Extraction(spec, days, known, bad)
        with lake.whole_or_nothing(taken.raw, bad.staging):
            for rows in taken.batches():
                taken.take(rows)
                taken.keep()
        return taken, bad

    for _ in range(TRIES):
        before = as_it_is(spec, days)
        taken, bad = in_hindsight(once)
        settled = settled_days(spec, days, taken.rows, taken.unread(), when_gone)
        try:
            given = taken.raw.done(), bad.staging.done(), taken.late(), taken.unread()
            at = publish(spec, settled, *given, "extract", before=before, span=(min(days), max(days)))
        except Superseded:
            continue
        if is_last(spec, settled, at, before):
            log_read(spec, settled, taken.read)
            return taken.read if settled else 0
    raise overtaken(spec, days)


def publish(
    spec: ModelSpec,
    days: list[date],
    raw: Iterable[Part],
    bad: Iterable[Part],
    late: pd.DataFrame,
    unread: Collection[date],
    *stages: str,
    before: Before,
    span: tuple[date, date],
) -> int:
    """Replace the raw rows of the days, and of these stages what is in quarantine; returns the version that the raw table has then.

    The raw table comes first: who has not read last is refused there, and changes nothing. Raises Superseded where another run has
    written the days' raw rows since they were read, or has found rows of them that came late: they are to be read again. The `late`
    rows are of the days beside `span`, the first and the last one that were read; those known of these stay if the file that they came in is `unread`.
    """
    if not days:
        return lake.version("raw", spec.name)
    files = [*raw]
    written = before.unwritten - {*lake.unwritten_days("raw", spec.name, before.unwritten)}
    if late_since(spec, days, before) or (written & {*days} and not lake.holds("raw", spec.name, files)):
        raise Superseded(f"model {spec.name}: {shown_days(days)} were read by others meanwhile")
    version = lake.publish("raw", spec.name, files, days, since=before.raw)
    _publish_bad(spec, bad, days, *stages)
    _leave_once(spec, days)
    _keep_late(spec, late, *span, unread)
    known = _late(spec, days, before.quarantine)
    came_in = (moment.date() + BESIDE[rule] for moment, rule in zip(known["day"], known["rule"], strict=True))
    now_read = known.loc[[day not in unread for day in came_in], "row"]
    if len(now_read):
        lake.publish(
            "quarantine",
            spec.name,
            [],
            days,
            keep=lambda had: had[(had["stage"] != "late") | ~had["row"].isin(now_read)],
        )
    return version


def is_last(spec: ModelSpec, days: list[date], at: int, before: Before) -> bool:
    """Whether what publish() has written is still of the last reading, so that what was written after it is of the same one."""
    return lake.untouched("raw", spec.name, days, at) and not late_since(spec, days, before)


def overtaken(spec: ModelSpec, days: list[date]) -> Superseded:
    """What is wrong where others are always faster."""
    return Superseded(f"model {spec.name}: other runs have read {shown_days(days)} {TRIES} times meanwhile; try again")


def late_since(spec: ModelSpec, days: list[date], before: Before) -> bool:
    """Whether rows of the days came with the file of the day after, which were not known yet as the days were read."""
    if not lake.changed_days("quarantine", spec.name, days, before.quarantine):
        return False
    return bool((~_late(spec, days)["row"].isin(_late(spec, days, before.quarantine)["row"])).any())


def _late(spec: ModelSpec, days: list[date], at: int | None = None) -> pd.DataFrame:
    """The rows that came late and were put aside; at a version of quarantine those that were known then."""
    if not days or (at is not None and at < 0):
        return pd.DataFrame(columns=["day", "row", "rule"])
    columns = ["day", "row", "rule"]
    rows = lake.read("quarantine", spec.name, columns=columns, at=at, stage="late", day=(min(days), max(days)))
    return rows[rows["day"].isin(pd.to_datetime(days))].reindex(columns=columns)  # one that is empty may have none


def joined_late(parts: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Rows of the days beside of all parts; of the same types where there is none."""
    return pd.concat([pd.DataFrame(columns=[*LATE]).astype(LATE), *parts], ignore_index=True).astype(LATE)


def log_read(spec: ModelSpec, days: list[date], rows: int) -> None:
    """Say in the log how many rows were read."""
    if days:
        log.info("model %s: %s read for %s", spec.name, counted(rows, "row"), _span(days))


def settled_days(
    spec: ModelSpec, days: list[date], rows: Mapping[date, int], unread: Container[date], when_gone: WhenGone
) -> list[date]:
    """The days to write, of which the source has so many rows, some perhaps in the file of another day only. See extract()."""
    empty = [day for day in days if not rows.get(day)]
    known = lake.sizes("raw", spec.name) if empty or any(day in unread for day in days) else {}
    counts = {day: known[day][0] for day in days if day in known}
    gone = [day for day in days if counts.get(day) and (day in empty or (day in unread and rows[day] < counts[day]))]
    never = [day for day in empty if day not in gone]
    if never:
        what = "an empty day" if len(never) == 1 else "empty days"
        log.info("model %s: the source has no row for %s: %s", spec.name, shown_days(never), what)
    if not gone or when_gone == "replace":
        return days
    before = sum(counts[day] for day in gone)
    left = sum(rows.get(day, 0) for day in gone)
    what = f"file any more, and {counted(left, 'row')} in others," if left else "row"
    about = f"the source has no {what} for {shown_days(gone)}"
    if when_gone == "keep":
        log.warning(
            "model %s: %s any more: what was read before (%s) is kept", spec.name, about, counted(before, "row")
        )
        return [day for day in days if day not in gone]
    raise DataError(
        f"model {spec.name}: {about}, of which {counted(before, 'row')} {'was' if before == 1 else 'were'} read before; nothing was replaced. See that the source "
        "is whole. If there really is nothing any more, say so: `--allow-empty`, or *Allow empty days* in the form"
    )


def _without_gaps(days: list[date]) -> list[list[date]]:
    """The days, in order, in spans without a day between that is not asked for."""
    ordered = sorted(days)
    spans = groupby(enumerate(ordered), key=lambda each: each[1] - timedelta(days=each[0]))
    return [[day for _, day in of] for _, of in spans]


def _span(days: list[date]) -> str:
    return f"{min(days)}" if len(days) == 1 else f"{counted(len(days), 'day')}, {min(days)} to {max(days)}"


def _keep_late(spec: ModelSpec, late: pd.DataFrame, first: date, last: date, unread: Container[date]) -> None:
    """Put rows of the days beside, that their own runs have not seen, into their quarantine, for nothing else would tell of them.

    A run of such a day that has read it, and not published it yet, finds them there, and reads it again.
    """
    for rule, file, day in (("late", first, first - timedelta(days=1)), ("early", last, last + timedelta(days=1))):
        if file in unread:  # whatever came in it is not known better now
            continue
        rows = late[late["day"] == pd.Timestamp(day)]
        if rows.empty and not lake.count("quarantine", spec.name, [day]):  # as of most days
            continue
        for _ in range(TRIES):
            at = lake.version("raw", spec.name)
            _put_late(spec, rows, day, file, rule)
            if lake.untouched("raw", spec.name, [day], at):  # else that day's run has read some of them meanwhile
                break
        else:
            raise overtaken(spec, [day])


def _put_late(spec: ModelSpec, late: pd.DataFrame, day: date, file: date, rule: str) -> None:
    is_run = not lake.missing_days("raw", spec.name, [day])
    if not is_run and (rule == "early" or day < min(lake.days_of("raw", spec.name), default=file)):
        return  # its own run reads it, or it is before all that was ever read
    had = lake.read("quarantine", spec.name, columns=["row", "stage", "rule"], day=day)
    if late.empty and not (len(had) and (had["rule"] == rule).any()):
        return
    missed = late[~late["values"].isin(_read_already(spec, late, day)).to_numpy() | late["digest"].isna().to_numpy()]
    if len(had) and len(missed):
        others = {json.dumps(_name(spec, json.loads(row))) for row in had.loc[had["stage"] != "late", "row"]}
        missed = missed[~missed["name"].isin(others)]
    command = f"esteira requeue {spec.name} --day {day}"
    if len(missed) and is_run:
        log.warning(
            "model %s: %s of %s came after it was run; `%s` reads what is late",
            spec.name,
            counted(len(missed), "row"),
            day,
            command,
        )
    when = f", after {day} was run; `{command}` reads it" if is_run else f"; the run of {day} reads it"
    rows = missed[["row"]].assign(day=pd.Timestamp(day), rule=rule, reason=f"came in the file of {file}{when}")
    _put(spec, rows, [day], stage="late", rule=rule)


def _read_already(spec: ModelSpec, late: pd.DataFrame, day: date) -> set[str]:
    """What those raw rows of the day say that have the keys of the late ones."""
    found: set[str] = set()
    asked = np.sort(late["digest"].dropna().to_numpy(dtype="uint64"))
    for rows in lake.batches("raw", spec.name, day=day) if len(asked) else ():
        found |= {*_values(spec, rows[keys.among(keys.digests(rows, [*spec.key]), asked)])}
    return found


def _values(spec: ModelSpec, rows: pd.DataFrame) -> pd.Series:
    """What raw rows say in the columns that model.yaml names, as text."""
    names = sorted({*spec.source_columns, *spec.features.all, spec.target} & {*rows.columns})
    told = [
        rows[name].map(canonical, na_action="ignore").astype(object).where(rows[name].notna(), None) for name in names
    ]
    every = [json.dumps(values) for values in zip(*told, strict=True)] if told else [""] * len(rows)
    return pd.Series(every, rows.index, dtype="str")


def _name(spec: ModelSpec, row: dict[str, object]) -> tuple[str, ...]:
    """What tells a row in quarantine from others, whatever types its file's other rows gave its columns."""
    return tuple(canonical(row.get(name)) for name in (*spec.key, spec.time.column, spec.time.hour or ""))


def _timeless(spec: ModelSpec, first: date = date.min, last: date = date.max) -> pd.DataFrame:
    """`day` and `row` of the rows without a time that are in quarantine."""
    of, span = ["day", "row"], (first, last)
    rules = [lake.read("quarantine", spec.name, columns=of, rule=rule, stage="extract", day=span) for rule in TIMELESS]
    return pd.concat([rows for rows in rules if len(rows)] or rules[:1])


def _leave_once(spec: ModelSpec, days: list[date]) -> None:
    """Leave rows without a time in quarantine once, under the first day that has them: they are no day's own.

    A file of all days gives them to each run. That they are there is decided once they are written: no run relies on what another may yet remove.
    """
    if spec.source.is_by_day or _timeless(spec, min(days), max(days)).empty:
        return
    known = _timeless(spec)
    later = known[known["day"] > known.groupby("row")["day"].transform("min")]
    for day, rows in later.groupby("day"):
        again = partial(_without, rows=set(rows["row"]))
        lake.publish("quarantine", spec.name, [], [pd.Timestamp(str(day)).date()], keep=again)


def _without(had: pd.DataFrame, rows: set[str]) -> pd.DataFrame:
    """What is in quarantine without some of the rows that have no time."""
    return had[~((had["stage"] == "extract") & had["rule"].isin(TIMELESS) & had["row"].isin(rows))]


def _examined(spec: ModelSpec, days: list[date], *, bad: bool) -> Examination:
    """The raw rows of the days, looked at: their features, or those that are `bad`, are written, and not published yet."""
    columns = [name for name in lake.columns("raw", spec.name) if name != spec.target]
    columns = columns if bad else data.asked_columns(spec, columns)
    wanted = pd.to_datetime(days)

    def once(known: Hindsight) -> Examination:
        examination = Examination(spec, known, Bad(spec) if bad else None, features=not bad)
        batches = _raw_batches(spec, days, columns or None)
        with lake.whole_or_nothing(examination.features, examination.bad.staging if examination.bad else None):
            for rows in batches:
                own = rows["day"].isin(wanted)
                examination.take((rows if own.all() else rows[own]).reset_index(drop=True))
            examination.require_no_repeats()
        return examination

    return in_hindsight(once)


def _raw_batches(spec: ModelSpec, days: list[date], columns: list[str] | None) -> Iterator[pd.DataFrame]:
    """Raw rows from the first to the last of the days; for features.py whole days together, as Extraction.good() gives them."""
    if spec.features.whole_day:
        return iter([lake.read("raw", spec.name, columns=columns, day=(min(days), max(days)))])
    first, last = min(days), max(days)
    spans = [[first, last]]
    if spec.has_features_code:
        known = lake.sizes("raw", spec.name).items()
        spans = [*lake.whole_days({day: rows for day, (rows, _) in known if first <= day <= last})]
    return chain.from_iterable(
        lake.batches("raw", spec.name, columns=columns, day=(span[0], span[-1])) for span in spans
    )


def validate(spec: ModelSpec, days: list[date]) -> int:
    """Put the raw rows of the days that are not as expected into the quarantine table; returns how many."""
    if not days:
        return 0
    quality.require_extracted(spec, days)

    def once() -> int:
        looked = _examined(spec, days, bad=True)
        assert looked.bad is not None, "they were asked for"
        _publish_bad(spec, looked.bad.staging.done(), days, "rows")
        told = looked.rows, looked.rows - looked.quarantined, looked.quarantined
        log.info("model %s: raw rows %d = good %d + quarantined %d", spec.name, *told)
        return looked.quarantined

    return _of_one_reading(spec, days, once)


def _of_one_reading(spec: ModelSpec, days: list[date], once: Callable[[], int]) -> int:
    """Make something of the raw rows of days, and again where these were written meanwhile."""
    for _ in range(TRIES):
        at = lake.version("raw", spec.name)
        try:
            made = once()
        except Superseded:
            continue
        if lake.untouched("raw", spec.name, days, at):
            return made
    raise overtaken(spec, days)


def quarantine(spec: ModelSpec, bad: pd.DataFrame, days: list[date], stage: str) -> None:
    """Put the days' bad rows of a stage into quarantine, whole, as JSON: whatever their types are, nothing of them is lost."""
    _put(spec, bad if bad.empty else bad[["day", "rule", "reason"]].assign(row=_as_json(bad)), days, stage=stage)


def _put(spec: ModelSpec, rows: pd.DataFrame, days: list[date], **of: Any) -> None:
    """Put rows into quarantine in place of those that it has of a stage, or of a stage and a rule."""
    if rows.empty:
        had = lake.read("quarantine", spec.name, columns=["day", *of], day=(min(days), max(days)))
        if had.empty or not (had[[*of]] == pd.Series(of)).all(axis=1).any():
            return
        rows = pd.DataFrame()
    else:
        rows = rows[["day", "rule", "reason", "row"]].assign(found_at=pd.Timestamp(lake.clock()), **of)
    lake.replace_days("quarantine", spec.name, rows, days, **of)


def _as_json(rows: pd.DataFrame) -> pd.Series:
    """Each row, as it came, to the last digit, as JSON text; an infinite number as a word, for JSON has none."""
    own = data.writable(rows.drop(columns=["rule", "reason", "day"], errors="ignore"), rows.columns)
    infinite = {
        name: own[name].astype(object).where(~np.isinf(own[name]), own[name].astype("str"))
        for name in own.columns
        if pd.api.types.is_float_dtype(own[name]) and np.isinf(own[name]).any()
    }
    text = own.assign(**infinite).to_json(
        orient="records", lines=True, date_format="iso", date_unit="us", default_handler=str, double_precision=DIGITS
    )
    lines = [line for line in text.split("\n") if line]
    numbers = own[[name for name in own.columns if name not in infinite and pd.api.types.is_float_dtype(own[name])]]
    with np.errstate(over="ignore"):  # of what has no digit after the point
        rounded = (numbers.notna() & (numbers.round(DIGITS) != numbers)).to_numpy(dtype=bool)
    for at in np.flatnonzero(rounded.any(axis=1)).tolist():
        exact = {name: float(values.iloc[at]) for name, values in numbers.loc[:, rounded[at]].items()}
        lines[at] = json.dumps({**json.loads(lines[at]), **exact}, ensure_ascii=False)
    return pd.Series(lines, index=rows.index, dtype="str")


def features(spec: ModelSpec, days: list[date]) -> int:
    """Build the features of the days from their good raw rows into the feature store; returns its Delta version."""
    if not days:
        return lake.version("features", spec.name)
    quality.require_extracted(spec, days)

    def once() -> int:
        parts = _examined(spec, days, bad=False).done()
        return lake.publish("features", spec.name, parts, days, mark=features_mark(spec))

    return _of_one_reading(spec, days, once)


def ensure_features(spec: ModelSpec, days: list[date]) -> None:
    """Extract, validate and build those of the days that the feature store lacks, or has of an older spec."""
    lacking = lake.missing_days("features", spec.name, days, features_mark(spec))
    extract(spec, lacking, "keep")
    validate(spec, lacking)
    quality.require_mostly_good(spec, lacking)
    features(spec, lacking)
