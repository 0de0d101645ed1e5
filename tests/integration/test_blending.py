"""Attempt 0, on a real lake and registry: what may be blended, by which weights, what is kept of it, and that it passes the gate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira import data, steps, views
from esteira.errors import Refused
from esteira.learning.blending import Blend
from esteira.lifecycle.events import run_key
from esteira.lifecycle.policy import Decision, Outcome, Verdict
from esteira.spec import ModelSpec, load
from esteira.steps import blending, champions, checking, measuring, rollbacks
from esteira.steps.rollbacks import Asked
from esteira.store import lake, ledger, measurements, runs
from esteira.store.lineage import DataVersions, DaysSeen
from esteira.store.memory import MemoryLake
from esteira.store.memory_tracking import MemoryTracking

from tests import corpora, models
from tests.conftest import fresh_home, use_home
from tests.models import AS_OF, CHANGE, FIRST, score_days

BACK = CHANGE + timedelta(days=24)  # the world is again as it was
YAML = models.YAML.replace("retrain_first: none\n", "").replace("refit: false", "refit: true")


def write(folder: Path, yaml: str = YAML) -> ModelSpec:
    spec = models.write(folder, change=str(CHANGE), yaml=yaml)
    source = spec.folder / "source.py"
    away = f"CHANGE <= day < date.fromisoformat({str(BACK)!r})"
    source.write_text(source.read_text().replace("day >= CHANGE", away))
    return spec


def check_daily(spec: ModelSpec, first: date, last: date) -> dict[date, checking.Checked]:
    found = {}
    for day in data.days(first, last):
        score_days(spec, [day], f"r{day}")
        found[day] = steps.check(spec, day, keep_notebook=False)
    return found


@pytest.fixture(scope="module")
def returned_once(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> tuple[Path, date]:
    """The state folder of a model that was trained anew as the world changed, and the day on which the old world's return is violated."""
    home = tmp_path_factory.mktemp("returned")
    fresh_home(home, mlflow_template)
    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        return home, violated_again(write(home / "models"))


def violated_again(spec: ModelSpec) -> date:
    """Live until the loop has answered the change and its end is violated; returns the day of that."""
    steps.train(spec, AS_OF, "t")
    checks = check_daily(spec, FIRST, BACK - timedelta(days=1))
    assert [each.promoted for each in checks.values() if each.promoted], "the loop has answered the change"
    for day in data.days(BACK, BACK + timedelta(days=20)):
        score_days(spec, [day], f"r{day}")
        steps.store_labels(spec, day)
        steps.measure(spec, day)
        if steps.decide(spec, day).decision is Decision.RETRAIN:
            return day
    raise AssertionError("the old world's return is not seen")


@pytest.fixture
def returned(
    returned_once: tuple[Path, date], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[ModelSpec, date]:
    """The same, of the test's own."""
    once, day = returned_once
    corpora.copy_home(once, tmp_path / "home")
    use_home(tmp_path / "home", monkeypatch)
    return write(tmp_path / "models"), day


@pytest.fixture
def none_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """No champion from before is tried in the blend's place."""
    monkeypatch.setattr(blending, "EARLIER", 0)


@pytest.fixture
def in_memory(home: Path) -> Iterator[None]:
    """A lake and a registry in memory, which is faster: for tests of what is decided, and not of what is written."""
    with lake.using(MemoryLake()), runs.using(MemoryTracking()):
        yield


def test_what_was_trained_for_the_old_world_recovers_it_where_no_training_does(
    returned: tuple[ModelSpec, date], none_comes_back: None
) -> None:
    spec, day = returned
    # Trainings on four weeks learn of two worlds at once.
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("[{window: 28d}, {window: 7d}]", "[{window: 28d}]"))
    spec = load(yaml)
    checks = check_daily(spec, day, day + timedelta(days=21))
    (promoted,) = (each for each in ledger.state(spec).promotions if each.by == f"check:{day}")
    found = measurements.attempts(spec, day)
    assert promoted.why.startswith(f"attempt 0 {found[0].outcome.value}: mae_over_mean = ")
    assert found[0].lower > 0
    assert found[0].gain > 2 * found[1].gain
    assert found[0].days == spec.check.slice
    last = views.check(spec, max(checks)).windows[-1]
    assert last.healthy
    assert last.last > BACK + timedelta(days=14)
    assert len([each for each in ledger.state(spec).promotions if each.day > day]) == 1, "it lasts"
    assert promoted.twin is not None
    own, twin = champions.load_judges(spec, promoted.version)
    assert isinstance(own.pipeline, Blend)
    # Neither a member nor a weight has seen the slice; what serves has seen all that is mature.
    assert twin.trained_through < measuring.slice_days(spec, day)[0]
    assert own.trained_through == promoted.seen == day - timedelta(days=1)


