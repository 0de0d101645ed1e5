"""A day, small and large, as a user could do it otherwise: `make bench-alternatives`.

The same data, the same fitted model, the same outputs: the day's rows are read and checked, bad ones put aside, predicted, written to a Delta table in place of
what the day had, and the error is added to a table of metrics. Beside Esteira: a bare script, Kedro, Metaflow and Dagster, each in an environment of its own
(uv makes it), from the command until it ends; and on one live Airflow a plain DAG of five tasks beside Esteira's, from the trigger until the day is scored and checked.
Medians of ESTEIRA_BENCH_ROUNDS (3). It measures; it judges nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from benchmarks import scale

ROUNDS = int(os.environ.get("ESTEIRA_BENCH_ROUNDS", "3"))
SIZES = {"240 rows": 240, "1,000,000 rows": 1_000_000}
SHARED = ["pandas", "pyarrow", "deltalake", "scikit-learn", "joblib", "numpy"]
TOOLS = ("kedro", "metaflow", "dagster")

# What each of them calls: five steps, each a function of what the one before gave.
STEPS = """\
import sys
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from deltalake import write_deltalake

PLACE = Path("%(place)s")
COLUMNS = %(columns)r
DAY = "%(day)s"


def extract():
    return pd.read_parquet(PLACE / "data" / f"{DAY}.parquet")


def validate(rows):
    good = rows["id"].notna() & ~rows["id"].duplicated() & ~np.isinf(rows[COLUMNS]).any(axis=1)
    if not good.all():
        rows[~good].to_parquet(PLACE / "out" / "bad.parquet")
    return rows[good]


def predict(rows):
    model = joblib.load(PLACE / "model.joblib")
    return rows[["id", "at", "y"]].assign(prediction=model.predict(rows[COLUMNS]), day=DAY)


def write(rows):
    told = rows[["id", "at", "day", "prediction"]]
    write_deltalake(PLACE / "out" / "predictions", told, mode="overwrite", predicate=f"day = '{DAY}'", partition_by=["day"])
    return rows


def check(rows):
    error = float((rows["y"] - rows["prediction"]).abs().mean())
    write_deltalake(PLACE / "out" / "metrics", pd.DataFrame({"day": [DAY], "mae": [error]}), mode="append")
    return error
"""
BARE = "from steps import *\n\ncheck(write(predict(validate(extract()))))\n"
KEDRO = """\
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import node, pipeline
from kedro.runner import SequentialRunner

import steps

nodes = [
    node(steps.extract, None, "rows"), node(steps.validate, "rows", "good"), node(steps.predict, "good", "predicted"),
    node(steps.write, "predicted", "written"), node(steps.check, "written", "error"),
]
names = ("rows", "good", "predicted", "written", "error")
SequentialRunner().run(pipeline(nodes), DataCatalog({name: MemoryDataset(copy_mode="assign") for name in names}))
"""
METAFLOW = """\
from metaflow import FlowSpec, step

import steps


class Day(FlowSpec):
    @step
    def start(self):
        self.rows = steps.extract()
        self.next(self.validated)

    @step
    def validated(self):
        self.rows = steps.validate(self.rows)
        self.next(self.predicted)

    @step
    def predicted(self):
        self.rows = steps.predict(self.rows)
        self.next(self.written)

    @step
    def written(self):
        self.rows = steps.write(self.rows)
        self.next(self.end)

    @step
    def end(self):
        self.error = steps.check(self.rows)


if __name__ == "__main__":
    Day()
"""
DAGSTER = """\
from dagster import job, op

import steps

extract, validate, predict, write, check = (
    op(getattr(steps, name), name=name) for name in ("extract", "validate", "predict", "write", "check")
)


@job
def day():
    check(write(predict(validate(extract()))))
