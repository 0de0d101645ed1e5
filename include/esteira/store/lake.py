"""The lake: one Delta table per model and kind, partitioned by day; every write is one transaction that replaces."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from esteira.errors import OutOfReach
from esteira.settings import settings
from esteira.store import delta
from esteira.store.memory import MemoryTable

Kind = Literal["raw", "quarantine", "features", "predictions", "served", "labels", "metrics", "ledger"]

METRICS_SCHEMA = pa.schema(
    {
        "check_day": pa.date32(),
        "attempt": pa.int64(),  # 0: the check itself; k: the k-th attempt; -1: what it decided; -2: a verification
        "role": pa.string(),  # champion, challenger, replaced, drift, labels, estimated, decision
        "version": pa.int64(),  # empty while a challenger has none
        "run_id": pa.string(),
        "first_day": pa.date32(),
        "last_day": pa.date32(),
        "window": pa.string(),  # day, window, slice, verification; pending: all days without labels yet
        "segment": pa.string(),  # empty: all rows
        "metric": pa.string(),
        "value": pa.float64(),
        "min": pa.float64(),
        "max": pa.float64(),
        "in_range": pa.bool_(),
        "n_rows": pa.int64(),
        "n_days": pa.int64(),
        "gain": pa.float64(),
        "gain_lower": pa.float64(),
        "gain_upper": pa.float64(),
        "outcome": pa.string(),
        "why": pa.string(),
    }
)
LEDGER_SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "at": pa.timestamp("us", tz="UTC"),
        "effective_day": pa.date32(),
        "version": pa.int64(),
        "from_state": pa.string(),
        "to_state": pa.string(),
        "why": pa.string(),
        "evidence": pa.string(),
        "by": pa.string(),
    }
)

SCHEMAS: Mapping[str, pa.Schema] = {"metrics": METRICS_SCHEMA, "ledger": LEDGER_SCHEMA}

PROPERTIES = {
    # A log entry that is cleaned away takes a version with it, which a model version may cite.
    "delta.enableExpiredLogCleanup": "false",
    # No value of anybody stands in the log as the smallest or the largest of its file; days are found by partition.
    "delta.dataSkippingNumIndexedCols": "0",
    # Opening a table, and writing to it, reads every log entry since the last checkpoint: 14 and 12 ms after 100, 5 and 6 after 20.
    "delta.checkpointInterval": "20",
}
MARKER = "_esteira"  # a file in a lake's folder: without it the folder may be where a volume should be mounted
ATTEMPTS = 8  # to commit against other writers of the same days


def home() -> Path:
    """Where this machine's state lies: ESTEIRA_HOME, else .esteira in the project."""
    return settings().state_folder


def make_home() -> None:
    """Make the state folder, which only its user can read, if it is not there. Raises OutOfReach where it can't be made."""
    try:
        home().mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise OutOfReach(
            f"the state folder {home()} can't be made: {error.strerror}; set ESTEIRA_HOME to a folder that can"
        ) from None


def root() -> str:
    """Where the tables lie: ESTEIRA_LAKE (a folder or an s3:// address), else `lake` under home().

    Raises OutOfReach where ESTEIRA_LAKE is a folder that create_lake() never made: a volume that is not mounted must
    not look like a lake without tables.
    """
    given = settings().lake
    if not given:
        return str(home() / "lake")
    if "://" not in given and not Path(given, MARKER).exists():
        raise OutOfReach(
            f"{given} (ESTEIRA_LAKE) is no lake: it has no file {MARKER}. If it is on a volume, mount that; for a new lake call "
            "`esteira init` once"
        )
    return given


def create_lake() -> str:
    """Make the folder of ESTEIRA_LAKE, or of the default, a lake; returns where it is. One that is a lake already stays."""
    place = settings().lake or str(home() / "lake")
    if "://" not in place:
        try:
            Path(place).mkdir(parents=True, exist_ok=True)
            Path(place, MARKER).touch()
        except OSError as error:
            raise OutOfReach(f"{place} can't be made a lake: {error}; name another folder in ESTEIRA_LAKE") from error
    return place


def path(kind: Kind, model: str) -> str:
    """Where a model's table of a kind lies."""
    return f"{root()}/{kind}/{model}"


