"""How long a day of any size takes, and how much memory, beside what a script without any of it takes: `make bench-scale`.

Each figure is a process of its own, on one core, over the same parquet file of a day; bare and ours by turns, the median of
three. `--rows` names other sizes. It measures; it judges nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
COLUMNS = [f"x{number}" for number in range(20)]
AS_OF = date(2026, 1, 31)
DAY = date(2026, 2, 1)
SMALL = date(2027, 3, 1)  # a day of few rows
YEAR = 365
DAYS = int(os.environ.get("ESTEIRA_BENCH_DAYS", "1102"))
KINDS = {"c0": 5, "c1": 20, "c2": 100, "c3": 500, "c4": 2_000, "c5": 5_000}
SIZES = (1_000_000, 5_000_000, 20_000_000)
GROUP = 100_000  # rows of a row group
ROUNDS = 3
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_IO_THREADS": "1", "RAYON_NUM_THREADS": "1"}
YAML = """\
name: big
owner: bench@example.com
task: regression
source: {kind: parquet, path: "%s/{day}.parquet"}
time: {column: at, timezone: UTC}
key: [id]
target: y
features:
  %s
train:
  window: 10d
  candidates:
    - {estimator: sklearn.ensemble.HistGradientBoostingRegressor}
score: {schedule: null, engine: compiled}
check: {metrics: {mae: {max: 10}}}
"""


def main() -> int:
    """Print a table of ratios; with a part's name do that part, and print what it took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", nargs="*", choices=TABLES, default=[*TABLES])
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--place", type=Path)
    asked = parser.parse_args()
    if asked.part:
        _told(PARTS[asked.part], asked.place)
        return 0
    for name in asked.only:
        place = Path(tempfile.mkdtemp(prefix="esteira-bench-scale-"))
        try:
            TABLES[name](place, asked.rows, asked.rounds)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    return 0


def _days(place: Path, sizes: list[int], rounds: int) -> None:
    """A day of 20 numbers, of each size: ours beside a bare stream, by scikit-learn and by compiled trees."""
    _head("bare stream", "ours")
    _begin(place)
    for rows in sizes:
        _write_day(place / "data" / f"{DAY}.parquet", DAY, rows, seed=7)
        _compared(place, rounds, f"{rows:,} rows", {"bare": ["bare"]}, {"": ["ours"], ", compiled": ["compiled"]})


def _shards(place: Path, sizes: list[int], rounds: int) -> None:
    """A day in two shards, on two cores, beside one."""
    _head("1 shard", "2 shards")
    _begin(place)
    rows = min(2_000_000, max(sizes))
    _write_day(place / "data" / f"{DAY}.parquet", DAY, rows, seed=7)
    _compared(place, rounds, f"{rows:,} rows", {"one": ["whole", "publish1"]}, {"": ["first+second", "publish2"]})


def _texts(place: Path, sizes: list[int], rounds: int) -> None:
    """A day with categories, and a text for a key."""
    _head("bare stream", "ours")
    rows = min(2_000_000, max(sizes))
    _begin(place, texts=True)
    _write_day(place / "data" / f"{DAY}.parquet", DAY, rows, seed=7, texts=True)
    _compared(place, rounds, f"{rows:,} rows", {"bare": ["bare"]}, {"": ["ours"], ", compiled": ["compiled"]})


def _range(place: Path, _: list[int], rounds: int) -> None:
    """A year of small days as one range, beside a loop that reads, predicts and writes one after the other."""
    _head("bare loop", "ours")
    _begin(place)
    for number in range(YEAR):
        day = DAY + timedelta(days=number)
        _write_day(place / "data" / f"{day}.parquet", day, 240, seed=number)
    _compared(place, rounds, f"{YEAR} days", {"loop": ["loop"]}, {"": ["range"]})


def _drift(place: Path, *_: object) -> None:
    """The drift of a day of a million rows, from batches."""
    _begin(place)
    _write_day(place / "data" / f"{DAY}.parquet", DAY, 1_000_000, seed=7)
    _run("ours", place)
    print(
        f"drift, 1,000,000 rows x 20, from the feature store's batches: {_run('drift', place)['seconds']:.2f} s",
        flush=True,
    )


