"""The loop on real drift and on simulated streams, as a table: `make bench-loop`.

Every figure is of rows as they were first served, by the steps that the DAGs run, in memory. Each model of examples/ runs by the
default policy of docs/model.md: its source, features and candidates are kept, and all that its model.yaml says of training,
checks and retraining is left out. Its limit is what `esteira limits` suggests on the eve of the first day; that limit and those
5 and 10 % below and above it make five walks, of which the table has the median. Seeds are fixed. ESTEIRA_BENCH_SEEDS (200) is the
number of stationary years; the other streams take a tenth of it each. With ESTEIRA_BENCH_DIR, what is done is kept there, and a bench
that was stopped goes on.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from esteira.spec import ModelSpec

EXAMPLES = Path(__file__).parents[1] / "examples"
SEEDS = int(os.environ.get("ESTEIRA_BENCH_SEEDS", "200"))
FACTORS = (0.9, 0.95, 1.0, 1.05, 1.1)
HARM = 28  # days over which a promotion is compared with the version that it replaced
CHANGE = date(2025, 7, 1)  # in examples/stream/source.py
BATCH = 5  # seeds that one process simulates before it makes room for the next
WINDOWS = (45, 90, 180, 365, 5000)  # days: what a plain schedule might retrain on

Found = dict[str, Any]
Row = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Walk:
    """An example, from a day to a day, how often it is checked, and the blocks that its mean is of."""

    example: str
    first: date
    last: date
    every: str
    blocks: str
    zone: str = ""


WALKS = {
    "bike": Walk("bike_demand", date(2011, 7, 1), date(2012, 12, 31), "day", "month"),
    "elec2": Walk("electricity", date(1996, 12, 18), date(1998, 10, 23), "day", "45d"),
    "flights": Walk("flights", date(2013, 4, 1), date(2013, 12, 31), "day", "month"),
    "employment": Walk("employment", date(2016, 1, 1), date(2018, 12, 31), "day", "183d"),
    **{
        f"pjm {zone}": Walk("load", date(2005, 4, 1), date(2018, 7, 31), "week", "month", zone)
        for zone in ("AEP", "DAYTON", "PJME")
    },
}
STREAMS = ("stationary", "sudden", "recurring", "gradual")


def by_default_policy(example: str, home: Path) -> ModelSpec:
    """The example's model with nothing said of its policy but the metric, whose limit is a guess yet."""
    from esteira import spec

    given = yaml.safe_load((EXAMPLES / example / "model.yaml").read_text())
    metric, limit = next(iter(given["check"]["metrics"].items()))
    for name in ("retrain", "promote", "retrain_first", "members"):
        given.pop(name, None)
    given["train"] = {"candidates": given["train"]["candidates"]}
    given["check"] = {"metrics": {metric: limit}, "estimate": False}  # nothing decides by estimates
    folder = home / "models" / example
    shutil.copytree(EXAMPLES / example, folder)
    (folder / "model.yaml").write_text(yaml.safe_dump(given, sort_keys=False))
    return spec.load(folder / "model.yaml")


def suggested(spec: ModelSpec, as_of: date) -> float:
    """What `esteira limits` suggests for the model's metric."""
    from esteira import steps

    return round(steps.limits(spec, as_of)[1][spec.check.metric].limit, 4)


def limited(spec: ModelSpec, value: float) -> ModelSpec:
    """The model with another limit of its metric."""
    side = "min" if spec.higher_is_better(spec.check.metric) else "max"
    limit = spec.check.metrics[spec.check.metric].model_copy(update={side: value})
    return spec.model_copy(update={"check": spec.check.model_copy(update={"metrics": {spec.check.metric: limit}})})


@contextmanager
def in_memory(**environment: str) -> Iterator[Path]:
    """A home of its own, and a lake and a registry that are gone afterwards."""
    from esteira.store import lake, runs
    from esteira.store.memory import MemoryLake
    from esteira.store.memory_tracking import MemoryTracking

    logging.disable(logging.CRITICAL)
    home = tempfile.mkdtemp(prefix="esteira-bench-")
    os.environ |= {"ESTEIRA_HOME": home, **environment}
    with lake.using(MemoryLake()), runs.using(MemoryTracking()):
        yield Path(home)
    shutil.rmtree(home)


def policy(name: str, factor: float) -> Found:
    """One walk by the default policy, at so many times the suggested limit."""
    from esteira import replay
    from esteira.store import outbox

    walk = WALKS[name]
    with in_memory(ESTEIRA_ZONE=walk.zone) as home:
        spec = by_default_policy(walk.example, home)
        spec = limited(spec, factor * suggested(spec, walk.first - timedelta(days=1)))
        plan = replay.Plan(spec.name, walk.first, walk.last, walk.every, walk.blocks)
        checks = replay.walk(spec, plan, "policy")
        metric = spec.check.metric
        blocks = replay.block_metrics(spec, plan)
        promoted = replay.promotion_gains(spec, plan, HARM)
        return {
            "limit": str(spec.check.metrics[metric]),
            "mean": statistics.fmean(each[metric] for each in blocks),
            "trainings": replay.trainings(spec),
            "attempts": sum(check["tried"] for check in checks),
            "promotions": sum(check["promoted"] is not None for check in checks),
            "mails": len(outbox.mails(spec, "")),
            **_harm(promoted),
            "gains": promoted,
            "blocks": blocks,
            "checks": checks,
        }