_memory: dict[str, MemoryTable] | None = None


@contextmanager
def in_memory() -> Iterator[None]:
    """Keep every table in this process's memory, and only as long as the context lasts: for simulations by the thousand."""
    global _memory
    before, _memory = _memory, {}
    try:
        yield
    finally:
        _memory = before


def open_table(kind: Kind, model: str, version: int | None = None) -> DeltaTable | MemoryTable | None:
    """The table, at a version where one is given; None where it does not exist yet (version -1: as it was before it did)."""
    place = path(kind, model)
    if version is not None and version < 0:
        return None
    if _memory is not None:
        table = _memory.get(place)
        return table.at(version) if table and version is not None else table
    try:
        with delta.reaching(place):
            return delta.opened(place) if version is None else DeltaTable(place, version=version)
    except TableNotFoundError:
        return None


def version(kind: Kind, model: str) -> int:
    """The table's current Delta version; -1 where it does not exist yet."""
    table = open_table(kind, model)
    return -1 if table is None else table.version()


def state(kind: Kind, model: str) -> tuple[str, int]:
    """What a table is by, and its version: while neither changes, neither do its rows. Empty where it does not exist yet."""
    table = open_table(kind, model)
    if table is None:
        return "", -1
    return str(table.id if isinstance(table, MemoryTable) else table.metadata().id), table.version()


def columns(kind: Kind, model: str) -> list[str]:
    """The table's columns; none where it does not exist yet."""
    return list(types(kind, model))


def types(kind: Kind, model: str) -> dict[str, pa.DataType]:
    """The table's columns with their types; none where it does not exist yet."""
    table = open_table(kind, model)
    return {} if table is None else {field.name: field.type for field in _schema(table)}


def _schema(table: DeltaTable | MemoryTable) -> pa.Schema:
    return table.schema if isinstance(table, MemoryTable) else pa.schema(table.schema().to_arrow())


def _condition(where: Mapping[str, object]) -> str:
    """An SQL condition of equalities and (for a list) memberships; values are quoted, names are the code's own."""

    def quoted(value: object) -> str:
        return str(value) if isinstance(value, int) else "'" + str(value).replace("'", "''") + "'"

    def held(column: str, value: object) -> str:
        if not isinstance(value, list):
            return f"{column} = {quoted(value)}"
        return _either([f"{column} >= {quoted(run[0])} AND {column} <= {quoted(run[-1])}" for run in _runs(value)])

    return " AND ".join(held(column, value) for column, value in where.items())


def _runs(values: list[Any]) -> list[list[Any]]:
    """Sorted values, cut where a day is not the one after the day before."""
    runs: list[list[Any]] = []
    for value in values:
        follows = runs and isinstance(value, date) and value - runs[-1][-1] == timedelta(days=1)
        if follows:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


def _either(conditions: list[str]) -> str:
    """One of the conditions; in halves, for a long chain, as a long list, overflows Delta's stack."""
    if len(conditions) <= 2:
        return f"({' OR '.join(f'({each})' for each in conditions)})"
    half = len(conditions) // 2
    return f"({_either(conditions[:half])} OR {_either(conditions[half:])})"


def _filters(where: Mapping[str, object]) -> list[delta.Filter]:
    filters: list[delta.Filter] = []
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
    known = _schema(table)
    names = set(known.names)  # which is made anew each time it is asked for
    wanted = [name for name in columns if name in names] if columns is not None else None
    if not all(name in names for name in where):  # a table that only ever had empty days
        return _to_pandas(
            (known if wanted is None else pa.schema([known.field(name) for name in wanted])).empty_table()
        )
    return _to_pandas(_scan(path(kind, model), table, wanted, _filters(where)))


def days_of(kind: Kind, model: str) -> list[date]:
    """The days (for metrics: the check days) that have rows, in order; found without reading any of them."""
    table = open_table(kind, model)
    if table is None:
        return []
    if isinstance(table, MemoryTable):
        return sorted(table.partitions())
    with delta.reaching(path(kind, model)):
        return sorted(delta.partitions(path(kind, model), table))


