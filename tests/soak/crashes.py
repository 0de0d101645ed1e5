"""Kill, run again, compare: every table, the registry, the ledger, git and the mails must be those of an undisturbed run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.soak import victim

CLOCKS = ["read_at", "found_at", "first_seen", "load_seconds", "predict_seconds", "at"]
IDENTITY = {
    "metrics": ["check_day", "attempt", "role", "window", "segment", "metric", "first_day", "last_day", "version"],
    "ledger": ["id"],
}
# Imported once, before the fork: else importing would be most of a trial.
PRELOADED = [
    "tests.soak.victim",
    "esteira.learning.compiled",
    "esteira.learning.plots",
    "esteira.steps.alerting",
    "esteira.steps.checking",
    "esteira.steps.streaming",
    "esteira.steps.training",
    "esteira.store.model_files",
    "mlflow.sklearn",
    "mlflow.store.model_registry.sqlalchemy_store",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna",
    "pandera.backends.pandas.register",
    "pandera.backends.pandas.builtin_checks",
    "papermill",
    "nbconvert",
    "tl2cgen",
]
LIMIT = 300  # seconds that no run may take


@dataclass
class Outcome:
    """What came of the trials with one fault."""

    fault: str
    tried: int = 0
    lost: int = 0
    doubled: int = 0
    differing: int = 0
    examples: list[str] = field(default_factory=list)


Image = dict[str, Counter[str]]


def image(spec_name: str, home: Path) -> Image:
    """All that can be seen of a state folder, without what the clock wrote and the names that MLflow draws by lot."""
    from esteira.spec import find
    from esteira.store import lake, runs

    spec = find(spec_name)
    tracked = runs.search(spec)
    keys = {run.id: run.tags.get("key", "?") for run in tracked}
    found: Image = {}
    for kind in victim.KINDS:
        rows = lake.read(kind, spec_name)
        rows = rows.drop(columns=[name for name in CLOCKS if name in rows.columns])
        if kind == "ledger":  # each try to send a mail is counted, and a killed one is one more
            rows = rows[rows["to_state"] != "sending"]
        if "version" in rows:  # a float where any row has none
            rows["version"] = rows["version"].astype("Int64")
        text = rows.astype(str).to_csv(index=False).splitlines()
        found[kind] = Counter(_without_places(_without_lots(line, keys), home) for line in text)
    found["versions"] = Counter(
        f"{each.number} of {keys.get(each.run_id, 'a deleted run')}" for each in runs.versions(spec)
    )
    found["aliases"] = Counter(f"{name} → {version}" for name, version in runs.aliases(spec).items())
    found["runs"] = Counter(f"{run.tags.get('key')} {run.status}" for run in tracked)
    found["commits"] = Counter(_git_log(home / "notebooks"))
    found["mails"] = Counter(path.name for path in (home / "mail").glob("*")) if (home / "mail").exists() else Counter()
    return found


def image_of_one(name: str, home: Path, mail: Path) -> Image:
    """The image of one model of many in a state folder, without its name and the runs' ids: alike for models alike."""
    found = image(name, home)
    found["commits"] = Counter({row: count for row, count in found["commits"].items() if name in row})
    mails = [path.name.partition("-")[2] for path in mail.rglob("*.eml")]
    found["mails"] = Counter(mail for mail in mails if name in mail)
    return {part: Counter({_unnamed(row, name): count for row, count in rows.items()}) for part, rows in found.items()}


def _unnamed(row: str, name: str) -> str:
    row = re.sub(r"/experiments/\d+/", "/experiments/(of the model)/", re.sub(rf"\b{name}(?=\b|_)", "sales", row))
    return re.sub(r"(manual|scheduled)__[\d.:T+-]+(_[0-9a-f]{8})?", "(run)", row)


def _without_lots(line: str, keys: dict[str, str]) -> str:
    for run_id, key in keys.items():
        line = line.replace(run_id, key)
    line = re.sub(r"\b[0-9a-f]{64}\b", "(digest)", line)  # a skops file holds addresses of the process that wrote it
    return re.sub(r"\b[0-9a-f]{40}\b", "(commit)", line)


def _without_places(line: str, home: Path) -> str:
    """A trial goes on from where another folder, beside its own, was copied."""
    return re.sub(rf"{re.escape(str(home.parent))}/[\w-]+", "(home)", line)


def _git_log(repository: Path) -> list[str]:
    if not (repository / ".git").exists():
        return []
    command = ["git", "-C", str(repository), "log", "--format=%s", "--name-only"]
    return [
        line for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines() if line
    ]


