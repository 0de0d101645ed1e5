"""A replay walks through history with the real steps; what it decides is what the DAGs decide (tests/dags/test_loop.py)."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import psutil
import pytest
from esteira import replay
from esteira.errors import EsteiraError
from esteira.replay import POLICIES, Plan, spans, walk, walking
from esteira.replay import report as reports
from esteira.replay.frontier import frontier
from esteira.spec import ModelSpec
from esteira.spec.policy import Violated
from esteira.steps import checking
from esteira.store import lake, ledger
from esteira.store.memory import MemoryLake

from tests import models
from tests.conftest import use_home
from tests.models import CHANGE, FIRST

LAST = CHANGE + timedelta(days=20)


def test_spans_follow_each_other_and_the_last_may_be_short() -> None:
    assert spans(date(2026, 1, 10), date(2026, 3, 5), "month") == [
        (date(2026, 1, 10), date(2026, 1, 31)),
        (date(2026, 2, 1), date(2026, 2, 28)),
        (date(2026, 3, 1), date(2026, 3, 5)),
    ]
    assert [(b - a).days for a, b in spans(date(2026, 1, 1), date(2026, 1, 17), "week")] == [6, 6, 2]
    assert len(spans(date(2026, 1, 1), date(2026, 1, 17), "day")) == 17
    with pytest.raises(EsteiraError, match="a span is month, week, day, or a number of days such as 45d"):
        spans(date(2026, 1, 1), date(2026, 1, 2), "fortnight")


@pytest.fixture
def spec(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    return models.write(tmp_path / "models", change=str(CHANGE))


@pytest.fixture
def another_home(tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes another empty state folder the present one."""
    import shutil

    def use(name: str) -> None:
        place = tmp_path / name
        (place / "mlflow").mkdir(parents=True)
        shutil.copy(mlflow_template, place / "mlflow" / "mlflow.db")
        use_home(place, monkeypatch)

    return use


def without_clock(rows: list[dict]) -> list[dict]:
    return json.loads(json.dumps(rows))


@pytest.mark.slow
def test_a_replay_heals_what_a_frozen_model_does_not(spec: ModelSpec, another_home) -> None:
    last = CHANGE + timedelta(days=34)
    plan = Plan(spec.name, FIRST, last, "week", "week")
    found = {}
    for kind in ("policy", "frozen", "always"):
        another_home(kind)
        checks = walk(spec, plan, kind)
        blocks = replay.block_metrics(spec, plan)
        worth = replay.promotion_gains(spec, plan)
        found[kind] = {"checks": checks, "blocks": blocks, "promotions": worth, "first_month": [], "first": ""}
        found[kind] |= {"trainings": replay.trainings(spec), "mails": 0}
    report = replay.summary(spec, plan, found)
    assert report["counts"]["loops"] >= 1
    assert report["counts"]["promotions"] == len(report["walks"]["policy"]["promotions"]) == 1
    assert report["promotions"]["mean_gain"] > 0.2
    assert report["means"]["policy"]["mae_over_mean"] < report["means"]["frozen"]["mae_over_mean"]
    assert len(found["frozen"]["blocks"]) == 6
    assert sum(block["rows"] for block in found["policy"]["blocks"]) == ((last - FIRST).days + 1) * 72
    assert len({check["champion"] for check in found["always"]["checks"]}) == 6
    text = reports.text(report)
    assert "retrain 1 " in text
    assert "frozen" in text
    assert "promoted: version" in text