def _scan(
    place: str, table: DeltaTable | MemoryTable, columns: list[str] | None, filters: list[delta.Filter]
) -> pa.Table:
    if isinstance(table, MemoryTable):
        return table.scan(columns, filters)
    return delta.scan(place, table, columns, filters)


def _to_pandas(arrow: pa.Table) -> pd.DataFrame:
    return pd.DataFrame(arrow.to_pandas(date_as_object=False))


def replace_days(
    kind: Kind,
    model: str,
    rows: pd.DataFrame,
    days: Iterable[date],
    *,
    mark: int = 1,
    merge: Callable[[pd.DataFrame], pd.DataFrame | None] | None = None,
    **also: object,
) -> int:
    """Replace the rows of the days, all in one transaction; returns the table's new Delta version.

    A day without rows becomes an empty day; the commit records that each was processed, under `mark`. `merge` makes the
    rows to write from those that the days have at the moment of the commit; where it returns None nothing is written.
    `also` narrows what is replaced: stage="rows".
    """
    every = sorted(days)

    def plan(table: DeltaTable | MemoryTable | None) -> tuple[pd.DataFrame, Mapping[str, object], Marks] | None:
        chosen: pd.DataFrame | None = rows
        if merge and table and every:
            had = _to_pandas(_scan(path(kind, model), table, None, _filters({"day": (every[0], every[-1])})))
            chosen = merge(had[had["day"].isin(pd.to_datetime(every))])
        if chosen is None or not every:
            return None
        return chosen, {"day": every, **also}, {f"{day:%Y-%m-%d}": mark for day in every}

    return _replace(kind, model, plan, None, "day")


def replace(
    kind: Kind, model: str, rows: pd.DataFrame, where: Mapping[str, object], *, schema: pa.Schema, partition: str
) -> int:
    """Replace the rows for which `where` holds by `rows`, in one transaction; returns the table's new Delta version."""
    return _replace(kind, model, lambda _: (rows, where, {}), schema, partition)


Marks = Mapping[str, int]
Plan = Callable[[DeltaTable | MemoryTable | None], tuple[pd.DataFrame, Mapping[str, object], Marks] | None]


def _replace(kind: Kind, model: str, plan: Plan, schema: pa.Schema | None, partition: str) -> int:
    def commit() -> int:
        table = open_table(kind, model)
        planned = plan(table)
        if planned is not None:
            rows, where, marks = planned
            arrow = _to_arrow(rows, table, schema)
            if _memory is not None:
                memory = _memory.setdefault(path(kind, model), MemoryTable(partition))
                memory.replace(arrow, where, marks)
                return memory.version()
            known, before = [Transaction(name, mark) for name, mark in marks.items()], table.version() if table else -1
            # Where there is no table yet Delta compares a commit with nothing: a second first one must fail, and read what is there.
            tries = 0 if table is None else None
            if table is None:
                make_home()
            with delta.reaching(path(kind, model)):
                write_deltalake(
                    table if isinstance(table, DeltaTable) else path(kind, model),
                    arrow,
                    mode="overwrite",
                    predicate=_condition(where),
                    partition_by=[partition],
                    schema_mode="merge",
                    configuration=PROPERTIES,
                    commit_properties=CommitProperties(app_transactions=known or None, max_commit_retries=tries),
                )
            delta.remember(path(kind, model), marks, before)
        return version(kind, model)

    return _retried(path(kind, model), commit)


def _to_arrow(rows: pd.DataFrame, table: DeltaTable | MemoryTable | None, schema: pa.Schema | None) -> pa.Table:
    """`rows` with the types of `schema`, or else those that the table already has. Raises ValueError that names the column."""
    if schema is not None:
        given = {
            field.name: pa.array(rows[field.name], field.type, from_pandas=True)
            for field in schema
            if field.name in rows.columns and rows[field.name].notna().any()
        }
        return pa.table([given.get(field.name, pa.nulls(len(rows), field.type)) for field in schema], schema=schema)
    known = {} if table is None else {field.name: field.type for field in _schema(table)}
    if rows.empty:
        empty = known or {"day": pa.date32()}
        return pa.table({name: pa.array([], kind) for name, kind in empty.items()})
    arrow = pa.Table.from_pandas(rows, preserve_index=False)
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