def compared(wanted: Image, got: Image) -> tuple[int, int, list[str]]:
    """How many rows are missing, how many are there too often, and examples of the differences."""
    lost = doubled = 0
    examples = []
    for part, rows in wanted.items():
        missing, surplus = rows - got[part], got[part] - rows
        lost += sum(missing.values())
        doubled += sum(count for row, count in surplus.items() if rows[row])
        examples += [f"{part}: - {row[:300]}" for row in list(missing)[:2]] + [
            f"{part}: + {row[:300]}" for row in list(surplus)[:2]
        ]
    return lost, doubled, examples


# ------------------------------------------------------------------------------------------------------------ processes


def preload(place: Path) -> Any:
    """A server that forks victims: it has imported everything, and the library that dies at a commit is in it."""
    library = place / "commit.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", library, Path(__file__).with_name("commit.c"), "-ldl"], check=True
    )
    os.environ["LD_PRELOAD"] = str(library)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def in_a_process(
    context: Any, home: Path, work: Callable[..., Any], *given: Any, kill_after: float | None = None
) -> tuple[int, Any]:
    """Call `work` in a new process with `home` as its state folder; returns how it ended, and what it returned."""
    receive, give = context.Pipe(duplex=False)
    process = context.Process(target=_called, args=(give, str(home), work, given))
    process.start()
    give.close()
    if kill_after is not None:
        process.join(kill_after)
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    try:
        result = receive.recv() if receive.poll(LIMIT) else None
    except EOFError:
        result = None
    process.join(LIMIT)
    assert process.exitcode is not None, "a victim hangs"
    return process.exitcode, result


def _called(give: Any, home: str, work: Callable[..., Any], given: tuple[Any, ...]) -> None:
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    os.environ.update(
        {
            "ESTEIRA_HOME": home,
            "ESTEIRA_MODELS": f"{home}/models",
            "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
            "OMP_NUM_THREADS": "1",
        }
    )
    with Path(f"{home}/output.txt").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        give.send(work(*given))
        give.close()
        os._exit(0)  # no library's own farewell matters here


# --------------------------------------------------------------------------------------------------------------- trials


@dataclass
class Scenario:
    """A state folder where a scenario begins, and what an undisturbed run of it leaves."""

    name: str
    base: Path
    snapshots: list[Path]  # before each task
    points: list[str]
    wanted: Image
    seconds: float

    def before(self, point: str, number: int) -> tuple[Path, int]:
        """The last snapshot before a point is met for the `number`-th time, and the how-manieth time it is from there."""
        met = [(each, (each / victim.POINTS).read_text().splitlines().count(point)) for each in self.snapshots]
        return max(((each, number - count) for each, count in met if count < number), key=lambda found: found[0])


def prepared(context: Any, place: Path, name: str) -> Path:
    """A new state folder, brought to where a scenario begins."""
    from tests import models

    base = place / name.replace(" ", "-") / "base"
    (base / "mlflow").mkdir(parents=True)
    world = victim.WORLDS.get(name, {"change": str(victim.CHANGE)})
    spec = models.write(base / "models", **world)
    code, _ = in_a_process(context, base, victim.prepare, spec, name)
    assert code == 0, (base / "output.txt").read_text()[-3000:]
    return base


def begun(context: Any, place: Path, name: str) -> Scenario:
    """Prepare a scenario, and run it once undisturbed."""
    base = prepared(context, place, name)
    home = copied(base, base.parent / "undisturbed")
    began = time.monotonic()
    snapshots = base.parent / "snapshots"
    code, _ = in_a_process(context, home, victim.live, name, None, snapshots)
    assert code == 0, (home / "output.txt").read_text()[-3000:]
    seconds = time.monotonic() - began
    wanted = in_a_process(context, home, image, "sales", home)[1]
    points = (home / victim.POINTS).read_text().splitlines()
    return Scenario(name, base, sorted(snapshots.iterdir()), points, wanted, seconds)


def copied(base: Path, home: Path) -> Path:
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(base, home)
    return home