def _years(place: Path, _: list[int], rounds: int) -> None:
    """A day's score and check as the tenth day of a model, and as its 1,100th, each by a process that knows of no day before."""
    print(f"{'':<28}{'day 10':>14}{f'day {DAYS:,}':>12}{'ratio':>8}", flush=True)
    (place / "daily").touch()
    _begin(place)
    for number in range(DAYS):
        day = DAY + timedelta(days=number)
        _write_day(place / "data" / f"{day}.parquet", day, 240, seed=number)
    _run("years", place)
    took: dict[str, list[float]] = {"tenth": [], "last": []}
    for _ in range(rounds):
        for name, runs in took.items():
            for folder in ("home", "warm"):
                shutil.rmtree(place / folder, ignore_errors=True)
            shutil.copytree(place / name, place / "home")
            shutil.copytree(place / "tenth", place / "warm")
            runs.append(_run(f"daily_{name}", place)["seconds"])
    tenth, last = (statistics.median(runs) for runs in took.values())
    print(f"{'score and check, 240 rows':<28}{tenth:>12.2f} s{last:>10.2f} s{last / tenth:>8.2f}", flush=True)


def _begin(place: Path, *, texts: bool = False) -> None:
    (place / "texts").touch() if texts else None
    _run("train", place)
    shutil.copytree(place / "home", place / "kept")


def _head(one: str, other: str) -> None:
    print(f"{'':<28}{one:>14}{other:>12}{'ratio':>8}{'memory':>12}{'memory':>12}", flush=True)


def _compared(place: Path, rounds: int, name: str, one: dict[str, list[str]], others: dict[str, list[str]]) -> None:
    """Do them by turns, each from the same lake, and print the median of each of the others beside that of the one."""
    took: dict[str, list[dict[str, float]]] = {}
    for _ in range(rounds):
        for key, parts in {**one, **others}.items():
            shutil.rmtree(place / "home")
            shutil.copytree(place / "kept", place / "home")
            runs = [_together(part, place) for part in parts]
            told = {"seconds": sum(run["seconds"] for run in runs), "peak": max(run["peak"] for run in runs)}
            took.setdefault(key, []).append(told)
    (seconds, peak), *rest = [
        (statistics.median(run["seconds"] for run in runs), max(run["peak"] for run in runs)) for runs in took.values()
    ]
    for kind, (mine, memory) in zip(others, rest, strict=True):
        print(
            f"{name + kind:<28}{seconds:>12.1f} s{mine:>10.1f} s{mine / seconds:>8.2f}{peak:>9.0f} MB{memory:>9.0f} MB",
            flush=True,
        )


def _together(parts: str, place: Path) -> dict[str, float]:
    """Do parts at once, each on a core of its own; as long as the longest, as much as the largest."""
    names = parts.split("+")
    with ThreadPoolExecutor(len(names)) as pool:
        runs = [*pool.map(lambda part: _run(part[1], place, core=part[0]), enumerate(names))]
    return {what: max(run[what] for run in runs) for what in ("seconds", "peak")}


