"""`make soak`: break things for real, and print what came of it as a table."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.soak import concurrency, crashes, live, victim


def main() -> int:
    """Returns how many trials left something else than an undisturbed run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="at each named point, in the first scenario that has it")
    parser.add_argument("--anywhere", type=int, default=20, help="kills at random moments, for each scenario")
    parser.add_argument("--meetings", type=int, default=10, help="of each kind of several at once")
    parser.add_argument(
        "--live", type=int, default=3, help="kills of each process of a live Airflow, in a score and a check"
    )
    every = [*victim.SCENARIOS, "meetings", "live"]
    parser.add_argument("--only", nargs="*", choices=every, default=every)
    asked = parser.parse_args()
    chosen = asked.only
    place = Path(tempfile.mkdtemp(prefix="esteira-soak-"))
    began = time.monotonic()
    context = crashes.preload(place)
    rows = crashes.run(
        context, place, [name for name in victim.SCENARIOS if name in chosen], asked.kills, asked.anywhere
    )
    if "meetings" in chosen:
        rows += concurrency.trials(context, place, asked.meetings)
    if "live" in chosen:
        os.environ.pop("LD_PRELOAD", None)
        rows += live.trials(place, asked.live)
    print(f"\n{sum(row.tried for row in rows)} trials in {(time.monotonic() - began) / 60:.0f} minutes\n")
    print(crashes.table(rows))
    wrong = sum(row.differing for row in rows)
    if wrong:
        kept = Path.cwd() / "soak.json"
        kept.write_text(crashes.as_json(rows))
        print(f"\n{wrong} differences; examples in {kept}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    return wrong


if __name__ == "__main__":
    sys.exit(min(main(), 1))