def _retried(place: str, commit: Callable[[], int]) -> int:
    """Commit; where another writer of the same rows was faster, again from a fresh read, a bounded number of times."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return commit()
        except CommitFailedError:
            if attempt == ATTEMPTS:
                raise
            delta.forget(place)  # its log is listed anew: a network's file system may not show the next entry at once
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311  # a pause, not a secret
    raise AssertionError("unreachable")


def missing_days(kind: Kind, model: str, days: Iterable[date], mark: int = 1) -> list[date]:
    """Those of the days that were not written yet under `mark`; an empty day was written too."""
    asked = {day: f"{day:%Y-%m-%d}" for day in days}
    known = _marks(kind, model, list(asked.values()))
    return [day for day, name in asked.items() if known[name] != mark]


def unwritten_days(kind: Kind, model: str, days: Iterable[date]) -> list[date]:
    """Those of the days that were never written, under whatever mark."""
    asked = {day: f"{day:%Y-%m-%d}" for day in days}
    known = _marks(kind, model, list(asked.values()))
    return [day for day, name in asked.items() if known[name] is None]


def _marks(kind: Kind, model: str, names: list[str]) -> dict[str, int | None]:
    """The mark under which each name was last written."""
    place = path(kind, model)
    if _memory is None:
        with delta.reaching(place):
            return delta.marks(place, names)
    table = _memory.get(place)
    return {name: table.transaction_version(name) if table else None for name in names}


def clock() -> datetime:
    """The time now, for the columns that say when something was read or done. No decision looks at it."""
    return datetime.now(UTC)


def append_once(model: str, row: Mapping[str, object]) -> bool:
    """Add a row to the ledger unless its `id` is there; returns whether it was added. Of two writers of an id one wins."""
    record = pa.Table.from_pylist([dict(row)], schema=LEDGER_SCHEMA)
    if _memory is not None:
        return _memory.setdefault(path("ledger", model), MemoryTable("id")).append(record, "id")

    def commit() -> int:
        if open_table("ledger", model) is None:
            DeltaTable.create(
                path("ledger", model),
                schema=LEDGER_SCHEMA,
                mode="ignore",
                configuration=PROPERTIES,
                commit_properties=CommitProperties(max_commit_retries=0),
            )
        merge = DeltaTable(path("ledger", model)).merge(
            record, predicate="t.id = s.id", source_alias="s", target_alias="t"
        )
        return int(merge.when_not_matched_insert_all().execute()["num_target_rows_inserted"])

    with delta.reaching(path("ledger", model)):
        return bool(_retried(path("ledger", model), commit))


def maintain(kind: Kind, model: str, *, keep: Iterable[int], hours: int) -> tuple[int, int]:
    """Compact a table, remove the files that nothing needs, write a checkpoint; returns files compacted and removed.

    Files that a later version has replaced, or that no version has (a writer died), are kept for `hours`, and for good
    where one of the versions `keep` has them.
    """
    if open_table(kind, model) is None:
        return 0, 0

    place = path(kind, model)

    def compact() -> int:
        found = DeltaTable(place).optimize.compact()
        return int(found["numFilesRemoved"])

    with delta.reaching(place):
        compacted = _retried(place, compact)
        removed = _vacuum(place, keep, hours)
        DeltaTable(place).create_checkpoint()
    return compacted, removed


def _vacuum(place: str, keep: Iterable[int], hours: int) -> int:
    table = DeltaTable(place)
    if not PROPERTIES.items() <= table.metadata().configuration.items():  # made by an older version of this module
        table.alter.set_table_properties(PROPERTIES)
        table = DeltaTable(place)
    oldest = int(table.history()[-1]["version"])
    options: dict[str, Any] = {
        "retention_hours": hours,
        "enforce_retention_duration": False,
        "full": True,
        "keep_versions": [number for number in sorted(keep) if number >= oldest],
    }
    # It names files that are long gone, too, and makes two versions even where there is nothing to do.
    unneeded = [name for name in table.vacuum(dry_run=True, **options) if "://" in place or Path(place, name).exists()]
    if unneeded:
        table.vacuum(dry_run=False, **options)
    return len(unneeded)