def _run(part: str, place: Path, core: int = 0) -> dict[str, float]:
    """Do a part in a process of its own, on one core."""
    environment = {
        **os.environ,
        **ONE_THREAD,
        "ESTEIRA_HOME": str(place / "home"),
        "ESTEIRA_MODELS": str(place / "models"),
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "ESTEIRA_BENCH_CORE": str(core),
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--part", part, "--place", str(place)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _told(part: Callable[[Path], float], place: Path) -> None:
    import resource

    # One thread for all: Delta's and Arrow's own ones, too.
    cores = sorted(os.sched_getaffinity(0), reverse=True)
    os.sched_setaffinity(0, {cores[int(os.environ.get("ESTEIRA_BENCH_CORE", "0")) % len(cores)]})
    took = part(place)
    print(json.dumps({"seconds": took, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def _write_day(path: Path, day: date, rows: int, seed: int, *, texts: bool = False) -> None:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(exist_ok=True, parents=True)
    draw = np.random.default_rng(seed)
    start = np.datetime64(datetime.combine(day, datetime.min.time()), "us")
    writer = None
    for first in range(0, rows, GROUP):
        count = min(GROUP, rows - first)
        x = draw.normal(size=(count, len(COLUMNS)))
        seconds = (np.arange(first, first + count) * 86_399 // rows).astype("timedelta64[s]")
        columns = {"id": np.arange(first, first + count), "at": start + seconds}
        columns |= {name: x[:, number] for number, name in enumerate(COLUMNS)}
        if texts:
            columns = {"id": [f"row-{number:09}" for number in range(first, first + count)], "at": columns["at"]}
            columns |= {name: x[:, number] for number, name in enumerate(COLUMNS[:10])}
            for name, most in KINDS.items():
                columns[name] = np.array([f"{name}{n}" for n in range(most)])[draw.integers(0, most, count)]
        columns["y"] = 10 + 2 * x[:, 0] + x[:, 1] ** 2 + np.sin(3 * x[:, 2]) + draw.normal(size=count)
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=GROUP)
    if writer:
        writer.close()


def _train(place: Path) -> float:
    """A champion, of ten days of 5,000 rows."""
    from esteira import spec as specs
    from esteira import steps

    texts = (place / "texts").exists()
    features = f"numeric: [{', '.join(COLUMNS[:10] if texts else COLUMNS)}]"
    features += f"\n  categorical: [{', '.join(KINDS)}]" if texts else ""
    (place / "models" / "big").mkdir(parents=True)
    (place / "models" / "big" / "model.yaml").write_text(YAML % (place / "data", features))
    (place / "home" / "mlflow").mkdir(parents=True)
    for number in range(10):
        day = AS_OF - timedelta(days=number)
        _write_day(place / "data" / f"{day}.parquet", day, 5_000, seed=number + 100, texts=texts)
    _write_day(place / "data" / f"{SMALL}.parquet", SMALL, 1_000, seed=1, texts=texts)
    spec = specs.find("big")
    began = time.perf_counter()
    steps.train(spec, AS_OF, "bench")
    return time.perf_counter() - began


def _ours(place: Path) -> float:
    """The day as the score DAG does it, by scikit-learn."""
    path = place / "models" / "big" / "model.yaml"
    said = path.read_text()
    path.write_text(said.replace("engine: compiled", "engine: sklearn"))
    try:
        return _compiled(place)
    finally:
        path.write_text(said)


def _compiled(_: Path) -> float:
    """The day as the score DAG does it, by compiled trees."""
    return _timed(lambda spec: streaming().score_from_source(spec, [DAY], "ours"))


def _shared(number: int, of: int) -> Callable[[Path], float]:
    """A share of the day, as a task does it."""

    def part(_: Path) -> float:
        from esteira.data import Share

        return _timed(lambda spec: streaming().leave(spec, [DAY], "shared", Share(number, of)))

    return part


def _published(of: int) -> Callable[[Path], float]:
    return lambda _: _timed(lambda spec: streaming().publish_left(spec, [DAY], "shared", of))


def _year(_: Path) -> float:
    days = [DAY + timedelta(days=number) for number in range(YEAR)]
    return _timed(lambda spec: streaming().score_from_source(spec, days, "range"))


def streaming():
    """The steps of a day; imported once the number of threads is set."""
    from esteira.steps import streaming as found

    return found


def _timed(work: Callable[[Any], object]) -> float:
    """How long it takes once everything is imported, and the model read, as for the bare script."""
    from esteira import spec as specs

    spec = specs.find("big")
    streaming().score_from_source(spec, [SMALL], f"bench {os.getpid()}")
    began = time.perf_counter()
    work(spec)
    return time.perf_counter() - began


def _lived(place: Path) -> float:
    """All days of a model, one by one, with a maintenance a week; the state before the tenth and the last is kept."""
    from esteira import spec as specs
    from esteira import steps

    spec = specs.find("big")
    began = time.perf_counter()
    for number in range(DAYS - 1):
        if number == 9:
            shutil.copytree(place / "home", place / "tenth")
        _daily(spec, DAY + timedelta(days=number))
        if number % 7 == 6:
            steps.maintain(spec)
    shutil.copytree(place / "home", place / "last")
    return time.perf_counter() - began


def _daily(spec: Any, day: date) -> None:
    from esteira import steps

    steps.score_from_source(spec, [day], f"scheduled__{day}")
    steps.check(spec, day, keep_notebook=False)


def _once(number: int) -> Callable[[Path], float]:
    """A day, by a process that has done one of another lake before, so that all is imported."""

    def part(place: Path) -> float:
        from esteira import spec as specs

        spec = specs.find("big")
        os.environ["ESTEIRA_HOME"] = str(place / "warm")
        _daily(spec, DAY + timedelta(days=9))
        os.environ["ESTEIRA_HOME"] = str(place / "home")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        began = time.perf_counter()
        _daily(spec, DAY + timedelta(days=number))
        return time.perf_counter() - began

    return part


def _counted(_: Path) -> float:
    """The drift of the day, as a check measures it."""
    from esteira import spec as specs
    from esteira.learning import drift
    from esteira.store import lake, runs

    spec = specs.find("big")
    reference = runs.profile(runs.run_of(spec, 1))
    lake.read("features", "big", day=AS_OF)  # everything is imported
    began = time.perf_counter()
    counts: drift.Counts = {}
    for rows in lake.batches("features", "big", columns=["day", *COLUMNS], day=DAY):
        drift.count(reference, rows.drop(columns="day"), rows["day"], counts)
    drift.measure_counts(reference, counts), drift.limits_of_counts(reference, counts)
    return time.perf_counter() - began


def _bare(place: Path) -> float:
    """Read, predict, write a Delta table: a stream of batches, and nothing else."""
    import pyarrow as pa
    import pyarrow.dataset as pads
    from deltalake import write_deltalake

    pipeline, columns = _pipeline()
    began = time.perf_counter()
    schema = pa.schema(
        {
            "id": pa.string() if (place / "texts").exists() else pa.int64(),
            "at": pa.timestamp("us"),
            "prediction": pa.float64(),
        }
    )

    def predicted():
        source = pads.dataset(place / "data" / f"{DAY}.parquet")
        options = {"batch_size": GROUP, "batch_readahead": 2, "fragment_readahead": 1, "use_threads": False}
        for batch in source.to_batches(columns=["id", "at", *columns], **options):
            values = pipeline.predict(batch.to_pandas()[columns])
            yield pa.record_batch([batch["id"], batch["at"], pa.array(values)], schema=schema)

    write_deltalake(place / "home" / "bare", pa.RecordBatchReader.from_batches(schema, predicted()), mode="overwrite")
    return time.perf_counter() - began


def _loop(place: Path) -> float:
    """A year of days, one after the other: read, predict, add to a Delta table."""
    import pandas as pd
    from deltalake import write_deltalake

    pipeline, columns = _pipeline()
    began = time.perf_counter()
    for number in range(YEAR):
        rows = pd.read_parquet(place / "data" / f"{DAY + timedelta(days=number)}.parquet")
        told = rows[["id", "at"]].assign(prediction=pipeline.predict(rows[columns]))
        write_deltalake(place / "home" / "bare", told, mode="append")
    return time.perf_counter() - began


def _pipeline() -> tuple[Any, list[str]]:
    from esteira import spec as specs
    from esteira.steps import champions

    found = champions.load_version(specs.find("big"), 1)
    return found.pipeline, found.columns


PARTS = {
    "train": _train,
    "ours": _ours,
    "compiled": _compiled,
    "bare": _bare,
    "whole": _shared(0, 1),
    "first": _shared(0, 2),
    "second": _shared(1, 2),
    "publish1": _published(1),
    "publish2": _published(2),
    "loop": _loop,
    "range": _year,
    "drift": _counted,
    "years": _lived,
    "daily_tenth": _once(9),
    "daily_last": _once(DAYS - 1),
}
TABLES = {"days": _days, "shards": _shards, "texts": _texts, "range": _range, "drift": _drift, "years": _years}

if __name__ == "__main__":
    sys.exit(main())
