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
from datetime import date, datetime, timedelta
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
COLUMNS = [f"x{number}" for number in range(20)]
AS_OF = date(2026, 1, 31)
DAY = date(2026, 2, 1)
SMALL = date(2026, 3, 1)  # a day of few rows
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
  numeric: [%s]
train:
  window: 10d
  candidates:
    - {estimator: sklearn.ensemble.HistGradientBoostingRegressor}
score: {schedule: null}
check: {metrics: {mae: {max: 10}}}
"""


def main() -> int:
    """Print a table of ratios; with a part's name do that part, and print what it took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--place", type=Path)
    asked = parser.parse_args()
    if asked.part:
        _told(PARTS[asked.part], asked.place)
        return 0
    place = Path(tempfile.mkdtemp(prefix="esteira-bench-scale-"))
    try:
        _days(place, asked.rows, asked.rounds)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return 0


def _days(place: Path, sizes: list[int], rounds: int) -> None:
    print(f"{'a day of':<16}{'bare stream':>14}{'ours':>10}{'ratio':>8}{'bare':>10}{'ours':>10}", flush=True)
    _run("train", place)
    shutil.copytree(place / "home", place / "kept")
    for rows in sizes:
        _write_day(place / "data" / f"{DAY}.parquet", DAY, rows, seed=7)
        took: dict[str, list[dict[str, float]]] = {"bare": [], "ours": []}
        for _ in range(rounds):
            for part, each in took.items():
                shutil.rmtree(place / "home")
                shutil.copytree(place / "kept", place / "home")
                each.append(_run(part, place))
        seconds = {part: statistics.median(run["seconds"] for run in runs) for part, runs in took.items()}
        peak = {part: max(run["peak"] for run in runs) for part, runs in took.items()}
        print(
            f"{rows:>11,} rows{seconds['bare']:>12.1f} s{seconds['ours']:>8.1f} s{seconds['ours'] / seconds['bare']:>8.2f}"
            f"{peak['bare']:>7.0f} MB{peak['ours']:>7.0f} MB",
            flush=True,
        )


def _run(part: str, place: Path) -> dict[str, float]:
    """Do a part in a process of its own."""
    environment = {
        **os.environ,
        **ONE_THREAD,
        "ESTEIRA_HOME": str(place / "home"),
        "ESTEIRA_MODELS": str(place / "models"),
        "MLFLOW_LOGGING_LEVEL": "ERROR",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--part", part, "--place", str(place)]
    done = subprocess.run(command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _told(part: Callable[[Path], float], place: Path) -> None:
    import resource

    os.sched_setaffinity(
        0, {sorted(os.sched_getaffinity(0))[-1]}
    )  # one thread for all: Delta's and Arrow's own ones, too
    took = part(place)
    print(json.dumps({"seconds": took, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


def _write_day(path: Path, day: date, rows: int, seed: int) -> None:
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

    (place / "models" / "big").mkdir(parents=True)
    (place / "models" / "big" / "model.yaml").write_text(YAML % (place / "data", ", ".join(COLUMNS)))
    (place / "home" / "mlflow").mkdir(parents=True)
    for number in range(10):
        day = AS_OF - timedelta(days=number)
        _write_day(place / "data" / f"{day}.parquet", day, 5_000, seed=number + 100)
    _write_day(place / "data" / f"{SMALL}.parquet", SMALL, 1_000, seed=1)
    spec = specs.find("big")
    began = time.perf_counter()
    steps.train(spec, AS_OF, "bench")
    return time.perf_counter() - began


def _ours(place: Path) -> float:
    """The day as the score DAG does it."""
    from esteira import spec as specs
    from esteira.steps import scoring

    spec = specs.find("big")
    scoring.score_from_source(
        spec, [SMALL], "bench"
    )  # everything is imported, and the model read, as for the bare script
    began = time.perf_counter()
    scoring.score_from_source(spec, [DAY], f"bench-{began}")
    return time.perf_counter() - began


def _bare(place: Path) -> float:
    """Read, predict, write a Delta table: a stream of batches, and nothing else."""
    import pyarrow as pa
    import pyarrow.dataset as pads
    from deltalake import write_deltalake
    from esteira import spec as specs
    from esteira.steps import champions

    pipeline = champions.load_version(specs.find("big"), 1).pipeline
    schema = pa.schema({"id": pa.int64(), "at": pa.timestamp("us"), "prediction": pa.float64()})
    began = time.perf_counter()

    def predicted():
        source = pads.dataset(place / "data" / f"{DAY}.parquet")
        options = {"batch_size": GROUP, "batch_readahead": 2, "fragment_readahead": 1, "use_threads": False}
        for batch in source.to_batches(columns=["id", "at", *COLUMNS], **options):
            values = pipeline.predict(batch.to_pandas()[COLUMNS])
            yield pa.record_batch([batch["id"], batch["at"], pa.array(values)], schema=schema)

    write_deltalake(place / "home" / "bare", pa.RecordBatchReader.from_batches(schema, predicted()), mode="overwrite")
    return time.perf_counter() - began


PARTS = {"train": _train, "ours": _ours, "bare": _bare}

if __name__ == "__main__":
    sys.exit(main())
