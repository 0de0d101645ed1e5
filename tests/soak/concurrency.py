"""Several at once: what they leave must be what one after the other leaves."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from esteira import data, steps
from esteira.errors import EsteiraError, Refused
from esteira.lifecycle.changes import Proposal
from esteira.spec import find
from esteira.steps import champions, ingest, scoring
from esteira.store import lake, ledger

from tests.soak import crashes, victim
from tests.soak.crashes import Image, Outcome
from tests.soak.victim import CHANGE, DAY, FIRST

SHARDS = 2
TRIES = 5  # as Airflow would, of what is not for a person to mend


def _together(gate: str, work: Callable[..., Any], *given: Any) -> Any:
    """Wait until everybody is there, then work."""
    Path(gate, str(os.getpid())).touch()
    limit = time.monotonic() + 60
    while not Path(gate, "open").exists():
        assert time.monotonic() < limit, "the gate did not open"
        time.sleep(0.002)
    return work(*given)


def _persistent(work: Callable[[], Any]) -> Any:
    for number in range(1, TRIES + 1):
        try:
            return work()
        except EsteiraError:
            raise
        except Exception:
            if number == TRIES:
                raise
            time.sleep(0.2 * number)
    return None


def scored(run: str, days: Sequence[date]) -> None:
    """The score DAG of some days, its tasks retried."""
    spec, wanted = find("sales"), list(days)
    for number in range(SHARDS):
        _persistent(lambda number=number: steps.leave(spec, wanted, run, data.Share(number, SHARDS)))
    _persistent(lambda: steps.publish_left(spec, wanted, run, SHARDS))


def checked() -> None:
    """The check DAG, its tasks retried."""
    victim.check(lambda _, work: _persistent(work), find("sales"))


def promoted(version: int) -> str:
    """Promote a version that was measured against the first."""
    try:
        champions.promote(find("sales"), Proposal(version, CHANGE, measured=1, why="raced", by=f"race {version}"))
    except Refused:
        return "refused"
    return "promoted"


def scored_day_by_day(days: Sequence[date]) -> None:
    """Score days again, one by one, without a version: each by its champion of the moment."""
    for day in days:
        _persistent(lambda day=day: scoring.score(find("sales"), [day], f"again {day}"))


def replaced(days: Sequence[date], times: int) -> None:
    """Replace days of features by themselves, many times."""
    spec = find("sales")
    for _ in range(times):
        for day in days:
            _persistent(lambda day=day: ingest.features(spec, [day]))


def maintained(times: int) -> None:
    """Compact and vacuum, many times; files of the last hour stay."""
    for _ in range(times):
        for kind in victim.KINDS:
            _persistent(lambda kind=kind: lake.maintain(kind, "sales", keep=[], hours=1))


def read_on(days: Sequence[date], times: int) -> int:
    """Read the days again and again; returns how often they were not whole."""
    wrong = 0
    for _ in range(times):
        rows = lake.read("features", "sales", day=(days[0], days[-1]))
        wrong += not (rows.groupby("day").size() == 72).all() or len(rows) != 72 * len(days)
    return wrong


# --------------------------------------------------------------------------------------------------------------- trials


Job = tuple[Callable[..., Any], tuple[Any, ...]]
DAYS = data.days(FIRST, DAY)
NEXT = data.days(DAY + timedelta(days=1), DAY + timedelta(days=20))


def at_once(context: Any, home: Path, jobs: Sequence[Job]) -> list[Any]:
    """Call the jobs at the same moment, each in a process; returns what they returned."""
    from concurrent.futures import ThreadPoolExecutor

    gate = home / "gate"
    shutil.rmtree(gate, ignore_errors=True)
    gate.mkdir()
    with ThreadPoolExecutor(len(jobs)) as pool:
        waiting = [
            pool.submit(crashes.in_a_process, context, home, _together, str(gate), work, *given) for work, given in jobs
        ]
        limit = time.monotonic() + 60
        while len(list(gate.iterdir())) < len(jobs):
            assert time.monotonic() < limit, "not all came"
            time.sleep(0.01)
        (gate / "open").touch()
        ended = [each.result() for each in waiting]
    assert all(code == 0 for code, _ in ended), (home / "output.txt").read_text()[-3000:]
    return [found for _, found in ended]


def _plain(found: Image) -> Image:
    """An image without who wrote what: of two runs either may be the last."""

    def blank(row: str) -> str:
        return re.sub(r"\b(one|two|before|again [\d-]+)\b", "(run)", row)

    return {
        part: Counter({}) + sum((Counter({blank(row): count}) for row, count in rows.items()), Counter())
        for part, rows in found.items()
    }


def trials(context: Any, place: Path, times: int) -> list[Outcome]:
    """Every kind of meeting, `times` times each."""
    score, check, second = (_base(context, place, name) for name in ("score", "check that recovers", "rollback"))
    parts = [list(part) for part in (NEXT[:5], NEXT[5:10], NEXT[10:15], NEXT[15:])]
    again: list[Job] = [(scored, ("one", [FIRST])), (scored, ("two", [FIRST]))]
    fills: list[Job] = [(scored, (f"fill {number}", part)) for number, part in enumerate(parts)]
    apart: list[Job] = [(checked, ()), (scored, ("one", NEXT[:1]))]
    # A meeting, and the orders in which its jobs may have come one after the other.
    meetings: dict[str, tuple[Path, list[Job], list[list[Job]]]] = {
        "the same day scored twice at once": (score, again, [again[:1]]),
        "four backfills at once": (check, fills, [fills]),
        "a check during a score": (check, apart, [apart, apart[::-1]]),
        "maintenance during writes and reads": (
            second,
            [(maintained, (3,)), (replaced, (DAYS[:4], 3)), (read_on, (DAYS, 40))],
            [[]],
        ),
    }
    rows = []
    for name, (base, jobs, orders) in meetings.items():
        outcome = Outcome(name)
        allowed = [_after_another(context, base, order) for order in orders]
        for _ in range(times):
            home = crashes.copied(base, base.parent / "meeting")
            found = at_once(context, home, jobs)
            got = _plain(crashes.in_a_process(context, home, crashes.image, "sales", home)[1])
            lost, doubled, examples = min(
                (crashes.compared(each, got) for each in allowed), key=lambda one: len(one[2])
            )
            outcome.tried += 1
            outcome.lost += lost
            outcome.doubled += doubled
            wrong = [f"{count} reads were not whole" for count in found if count]
            outcome.differing += bool(examples or wrong)
            outcome.examples += examples + wrong
        rows.append(outcome)
        print(f"{name}: {outcome.tried} times, {outcome.differing} differences", flush=True)
    race = _base(context, place, "race")
    rows.append(_two_promotions(context, race, times))
    rows.append(_promotion_during_scores(context, race, times))
    return rows


def _after_another(context: Any, base: Path, jobs: Sequence[Job]) -> Image:
    calm = crashes.copied(base, base.parent / "calm")
    for job in jobs:
        at_once(context, calm, [job])
    return _plain(crashes.in_a_process(context, calm, crashes.image, "sales", calm)[1])


def _base(context: Any, place: Path, name: str) -> Path:
    return crashes.prepared(context, place / "meetings", name)


def _two_promotions(context: Any, base: Path, times: int) -> Outcome:
    outcome = Outcome("two promotions at once")
    for _ in range(times):
        home = crashes.copied(base, base.parent / "meeting")
        found = at_once(context, home, [(promoted, (2,)), (promoted, (3,))])
        champions, alias = crashes.in_a_process(context, home, _champions)[1]
        outcome.tried += 1
        good = sorted(found) == ["promoted", "refused"] and len(champions) == 2 and alias == champions[-1]
        outcome.differing += not good
        if not good:
            outcome.examples.append(f"{found}, champions {champions}, alias {alias}")
    print(f"{outcome.fault}: {outcome.tried} times, {outcome.differing} differences", flush=True)
    return outcome


def _champions() -> tuple[list[int], int]:
    from esteira.store import runs

    spec = find("sales")
    return [each.version for each in ledger.state(spec).changes], runs.aliases(spec)["champion"]


def _promotion_during_scores(context: Any, base: Path, times: int) -> Outcome:
    """Days are scored while a version is promoted: each day is of one version, and holds what that version predicts."""
    outcome = Outcome("a promotion during scores: each day of one version")
    days = data.days(CHANGE + timedelta(days=1), CHANGE + timedelta(days=10))
    for _ in range(times):
        home = crashes.copied(base, base.parent / "meeting")
        at_once(context, home, [(scored_day_by_day, (days,)), (promoted, (2,))])
        lost, doubled, mixed = crashes.in_a_process(context, home, _days_of_one_version, days)[1]
        outcome.tried += 1
        outcome.lost, outcome.doubled, outcome.differing = (
            outcome.lost + lost,
            outcome.doubled + doubled,
            outcome.differing + mixed,
        )
    print(f"{outcome.fault}: {outcome.tried} times, {outcome.differing} differences", flush=True)
    return outcome


def _days_of_one_version(days: Sequence[date]) -> tuple[int, int, int]:
    from esteira.learning import predicting
    from esteira.store import runs

    spec = find("sales")
    rows = lake.read("predictions", "sales", day=(days[0], days[-1]))
    frame = lake.read("features", "sales", day=(days[0], days[-1]))
    key = ["day", *spec.key]
    lost = len(frame) - len(rows.drop_duplicates(key))
    doubled = len(rows) - len(rows.drop_duplicates(key))
    mixed = int((rows.groupby("day")["version"].nunique() > 1).sum())
    for version, part in rows.groupby("version"):
        asked = part[key].merge(frame, on=key, validate="one_to_one")
        again = predicting.predict(spec, runs.load_version(spec, int(version)), asked)  # type: ignore[arg-type]
        mixed += int((pd.Series(again["prediction"].to_numpy()) != pd.Series(part["prediction"].to_numpy())).any())
    return lost, doubled, mixed