def test_a_report_is_one_page_and_escapes_what_users_wrote(spec: ModelSpec) -> None:
    check = {
        "day": "2026-02-08",
        "champion": 1,
        "decision": "retrain",
        "why": "<script>alert(1)</script>",
        "mae_over_mean": 0.5,
        "attempts": [{"number": 1, "outcome": "fails", "gain": -0.1}],
        "tried": 1,
        "promoted": None,
        "warned": True,
    }
    block = {"first": "2026-02-01", "last": "2026-02-28", "rows": 3, "mae_over_mean": 0.5, "r2": 0.1}
    found = {"checks": [check], "blocks": [block], "promotions": [], "first_month": [], "first": "<b>late</b>"}
    found |= {"trainings": 3, "mails": 1}
    report = replay.summary(spec, Plan(spec.name, FIRST, LAST, "week", "month"), {"policy": found})
    page = reports.page(report)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;late" in page
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.slow
@pytest.mark.parametrize("point", ["rescore", "promote_chosen", "recheck", "measure"])
def test_a_replay_that_was_killed_goes_on_where_it_was(
    spec: ModelSpec, another_home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    plan = Plan(spec.name, FIRST, LAST, "week", "week")
    another_home("whole")
    whole = walk(spec, plan, "policy", tmp_path / "whole.jsonl")
    assert sum(check["promoted"] is not None for check in whole) == 1
    another_home("killed")
    real, calls = getattr(checking, point), []

    def killed(*given: object, **options: object) -> object:
        calls.append(given)
        if len(calls) == 2 or point in ("rescore", "promote_chosen"):
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(checking, point, killed)
    with pytest.raises(KeyboardInterrupt):
        walk(spec, plan, "policy", tmp_path / "killed.jsonl")
    monkeypatch.setattr(checking, point, real)
    again = walk(spec, plan, "policy", tmp_path / "killed.jsonl")
    for check in (*whole, *again):  # a version made twice has another number
        check.pop("promoted"), check.pop("champion")
    assert again == whole
    assert walk(spec, plan, "policy", tmp_path / "killed.jsonl")[-1]["day"] == whole[-1]["day"]


@pytest.mark.slow
def test_in_memory_it_is_the_same(spec: ModelSpec, another_home) -> None:
    plan = Plan(spec.name, FIRST, LAST, "week", "week")
    another_home("delta")
    on_disk = walk(spec, plan, "policy")
    blocks = replay.block_metrics(spec, plan)
    served = lake.read("served", spec.name)
    another_home("memory")
    with lake.using(MemoryLake()):
        assert walk(spec, plan, "policy") == on_disk
        assert replay.block_metrics(spec, plan) == blocks
        columns = ["day", "site", "at", "prediction", "version"]
        mine = lake.read("served", spec.name)
        for rows in (mine, served):
            rows.sort_values(columns[:3], inplace=True, ignore_index=True)
        pd.testing.assert_frame_equal(mine[columns], served[columns])
        assert list(mine.columns) == list(served.columns)
    assert lake.read("served", spec.name).empty


def test_the_train_schedule_is_replayed_too(home: Path, tmp_path: Path) -> None:
    yaml = models.YAML.replace("  window: 28d\n  candidates", '  window: 28d\n  schedule: "0 3 11 * *"\n  candidates')
    spec = models.write(tmp_path / "models", yaml=yaml)
    walk(spec, Plan(spec.name, FIRST, FIRST + timedelta(days=13), "week", "week"), "policy")
    known = lake.read("ledger", spec.name, by="replay/train/2026-02-10")
    assert set(known["to_state"]) <= {"rejected", "champion"}
    assert len(known) == 1


def test_a_model_that_would_not_be_accepted_is_replayed_and_said(home: Path, tmp_path: Path) -> None:
    yaml = models.YAML.replace("  window: 28d\n", "  window: 28d\n  accept: {{mae_over_mean: {{max: 0.001}}}}\n")
    spec = models.write(tmp_path / "models", yaml=yaml)
    plan = Plan(spec.name, FIRST, FIRST + timedelta(days=6), "week", "week")
    assert len(walk(spec, plan, "frozen")) == 1
    assert "would not have been promoted: on the test part mae_over_mean" in walking.begin(spec, plan)
    assert ledger.champion(spec) is not None


@pytest.mark.slow
def test_the_command_line_replays_in_a_place_of_its_own(
    spec: ModelSpec, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from esteira.__main__ import app
    from typer.testing import CliRunner

    last = str(FIRST + timedelta(days=13))
    asked = ["replay", spec.name, "--from", str(FIRST), "--to", last, "--every", "week", "--blocks", "week"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    assert "2 checks, 0 loops, 0 attempts, 3 trainings, 0 promotions, 0 warnings, 0 mails, 1 wait" in said.output
    assert "retrained every block" in said.output
    page = next((home / "replays" / spec.name).glob("*/report.html"))
    assert "Replay of sales" in page.read_text()
    assert not (home / "lake").exists()
    again = CliRunner().invoke(app, asked)  # a finished one is only read
    assert again.exit_code == 0
    assert "2 checks" in again.output


@pytest.mark.slow
def test_other_policies_are_tried_and_what_each_would_have_cost_is_printed(spec: ModelSpec, home: Path) -> None:
    from esteira.__main__ import app
    from typer.testing import CliRunner

    last = str(CHANGE + timedelta(days=20))
    asked = ["replay", spec.name, "--from", str(FIRST), "--to", last, "--every", "week", "--suggest"]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    rows = re.findall(r"^([* ]) (\S.*?\S) +([\d.]+) +(\d+) +(\d+) +(\d+)$", said.output, re.M)
    assert [row[1] for row in rows] == [name for name, _ in replay.POLICIES.values()]
    assert any(row[0] == "*" for row in rows)
    assert all(int(row[3]) >= 3 for row in rows), "the first model is trained in each"


def test_the_frontier_is_what_no_other_policy_is_better_than() -> None:
    found = {"policy": (0.2, 30, 8, 5), "tighter": (0.19, 40, 8, 6), "wider": (0.2, 31, 8, 4), "wide": (0.3, 3, 1, 0)}
    best = {each.name for each in frontier(found, higher_is_better=False) if each.best}
    assert best == {"as it is", "limits 10 % tighter", "limits 25 % wider"}
    higher = {"policy": (0.8, 30, 8, 5), "wider": (0.7, 30, 8, 5)}
    assert [each.best for each in frontier(higher, higher_is_better=True)] == [True, False]


def test_limits_are_widened_by_the_error_that_they_allow(tmp_path: Path) -> None:
    yaml = models.YAML.replace("r2: {{min: 0.1}}", "r2: {{min: 0.6}}")
    wider = POLICIES["wider"][1](models.write(tmp_path, yaml=yaml)).check
    assert wider.metrics["mae_over_mean"].max == pytest.approx(0.33)
    assert wider.metrics["r2"].min == pytest.approx(0.56)
    assert POLICIES["patient"][1](models.write(tmp_path)).check.violated == Violated(at_least=3, of_last=4)


def test_a_window_of_one_class_does_not_stop_a_replay(home: Path, tmp_path: Path) -> None:
    """roc_auc has no value there: the check waits, as it does in production."""
    spec = models.write_late(tmp_path / "models", FIRST + timedelta(days=7))
    checks = walk(spec, Plan(spec.name, FIRST, FIRST + timedelta(days=27), "week", "week"), "policy")
    assert len(checks) == 4
    assert checks[-1]["decision"] == "wait"
    assert checks[-1]["roc_auc"] is None


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_replay_that_is_stopped_leaves_no_worker(spec: ModelSpec, home: Path, how: signal.Signals) -> None:
    last = str(FIRST + timedelta(days=60))
    asked = [sys.executable, "-m", "esteira", "replay", spec.name, "--from", str(FIRST), "--to", last, "--fresh"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(asked, **quiet, start_new_session=True, preexec_fn=hear_interrupts) as started:
        parent = psutil.Process(started.pid)
        workers = until(lambda: [each for each in parent.children() if "spawn_main" in " ".join(command(each))])
        started.send_signal(how)
        started.wait(30)
    gone, left = psutil.wait_procs(workers, timeout=30)
    assert left == [], f"{how.name} left {left}; {gone} ended"


def hear_interrupts() -> None:
    """As in a terminal: what a shell runs in the background ignores them, and so would all that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def command(process: psutil.Process) -> list[str]:
    """How a process was called; one that has ended meanwhile was not."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def until(found: Callable[[], list], seconds: float = 60) -> list:
    """Poll until something is found, for a bounded time."""
    limit = time.monotonic() + seconds
    while not (seen := found()):
        assert time.monotonic() < limit, "nothing was found in time"
        time.sleep(0.05)
    return seen