@contextmanager
def watched(place: Path | str, options: dict[str, str] | None = None) -> Iterator[dict[str, set[int]]]:
    """Read a table all the while, as anybody may; the numbers of rows that were seen of each day that had any.

    `options` are those of an object store.
    """
    seen: dict[str, set[int]] = {}
    ended = threading.Event()

    def read() -> None:
        from deltalake import DeltaTable
        from deltalake.exceptions import TableNotFoundError

        over = False
        while not over:  # once more when it is over
            over = ended.wait(0.02)
            with suppress(TableNotFoundError):  # not made yet
                table = DeltaTable(place, storage_options=options).to_pyarrow_table(columns=["day"])
                for each in table["day"].value_counts().to_pylist():
                    seen.setdefault(str(each["values"]), set()).add(each["counts"])

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield seen
    finally:
        ended.set()
        reader.join(LIMIT)


def parts_of_days(seen: dict[str, set[int]]) -> str:
    """What a reader saw that nobody may see: a day of which there were once fewer rows than at another time."""
    torn = {day: sorted(numbers) for day, numbers in seen.items() if len(numbers) > 1}
    return f"a reader saw parts of days, rows by day: {torn}" if torn else ""


def trial(
    context: Any, scenario: Scenario, slot: int, armed: tuple[str, int] | None, after: float | None
) -> tuple[bool, int, int, list[str]]:
    """Kill the scenario once, run it again, compare; returns whether it was killed, and what differs."""
    base = scenario.base
    if armed:
        base, number = scenario.before(*armed)
        armed = armed[0], number
    home = copied(base, scenario.base.parent / f"trial-{slot}")
    polled = watched(home / "lake" / "predictions" / "sales") if scenario.name == "score" else nullcontext({})
    with polled as seen:
        code, _ = in_a_process(context, home, victim.live, scenario.name, armed, kill_after=after)
        killed = code == -signal.SIGKILL
        again, _ = in_a_process(context, home, victim.live, scenario.name, None)
    if torn := parts_of_days(seen):
        return killed, 0, 0, [torn]
    if again != 0:
        return killed, 1, 0, [f"the run after it failed ({again}): {(home / 'output.txt').read_text()[-1500:]}"]
    got = in_a_process(context, home, image, "sales", home)[1]
    return killed, *compared(scenario.wanted, got)


def faults(
    scenario: Scenario, each: int, anywhere: int, known: set[str], seed: int
) -> Iterator[tuple[str, tuple[str, int] | None, float | None]]:
    """The kills of a scenario: `each` at every named point, its occurrences in turn, and `anywhere` at random moments.

    A point that an earlier scenario had (`known`) is met once for each of its occurrences only, twice at least.
    """
    times = Counter(scenario.points)
    for point, count in times.items():
        for number in range(min(each, max(2, count)) if point in known else each):
            yield point, (point, number % count + 1), None
    moments = random.Random(seed)
    for _ in range(anywhere):
        yield "at a random moment", None, moments.uniform(0.05, scenario.seconds)


def run(context: Any, place: Path, names: list[str], each: int, anywhere: int, workers: int = 2) -> list[Outcome]:
    """All trials of the scenarios, as a table's rows."""
    rows: list[Outcome] = []
    known: set[str] = set()
    for name in names:
        scenario = begun(context, place, name)
        found: dict[str, Outcome] = {}
        slots = list(range(workers))

        def tried(
            fault: tuple[str, tuple[str, int] | None, float | None],
            scenario: Scenario = scenario,
            found: dict[str, Outcome] = found,
            slots: list[int] = slots,
        ) -> None:
            point, armed, after = fault
            slot = slots.pop()
            try:
                killed, lost, doubled, examples = trial(context, scenario, slot, armed, after)
            finally:
                slots.append(slot)
            assert killed or armed is None, f"{scenario.name}: it was not killed at {point}"
            outcome = found.setdefault(point, Outcome(f"{scenario.name}: killed {point}"))
            outcome.tried += 1
            outcome.lost += lost
            outcome.doubled += doubled
            outcome.differing += bool(examples)
            outcome.examples += examples

        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(tried, faults(scenario, each, anywhere, known, seed=len(rows))))
        known |= set(scenario.points)
        rows += found.values()
        print(
            f"{name}: {sum(each.tried for each in found.values())} kills at {len(found)} points, {sum(each.differing for each in found.values())} differences",
            flush=True,
        )
    return rows


def table(rows: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    lines = ["| fault | times tried | lost | doubled | differing |", "|---|---|---|---|---|"]
    lines += [f"| {row.fault} | {row.tried} | {row.lost} | {row.doubled} | {row.differing} |" for row in rows]
    return "\n".join(lines)


def as_json(rows: list[Outcome]) -> str:
    """The outcomes with examples of what differed."""
    return json.dumps([vars(row) for row in rows], indent=1)