def test_it_is_kept_with_its_members_weights_and_the_versions_of_its_data(returned: tuple[ModelSpec, date]) -> None:
    spec, day = returned
    tried = blending.blend(spec, day)
    assert tried is not None
    run_id, again = (blending.keep(spec, day, tried, with_model=True) for _ in range(2))
    tags = runs.get(again).tags
    members = json.loads(tags["members"])
    assert sum(members.values()) == pytest.approx(1)
    assert min(members.values()) >= 0.01
    assert len(members) <= spec.members
    before = measuring.slice_days(spec, day)[0]
    for member in members:
        run = runs.get(member)
        assert run.tags["kind"] in ("model", "attempt", "refit")
        assert DaysSeen.of(run.tags).last < before - timedelta(days=spec.check.min_days - 1)
    assert DataVersions.cited(tags) is not None
    assert tags["kind"] == "blend"
    assert runs.get(again).params["calibration"] in ("factor", "shift")
    assert "importance" in runs.profile(again)["hour"]
    assert run_id not in [each.id for each in runs.search(spec, kind="blend")], (
        "it replaces the run that it left before"
    )


def test_the_model_of_a_blend_that_was_refused_is_not_kept(
    returned: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = returned
    monkeypatch.setattr(checking, "judge", lambda *_, **__: Outcome.FAILS)
    assert checking.blend(spec, day) is Outcome.FAILS
    run = runs.get(measurements.attempts(spec, day)[0].run_id)
    assert not run.has_model
    assert (run.tags["kind"], run.tags["outcome"]) == ("blend", "fails")


def test_what_a_person_rolled_back_and_what_turned_out_worse_is_no_member(returned: tuple[ModelSpec, date]) -> None:
    spec, day = returned

    def members() -> set[str]:
        tried = blending.blend(spec, day)
        return {*tried.made[0].shares} if tried else set()

    before = members()
    champion = ledger.require_champion(spec, day).version
    mine = {runs.run_of(spec, champion), runs.run_of(spec, ledger.twin(spec, champion) or 0)}
    rollbacks.perform(spec, Asked(by="ana", reason="no good"))
    after = blending._barred(spec)
    assert mine <= after
    assert not mine & members()
    assert before


def test_without_days_that_a_model_has_not_seen_there_is_nothing_to_blend(home: Path, tmp_path: Path) -> None:
    spec = write(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=7)))
    day = FIRST + timedelta(days=7)
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    runs_before = len(runs.search(spec, kind="blend"))
    assert steps.blend(spec, day) in (Outcome.UNKNOWN, Outcome.FAILS)
    assert len(runs.search(spec, kind="blend")) <= runs_before + 1


def test_where_it_is_switched_off_no_blend_is_tried(in_memory: None, tmp_path: Path) -> None:
    spec = write(tmp_path / "models", YAML.replace("promote:", "retrain_first: none\npromote:"))
    steps.train(spec, AS_OF, "t")
    check_daily(spec, FIRST, CHANGE + timedelta(days=15))
    assert runs.search(spec, kind="blend") == []
    assert runs.search(spec, kind="attempt")


def test_a_blend_is_promoted_as_it_was_measured_where_nothing_is_fitted_again(
    returned: tuple[ModelSpec, date], none_comes_back: None
) -> None:
    spec, day = returned
    plain = spec.model_copy(update={"promote": spec.promote.model_copy(update={"refit": False})})
    assert steps.blend(plain, day) in (Outcome.IMPROVES, Outcome.RECOVERS)
    steps.promote_chosen(plain, day, steps.register_chosen(plain, day), "")
    promoted = ledger.state(spec).promotions[-1]
    assert (promoted.twin, promoted.seen) == (None, None)
    assert champions.load_version(spec, promoted.version).trained_through < measuring.slice_days(spec, day)[0]


def test_what_serves_is_chosen_from_the_members_that_were_judged(
    returned: tuple[ModelSpec, date], none_comes_back: None
) -> None:
    """What the same check has trained since no blend was judged with."""
    spec, day = returned
    steps.blend(spec, day)
    trained = steps.retrain(spec, day, 1)
    version = steps.promote_chosen(spec, day, steps.register_chosen(spec, day), "")
    judged, serves = (
        json.loads(runs.get(run).tags["pool"])
        for run in (measurements.attempts(spec, day)[0].run_id, runs.run_of(spec, version))
    )
    assert ledger.twin(spec, version) is not None
    assert len(judged) > 1
    assert set(serves) <= set(judged)
    assert trained not in judged


