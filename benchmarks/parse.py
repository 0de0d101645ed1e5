"""How long Airflow takes to parse the DAGs of many models, beside the same DAGs written without Esteira (bare.py).

Each figure is of a process of its own, as Airflow's DAG processor parses: Airflow itself is imported already, the rest is
imported as it is needed. Seconds are of the processor, which others on the machine change little. A round is the bare
DAGs, then Esteira's without a cache of specs (cold), then again with the one that this has written (warm). A ratio is of
one round, and the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

PROJECT = Path(__file__).resolve().parents[1]
MODEL = PROJECT / "include" / "models" / "toll_traffic"
WANTED = 1.3  # times what the bare DAGs take

MEASURE = """
import gc, sys, time, warnings
warnings.simplefilter("ignore")
from airflow.dag_processing.dagbag import DagBag
import logging; logging.disable(logging.CRITICAL)
gc.freeze()  # as the DAG processor does before it forks
began = time.process_time()
bag = DagBag(dag_folder=sys.argv[1])
seconds = time.process_time() - began
assert not bag.import_errors, bag.import_errors
print(len(bag.dags), sum(len(dag.tasks) for dag in bag.dags.values()), seconds)
"""


def measure(folder: Path, **variables: str) -> tuple[int, int, float]:
    """DAGs, tasks and the time (seconds) of parsing `folder`, in a new process."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "",  # modules are compiled once, not by each process
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
            "AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600",
            **variables,
        }
        command = [sys.executable, "-c", MEASURE, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    dags, tasks, seconds = done.stdout.split("\n")[-2].split()
    return int(dags), int(tasks), float(seconds)


def write_models(folder: Path, count: int) -> list[str]:
    """Write the model `count` times, each time under another name; returns the names."""
    names = [f"model_{number}" for number in range(count)]
    for name in names:
        shutil.copytree(MODEL, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        path = folder / name / "model.yaml"
        path.write_text(path.read_text().replace(f"name: {MODEL.name}", f"name: {name}"))
    return names


def rounds_of(count: int, rounds: int) -> tuple[int, int, list[tuple[float, float, float]]]:
    """DAGs, tasks, and for each round the seconds of the bare DAGs, of Esteira's without a cache, and with one."""
    with tempfile.TemporaryDirectory() as place:
        models, bare, home = (Path(place) / name for name in ("models", "bare", "home"))
        names = write_models(models, count)
        bare.mkdir()
        shutil.copy(Path(__file__).parent / "bare.py", bare)
        ours = {"ESTEIRA_MODELS": str(models), "ESTEIRA_HOME": str(home)}
        found = []
        for _ in range(rounds):
            shutil.rmtree(home, ignore_errors=True)
            *_, alone = measure(bare, BARE_MODELS=" ".join(names))
            *_, cold = measure(PROJECT / "dags", **ours)
            dags, tasks, warm = measure(PROJECT / "dags", **ours)
            found.append((alone, cold, warm))
    return dags, tasks, found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, nargs="+", default=[1, 100, 1000])
    given = parser.parse_args()
    heads = ("models", "DAGs", "tasks", "bare DAGs", "cold", "warm", "cold/bare", "warm/bare")
    print(" ".join(f"{head:>9}" for head in heads))
    for count in given.models:
        dags, tasks, found = rounds_of(count, given.rounds)
        seconds = [f"{median(each):>7.2f} s" for each in zip(*found, strict=True)]
        ratios = [f"{median(each[kind] / each[0] for each in found):>9.2f}" for kind in (1, 2)]
        print(f"{count:>9} {dags:>9} {tasks:>9}", *seconds, *ratios, flush=True)
    print(f"wanted, of 100 models and more: at most {WANTED}; medians of {given.rounds} rounds")


if __name__ == "__main__":
    main()
