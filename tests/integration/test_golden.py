"""Sixty days of real data decide what they decided before: whatever is moved or rebuilt must leave these files as they are.

`python -m tests.integration.test_golden` writes them anew, where a change of what is decided is meant.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path

import pytest
from esteira import replay
from esteira.replay import Plan

PROJECT = Path(__file__).resolve().parents[2]
KEPT = PROJECT / "tests" / "data" / "golden"
# Days in which there are loops, promotions, warnings and days without any.
FROM = {"bike_demand": date(2012, 3, 1), "electricity": date(1996, 12, 18)}


def decided(name: str, place: Path) -> list[dict]:
    """What each check of the sixty days decided, and why."""
    plan = Plan(name, FROM[name], FROM[name] + timedelta(days=59), "day", "month")
    checks = replay.isolated(plan, "policy", place)["checks"]
    return json.loads(json.dumps(checks), parse_float=lambda text: round(float(text), 9))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(FROM))
def test_sixty_days_decide_as_before(
    name: str, esteira_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ESTEIRA_HOME", "MLFLOW_TRACKING_URI"):  # a walk sets them for its process
        monkeypatch.setenv(variable, "")
    monkeypatch.setenv("ESTEIRA_MODELS", str(PROJECT / "examples"))
    found = decided(name, tmp_path)
    kept = json.loads((KEPT / f"{name}.json").read_text())
    assert [each["decision"] for each in found] == [each["decision"] for each in kept]
    assert found == kept


if __name__ == "__main__":
    os.environ["ESTEIRA_MODELS"] = str(PROJECT / "examples")
    for model in sys.argv[1:] or sorted(FROM):
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(decided(model, Path(folder)), indent=1)
        (KEPT / f"{model}.json").write_text(text + "\n")