def test_a_blend_of_which_every_member_was_rolled_back_since_is_not_promoted(
    returned: tuple[ModelSpec, date], none_comes_back: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = returned
    steps.blend(spec, day)
    version = steps.register_chosen(spec, day)
    pool = json.loads(runs.get(measurements.attempts(spec, day)[0].run_id).tags["pool"])
    monkeypatch.setattr(blending, "_barred", lambda _: {*pool})
    with pytest.raises(Refused, match="may be blended any more"):
        steps.promote_chosen(spec, day, version, "")
    assert ledger.promoted_by(spec, run_key(day)) is None


@pytest.mark.slow
def test_while_a_loop_is_held_back_only_a_blend_is_tried_and_once_a_window(in_memory: None, tmp_path: Path) -> None:
    spec = models.write(tmp_path / "models", noise=str(CHANGE), yaml=YAML)
    steps.train(spec, AS_OF, "t")
    checks = check_daily(spec, FIRST, CHANGE + timedelta(days=42))
    decided = {day: each.verdict.decision for day, each in checks.items()}
    loops = [day for day, each in decided.items() if each is Decision.RETRAIN]
    blends = [day for day, each in decided.items() if each is Decision.BLEND]
    assert loops
    assert blends
    assert [(b - a).days for a, b in pairwise(loops)] == [14, 21][: len(loops) - 1]
    assert all((b - a).days >= 7 for a, b in pairwise(blends))
    for day in blends:
        assert len(checks[day].outcomes) == 1
        assert checks[day].warning is None
    assert sum(each.warning is not None for each in checks.values()) == 1


def test_where_labels_are_late_a_blend_that_does_not_recover_is_not_promoted_while_a_loop_is_held_back(
    returned: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first window would be whole only weeks after the loop was to begin again."""
    spec, day = returned
    late = spec.model_copy(update={"label_delay": 8})

    def judge(*_: object, must_recover: bool = False, **__: object) -> Outcome:
        return Outcome.UNPROVEN if must_recover else Outcome.IMPROVES

    monkeypatch.setattr(checking, "judge", judge)
    assert checking.blend(late, day) is Outcome.IMPROVES, "a loop goes on with its trainings"
    measurements.write_decision(spec, day, Verdict(Decision.BLEND, "held back"))
    assert checking.blend(spec, day) is Outcome.IMPROVES
    assert checking.blend(late, day) is Outcome.UNPROVEN
    assert checking.chosen_attempt(late, day) is None


def test_a_champion_from_before_comes_back_as_it_was_where_the_blend_does_not_recover(
    returned: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = returned
    now = ledger.require_champion(spec, day).version
    first = ledger.state(spec).changes[0].version
    monkeypatch.setattr(blending, "blend", lambda *_: None)
    assert checking.blend(spec, day) is Outcome.RECOVERS
    tried = measurements.attempts(spec, day)[0]
    assert (tried.days, tried.measured) == (7, now)
    assert runs.get(tried.run_id).tags["back_to"] == str(first)
    version = checking.register_chosen(spec, day)
    assert checking.promote_chosen(spec, day, version, "") == version, "nothing is fitted, or blended, anew"
    (*_, promoted) = ledger.state(spec).promotions
    assert promoted.twin is None
    assert promoted.why.startswith(f"attempt 0, version {first} as it was, recovers: ")
    frame = data.build_features(spec, data.read(spec, day, day))
    mine, theirs = (champions.load_version(spec, each) for each in (version, first))
    assert mine.trained_through == theirs.trained_through
    assert list(mine.pipeline.predict(frame[mine.columns])) == list(theirs.pipeline.predict(frame[mine.columns]))


def test_a_champion_from_before_does_not_come_back_that_is_worse_over_all_that_neither_has_seen(
    returned: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = returned
    monkeypatch.setattr(blending, "blend", lambda *_: None)

    def as_if_the_change_counted_most(days: pd.Series, last: pd.Timestamp) -> np.ndarray:
        return np.where(days < pd.Timestamp(BACK), 10.0, 1.0)

    monkeypatch.setattr(checking, "recency", as_if_the_change_counted_most)
    assert checking.blend(spec, day) is Outcome.UNKNOWN
    assert measurements.attempts(spec, day) == {}


def test_only_champions_from_before_come_back_that_nothing_speaks_against(
    returned: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = returned
    now = ledger.require_champion(spec, day).version
    every = blending.earlier(spec, day)
    assert list(every) == [each.version for each in reversed(ledger.state(spec).changes) if each.version != now]
    first = ledger.state(spec).changes[0].version
    monkeypatch.setattr(blending, "_barred", lambda *_: {runs.run_of(spec, first)})
    assert list(blending.earlier(spec, day)) == list(every)[:-1]
    monkeypatch.setattr(blending, "EARLIER", 0)
    assert blending.earlier(spec, day) == {}