def compared(name: str, kind: str, window: int) -> Found:
    """One walk that is never retrained (frozen), or at every block and without asking (always), by a training window of so many days.

    It begins with the model that the policy at the suggested limit begins with.
    """
    from esteira import replay

    walk = WALKS[name]
    with in_memory(ESTEIRA_ZONE=walk.zone) as home:
        spec = by_default_policy(walk.example, home)
        spec = limited(spec, suggested(spec, walk.first - timedelta(days=1)))
        spec = spec.model_copy(update={"train": spec.train.model_copy(update={"window": window})})
        plan = replay.Plan(spec.name, walk.first, walk.last, walk.every, walk.blocks)
        replay.walk(spec, plan, kind)
        blocks = replay.block_metrics(spec, plan)
        return {
            "mean": statistics.fmean(each[spec.check.metric] for each in blocks),
            "trainings": replay.trainings(spec),
            **_harm(replay.promotion_gains(spec, plan, HARM)),
        }


def _harm(promoted: Sequence[Found]) -> Found:
    """The worst of what promotions came to, and how many were worse than what they replaced."""
    gains = [each["gain"] for each in promoted if each["gain"] is not None]
    return {"worst": min(gains, default=0.0), "worse": sum(gain < 0 for gain in gains)}


def streamed(kind: str, start: int, seeds: int) -> Found:
    """Checks over simulated streams, one for each seed: what each came to. A stationary one is a year of weekly checks."""
    from esteira import replay
    from esteira.store import outbox

    found = []
    first = date(2025, 5, 1)
    days, every = (365, "week") if kind == "stationary" else (244, "day")
    for seed in range(start, start + seeds):
        with in_memory(ESTEIRA_STREAM=kind, ESTEIRA_STREAM_SEED=str(seed)) as home:
            spec = by_default_policy("stream", home)
            spec = limited(spec, suggested(spec, first - timedelta(days=1)))
            plan = replay.Plan(spec.name, first, first + timedelta(days=days - 1), every, "month")
            year = _year(replay.walk(spec, plan, "policy"))
            found.append({**year, "trainings": replay.trainings(spec), "mails": len(outbox.mails(spec, ""))})
    return {"years": found}


def _year(checks: Sequence[Found]) -> Found:
    """What a year of checks came to.

    It recovered if a window served by a version promoted since the change was in range, and so were three quarters of the windows
    of the last eight weeks.
    """
    after = [check for check in checks if check["day"] >= str(CHANGE)]
    promoted = next((check["day"] for check in after if check["promoted"]), "9")
    back = next((check["day"] for check in after if check["healthy"] and check["window_end"] > promoted), None)
    end = date.fromisoformat(checks[-1]["day"]) - timedelta(days=56)
    late = {check["window_end"]: check["healthy"] for check in checks if check["healthy"] is not None}
    late = {window: healthy for window, healthy in late.items() if window > str(end)}
    return {
        "attempts": sum(check["tried"] for check in checks),
        "promotions": sum(check["promoted"] is not None for check in checks),
        "recovered": back is not None and sum(late.values()) >= 0.75 * len(late),
        "days": (date.fromisoformat(back) - CHANGE).days if back else None,
    }


def kept(place: Path, task: Callable[..., Found], *given: Any) -> Found:
    """What a task finds, or what it has found before."""
    path = place / f"{'-'.join(str(each) for each in (task.__name__, *given)).replace(' ', '_')}.json"
    if path.exists():
        known: Found = json.loads(path.read_text())
        return known
    began = time.monotonic()
    found = {**task(*given), "seconds": round(time.monotonic() - began)}
    path.with_suffix(".part").write_text(json.dumps(found, default=str))
    path.with_suffix(".part").rename(path)
    return found


# ------------------------------------------------------------------------------------------------------------- the table


def _median(found: Sequence[Found], name: str) -> float:
    return float(statistics.median(each[name] for each in found))


def _all(found: Sequence[Found], name: str, form: str = "{}") -> str:
    return ", ".join(form.format(each[name]) for each in found)


# What is asked of the medians: of each, whether it is met.
WANTED: Mapping[str, tuple[str, Callable[[Mapping[str, float]], bool]]] = {
    "bike": (
        "≤ 0.195, ≤ 30 trainings, ≤ 8 mails",
        lambda of: of["mean"] <= 0.195 and of["trainings"] <= 30 and of["mails"] <= 8,
    ),
    "elec2": (
        "≥ 0.764, ≤ 50 trainings, ≤ 10 mails, harm ≤ 0.05",
        lambda of: of["mean"] >= 0.764 and of["trainings"] <= 50 and of["mails"] <= 10 and of["worst"] >= -0.05,
    ),
    "flights": (
        "≥ 0.759, ≤ 4 mails, harm ≤ 0.01",
        lambda of: of["mean"] >= 0.759 and of["mails"] <= 4 and of["worst"] >= -0.01,
    ),
    "employment": ("no attempt, no mail", lambda of: of["attempts"] == 0 and of["mails"] == 0),
}


