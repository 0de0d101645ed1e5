"""Steps of `steps/checking.py`, on real tables and a real registry."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from esteira import data, steps, views
from esteira.cli import answers
from esteira.errors import Refused
from esteira.learning import evaluation
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Unrecovered
from esteira.lifecycle.policy import Decision, Gate, Outcome
from esteira.notify import rendering
from esteira.spec import Limit, ModelSpec, Recipe
from esteira.steps import alerting, champions, checking, measuring
from esteira.steps.scoring import Reconciled
from esteira.store import lake, ledger, measurements, mlflow_tracking, runs
from esteira.store.lineage import DaysSeen
from esteira.store.records import Window

from tests import models
from tests.conftest import use_home
from tests.models import AS_OF, CHANGE, FIRST, score_days
from tests.worlds import KINDS, lived, segmented, snapshot


def test_a_promotion_cites_the_champion_that_was_measured(trained) -> None:
    """A training promoted a version while the attempts ran: the attempt was judged against another champion."""
    spec, day = lived(trained, change=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    run_id = steps.retrain(spec, day, 2)
    assert steps.recheck(spec, day, 2, run_id) is Outcome.RECOVERS
    version = steps.register_chosen(spec, day)
    steps.train(spec, AS_OF + timedelta(days=2), "t2", promoted=False)
    champions.promote(spec, Proposal(3, AS_OF + timedelta(days=2), measured=1, why="x", by="x"))
    with pytest.raises(Refused, match="version 2 was measured against version 1, but the champion is version 3"):
        steps.promote_chosen(spec, day, version, "commit")


def test_a_version_that_is_not_of_the_chosen_attempt_is_not_promoted(trained) -> None:
    """A check by hand made the next attempt while the DAG's registered one."""
    spec, day = lived(trained, change=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    steps.recheck(spec, day, 2, steps.retrain(spec, day, 2))
    version = steps.register_chosen(spec, day)
    again = steps.retrain(spec, day, 2)
    steps.recheck(spec, day, 2, again)
    with pytest.raises(
        Refused, match=f"version {version} is not of attempt 2, which the check of {day} has come to since"
    ):
        steps.promote_chosen(spec, day, version, "commit")
    steps.promote_chosen(spec, day, steps.register_chosen(spec, day), "commit")


def test_an_attempt_whose_run_another_process_has_replaced_is_judged_by_that(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    mine, other = steps.retrain(spec, day, 2), steps.retrain(spec, day, 2)
    assert steps.recheck(spec, day, 2, mine) is Outcome.RECOVERS
    assert measurements.attempts(spec, day)[2].run_id == other


def test_an_attempt_of_an_earlier_run_of_the_check_is_not_promoted(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    assert steps.recheck(spec, day, 2, steps.retrain(spec, day, 2)) is Outcome.RECOVERS
    steps.retrain(spec, day, 1)
    assert checking.chosen_attempt(spec, day) is None


def test_the_loop_recovers_by_the_second_recipe(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    checked = steps.check(spec, day)
    verdict, outcomes, version = checked.verdict, list(checked.outcomes), checked.promoted
    assert verdict.decision is Decision.RETRAIN
    assert outcomes[0] in (Outcome.FAILS, Outcome.IMPROVES)
    assert outcomes[1:] == [Outcome.RECOVERS]
    assert version is not None
    now = ledger.champion(spec)
    assert now is not None
    assert (now.version, now.effective_day) == (version, day + timedelta(days=1))
    again = lake.read("predictions", spec.name)
    assert set(again.loc[again["day"] >= pd.Timestamp(CHANGE), "version"]) == {version}
    assert set(again.loc[again["day"] < pd.Timestamp(CHANGE), "version"]) == {1}
    assert set(lake.read("served", spec.name)["version"]) == {1}
    promoted = lake.read("ledger", spec.name, id="champion:2").iloc[0]
    evidence = json.loads(promoted["evidence"])
    assert evidence["replaces"] == 1
    assert len(evidence["commit"]) == 40
    assert evidence["gain"] > 0.1
    attempts = measurements.attempts(spec, day)
    assert attempts[2].outcome is Outcome.RECOVERS
    assert attempts[2].lower > 0
    # The slice that judged the attempt was not trained on.
    assert runs.load_version(spec, version).trained_through < measuring.slice_days(spec, day)[0]


def test_a_recipe_since_the_violation_learns_from_its_first_half_and_is_judged_on_its_second(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    recipes = Recipe(window="28d"), Recipe(window="28d", since_violation=True)
    check = spec.check.model_copy(update={"slice": 14})
    spec = spec.model_copy(update={"check": check, "retrain": recipes})
    outcomes = steps.check(spec, day, keep_notebook=False).outcomes
    mature = day - timedelta(days=1)
    assert measuring.violation_began(spec, day) == CHANGE + timedelta(days=7), (
        "within the first bad window it may have been later"
    )
    assert (
        measuring.slice_days(spec, day, 1) == measuring.slice_days(spec, day) == (mature - timedelta(days=13), mature)
    )
    assert measuring.slice_days(spec, day, 2) == (mature - timedelta(days=6), mature), (
        "half of the days, but a window at least"
    )
    assert list(outcomes) == [Outcome.FAILS, Outcome.RECOVERS], "only days after the change tell of it"
    attempt = runs.get(measurements.attempts(spec, day)[2].run_id)
    seen = DaysSeen.of(attempt.tags)
    assert (seen.first, seen.last) == (mature - timedelta(days=13), mature - timedelta(days=7))
    assert measurements.attempts(spec, day)[2].days == 7


@pytest.mark.parametrize(
    ("sure", "limit", "outcome"),
    [
        (0.67, 0.01, Outcome.IMPROVES),
        (0.66, 0.01, Outcome.UNPROVEN),
        (0.67, 0.3, Outcome.RECOVERS),
        (0.66, 0.3, Outcome.UNPROVEN),
    ],
)
def test_a_recipe_since_the_violation_is_promoted_where_two_thirds_of_its_gain_are_sure(
    sure: float, limit: float, outcome: Outcome, trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A week has judged it, and what is better on the mean of one is often worse in the next."""
    spec, day = lived(trained, change=str(CHANGE))
    recipes = Recipe(window="28d"), Recipe(window="28d", since_violation=True)
    check = spec.check.model_copy(update={"slice": 14, "metrics": {"mae_over_mean": Limit(max=limit)}})
    spec = spec.model_copy(update={"check": check, "retrain": recipes})
    real = evaluation.gate
    monkeypatch.setattr(
        evaluation, "gate", lambda *given, **more: replace(found := real(*given, **more), lower=sure * found.gain)
    )
    checked = steps.check(spec, day, keep_notebook=False)
    assert list(checked.outcomes) == [Outcome.FAILS, outcome]
    assert (checked.promoted is None) == (outcome is Outcome.UNPROVEN)
    assert (checked.warning is None) == (outcome is Outcome.RECOVERS)


def test_an_attempt_brings_the_metric_a_part_of_the_way_back_at_least(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    least = []
    real = evaluation.gate

    def gate(*given: Any, **more: Any) -> Gate:
        least.append(more["least"])
        return real(*given, **more)

    monkeypatch.setattr(evaluation, "gate", gate)
    steps.check(spec, day, keep_notebook=False)
    reached = measurements.windows(spec, day, Window.SLICE)[0].metrics["mae_over_mean"].value
    assert reached > 0.3
    assert least == pytest.approx([checking.CLOSER * (reached - 0.3)] * len(least))
    in_range = pd.DataFrame({"day": [pd.Timestamp(day)], "label": 1.0, "prediction": 0.9, "probability": np.nan})
    assert checking._to_go(spec, in_range) == 0.0


def test_a_loop_says_whether_its_improvement_came_half_of_the_way(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    spec = spec.model_copy(update={"retrain": spec.retrain[:1]})
    steps.check(spec, day, keep_notebook=False)
    (ended,), tried = ledger.state(spec).of(Unrecovered), measurements.attempts(spec, day)[1]
    assert ended.improved
    assert ended.half_way is (tried.gain >= tried.value - 0.3)
    for gain, half_way in ((0.06, True), (0.04, False)):
        assert alerting._is_half_way(spec, replace(tried, value=0.35, gain=gain)) is half_way
    assert not alerting._is_half_way(spec, replace(tried, number=0, value=0.35, gain=0.1)), "a blend trains nothing"


def test_a_recipe_since_the_violation_goes_back_to_its_beginning_and_no_further_than_its_window(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    score_days(spec, data.days(day + timedelta(days=1), day + timedelta(days=14)))
    day += timedelta(days=14)
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    for window, first in (("28d", CHANGE + timedelta(days=14)), ("5d", day - timedelta(days=1 + 7 + 4))):
        recipes = (Recipe(window=window, since_violation=True),)
        asked = spec.model_copy(update={"check": spec.check.model_copy(update={"slice": 7}), "retrain": recipes})
        assert measuring.violation_began(asked, day) == CHANGE + timedelta(days=14)
        seen = DaysSeen.of(runs.get(steps.retrain(asked, day, 1)).tags)
        assert (seen.first, seen.last) == (first, day - timedelta(days=8))


def test_what_was_tried_is_known_by_day_and_attempt(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    came = {number: each.outcome for number, each in measurements.attempts(spec, day).items()}
    assert came[2] is Outcome.RECOVERS
    assert measurements.tried(spec, FIRST, day) == {day: came}
    assert measurements.tried(spec, FIRST, day - timedelta(days=1)) == {}


@pytest.mark.parametrize(
    ("second", "decision"), [(Outcome.FAILS, Decision.PROBE), (Outcome.IMPROVES, Decision.RETRAIN)]
)
def test_where_no_other_recipe_has_helped_three_times_one_training_is_tried(
    trained, monkeypatch: pytest.MonkeyPatch, second: Outcome, decision: Decision
) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    before = {FIRST + timedelta(days=n): {1: Outcome.IMPROVES, 2: second, 3: Outcome.FAILS} for n in range(3)}
    monkeypatch.setattr(measurements, "tried", lambda *_: before)
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    last, known = FIRST + timedelta(days=2), measuring.known_now(spec, day)
    ledger.write(spec, Unrecovered(version=1, last=last, known=known, day=last, by=f"check:{last}", why="x"))
    assert steps.decide(spec, day).decision is decision


def test_a_check_again_after_its_promotion_changes_nothing(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    first = steps.check(spec, day, keep_notebook=False)
    before = snapshot(spec)
    assert first.promoted is not None
    again = steps.check(spec, day, keep_notebook=False)
    assert again == replace(first, rescored=Reconciled()), "there was nothing left to score"
    verdict = steps.decide(spec, day)
    assert verdict.decision is Decision.KEEP
    assert "only measured" in verdict.why
    assert snapshot(spec) == before


def test_noise_ends_in_one_warning_an_episode(trained) -> None:
    spec, day = lived(trained, noise=str(CHANGE))
    checked = steps.check(spec, day, keep_notebook=False)
    verdict, outcomes, version = checked.verdict, list(checked.outcomes), checked.promoted
    assert verdict.decision is Decision.RETRAIN
    assert Outcome.RECOVERS not in outcomes
    mail = steps.warn(spec, day, "http://127.0.0.1/dags/run")
    assert mail.to == ("ops@example.com",)
    assert re.fullmatch(rf"{spec.name}: mae_over_mean 0\.\d+ > 0\.3, retraining did not help", mail.subject)
    assert mail.todo.startswith("Look first whether the labels are right: they moved, and no input did. Look below")
    assert [name for name, _ in mail.links][:2] == ["The run in Airflow", "The model's page"]
    assert "How to roll back" not in dict(mail.links), "there is no older champion"
    assert mail.weeks is not None
    assert [value > mail.weeks.high for _, value, _ in mail.weeks.windows][-2:] == [True, True]
    assert "OUT OF RANGE" in rendering.text(mail)
    assert "http://127.0.0.1/dags/run" in rendering.text(mail)
    states = lake.read("ledger", spec.name)["to_state"]
    assert (states == "warned").sum() == (states == "queued").sum() == 1
    assert version is None
    for later in (day, day + timedelta(days=1)):
        steps.store_labels(spec, later)
        steps.measure(spec, later)
        verdict = steps.decide(spec, later)
        assert verdict.decision is Decision.WATCH
        assert "it waits for 2 more windows" in verdict.why
    score_days(spec, data.days(day + timedelta(days=1), day + timedelta(days=14)), run="later")
    for later, decision in ((7, Decision.WATCH), (14, Decision.RETRAIN)):
        steps.store_labels(spec, day + timedelta(days=later))
        steps.measure(spec, day + timedelta(days=later))
        assert steps.decide(spec, day + timedelta(days=later)).decision is decision


def test_after_three_loops_that_did_not_help_a_check_trains_once(trained) -> None:
    spec, day = lived(trained, noise=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    known = measuring.known_now(spec, day)
    for before in (70, 56, 35):
        last = measurements.windows(spec, day)[-1].last - timedelta(days=before)
        ledger.write(spec, Unrecovered(version=1, last=last, known=known, day=last, by=f"check:{last}", why="x"))
    checked = steps.check(spec, day, keep_notebook=False)
    assert checked.verdict.decision is Decision.PROBE
    assert list(checked.attempts) == [1]
    assert checked.warning is not None
    assert "1 retraining attempt did not bring it back" in checked.warning.lead
    assert next(rows for title, _, rows in checked.warning.sections if title == "What was tried")[0][0] == "1"
    assert "crashed" not in rendering.text(checked.warning)


def test_a_crash_is_an_attempt_that_did_not_improve(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    real = checking.retrain

    def crash(spec: ModelSpec, day: date, attempt: int) -> str:
        if attempt == 1:
            raise MemoryError("no room")
        return real(spec, day, attempt)

    monkeypatch.setattr(checking, "retrain", crash)
    checked = steps.check(spec, day, keep_notebook=False)
    outcomes, version = list(checked.outcomes), checked.promoted
    assert outcomes == [Outcome.FAILS, Outcome.RECOVERS]
    assert version is not None


def test_a_check_of_an_earlier_day_only_measures(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=9)))
    steps.check(spec, FIRST + timedelta(days=9), keep_notebook=False)
    verdict = steps.check(spec, FIRST + timedelta(days=5), keep_notebook=False).verdict
    assert verdict.decision is Decision.KEEP
    assert verdict.why == f"only measured: {FIRST + timedelta(days=9)} was checked already"


def test_without_a_champion_or_a_whole_window_the_check_waits(home: Path, tmp_path: Path, trained) -> None:
    untrained = models.write(tmp_path / "models", "fresh")
    assert steps.check(untrained, FIRST, keep_notebook=False).verdict.decision is Decision.WAIT
    spec = trained()
    score_days(spec, [FIRST])
    assert steps.check(spec, FIRST, keep_notebook=False).verdict.decision is Decision.WAIT


def twice(step, *args):
    step(*args)
    return step(*args)


@pytest.mark.slow
def test_running_each_step_twice_leaves_the_tables_of_running_it_once(
    trained, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mlflow_template: Path
) -> None:
    import shutil

    spec, day = lived(trained, change=str(CHANGE))
    steps.check(spec, day)
    expected = snapshot(spec)

    other = tmp_path / "other"
    (other / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, other / "mlflow" / "mlflow.db")
    use_home(other, monkeypatch)
    lacking = steps.lacking(spec, AS_OF)
    twice(steps.extract, spec, lacking)
    twice(steps.validate, spec, lacking)
    versions = twice(steps.prepare, spec, AS_OF, None, lacking)
    runs = [twice(steps.candidate, spec, AS_OF, index, versions, "t") for index in range(2)]
    best = twice(steps.select, spec, runs)
    run_id = twice(steps.evaluate, spec, AS_OF, best, versions, "t")
    version = twice(steps.register, spec, run_id, AS_OF)
    twice(steps.promote, spec, AS_OF, version, "t")
    days = data.days(FIRST, day)
    twice(steps.extract, spec, days)
    twice(steps.validate, spec, days)
    twice(steps.features, spec, days)
    twice(steps.score, spec, days, "r")
    twice(steps.publish, spec, days, "r")
    twice(steps.store_labels, spec, day)
    twice(steps.measure, spec, day)
    assert twice(steps.decide, spec, day).decision is Decision.RETRAIN
    for attempt in (1, 2):
        outcome = twice(steps.recheck, spec, day, attempt, twice(steps.retrain, spec, day, attempt))
    assert outcome is Outcome.RECOVERS
    commit = twice(steps.commit_notebook, spec, day)
    version = twice(steps.register_chosen, spec, day)
    version = twice(steps.promote_chosen, spec, day, version, commit)
    twice(steps.rescore, spec, day)
    found = snapshot(spec)
    for kind in KINDS:
        assert found[kind] == expected[kind], kind


def test_a_drift_report_is_kept_beside_the_run(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    run_id = steps.keep_drift_report(spec, day)
    assert [file.path for file in mlflow_tracking.client().list_artifacts(run_id)] == ["drift.html", "why.html"]


def test_a_model_with_segments_lives_from_its_first_check_to_its_warning(home: Path, tmp_path: Path) -> None:
    spec = segmented(tmp_path, noise=str(CHANGE))
    steps.train(spec, AS_OF, "t")
    score_days(spec, [FIRST])
    assert steps.check(spec, FIRST).verdict.decision is Decision.WAIT  # nothing has a label yet
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST + timedelta(days=1), day))
    verdict = steps.check(spec, day, keep_notebook=False).verdict
    assert verdict.decision is Decision.RETRAIN
    text = rendering.text(steps.warn(spec, day))
    assert "mae_over_mean of site=A" in text
    assert "wanted: mae_over_mean ≤ 0.3" in text
    shown = answers.shown(views.status(spec))["last window's mae_over_mean"]
    rows = lake.read("metrics", spec.name, check_day=day, role="champion", window="window", metric="mae_over_mean")
    whole = rows[rows["segment"] == ""].sort_values("last_day")["value"].iloc[-1]
    assert shown.startswith(f"{whole:.4g}, OUT OF RANGE")
