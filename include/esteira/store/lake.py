"""The lake: one Delta table per model and kind, partitioned by day; every write is one transaction that replaces."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from esteira.data.sources.reader import BATCH, in_batches
from esteira.errors import Conflict, Damaged, OutOfReach, Superseded
from esteira.settings import settings
from esteira.store import opened, parts, places
from esteira.store.backend import Filter, Lake, Marks, Part, PartWriter, Table
from esteira.store.delta import DeltaLake
from esteira.store.schemas import SCHEMAS, Kind

T = TypeVar("T")
MARKER = "_esteira"  # a file in a lake's folder: without it the folder may be where a volume should be mounted
EARLIER: dict[Kind, Kind] = {"ledger": "predictions", "predictions": "served"}  # the one is there before the other
ATTEMPTS = 8  # to commit against other writers of the same days
OPEN = 32  # files of days that are written at once


def root() -> str:
    """Where the tables lie: ESTEIRA_LAKE (a folder or an s3:// address), else `lake` under places.home().

    Raises OutOfReach where ESTEIRA_LAKE is a folder that create_lake() never made: a volume that is not mounted must
    not look like a lake without tables.
    """
    given = settings().lake
    if not given:
        return str(places.home() / "lake")
    if "://" not in given and not Path(given, MARKER).exists():
        raise OutOfReach(
            f"{given} (ESTEIRA_LAKE) is no lake: it has no file {MARKER}. If it is on a volume, mount that; for a new lake call "
            "`esteira init` once"
        )
    return given


def create_lake() -> str:
    """Make the folder of ESTEIRA_LAKE, or of the default, a lake; returns where it is. One that is a lake already stays."""
    place = settings().lake or str(places.home() / "lake")
    if "://" in place:
        with opened.reaching(place), parts.file_system(place).open_output_stream(MARKER):
            return place
    try:
        Path(place).mkdir(parents=True, exist_ok=True)
        Path(place, MARKER).touch()
    except OSError as error:
        raise OutOfReach(f"{place} can't be made a lake: {error}; name another folder in ESTEIRA_LAKE") from error
    return place


def path(kind: Kind, model: str) -> str:
    """Where a model's table of a kind lies."""
    return f"{root()}/{kind}/{model}"


_backend: Lake = DeltaLake()


@contextmanager
def using(backend: Lake) -> Iterator[None]:
    """Keep every table in another lake, as long as the context lasts."""
    global _backend
    before, _backend = _backend, backend
    try:
        yield
    finally:
        _backend = before


def open_table(kind: Kind, model: str, version: int | None = None) -> Table | None:
    """The table, at a version where one is given; None where it does not exist yet (version -1: as it was before it did)."""
    return None if version is not None and version < 0 else _backend.open(path(kind, model), version)


def version(kind: Kind, model: str) -> int:
    """The table's current version; -1 where it does not exist yet."""
    table = open_table(kind, model)
    return -1 if table is None else table.version


def require_all(model: str) -> None:
    """Raises Damaged where a table is gone that is written before another one that is there."""
    for kind, later in EARLIER.items():
        if open_table(kind, model) is None and open_table(later, model) is not None:
            raise Damaged(
                f"model {model}: the table {kind} is not at {path(kind, model)}, or has no log there, though {later} is. To mend it: put its folder "
                "_delta_log back, or restore the table from a backup; until then nothing is written"
            )


def state(kind: Kind, model: str) -> tuple[str, int, int]:
    """What a table is by, its version, and when its last log entry was written, where that is a file: while none of it changes, neither do
    its rows. Empty where it does not exist yet.
    """
    return states((kind,), model)[0]


def states(kinds: Iterable[Kind], model: str) -> list[tuple[str, int, int]]:
    """The same of several tables."""
    base, found = root(), []
    for kind in kinds:
        place = f"{base}/{kind}/{model}"
        table = _backend.open(place, None)
        if table is None:
            found.append(("", -1, 0))
            continue
        try:
            at = os.stat(f"{place}/_delta_log/{table.version:020}.json").st_mtime_ns  # noqa: PTH116  # asked for at every look at all models
        except OSError:
            at = 0
        found.append((table.identity, table.version, at))
    return found


def columns(kind: Kind, model: str) -> list[str]:
    """The table's columns; none where it does not exist yet."""
    return list(types(kind, model))


def types(kind: Kind, model: str) -> dict[str, pa.DataType]:
    """The table's columns with their types; none where it does not exist yet."""
    table = open_table(kind, model)
    return {} if table is None else {field.name: field.type for field in table.schema}


def _filters(where: Mapping[str, object]) -> list[Filter]:
    filters: list[Filter] = []
    for column, value in where.items():
        if isinstance(value, tuple):
            filters += [(column, ">=", value[0]), (column, "<=", value[1])]
        else:
            filters.append((column, "=", value))
    return filters


def read(
    kind: Kind, model: str, *, columns: list[str] | None = None, at: int | None = None, **where: object
) -> pd.DataFrame:
    """Rows as a frame; `where` is an equality, or a range for a pair: day=(first, last). An absent table gives no rows.

    `columns` that the table does not have are left out. `at` is a Delta version: time travel.
    """
    table = open_table(kind, model, at)
    if table is None:
        empty = _to_pandas(SCHEMAS[kind].empty_table()) if kind in SCHEMAS else pd.DataFrame(columns=columns)
        return empty if columns is None else empty[columns]
    known = table.schema
    names = set(known.names)  # which is made anew each time it is asked for
    wanted = [name for name in columns if name in names] if columns is not None else None
    if not all(name in names for name in where):  # a table that only ever had empty days
        return _to_pandas(
            (known if wanted is None else pa.schema([known.field(name) for name in wanted])).empty_table()
        )
    return _to_pandas(table.scan(wanted, _filters(where)))


def batches(
    kind: Kind, model: str, *, columns: list[str] | None = None, at: int | None = None, **where: object
) -> Iterator[pd.DataFrame]:
    """The same rows, some at a time: BATCH at most, and as many as there are where those are less. None where there are none."""
    table = open_table(kind, model, at)
    if table is None:
        return
    names = set(table.schema.names)
    wanted = [name for name in columns if name in names] if columns is not None else None
    if not all(name in names for name in where):
        return
    for rows in _gathered(table.batches(wanted, _filters(where))):
        yield _to_pandas(rows)


def _gathered(parts: Iterable[pa.Table]) -> Iterator[pa.Table]:
    return in_batches(
        (part for part in parts if len(part)),
        BATCH,
        lambda rows, start: rows.slice(start, BATCH),
        lambda held: pa.concat_tables(held, promote_options="default"),
    )


def whole_days(counts: Mapping[date, int], most: int | None = None) -> Iterator[list[date]]:
    """Days that may be looked at together, in order: as many as have `most` rows (BATCH); one that has more is by itself."""
    together: list[date] = []
    rows = 0
    for day in sorted(counts):
        if together and rows + counts[day] > (most or BATCH):
            yield together
            together, rows = [], 0
        together.append(day)
        rows += counts[day]
    if together:
        yield together


def count(kind: Kind, model: str, days: Iterable[date]) -> int:
    """How many rows the days have; found without reading any."""
    known = sizes(kind, model)
    return sum(known[day][0] for day in set(days) if day in known)


def changed_days(kind: Kind, model: str, days: Iterable[date], since: int) -> list[date]:
    """Those of the days whose rows may be others than at a version of the table; found without reading any."""
    before, now = open_table(kind, model, since), open_table(kind, model)
    if now is None:
        return [] if before is None else list(days)
    return [day for day in days if (before.files(day) if before else set()) != now.files(day)]


def days_of(kind: Kind, model: str) -> list[date]:
    """The days (for metrics: the check days) that have rows, in order; found without reading any of them."""
    table = open_table(kind, model)
    return [] if table is None else sorted(table.partitions())


def sizes(kind: Kind, model: str, at: int | None = None) -> dict[Any, tuple[int, int]]:
    """By day (for metrics: check day; for the ledger: id or None) how many rows and bytes there are; found without reading any."""
    table = open_table(kind, model, at)
    return {} if table is None else table.sizes()


def shown(arrow: pa.Table, given: pd.DataFrame) -> pd.DataFrame:
    """Rows as read() gives them; `given` are those that they were made from, of which numbers are as they were."""
    kept = [name for name in arrow.schema.names if arrow.schema.field(name).type == given[name].dtype.name]
    others = _to_pandas(arrow.drop_columns(kept))
    columns = {name: (given if name in kept else others)[name].array for name in arrow.schema.names}
    return pd.DataFrame(columns, copy=False)


def _to_pandas(arrow: pa.Table) -> pd.DataFrame:
    return pd.DataFrame(arrow.to_pandas(date_as_object=False))


def replace_days(
    kind: Kind,
    model: str,
    rows: pd.DataFrame,
    days: Iterable[date],
    *,
    mark: int = 1,
    newest: bool = False,
    marks: Mapping[str, int] | None = None,
    merge: Callable[[pd.DataFrame], pd.DataFrame | None] | None = None,
    **also: object,
) -> int:
    """Replace the rows of the days, all in one transaction; returns the table's new Delta version.

    A day without rows becomes an empty day; the commit records that each was processed, under `mark`. `merge` makes the
    rows to write from those that the days have at the moment of the commit; where it returns None nothing is written.
    `marks` are written too, under their own names. `also` narrows what is replaced: stage="rows". With `newest` marks only grow: raises Superseded, and writes nothing, where
    one of the days has a higher one.
    """
    every = sorted(days)

    def plan(table: Table | None) -> tuple[pd.DataFrame, Mapping[str, object], Marks] | None:
        chosen: pd.DataFrame | None = rows
        if merge and table and every:
            had = _to_pandas(table.scan(None, _filters({"day": (every[0], every[-1])})))
            chosen = merge(had[had["day"].isin(pd.to_datetime(every))])
        if chosen is None or not every:
            return None
        if newest:  # looked at last: the table that is written to is not older than these marks
            _require_newest(kind, model, every, mark)
        return chosen, {"day": every, **also}, {f"{day:%Y-%m-%d}": mark for day in every} | dict(marks or {})

    return _replace(kind, model, plan, None, "day")


class TypesDiffer(Exception):  # the rows are read again, with the types that it names
    """A batch whose columns are not those of the batches before it; `kinds` are the types that all of them have."""

    def __init__(self, kinds: Mapping[str, pa.DataType]) -> None:
        super().__init__(f"columns that are of one type in some rows and of another in others: {sorted(kinds)}")
        self.kinds = kinds


class Staging:
    """Rows of days that are written batch by batch, for nobody to see before publish() names them all at once.

    A column has the type that the table has, else the one in `kinds`, else that of the first batch.
    """

    def __init__(self, kind: Kind, model: str, kinds: Mapping[str, pa.DataType] | None = None) -> None:
        self.kind, self.model = kind, model
        self.counts: Counter[date] = Counter()
        self._types = {**(kinds or {}), **types(kind, model)}
        self._first: dict[str, pa.DataType | None] | None = None
        self._open: dict[date, tuple[pa.Schema, bool, PartWriter]] = {}
        self._done: list[Part] = []
        self._shared: list[Part] = []

    def write(self, rows: pd.DataFrame) -> pa.Table:
        """Add rows, with their day; returns them as the table has them. Raises as typed() does."""
        arrow = self.typed(rows)
        self.add(arrow)
        return arrow

    def typed(self, rows: pd.DataFrame) -> pa.Table:
        """Rows as the table has them.

        Raises ValueError where a column is not of its type, and TypesDiffer where the batches before had no such column, or had it
        of another type.
        """
        arrow = pa.Table.from_pandas(rows, preserve_index=False)
        if len(rows):
            self._require_alike(arrow.schema)
        first = {name: kind or pa.string() for name, kind in (self._first or {}).items()}
        return _cast_all(arrow, self._types | first)

    def add(self, rows: pa.Table, *, shared: bool = False) -> None:
        """Add rows that typed() gave. Those that are `shared` are in files by themselves, which link() takes."""
        for day, part in _by_day(rows):
            self.counts[day] += len(part)
            self._writer(day, part.schema, shared).write(part)

    def _require_alike(self, arrow: pa.Schema) -> None:
        """That columns of which nothing was known have the types that they had; a column without a value may have any."""
        given = {
            field.name: None if pa.types.is_null(field.type) else _kind(field)
            for field in arrow
            if field.name not in self._types
        }
        first = self._first = given if self._first is None else self._first
        if given.keys() == first.keys() and all(kind in (None, first[name]) for name, kind in given.items()):
            return
        every = {*first, *given}
        raise TypesDiffer({name: _joined(first.get(name), given.get(name)) for name in every})

    def _writer(self, day: date, schema: pa.Schema, shared: bool) -> PartWriter:
        known = self._open.get(day)
        if known is not None and known[:2] == (schema, shared):
            return known[2]
        if known is not None or len(self._open) >= OPEN:
            self._close(day if known is not None else next(iter(self._open)))
        places.make_home()
        number = len(self._done) + len(self._open)
        made = _backend.part(path(self.kind, self.model), day, schema, number)
        self._open[day] = (schema, shared, made)
        return made

    def _close(self, day: date) -> None:
        _, shared, writer = self._open.pop(day)
        part = writer.close()
        self._done.append(part)
        self._shared += [part] if shared else []

    def done(self) -> list[Part]:
        """What was written, whole."""
        for day in list(self._open):
            self._close(day)
        return self._done

    def read_back(self) -> Iterator[pd.DataFrame]:
        """What was written, whole days together; see whole_days()."""
        place, files = path(self.kind, self.model), self.done()
        for days in whole_days(self.counts):
            for rows in _gathered(rows for part in files if part.day in days for rows in _backend.rows(place, part)):
                yield _to_pandas(rows)

    def link(self, other: Staging, names: Iterable[str]) -> None:
        """Take what the other has written `shared` as rows of this one, with the columns named."""
        other.done()
        wanted, place = list(names), path(self.kind, self.model)
        for part in other._shared:
            schema = pa.schema([part.schema.field(name) for name in wanted])
            self._done.append(_backend.link(place, part, path(other.kind, other.model), schema))
            self.counts[part.day] += part.rows

    def drop(self) -> None:
        """Remove what was written: nothing is to be of it."""
        for *_, writer in self._open.values():
            writer.drop()
        for part in self._done:
            _backend.remove(path(self.kind, self.model), part)
        self._open, self._done, self._shared = {}, [], []


@contextmanager
def whole_or_nothing(*stagings: Staging | None) -> Iterator[None]:
    """Remove what is staged where it does not come to its end; what a killed process leaves goes with the next maintenance."""
    try:
        yield
    except BaseException:
        for each in stagings:
            if each is not None:
                each.drop()
        raise


def _by_day(rows: pa.Table) -> Iterator[tuple[date, pa.Table]]:
    """The rows of each day, in the order in which the days come."""
    days = pc.unique(rows["day"]).to_pylist()
    for day in days:
        yield day, rows if len(days) == 1 else rows.filter(pc.equal(rows["day"], pa.scalar(day, pa.date32())))


def holds(kind: Kind, model: str, parts: Collection[Part]) -> bool:
    """Whether parts are published, and all still in the table."""
    table = open_table(kind, model)
    return bool(parts) and table is not None and table.holds(parts)


def untouched(kind: Kind, model: str, days: Iterable[date], since: int, parts: Collection[Part] = ()) -> bool:
    """Whether nobody has written the days since a version of the table, unless it was to publish these parts."""
    if version(kind, model) == since or not changed_days(kind, model, days, since):
        return True
    return holds(kind, model, parts)


def are_there(kind: Kind, model: str, parts: Iterable[Part]) -> bool:
    """Whether parts can be published: the weekly maintenance removes files that are old and of no table."""
    return all(_backend.has(path(kind, model), part) for part in parts)


def publish(
    kind: Kind,
    model: str,
    parts: Iterable[Part],
    days: Iterable[date],
    *,
    mark: int = 1,
    newest: bool = False,
    marks: Mapping[str, int] | None = None,
    keep: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    add_to: int | None = None,
    since: int | None = None,
) -> int:
    """Replace the rows of the days by parts, all in one transaction; returns the Delta version that it made.

    `mark`, `newest` and `marks` are those of replace_days(). `keep` says which of the rows that the days have at the moment
    of the commit stay. Given `add_to`, a version of the table, all of them do: raises Superseded, and writes nothing, where
    the table has another version by then. Given `since`, one too, it does so where others have written the days since that.
    Parts that were published before, by a task that died soon after, are not again.
    """
    every = sorted(days)
    files = [part for part in parts if part.day in set(every)]
    without = {*every} - {part.day for part in files}

    def commit() -> int:
        table = open_table(kind, model)
        if files and table is not None and table.holds(files) and not any(map(table.files, without)):
            return table.version
        _require_types(kind, model, table, files)
        if since is not None and changed_days(kind, model, every, since):
            raise Superseded(f"model {model}: {kind} of {every[0]} were written meanwhile")
        if add_to is not None and (table.version if table else -1) != add_to:
            raise Superseded(f"model {model}: {kind} were written meanwhile")
        kept = []
        if keep and table:
            staging = Staging(kind, model)
            had = _to_pandas(table.scan(None, _filters({"day": (every[0], every[-1])})))
            staging.write(keep(had[had["day"].isin(pd.to_datetime(every))]))
            kept = staging.done()
        if newest:  # looked at last: the table that is written to is not older than these marks
            _require_newest(kind, model, every, mark)
        known = {f"{day:%Y-%m-%d}": mark for day in every} | dict(marks or {})
        places.make_home()
        add = add_to is not None
        return _backend.publish(path(kind, model), table, [*kept, *files], every, marks=known, add=add)

    return _retried(commit)


def _require_types(kind: Kind, model: str, table: Table | None, files: Iterable[Part]) -> None:
    """Raises Superseded where a column of the parts has another type in the table: another run made it meanwhile."""
    known = {} if table is None else {field.name: field.type for field in table.schema}
    for field in {field for part in files for field in part.schema}:
        if known.get(field.name, field.type) != field.type:
            raise Superseded(
                f"model {model}: {field.name!r} of {kind} is {known[field.name]} meanwhile, and not {field.type}"
            )


def _require_newest(kind: Kind, model: str, days: list[date], mark: int) -> None:
    later = [day for day, known in marks(kind, model, days).items() if known is not None and known > mark]
    if later:
        raise Superseded(f"model {model}: {kind} of {later[0]} were written from a later state")


def replace(
    kind: Kind, model: str, rows: pd.DataFrame, where: Mapping[str, object], *, schema: pa.Schema, partition: str
) -> int:
    """Replace the rows for which `where` holds by `rows`, in one transaction; returns the table's new Delta version."""
    return _replace(kind, model, lambda _: (rows, where, {}), schema, partition)


Plan = Callable[[Table | None], tuple[pd.DataFrame, Mapping[str, object], Marks] | None]


def _replace(kind: Kind, model: str, plan: Plan, schema: pa.Schema | None, partition: str) -> int:
    def commit() -> int:
        table = open_table(kind, model)
        planned = plan(table)
        if planned is not None:
            rows, where, marks = planned
            arrow = _to_arrow(rows, table, schema)
            if table is None:
                places.make_home()
            _backend.replace(path(kind, model), table, arrow, where, marks=marks, partition=partition)
        return version(kind, model)

    return _retried(commit)


def _to_arrow(rows: pd.DataFrame, table: Table | None, schema: pa.Schema | None) -> pa.Table:
    """`rows` with the types of `schema`, or else those that the table already has. Raises ValueError that names the column."""
    if schema is not None:
        given = {
            field.name: pa.array(rows[field.name], field.type, from_pandas=True)
            for field in schema
            if field.name in rows.columns and rows[field.name].notna().any()
        }
        return pa.table([given.get(field.name, pa.nulls(len(rows), field.type)) for field in schema], schema=schema)
    known = {} if table is None else {field.name: field.type for field in table.schema}
    if rows.empty:
        empty = known or {"day": pa.date32()}
        return pa.table({name: pa.array([], kind) for name, kind in empty.items()})
    return _cast_all(pa.Table.from_pandas(rows, preserve_index=False), known)


def _joined(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType:
    """The type that takes the values of both."""
    kinds = {kind for kind in (one, other) if kind is not None}
    if len(kinds) < 2:
        return next(iter(kinds), pa.string())
    numbers = all(pa.types.is_floating(kind) or pa.types.is_integer(kind) for kind in kinds)
    return pa.float64() if numbers else pa.string()


def _cast_all(arrow: pa.Table, known: Mapping[str, pa.DataType]) -> pa.Table:
    columns = {
        field.name: _cast(arrow[field.name], known.get(field.name) or _kind(field), field.name)
        for field in arrow.schema
    }
    return pa.table(columns)


def _kind(field: pa.Field) -> pa.DataType:
    if field.name == "day":
        return pa.date32()
    if pa.types.is_null(field.type) or pa.types.is_large_string(field.type):
        return pa.string()
    return pa.timestamp("us", field.type.tz) if pa.types.is_timestamp(field.type) else field.type


def _cast(values: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    try:
        return values.cast(kind)
    except pa.ArrowInvalid as error:
        raise ValueError(
            f"column {name!r} was {kind} so far and is now {values.type}: {error}; mend the source, or rename it"
        ) from None


def _retried(commit: Callable[[], T]) -> T:
    """Commit; where another writer of the same rows was faster, again from a fresh read, a bounded number of times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return commit()
        except Conflict:
            if attempt == ATTEMPTS:
                raise
            pause(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311  # not a secret
    raise AssertionError("unreachable")


def missing_days(kind: Kind, model: str, days: Iterable[date], mark: int = 1) -> list[date]:
    """Those of the days that were not written yet under `mark`; an empty day was written too."""
    return [day for day, known in marks(kind, model, days).items() if known != mark]


def unwritten_days(kind: Kind, model: str, days: Iterable[date]) -> list[date]:
    """Those of the days that were never written, under whatever mark."""
    return [day for day, known in marks(kind, model, days).items() if known is None]


def named_marks(kind: Kind, model: str, names: list[str]) -> dict[str, int | None]:
    """The mark under which each name, of those that replace_days() was given, was last written; None for one that never was."""
    return _backend.marks(path(kind, model), names)


def marks(kind: Kind, model: str, days: Iterable[date]) -> dict[date, int | None]:
    """The mark under which each of the days was last written; None for one that never was."""
    asked = {day: f"{day:%Y-%m-%d}" for day in days}
    known = named_marks(kind, model, list(asked.values()))
    return {day: known[name] for day, name in asked.items()}


def pause(seconds: float) -> None:
    """Wait before a commit is tried again."""
    time.sleep(seconds)


def clock() -> datetime:
    """The time now, for the columns that say when something was read or done. No decision looks at it."""
    return datetime.now(UTC)


def append_once(model: str, *rows: Mapping[str, object]) -> int:
    """Add rows to the ledger, but those whose `id` is there; all in one transaction. Returns how many were added.

    Of two writers of an id one wins.
    """
    records = pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMAS["ledger"])
    return _retried(lambda: _backend.append_once(path("ledger", model), records))


def maintain(kind: Kind, model: str, *, keep: Iterable[int], hours: int) -> tuple[int, int]:
    """Compact a table, remove the files that nothing needs, write a checkpoint; returns files compacted and removed.

    Files that a later version has replaced, or that no version has (a writer died), are kept for `hours`, and for good
    where one of the versions `keep` has them.
    """
    if open_table(kind, model) is None:
        return 0, 0
    return _retried(lambda: _backend.maintain(path(kind, model), keep, hours))