def data_row(name: str, found: Sequence[Found], frozen: Found, always: Mapping[int, Found]) -> Row:
    """The row of a data set: medians, and of each limit, the lowest first, what they are of."""
    of = {each: _median(found, each) for each in ("mean", "trainings", "mails", "worst", "attempts")}
    shown = f"**{of['mean']:.3f}**, {of['trainings']:.0f} trainings, {of['mails']:.0f} mails, harm {min(of['worst'], 0):+.3f}"
    limits = f"{_all(found, 'mean', '{:.3f}')}; {_all(found, 'trainings')}; {_all(found, 'mails')}; {_all(found, 'worst', '{:+.3f}')}"
    best = (min if name.startswith("pjm") else _best_of(name))(always.values(), key=lambda each: each["mean"])
    others = (
        f"{frozen['mean']:.3f} / {best['mean']:.3f}, {best['trainings']} trainings, harm {min(best['worst'], 0):+.3f}"
    )
    if name in WANTED:
        wanted, is_met = WANTED[name]
        return name, wanted, f"{shown} ({limits})", others, "met" if is_met(of) else "MISSED"
    met = of["mean"] < best["mean"] and of["trainings"] <= best["trainings"] / 3
    wanted = f"< {best['mean']:.4f}, ≤ {best['trainings'] // 3} trainings"
    return name, wanted, f"{of['mean']:.4f}; {shown} ({limits})", others, "met" if met else "MISSED"


def _best_of(name: str) -> Callable[..., Found]:
    return min if name == "bike" else max


def stream_row(kind: str, years: Sequence[Found]) -> Row:
    """The row of a kind of stream."""
    count = len(years)
    trainings, mails = (statistics.fmean(each[name] for each in years) for name in ("trainings", "mails"))
    if kind == "stationary":
        tried, promoted = (sum(each[name] > 0 for each in years) for name in ("attempts", "promotions"))
        came = f"attempts in {tried}, promotions in {promoted} of {count}; {mails:.2f} mails a year"
        met = tried <= count / 200 and promoted == 0
        return kind, "attempts in ≤ 1 of 200 years, no promotion", came, "", "met" if met else "MISSED"
    days = [each["days"] for each in years if each["recovered"]]
    middle = statistics.median(days) if days else float("nan")
    most = 55 if kind == "gradual" else 24
    came = f"{len(days)} of {count} recovered, in the median after {middle:.0f} days; {trainings:.1f} trainings and {mails:.1f} mails each"
    met = len(days) >= 0.95 * count and middle <= most
    return f"{kind} change", f"≥ 95 % recovered, in the median ≤ {most} days", came, "", "met" if met else "MISSED"


def main() -> int:
    """Run everything on all cores, print the table, and keep what was found; returns how many targets were missed."""
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    place = Path(os.environ.get("ESTEIRA_BENCH_DIR") or tempfile.mkdtemp(prefix="esteira-bench-loop-"))
    place.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    context = multiprocessing.get_context("spawn")
    rows: list[Row] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, max_tasks_per_child=1) as pool:

        def ask(task: Callable[..., Found], *given: Any) -> Future[Found]:
            return pool.submit(kept, place, task, *given)

        names = [*WALKS] if os.environ.get("ESTEIRA_DATA") else []
        if not names:
            print("ESTEIRA_DATA is not set: the rows on public data are left out", file=sys.stderr)
        walks = {(name, factor): ask(policy, name, factor) for name in names for factor in FACTORS}
        counts = {kind: SEEDS if kind == "stationary" else max(SEEDS // 10, 1) for kind in STREAMS}
        streams = {
            kind: [ask(streamed, kind, start, min(BATCH, count - start)) for start in range(0, count, BATCH)]
            for kind, count in counts.items()
        }
        frozen = {name: ask(compared, name, "frozen", 180) for name in names}
        always = {
            name: {window: ask(compared, name, "always", window) for window in (WINDOWS if "pjm" in name else (180,))}
            for name in names
        }
        for kind, batches in streams.items():
            rows.append(stream_row(kind, [year for batch in batches for year in batch.result()["years"]]))
            _print(rows[-1:])
        for name in names:
            found = [walks[name, factor].result() for factor in FACTORS]
            retrained = {window: each.result() for window, each in always[name].items()}
            rows.append(data_row(name, found, frozen[name].result(), retrained))
            _print(rows[-1:])
    print(f"\nin {(time.monotonic() - began) / 60:.0f} minutes; kept in {place}\n")
    print("| data | wanted | came out | frozen / retrained every block | |\n|---|---|---|---|---|")
    _print(rows)
    return sum(row[-1] == "MISSED" for row in rows)


def _print(rows: Iterable[Row]) -> None:
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