"""
PLAIN = '''\
"""A plain DAG of five tasks, which hand each other files."""
import sys
from datetime import datetime

from airflow.sdk import dag, task

FOLDER = "%(folder)s"


def handed(name, made):
    path = f"{FOLDER}/out/{name}.parquet"
    made.to_parquet(path)
    return path


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False)
def plain():
    @task
    def extract():
        sys.path.insert(0, FOLDER)
        import steps
        return handed("rows", steps.extract())

    @task
    def validate(path):
        sys.path.insert(0, FOLDER)
        import steps
        return handed("good", steps.validate(steps.pd.read_parquet(path)))

    @task
    def predict(path):
        sys.path.insert(0, FOLDER)
        import steps
        return handed("predicted", steps.predict(steps.pd.read_parquet(path)))

    @task
    def write(path):
        sys.path.insert(0, FOLDER)
        import steps
        return handed("written", steps.write(steps.pd.read_parquet(path)))

    @task
    def check(path):
        sys.path.insert(0, FOLDER)
        import steps
        return steps.check(steps.pd.read_parquet(path))

    check(write(predict(validate(extract()))))


plain()
'''


def main() -> int:
    """Print a table."""
    place = Path(tempfile.mkdtemp(prefix="esteira-alternatives-"))
    try:
        scale._run("train", place)
        days = _days(place)
        _written(place)
        made = {name: _environment(name) for name in TOOLS}
        print(f"{'':<34}" + "".join(f"{name:>18}" for name in SIZES), flush=True)
        commands: dict[str, Callable[[str], list[str]]] = {
            "Esteira: esteira score": lambda day: [
                str(Path(sys.executable).parent / "esteira"),
                "score",
                "big",
                "--day",
                day,
            ],
            "a bare script": lambda _: [sys.executable, "bare.py"],
            "Kedro": lambda _: [f"{made['kedro']}/python", "-W", "ignore", "kedro_day.py"],
            "Metaflow": lambda _: [f"{made['metaflow']}/python", "-W", "ignore", "metaflow_day.py", "--quiet", "run"],
            "Dagster": lambda _: [f"{made['dagster']}/dagster", "job", "execute", "-f", "dagster_day.py", "-j", "day"],
        }
        for name, command in commands.items():
            print(f"{name:<34}" + "".join(_shown(place, command, day) for day in days.values()), flush=True)
        _live(place, days)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return 0


def _days(place: Path) -> dict[str, str]:
    found = {}
    for number, (name, rows) in enumerate(SIZES.items()):
        day = scale.DAY + timedelta(days=number)
        scale._write_day(place / "data" / f"{day}.parquet", day, rows, seed=number)
        found[name] = str(day)
    return found


def _written(place: Path) -> None:
    """The scripts, and the champion as a file that each of them loads."""
    code = (
        "import joblib; from esteira import spec; from esteira.steps import champions; "
        f"joblib.dump(champions.load_version(spec.find('big'), 1).pipeline, {str(place / 'model.joblib')!r})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=_settings(place), check=True)
    scripts = {"bare.py": BARE, "kedro_day.py": KEDRO, "metaflow_day.py": METAFLOW, "dagster_day.py": DAGSTER}
    for name, text in scripts.items():
        (place / name).write_text(text)


def _settings(place: Path) -> dict[str, str]:
    given = {
        **os.environ,
        "ESTEIRA_HOME": str(place / "home"),
        "ESTEIRA_MODELS": str(place / "models"),
        "MLFLOW_LOGGING_LEVEL": "ERROR",
        "USERNAME": "bench",
        "DAGSTER_HOME": str(place / "dagster"),
        "METAFLOW_HOME": str(place / "metaflow"),
        "DO_NOT_TRACK": "1",
        "KEDRO_DISABLE_TELEMETRY": "1",
    }
    given.pop("MLFLOW_TRACKING_URI", None)
    return given


def _environment(tool: str) -> Path:
    """The bin folder of an environment with the tool, and the libraries as they are here."""
    from importlib.metadata import version

    uv = shutil.which("uv") or "uv"

    folder = Path(tempfile.gettempdir()) / f"esteira-alternative-{tool}"
    if not (folder / "bin" / "python").exists():
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    pins = [f"{name}=={version(name)}" for name in SHARED]
    subprocess.run(
        [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), tool, *pins], check=True
    )
    return folder / "bin"


def _shown(place: Path, command: Callable[[str], list[str]], day: str) -> str:
    (place / "dagster").mkdir(exist_ok=True)
    (place / "steps.py").write_text(STEPS % {"place": place, "columns": scale.COLUMNS, "day": day})
    took = []
    for number in range(ROUNDS + 1):
        shutil.rmtree(place / "out", ignore_errors=True)
        (place / "out").mkdir()
        began = time.perf_counter()
        done = subprocess.run(
            command(day), cwd=place, env=_settings(place), capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"{'failed: ' + done.stderr.strip().splitlines()[-1][:60]:>18}"
        if number:  # the first fills the file cache
            took.append(time.perf_counter() - began)
    return f"{statistics.median(took):>16.1f} s"


def _live(place: Path, days: dict[str, str]) -> None:
    """Both DAGs on one Airflow."""
    from benchmarks.day import _free_port
    from ops import environment
    from ops import stack as stacks
    from ops.api import Airflow
    from ops.stack import Stack

    (place / "dags").mkdir()
    (place / "dags" / "plain.py").write_text(PLAIN % {"folder": place})
    bundle = "airflow.dag_processing.bundles.local.LocalDagBundle"
    bundles = [
        {"name": "esteira", "classpath": bundle, "kwargs": {"path": str(scale.PROJECT / "dags")}},
        {"name": "plain", "classpath": bundle, "kwargs": {"path": str(place / "dags")}},
    ]
    os.environ.update(_settings(place))
    made = environment.of
    more = {"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles)}
    environment.of = lambda *given: {**made(*given), **more}  # the set-up takes no settings of Airflow's from outside
    for name in ("WEB", "MLFLOW", "SMTP"):
        os.environ[f"ESTEIRA_{name}_PORT"] = str(_free_port())
    stack = Stack.from_environment()
    stacks.up(stack)
    try:
        airflow = Airflow(stack.web, "admin", stack.password.read_text())
        names = ["big_score", "big_check", "plain"]
        airflow.wait_for_dags(names)
        for name in names:
            airflow.unpause(name)

        def ours(day: str) -> None:
            assert (
                airflow.wait("big_score", airflow.trigger("big_score", day=day, check=False), 900, poll=0.05)
                == "success"
            )

        def plain(_: str) -> None:
            assert airflow.wait("plain", airflow.trigger("plain"), 900, poll=0.05) == "success"

        for name, run in (("Esteira's DAG on Airflow", ours), ("a plain DAG of five tasks", plain)):
            cells = []
            for day in days.values():
                (place / "steps.py").write_text(STEPS % {"place": place, "columns": scale.COLUMNS, "day": day})
                took = []
                for number in range(ROUNDS + 1):
                    with suppress(FileNotFoundError):
                        shutil.rmtree(place / "out")
                    (place / "out").mkdir()
                    began = time.perf_counter()
                    run(day)
                    took += [time.perf_counter() - began] if number else []
                cells.append(f"{statistics.median(took):>16.1f} s")
            print(f"{name:<34}" + "".join(cells), flush=True)
    finally:
        stacks.clean(stack)


if __name__ == "__main__":
    sys.exit(main())
