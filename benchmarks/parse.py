"""How long Airflow takes to parse the DAGs of 1 and of 100 models, beside a bare DAG file with as many empty tasks.

Each figure is the best of several parses in a process of its own, as Airflow's DAG processor parses: Airflow itself is
imported already. The ratio against the bare DAGs shows what the specs and builders add to Airflow's own cost.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
MODEL = PROJECT / "include" / "models" / "toll_traffic"

MEASURE = """
import sys, time, warnings
warnings.simplefilter("ignore")
from airflow.dag_processing.dagbag import DagBag
import logging; logging.disable(logging.CRITICAL)
best = 1e9
for _ in range(int(sys.argv[2])):
    for name in [name for name in sys.modules if name.startswith("esteira")]:
        del sys.modules[name]
    began = time.perf_counter()
    bag = DagBag(dag_folder=sys.argv[1])
    best = min(best, time.perf_counter() - began)
    assert not bag.import_errors, bag.import_errors
print(len(bag.dags), sum(len(dag.tasks) for dag in bag.dags.values()), best)
"""

BARE = """
from airflow.sdk import dag, task

def make(name, tasks):
    @dag(dag_id=name, schedule=None)
    def build():
        before = None
        for number in range(tasks):
            @task(task_id=f"t{number}")
            def empty(): pass
            now = empty()
            if before is not None:
                before >> now
            before = now
    return build()

for model in range(MODELS):
    for kind, tasks in (("train", 9), ("score", 5), ("check", 20)):
        globals()[f"{kind}{model}"] = make(f"m{model}_{kind}", tasks)
"""


def measure(folder: Path, models: Path, rounds: int) -> tuple[int, int, float]:
    """DAGs, tasks and the best time (seconds) of parsing `folder`, with the models of `models`."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "AIRFLOW_HOME": home,
            "ESTEIRA_MODELS": str(models),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        }
        command = [sys.executable, "-c", MEASURE, str(folder), str(rounds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    dags, tasks, seconds = done.stdout.split("\n")[-2].split()
    return int(dags), int(tasks), float(seconds)


def main() -> None:
    """Print the table."""
    print(f"{'models':>6} {'DAGs':>5} {'tasks':>6} {'parse':>9} {'bare DAGs':>10} {'ratio':>6} {'wanted':>8}")
    for count, rounds, wanted in ((1, 10, 0.1), (100, 3, 2.0)):
        with tempfile.TemporaryDirectory() as place:
            models, bare = Path(place) / "models", Path(place) / "bare"
            for number in range(count):
                folder = models / f"model_{number}"
                shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("__pycache__"))
                text = (folder / "model.yaml").read_text().replace("name: toll_traffic", f"name: model_{number}")
                (folder / "model.yaml").write_text(text)
            bare.mkdir()
            (bare / "bare.py").write_text(BARE.replace("MODELS", str(count)))
            dags, tasks, seconds = measure(PROJECT / "dags", models, rounds)
            *_, alone = measure(bare, models, rounds)
        print(
            f"{count:>6} {dags:>5} {tasks:>6} {seconds:>7.3f} s {alone:>8.3f} s {seconds / alone:>6.2f} {'≤ ' + str(wanted):>6} s"
        )


if __name__ == "__main__":
    main()
