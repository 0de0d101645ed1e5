"""How long a day of a small model takes: in one process that walks day by day, beside a bare script, on a live Airflow, in a replay.

`python -m benchmarks.day` prints it all; `--walk`, `--live` and `--replay` print one part. It measures; it judges nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
MODEL = "toll_traffic"
AS_OF = date(2024, 12, 31)  # its world does not change in the days walked
DAYS = 440
AT = (40, 400)  # the days compared,
AROUND = 20  # by the median of as many before and after
LIVE = 8  # days that are scored on a live Airflow


def walk() -> None:
    """Score, measure and decide day after day in this process; print what a day costs early, late, and in a fresh process."""
    from esteira import spec as specs
    from esteira import steps
    from esteira.steps import champions  # not above: OpenMP reads its number of threads as scikit-learn is imported

    spec = specs.find(MODEL)
    steps.train(spec, AS_OF, "bench")
    model = champions.load_version(spec, 1)
    took: dict[str, list[float]] = {"score": [], "check": [], "bare script": []}
    for number in range(1, DAYS + 1):
        day = AS_OF + timedelta(days=number)
        for name, work in (("score", _score), ("check", _check)):
            took[name].append(_timed(work, spec, day))
        took["bare script"].append(_timed(_bare, spec, day, model))
        if number % 40 == 0:
            print(
                f"  day {number}: " + ", ".join(f"{name} {each[-1]:.3f} s" for name, each in took.items()), flush=True
            )
    print(
        f"{'a day of ' + MODEL + ', 240 rows':<34}{'day ' + str(AT[0]):>10}{'day ' + str(AT[1]):>10}{'ratio':>8}{'of bare':>9}"
    )
    middle = {name: [statistics.median(each[at - AROUND : at + AROUND]) for at in AT] for name, each in took.items()}
    slower = middle["bare script"][1] / middle["bare script"][0]  # of the machine: a bare script's day stays the same
    for name, (early, late) in middle.items():
        print(f"{name:<34}{early:>8.3f} s{late:>8.3f} s{late / early:>8.2f}{late / early / slower:>9.2f}")
    day = AS_OF + timedelta(days=DAYS + 1)
    for name in ("score", "check"):
        print(
            f"{name + ', a fresh process at day ' + str(DAYS):<44}{_in_a_fresh_process(name, day):>8.3f} s", flush=True
        )


def _timed(work: Callable[..., Any], *given: Any) -> float:
    began = time.perf_counter()
    work(*given)
    return time.perf_counter() - began


def _score(spec: Any, day: date) -> None:
    from esteira import steps

    steps.score_from_source(spec, [day], "bench")


def _check(spec: Any, day: date) -> None:
    from esteira import steps

    steps.store_labels(spec, day)
    steps.measure(spec, day)
    steps.decide(spec, day)


def _bare(spec: Any, day: date, model: Any) -> None:
    """What a script without any of it does: read the day, predict, write a file, measure the last week."""
    import pandas as pd
    from esteira import data
    from esteira.learning import predicting
    from sklearn.metrics import mean_absolute_error

    place = Path(os.environ["ESTEIRA_HOME"]) / "bare"
    place.mkdir(exist_ok=True)
    rows = data.read(spec, day, day)
    built = data.function(spec.folder, "features.build")(rows).astype(dict.fromkeys(spec.features.boolean, float))
    rows.assign(prediction=model.pipeline.predict(predicting.design(spec, built, model.columns))).to_parquet(
        place / f"{day}.parquet"
    )
    known = [place / f"{day - timedelta(days=n)}.parquet" for n in range(1, 8)]
    week = [pd.read_parquet(path, columns=["vehicles", "prediction"]) for path in known if path.exists()]
    if week:
        both = pd.concat(week)
        mean_absolute_error(both["vehicles"], both["prediction"]) / both["vehicles"].mean()


def _in_a_fresh_process(name: str, day: date) -> float:
    code = f"from benchmarks import day; day.one({name!r}, {day.toordinal()})"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def one(name: str, ordinal: int) -> None:
    """Do one part of a day in this process, and print how long it took once everything was imported."""
    import mlflow.sklearn
    from esteira import spec as specs
    from esteira.steps import champions

    assert mlflow.sklearn
    spec, day = specs.find(MODEL), date.fromordinal(ordinal)
    champions.repair_aliases(
        spec
    )  # connects to the registry, which a task's worker has not done either: not part of a day
    print(_timed({"score": _score, "check": _check}[name], spec, day))


def live() -> None:
    """Trigger single days on a live Airflow; print seconds from the trigger to scored, and to scored and checked."""
    from ops import stack as stacks
    from ops.api import Airflow
    from ops.stack import Stack

    for name in ("WEB", "MLFLOW", "SMTP"):
        os.environ[f"ESTEIRA_{name}_PORT"] = str(_free_port())
    stack = Stack.from_environment()
    stacks.up(stack)
    try:
        airflow = Airflow(stack.web, "admin", stack.password.read_text())
        names = [f"{MODEL}_{kind}" for kind in ("train", "score", "check")]
        airflow.wait_for_dags(names)
        for name in names:
            airflow.unpause(name)
        assert airflow.wait(names[0], airflow.trigger(names[0], day=str(AS_OF)), 300) == "success"
        scored, checked = [], []
        for number in range(1, LIVE + 1):
            day = str(AS_OF + timedelta(days=number))
            began = time.perf_counter()
            run = airflow.trigger(names[1], partition=day)
            assert airflow.wait(names[1], run, 120, poll=0.05) == "success"
            scored.append(time.perf_counter() - began)
            airflow.until(lambda day=day: _is_checked(airflow, day), 120, f"the check of {day}", poll=0.05)  # type: ignore[misc]
            checked.append(time.perf_counter() - began)
        for name, took in (("scored", scored), ("scored and checked", checked)):
            shown = f"median {statistics.median(took):.2f} s, fastest {min(took):.2f} s, slowest {max(took):.2f} s"
            print(f"live, trigger to {name:<20} {shown}", flush=True)
    finally:
        stacks.clean(stack)


def _is_checked(airflow: Any, day: str) -> bool:
    runs = airflow.runs(f"{MODEL}_check")
    return any(run["partition_key"] == day and run["state"] == "success" for run in runs)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def replay() -> None:
    """Replay 18 months of bike demand with daily checks, if its data is there; print how long that took."""
    if not Path(os.environ.get("ESTEIRA_DATA", "/nowhere"), "bike", "hour.csv").is_file():
        print("replay of bike: left out, for ESTEIRA_DATA does not name a folder with bike/hour.csv")
        return
    command = [str(Path(sys.executable).parent / "esteira"), "replay", "bike_demand", "--from", "2011-07-01"]
    command += ["--to", "2012-12-31", "--every", "day"]
    environment = {**os.environ, "ESTEIRA_MODELS": str(PROJECT / "examples"), "OMP_NUM_THREADS": "1"}
    took = _timed(lambda: subprocess.run(command, env=environment, check=True))
    print(f"replay of 18 months of bike, daily checks, every attempt, and both comparisons: {took:.0f} s", flush=True)


def main() -> None:
    """Run the parts asked for, each in a state folder of its own that is removed afterwards."""
    parts = {"walk": walk, "live": live, "replay": replay}
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in parts:
        parser.add_argument(f"--{name}", action="store_true")
    asked = vars(parser.parse_args())
    os.environ.update(ESTEIRA_MODELS=str(PROJECT / "include" / "models"), OMP_NUM_THREADS="1")
    for name, part in parts.items():
        if not (asked[name] or not any(asked.values())):
            continue
        with tempfile.TemporaryDirectory(prefix="esteira-day-") as home:
            os.environ["ESTEIRA_HOME"] = home
            os.environ.pop("MLFLOW_TRACKING_URI", None)
            os.environ.pop("ESTEIRA_LAKE", None)
            part()
            shutil.rmtree(home, ignore_errors=True)
            Path(home).mkdir(exist_ok=True)


if __name__ == "__main__":
    main()
