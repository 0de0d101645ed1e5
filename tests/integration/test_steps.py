"""Every step on real Delta tables and a real MLflow store; running a step twice leaves the same."""

from __future__ import annotations

import json
import logging
import re
import warnings
import zipfile
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from esteira import data, steps
from esteira.errors import DataError, EsteiraError, ModelRefused, NoChampion, PromotionRefused, Unaccounted
from esteira.learning import drift, evaluation, pipelines
from esteira.lifecycle.events import Event
from esteira.lifecycle.policy import Decision, Outcome
from esteira.spec import CsvSource, ModelSpec, find, load
from esteira.steps import checking, ingest, measuring, outcomes, scoring, training
from esteira.steps.mails import Mail
from esteira.store import lake, ledger, runs

from tests import models
from tests.conftest import use_home
from tests.models import AS_OF, CHANGE, FIRST, score_days

CLOCKS = ["read_at", "found_at", "first_seen", "load_seconds", "predict_seconds", "at"]
KINDS: tuple[lake.Kind, ...] = get_args(lake.Kind)


def snapshot(spec: ModelSpec) -> dict[str, str]:
    """Every table's rows, without what the clock wrote and without the names that MLflow draws by lot."""
    found = {}
    for kind in KINDS:
        rows = lake.read(kind, spec.name)
        rows = rows.drop(columns=[name for name in (*CLOCKS, "run_id", "by", "evidence") if name in rows.columns])
        found[kind] = rows.sort_values(list(rows.columns)).to_csv(index=False) if len(rows.columns) else ""
    return found


def test_train_registers_and_promotes_with_its_lineage(trained) -> None:
    spec = trained()
    now = steps.champion(spec)
    assert now is not None
    assert (now.version, now.effective_day) == (1, FIRST)
    assert runs.aliases(spec) == {"champion": 1}
    run_id = runs.run_of(spec, 1)
    run = runs.client().get_run(run_id)
    for tag in ("features_version", "labels_version", "trained_through", "lock", "model_yaml", "first_day"):
        assert run.data.tags[tag], tag
    assert run.data.params["seed"] == "0"
    assert {"test_mae_over_mean", "test_r2", "baseline_mae_over_mean"} <= set(run.data.metrics)
    files = {file.path for file in runs.client().list_artifacts(run_id)}
    assert {"profile.json", "importance.png", "residuals.png"} <= files
    assert len(runs.search(spec, kind="candidate")) == 2
    model = runs.load_version(spec, 1)
    assert model.trained_through < AS_OF - timedelta(days=1)


def test_training_sees_only_labels_mature_on_the_day(trained) -> None:
    spec = trained()
    assert lake.read("labels", spec.name)["day"].max().date() == AS_OF - timedelta(days=spec.label_delay)
    assert lake.read("features", spec.name)["day"].max().date() == AS_OF - timedelta(days=spec.label_delay)


def test_the_commit_of_the_models_folder_is_known() -> None:
    assert len(runs.code_version(find("toll_traffic")).rstrip("+")) == 40


def test_a_logged_model_has_signature_and_example(trained) -> None:
    import mlflow

    spec = trained()
    info = mlflow.models.get_model_info(runs.client().get_run(runs.run_of(spec, 1)).data.tags["model_uri"])
    assert [column.name for column in info.signature.inputs] == list(spec.features.all)
    assert info.saved_input_example_info is not None
    assert info.flavors["sklearn"]["serialization_format"] == "skops"


def test_training_again_does_not_promote_what_is_not_better(trained) -> None:
    spec = trained()
    said = steps.train(spec, AS_OF + timedelta(days=14), "t2")
    assert "was not promoted" in said
    now = steps.champion(spec)
    assert now is not None
    assert now.version == 1
    assert set(lake.read("ledger", spec.name)["to_state"]) == {"challenger", "champion", "rejected"}


def test_a_model_that_is_not_accepted_is_never_promoted(home: Path, tmp_path: Path) -> None:
    spec = models.write(
        tmp_path,
        yaml=models.YAML.replace("  window: 28d", "  window: 28d\n  accept: {{mae_over_mean: {{max: 0.0001}}}}"),
    )
    said = steps.train(spec, AS_OF, "t")
    assert "on the test part mae_over_mean" in said
    assert steps.champion(spec) is None
    assert runs.aliases(spec) == {"challenger": 1}


def test_refit_promotes_a_version_of_its_own(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path, yaml=models.YAML.replace("min_gain: 0.01", "min_gain: 0.01, refit: true"))
    steps.train(spec, AS_OF, "t")
    now = steps.champion(spec)
    assert now is not None
    assert now.version == 2
    assert runs.load_version(spec, 2).trained_through == AS_OF - timedelta(days=1)
    assert runs.load_version(spec, 1).trained_through < AS_OF - timedelta(days=1)


def test_score_writes_the_day_and_never_reads_the_target(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    seen: list[str] = []
    real = data.build_features
    monkeypatch.setattr(data, "build_features", lambda spec, rows: (seen.extend(rows.columns), real(spec, rows))[1])
    score_days(spec, [FIRST])
    assert spec.target not in seen
    rows = lake.read("predictions", spec.name)
    assert len(rows) == 72
    assert set(rows["version"]) == {1}
    assert set(rows["run"]) == {"r"}
    assert rows["prediction"].notna().all()
    assert rows["trained_through"].iloc[0] == pd.Timestamp(runs.load_version(spec, 1).trained_through)
    assert not {spec.target, "label"} & set(rows.columns)


def test_a_day_before_the_first_promotion_is_refused(trained) -> None:
    spec = trained()
    with pytest.raises(NoChampion, match=f"no champion for {AS_OF}: the first serves from {FIRST}"):
        score_days(spec, [AS_OF])
    score_days(spec, [AS_OF], version=1)
    assert len(lake.read("predictions", spec.name, day=AS_OF)) == 72


def test_bad_rows_go_to_quarantine_and_nothing_is_lost(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    real = data.read

    def spoilt(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        rows.loc[rows.index[:3], "heat"] = 99.0
        rows.loc[rows.index[3], "site"] = "Z"
        return rows

    monkeypatch.setattr(data, "read", spoilt)
    score_days(spec, [FIRST])
    bad = lake.read("quarantine", spec.name)
    assert sorted(bad["rule"]) == ["in", "max", "max", "max"]
    assert json.loads(bad["row"].iloc[0])["heat"] is not None
    assert len(bad) + len(lake.read("predictions", spec.name)) == len(lake.read("raw", spec.name, day=FIRST)) == 72
    monkeypatch.setattr(data, "read", real)
    score_days(spec, [FIRST])
    assert lake.read("quarantine", spec.name).empty


def test_scoring_again_replaces_predictions_and_leaves_what_was_served(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=20), "t2", promoted=False)
    score_days(spec, [FIRST], run="first")
    score_days(spec, [FIRST], run="second", version=2)
    assert set(lake.read("predictions", spec.name)["version"]) == {2}
    assert set(lake.read("served", spec.name)["version"]) == {1}
    assert set(lake.read("served", spec.name)["run"]) == {"first"}


def test_a_retry_of_the_serving_run_rewrites_what_it_served(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST], run="first")
    monkeypatch.setattr(
        pipelines,
        "predict",
        lambda spec, model, frame: pd.DataFrame({"prediction": 7.0, "probability": float("nan")}, index=frame.index),
    )
    score_days(spec, [FIRST], run="first")
    assert set(lake.read("served", spec.name)["prediction"]) == {7.0}


def test_each_day_of_a_range_is_scored_by_its_own_champion(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    ledger.make_champion(spec, 2, AS_OF + timedelta(days=3), measured=1, why="test", by="test")
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=5)))
    by_day = lake.read("predictions", spec.name).groupby("day")["version"].unique().map(list)
    assert list(by_day) == [[1]] * 3 + [[2]] * 3


def test_a_promotion_is_refused_when_the_champion_changed_or_is_of_a_later_day(trained) -> None:
    spec = trained()
    with pytest.raises(
        PromotionRefused, match="version 9 was measured against version 5, but the champion is version 1"
    ):
        ledger.make_champion(spec, 9, AS_OF + timedelta(days=3), measured=5, why="x", by="x")
    with pytest.raises(PromotionRefused, match="older than the champion, which serves from"):
        ledger.make_champion(spec, 9, AS_OF - timedelta(days=3), measured=1, why="x", by="x")
    ledger.make_champion(spec, 1, AS_OF, measured=None, why="again", by="x")
    assert (lake.read("ledger", spec.name)["to_state"] == "champion").sum() == 1


def test_a_run_does_not_promote_again_what_was_rolled_back(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    ledger.make_champion(spec, 2, AS_OF + timedelta(days=3), measured=1, why="x", by="t2")
    ledger.make_champion(spec, 2, AS_OF + timedelta(days=3), measured=1, why="x", by="t2")  # a retry changes nothing
    steps.rollback(spec)
    with pytest.raises(PromotionRefused, match="version 2 was promoted by t2 before, and version 1 is the champion"):
        ledger.make_champion(spec, 2, AS_OF + timedelta(days=3), measured=1, why="x", by="t2")
    assert ledger.champion(spec).version == 1


def test_a_ledger_of_a_newer_version_is_a_sentence(trained) -> None:
    spec = trained()
    ledger.record(spec, "champion:2", to_state="split", why="x", by="x", effective=FIRST, version=1)
    with pytest.raises(EsteiraError, match=r"model sales: the ledger's row champion:2 is 'split'.*newer one: use that"):
        steps.status(spec)


def test_of_two_promotions_at_once_one_wins(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    real, raced = ledger.write, []

    def race(spec: ModelSpec, event: Event) -> bool:
        if not raced:
            raced.append(event.id)
            real(spec, replace(event, version=1))  # type: ignore[call-arg]
        return real(spec, event)

    monkeypatch.setattr(ledger, "write", race)
    with pytest.raises(PromotionRefused, match="was promoted at the same time"):
        ledger.make_champion(spec, 2, AS_OF + timedelta(days=3), measured=1, why="x", by="x")


def test_aliases_are_repaired_from_the_ledger(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    runs.alias(spec, "champion", 2)
    steps.repair_aliases(spec)
    assert runs.aliases(spec)["champion"] == 1


def test_a_healthy_check_keeps_and_records(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=15)))
    verdict, outcomes, version = steps.check(spec, FIRST + timedelta(days=14))
    assert (verdict.decision, outcomes, version) == (Decision.KEEP, [], None)
    rows = lake.read("metrics", spec.name)
    windows = rows[(rows["window"] == "window") & (rows["metric"] == "mae_over_mean")]
    assert [
        (first.date(), last.date()) for first, last in zip(windows["first_day"], windows["last_day"], strict=True)
    ] == [
        (FIRST, FIRST + timedelta(days=6)),
        (FIRST + timedelta(days=7), FIRST + timedelta(days=13)),
    ]
    assert windows["in_range"].all()
    assert set(windows["max"]) == {0.3}
    assert (windows["n_rows"] == 7 * 72).all()
    assert set(rows.loc[rows["metric"] == "psi", "segment"]) == set(spec.features.all)


def test_metrics_come_from_what_was_served_out_of_sample_only(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    days = data.days(FIRST, FIRST + timedelta(days=4))
    score_days(spec, days)
    steps.labels_for_check(spec, days[-1])
    assert len(outcomes.served(spec, 1, days[0], days[-1])) == 4 * 72
    rows = lake.read("served", spec.name)
    rows.loc[rows["day"] == pd.Timestamp(days[0]), "trained_through"] = pd.Timestamp(days[0])
    lake.replace_days("served", spec.name, rows, days)
    assert len(outcomes.served(spec, 1, days[0], days[-1])) == 3 * 72
    assert outcomes.served(spec, 2, days[0], days[-1]).empty


def test_labels_keep_when_they_were_first_seen_and_are_read_until_complete(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    real = data.read_labels
    monkeypatch.setattr(data, "read_labels", lambda *args: real(*args).head(30))
    as_of = FIRST + timedelta(days=1)
    assert ingest.labels(spec, FIRST, as_of) == 1
    first = lake.read("labels", spec.name, day=FIRST)
    assert len(first) == 30
    monkeypatch.setattr(data, "read_labels", real)
    assert ingest.labels(spec, FIRST, as_of) == 1
    again = lake.read("labels", spec.name, day=FIRST)
    assert len(again) == 72
    kept = again.merge(first, on=["site", "at"])
    assert (kept["first_seen_x"] == kept["first_seen_y"]).all()
    assert ingest.labels(spec, FIRST, as_of) == 0


def test_another_target_makes_old_labels_stale(trained, tmp_path: Path) -> None:
    spec = trained()
    before = lake.read("labels", spec.name)["label"].mean()
    other = models.write(
        tmp_path / "models",
        yaml=models.YAML.replace("target: amount", "target: hour_of_day").replace(
            "amount: {{min: -1000}}", "hour_of_day: {{min: 0}}"
        ),
    )
    source = tmp_path / "models" / "sales" / "source.py"
    source.write_text(source.read_text().replace('"amount": np', '"hour_of_day": hour, "amount": np'))
    steps.train(other, AS_OF, "t2", promoted=False)
    assert lake.read("labels", spec.name)["label"].mean() == pytest.approx(11.5) != before


def test_labels_of_another_source_meet_their_rows(home: Path, tmp_path: Path) -> None:
    """The labels come as text from a CSV of their own; the rows have times."""
    spec = models.write(
        tmp_path / "models",
        yaml=models.YAML + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n",
    )
    rows = data.read(spec, AS_OF - timedelta(days=30), AS_OF)
    rows[["site", "at", "amount"]].to_csv(tmp_path / "labels.csv", index=False)
    assert "version 1 is the champion" in steps.train(spec, AS_OF, "t")
    assert len(lake.read("labels", spec.name)) == 28 * 72


def test_a_promotion_cites_the_champion_that_was_measured(trained) -> None:
    """A training promoted a version while the attempts ran: the attempt was judged against another champion."""
    spec, day = lived(trained, change=str(CHANGE))
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    run_id = steps.retrain(spec, day, 2)
    assert steps.recheck(spec, day, 2, run_id) is Outcome.RECOVERS
    version = steps.chosen_version(spec, day)
    steps.train(spec, AS_OF + timedelta(days=2), "t2", promoted=False)
    ledger.make_champion(spec, 3, AS_OF + timedelta(days=2), measured=1, why="x", by="x")
    with pytest.raises(
        PromotionRefused, match="version 2 was measured against version 1, but the champion is version 3"
    ):
        steps.promote_chosen(spec, day, version, "commit")


def test_an_attempt_of_an_earlier_run_of_the_check_is_not_promoted(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    assert steps.recheck(spec, day, 2, steps.retrain(spec, day, 2)) is Outcome.RECOVERS
    steps.retrain(spec, day, 1)
    assert steps.standing(spec, day) == (False, False)


def test_rescoring_leaves_a_day_that_is_being_scored_to_its_own_run(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    tomorrow = day + timedelta(days=1)
    steps.extract(spec, [tomorrow])
    steps.features(spec, [tomorrow])
    steps.score(spec, [tomorrow], "tomorrow")
    steps.check(spec, day)
    assert set(lake.read("predictions", spec.name, day=tomorrow)["run"]) == {"tomorrow"}
    assert steps.publish(spec, [tomorrow], "tomorrow") == 72


def test_training_again_keeps_the_run_of_a_registered_version(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF, "t")
    assert runs.client().get_run(runs.run_of(spec, 1)).info.lifecycle_stage == "active"
    assert len(runs.search(spec, key="t/candidate/0")) == 1


def test_a_column_that_begins_with_whole_numbers_takes_fractions_later(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    real = data.read
    monkeypatch.setattr(data, "read", lambda *args: real(*args).assign(heat=20))
    score_days(spec, [FIRST])
    monkeypatch.setattr(data, "read", lambda *args: real(*args).assign(heat=20.5))
    score_days(spec, [FIRST + timedelta(days=1)])
    assert set(lake.read("raw", spec.name, day=(FIRST, FIRST + timedelta(days=1)))["heat"]) == {20.0, 20.5}


def test_the_demos_change_raises_the_champions_error_by_at_least_half(home: Path) -> None:
    spec = find("toll_traffic")
    steps.train(spec, AS_OF, "t", candidates=[0])
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=27)))
    truth = data.read(spec, FIRST, FIRST + timedelta(days=27))
    rows = lake.read("served", spec.name).merge(truth[["plaza", "at", "vehicles"]], on=["plaza", "at"])
    error = (rows["prediction"] - rows["vehicles"]).abs() / rows["vehicles"].mean()
    changed = rows["day"] >= pd.Timestamp(2026, 2, 15)
    assert error[changed].mean() >= 1.5 * error[~changed].mean()


def test_a_changed_spec_makes_old_features_stale(trained, tmp_path: Path) -> None:
    spec = trained()
    assert training.lacking(spec, AS_OF) == []
    fewer = models.write(
        tmp_path / "models",
        yaml=models.YAML.replace("numeric: [hour, heat]", "numeric: [hour]").replace(
            "heat: {{min: -50, max: 60}}, ", ""
        ),
    )
    assert len(training.lacking(fewer, AS_OF)) == 28


def lived(trained, **world: str) -> tuple[ModelSpec, date]:
    """A model whose world changed after a healthy window, scored until two windows are violated."""
    spec = trained(**world)
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    return spec, day


def test_the_loop_recovers_by_the_second_recipe(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    verdict, outcomes, version = steps.check(spec, day)
    assert verdict.decision is Decision.RETRAIN
    assert outcomes[0] in (Outcome.FAILS, Outcome.IMPROVES)
    assert outcomes[1:] == [Outcome.RECOVERS]
    assert version is not None
    now = steps.champion(spec)
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
    attempts = checking.attempts(spec, day)
    assert attempts[2].outcome is Outcome.RECOVERS
    assert attempts[2].lower > 0
    # The slice that judged the attempt was not trained on.
    assert runs.load_version(spec, version).trained_through < measuring.slice_days(spec, day)[0]


def test_a_check_again_after_its_promotion_changes_nothing(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    first = steps.check(spec, day)
    before = snapshot(spec)
    assert first[2] is not None
    assert steps.check(spec, day) == first
    verdict = steps.decide(spec, day)
    assert verdict.decision is Decision.KEEP
    assert "only measured" in verdict.why
    assert snapshot(spec) == before


def test_noise_ends_in_one_warning_an_episode(trained) -> None:
    spec, day = lived(trained, noise=str(CHANGE))
    verdict, outcomes, version = steps.check(spec, day)
    assert verdict.decision is Decision.RETRAIN
    assert Outcome.RECOVERS not in outcomes
    mail = steps.warning(spec, day, "http://127.0.0.1/run")
    assert mail.to == ("ops@example.com",)
    assert f"[esteira] {spec.name}: mae_over_mean = " in mail.subject
    assert "OUT OF RANGE" in mail.text()
    assert "http://127.0.0.1/run" in mail.text()
    sent: list[Mail] = []
    for _ in range(2):
        steps.post(spec, mail, day, steps.run_key(day), sent.append)
    assert sent == [mail]
    states = lake.read("ledger", spec.name)["to_state"]
    assert (states == "warned").sum() == (states == "delivered").sum() == 1
    assert version is None
    for later in (day, day + timedelta(days=1)):
        steps.labels_for_check(spec, later)
        steps.measure(spec, later)
        verdict = steps.decide(spec, later)
        assert verdict.decision is Decision.WATCH
        assert "it waits for one more window" in verdict.why
    score_days(spec, data.days(day + timedelta(days=1), day + timedelta(days=7)), run="later")
    steps.labels_for_check(spec, day + timedelta(days=7))
    steps.measure(spec, day + timedelta(days=7))
    assert steps.decide(spec, day + timedelta(days=7)).decision is Decision.RETRAIN


def test_a_crash_is_an_attempt_that_did_not_improve(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    real = checking.retrain

    def crash(spec: ModelSpec, day: date, attempt: int) -> str:
        if attempt == 1:
            raise MemoryError("no room")
        return real(spec, day, attempt)

    monkeypatch.setattr(checking, "retrain", crash)
    _, outcomes, version = steps.check(spec, day)
    assert outcomes == [Outcome.FAILS, Outcome.RECOVERS]
    assert version is not None


def test_a_check_of_an_earlier_day_only_measures(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=9)))
    steps.check(spec, FIRST + timedelta(days=9))
    verdict, _, _ = steps.check(spec, FIRST + timedelta(days=5))
    assert verdict.decision is Decision.KEEP
    assert verdict.why == f"only measured: {FIRST + timedelta(days=9)} was checked already"


def test_without_a_champion_or_a_whole_window_the_check_waits(home: Path, tmp_path: Path, trained) -> None:
    untrained = models.write(tmp_path / "models", "fresh")
    assert steps.check(untrained, FIRST)[0].decision is Decision.WAIT
    spec = trained()
    score_days(spec, [FIRST])
    assert steps.check(spec, FIRST)[0].decision is Decision.WAIT


def twice(step, *args):
    step(*args)
    return step(*args)


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
    lacking = training.lacking(spec, AS_OF)
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
    twice(steps.labels_for_check, spec, day)
    twice(steps.measure, spec, day)
    assert twice(steps.decide, spec, day).decision is Decision.RETRAIN
    for attempt in (1, 2):
        outcome = twice(steps.recheck, spec, day, attempt, twice(steps.retrain, spec, day, attempt))
    assert outcome is Outcome.RECOVERS
    commit = twice(steps.commit_notebook, spec, day)
    version = twice(steps.chosen_version, spec, day)
    version = twice(steps.promote_chosen, spec, day, version, commit)
    twice(steps.rescore, spec, day, version)
    found = snapshot(spec)
    for kind in KINDS:
        assert found[kind] == expected[kind], kind


def test_a_drift_report_is_kept_beside_the_run(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    run_id = steps.drift_report(spec, day)
    assert [file.path for file in runs.client().list_artifacts(run_id)] == ["drift.html"]


def test_too_much_drift_is_mailed_and_retrains_nothing(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    real = data.read

    def warmer(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(heat=rows["heat"] + 20, hour=23, open=False)

    monkeypatch.setattr(data, "read", warmer)
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    mail = steps.drift_mail(spec, day)
    assert mail is not None
    assert mail.subject == "[esteira] sales: 3 of 4 features drifted"
    assert "By itself this retrains nothing" in mail.lead
    again = steps.drift_mail(spec, day)
    assert again is not None
    assert again.key == mail.key
    next_day = day + timedelta(days=1)
    steps.measure(spec, next_day)
    assert steps.drift_mail(spec, next_day) is None
    assert (lake.read("ledger", spec.name)["to_state"] == "drifted").sum() == 1


def test_status_says_what_a_person_wants_to_know(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=7)))
    steps.check(spec, FIRST + timedelta(days=7))
    found = steps.status(spec)
    assert found["champion"] == f"version 1, serving from {FIRST}"
    assert found["last day scored"] == str(FIRST + timedelta(days=7))
    assert "in range (≤ 0.3)" in found["last window's mae_over_mean"]


def test_predictions_are_read_back_with_their_times(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    rows = lake.read("predictions", spec.name)
    assert (rows["predict_seconds"] > 0).all()
    assert scoring.publish(spec, [FIRST], "r") == 72
    assert scoring.publish(spec, [FIRST], "another run") == 0


def test_a_rescored_row_says_which_version_it_replaces(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    assert lake.read("predictions", spec.name)["replaces"].isna().all()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    for _ in range(2):  # a retry replaces what the version before it had made, not itself
        steps.score(spec, [FIRST], "again", 2)
        rows = lake.read("predictions", spec.name)
        assert (set(rows["version"]), set(rows["replaces"])) == ({2}, {1.0})
    assert "replaces" not in lake.columns("served", spec.name)


def test_the_first_window_verifies_a_promotion(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    _, _, version = steps.check(spec, day)
    later = data.days(day + timedelta(days=1), day + timedelta(days=8))
    score_days(spec, later)
    assert steps.to_verify(spec, later[-2]) is None
    steps.check(spec, later[-1])
    known = lake.read("ledger", spec.name, to_state="verified")
    assert list(known["version"]) == [version]
    assert "which it replaced, would have had" in known["why"].iloc[0]
    rows = lake.read("metrics", spec.name, window="verification", metric="mae_over_mean")
    values = dict(zip(rows["role"], rows["value"], strict=True))
    assert values["champion"] < values["replaced"]
    assert (rows["n_rows"] == 7 * 72).all()
    assert steps.verification_mail(spec, later[-1]) is None


def promoted_worse(trained, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelSpec, list[date]]:
    """A model whose second champion learnt from three days of a world that is over, scored for a window."""
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=6)))
    as_of = FIRST + timedelta(days=6)
    candidate = training.candidate(spec, as_of, 1, training.prepare(spec, as_of, None, []), "worse")
    frame = ingest.labelled(spec, FIRST, FIRST + timedelta(days=3))
    shuffled = frame.assign(label=frame["label"].sample(frac=1, random_state=0).to_numpy())
    version = training.refit(spec, as_of, candidate, shuffled, ingest.versions(spec), "worse", None)
    ledger.make_champion(spec, version, as_of, measured=1, why="a mistake", by="worse")
    days = data.days(as_of + timedelta(days=1), as_of + timedelta(days=8))
    score_days(spec, days, "r2")
    return spec, days


def test_a_promotion_that_turned_out_worse_is_reported_and_can_be_rolled_back(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    steps.check(spec, days[-1])
    mail = steps.verification_mail(spec, days[-1])
    assert mail is not None
    assert "version 2 is worse than version 1" in mail.subject
    assert f"esteira rollback {spec.name} --to 1" in mail.text()
    served = lake.read("served", spec.name).sort_values(["day", "site", "at"], ignore_index=True)

    assert steps.rollback(spec) == (2, 1, days)
    now = steps.champion(spec)
    assert now is not None
    assert (now.version, now.effective_day) == (1, days[-1] + timedelta(days=1))
    assert runs.aliases(spec)["champion"] == 1
    rows = lake.read("predictions", spec.name, day=(days[0], days[-1]))
    assert (set(rows["version"]), set(rows["replaces"])) == ({1}, {2.0})
    again = lake.read("served", spec.name).sort_values(["day", "site", "at"], ignore_index=True)
    pd.testing.assert_frame_equal(served, again)
    history = lake.read("ledger", spec.name)
    assert steps.rollback(spec) == (2, 1, days)  # said twice, done once
    pd.testing.assert_frame_equal(lake.read("ledger", spec.name), history)


def test_a_rollback_that_died_is_finished_by_the_next(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    real = scoring.score
    monkeypatch.setattr(scoring, "score", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        steps.rollback(spec)
    monkeypatch.setattr(scoring, "score", real)
    assert steps.rollback(spec) == (2, 1, days)
    events = lake.read("ledger", spec.name).set_index("id")
    assert (events["to_state"] == "champion").sum() == 3
    assert events.loc["rolled-back:3", "why"] == f"{len(days)} days scored again by version 1"
    assert set(lake.read("predictions", spec.name)["version"]) == {1}


SEGMENTED = models.YAML.replace(
    "retrain:", "  segments: {{site: {{mae_over_mean: {{max: 0.3}}}}, open: {{}}}}\nretrain:"
)


def test_metrics_by_segment_count_where_they_have_limits(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path / "models", yaml=SEGMENTED)
    source = spec.folder / "source.py"
    source.write_text(  # only site B, a third of the rows, turns to noise
        source.read_text().replace(
            "    if day >= NOISE:",
            "    if day >= date(2026, 2, 8):\n        amount[site == 1] *= random.lognormal(0, 0.7, 24)\n    if day >= NOISE:",
        )
    )
    loose = (
        (spec.folder / "model.yaml")
        .read_text()
        .replace("metrics: {mae_over_mean: {max: 0.3}, r2: {min: 0.1}}", "metrics: {mae_over_mean: {max: 0.9}}")
    )
    (spec.folder / "model.yaml").write_text(loose)
    spec = load(spec.folder / "model.yaml")
    steps.train(spec, AS_OF, "t")
    score_days(spec, data.days(FIRST, CHANGE + timedelta(days=14)))
    day = CHANGE + timedelta(days=14)
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    verdict = steps.decide(spec, day)
    assert verdict.decision is Decision.RETRAIN
    assert "mae_over_mean of site=B" in verdict.why
    assert "site=A" not in verdict.why
    rows = lake.read("metrics", spec.name, check_day=day, role="champion", window="window")
    assert set(rows["segment"]) == {"", "site=A", "site=B", "site=C", "open=1"}
    assert rows.loc[rows["segment"] == "open=1", "in_range"].isna().all()


def test_incomplete_labels_wait_and_never_retrain(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained(noise=str(CHANGE))
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    real, late = data.read_labels, day - timedelta(days=5)

    def partial(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows[(rows["day"] < pd.Timestamp(late)) | (rows["site"] == "A")]

    monkeypatch.setattr(data, "read_labels", partial)
    verdict, outcomes, _ = steps.check(spec, day)
    assert verdict.decision is Decision.WAIT
    assert "% of the rows have one, and at least 90% would be usual" in verdict.why
    assert outcomes == []
    monkeypatch.setattr(data, "read_labels", real)
    assert steps.check(spec, day)[0].decision is Decision.RETRAIN


def binary_model(folder: Path) -> ModelSpec:
    yaml = models.YAML.replace("task: regression", "task: binary\npositive: high").replace(
        "metrics: {{mae_over_mean: {{max: 0.3}}, r2: {{min: 0.1}}}}",
        "metrics: {{accuracy: {{min: 0.8}}}}\n  estimate: true",
    )
    yaml = (
        yaml.replace("DecisionTreeRegressor", "DecisionTreeClassifier")
        .replace("linear_model.Ridge", "linear_model.LogisticRegression")
        .replace("amount: {{min: -1000}}", "amount: {{in: [high, low]}}")
        .replace("min_gain: 0.01", "min_gain: 0.0")
    )
    spec = models.write(folder, yaml=yaml)
    source = spec.folder / "source.py"
    source.write_text(source.read_text().replace("np.round(amount, 3)", "np.where(amount > 45, 'high', 'low')"))
    return spec


def test_labels_of_one_class_where_both_were_usual_wait(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = binary_model(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    real = data.read_labels

    def only_low(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(label=rows["label"].where(rows["day"] < pd.Timestamp(FIRST), "low"))

    monkeypatch.setattr(data, "read_labels", only_low)
    verdict, _, _ = steps.check(spec, day)
    assert verdict.decision is Decision.WAIT
    assert "they hold 1 class, and several were usual" in verdict.why


def test_estimates_precede_the_labels_and_their_error_is_reported(home: Path, tmp_path: Path) -> None:
    spec = binary_model(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    for day in data.days(FIRST, FIRST + timedelta(days=9)):
        score_days(spec, [day], f"r{day}")
        steps.check(spec, day)
    rows = lake.read("metrics", spec.name, role="estimated", metric="accuracy")
    days = rows[rows["window"] == "day"]
    assert len(days) >= 5
    assert (days["last_day"] == days["check_day"]).all()  # with a delay of one day only the day itself is pending
    assert days["value"].between(0.7, 1).all()
    errors = lake.read("metrics", spec.name, role="estimated", metric="accuracy_error")
    assert len(errors) >= 2
    assert (errors["value"] < 0.2).all()
    said = steps.status(spec)["estimated accuracy"]
    assert "of the days without labels; estimates were off by 0." in said


def test_why_it_moved_names_the_segment_and_the_feature(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    worse = steps.explaining.worsened(spec, day)
    assert worse[0].segment.startswith("site=")
    assert all(each.now > each.before for each in worse)
    moved = steps.explaining.moved(spec, day)
    assert {each.feature for each in moved} == set(spec.features.all)
    assert sum(each.importance for each in moved) == pytest.approx(1)
    assert [each.weight for each in moved] == sorted((each.weight for each in moved), reverse=True)
    text = steps.warning(spec, day).text()
    assert "Features that drifted, by importance × drift" in text
    assert "Segments that got worse" in text
    assert worse[0].segment in text


def test_the_first_champion_has_none_to_go_back_to(trained) -> None:
    with pytest.raises(EsteiraError, match="version 1 is the first champion"):
        steps.rollback(trained())


def test_limits_and_rollback_from_the_command_line(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from esteira.__main__ import app
    from typer.testing import CliRunner

    spec, days = promoted_worse(trained, monkeypatch)
    said = CliRunner().invoke(app, ["limits", spec.name, "--as-of", str(AS_OF)])
    assert said.exit_code == 0, said.output
    found = re.search(r"mae_over_mean: ([\d.]+); suggested: mae_over_mean: \{max: ([\d.]+)\}", said.output)
    assert found is not None
    assert float(found[2]) == pytest.approx(1.25 * float(found[1]), rel=0.01)
    found = re.search(r"r2: ([\d.]+); suggested: r2: \{min: ([\d.]+)\}", said.output)
    assert found is not None
    assert float(found[2]) == pytest.approx(1 - 1.25 * (1 - float(found[1])), rel=0.01)

    said = CliRunner().invoke(app, ["rollback", spec.name])
    assert said.exit_code == 0, said.output
    assert "version 1 is the champion again, in place of version 2" in said.output
    assert f"8 days scored again, {days[0]} to {days[-1]}" in said.output
    assert CliRunner().invoke(app, ["rollback", spec.name]).output == said.output
    said = CliRunner().invoke(app, ["rollback", spec.name, "--to", "7"])
    assert "model sales has no version 7" in str(said.exception)


def test_a_rollback_undoes_a_promotion_that_has_not_served_yet(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=2)))
    as_of = FIRST + timedelta(days=9)  # as the train DAG's schedule may promote before the day's score has run
    steps.train(spec, as_of, "t2", promoted=False)
    ledger.make_champion(spec, 2, as_of, measured=1, why="a mistake", by="x")
    assert steps.rollback(spec) == (2, 1, [])
    now = steps.champion(spec)
    assert now is not None
    assert (now.version, now.effective_day, now.number) == (1, as_of + timedelta(days=1), 3)


def test_a_finished_rollback_is_not_begun_again_by_its_left_over_rows(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    steps.train(spec, days[-1], "t3", promoted=False)
    ledger.make_champion(spec, 3, days[-1], measured=2, why="another", by="x")
    assert steps.rollback(spec)[:2] == (3, 2)
    steps.score(spec, days[:1], "by hand", 3)  # rows of the version that was rolled back, again
    assert steps.rollback(spec, to=1)[:2] == (2, 1)
    now = steps.champion(spec)
    assert now is not None
    assert now.version == 1


def segmented(folder: Path, **world: str) -> ModelSpec:
    return models.write(folder / "models", yaml=SEGMENTED, **world)


def test_a_model_with_segments_lives_from_its_first_check_to_its_warning(home: Path, tmp_path: Path) -> None:
    spec = segmented(tmp_path, noise=str(CHANGE))
    steps.train(spec, AS_OF, "t")
    score_days(spec, [FIRST])
    assert steps.check(spec, FIRST)[0].decision is Decision.WAIT  # nothing has a label yet
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST + timedelta(days=1), day))
    verdict, _, _ = steps.check(spec, day, keep_notebook=False)
    assert verdict.decision is Decision.RETRAIN
    text = steps.warning(spec, day).text()
    assert "mae_over_mean of site=A" in text
    assert "wanted: mae_over_mean ≤ 0.3" in text
    shown = steps.status(spec)["last window's mae_over_mean"]
    rows = lake.read("metrics", spec.name, check_day=day, role="champion", window="window", metric="mae_over_mean")
    whole = rows[rows["segment"] == ""].sort_values("last_day")["value"].iloc[-1]
    assert shown.startswith(f"{whole:.4g}, OUT OF RANGE")


def test_a_metric_that_can_not_be_computed_waits(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    real = evaluation.evaluate

    def unknown(spec: ModelSpec, rows: pd.DataFrame, names: tuple[str, ...]) -> dict[str, float]:
        return {**real(spec, rows, names), "mae_over_mean": float("nan")}

    monkeypatch.setattr(evaluation, "evaluate", unknown)
    verdict, _, _ = steps.check(spec, day)
    assert verdict.decision is Decision.WAIT
    assert "mae_over_mean can't be computed" in verdict.why
    row = lake.read("metrics", spec.name, check_day=day, window="window", metric="mae_over_mean", role="champion")
    assert row["in_range"].isna().all()


def test_an_estimate_that_fails_does_not_keep_a_check_from_deciding(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = binary_model(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=7)))
    monkeypatch.setattr("esteira.steps.estimating.rows", lambda *_: 1 / 0)
    assert steps.check(spec, FIRST + timedelta(days=7))[0].decision is Decision.KEEP
    assert "no estimate for the days without labels" in caplog.text


def test_a_mail_that_no_server_took_waits_in_the_ledger(trained) -> None:
    spec = trained()
    mail = Mail("sales/warned:1:x", ("ops@example.com",), "s", "l", (("t", ["a"], [["1"]]),), (("run", "http://x"),))
    sent: list[Mail] = []

    def down(mail: Mail) -> None:
        raise ConnectionRefusedError("no mail server")

    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            steps.post(spec, mail, FIRST, "check:x", down)
    assert steps.deliver(spec, 60, sent.append) == 0  # the task that wrote it may still be trying
    with pytest.raises(ConnectionRefusedError):
        steps.deliver(spec, 0, down)
    assert steps.deliver(spec, 0, sent.append) == 1
    assert sent == [mail]
    assert sent[0].message("a@b")["Message-ID"] == mail.message("a@b")["Message-ID"]
    assert steps.deliver(spec, 0, sent.append) == 0
    assert not steps.post(spec, mail, FIRST, "check:x", down)
    events = lake.read("ledger", spec.name)
    assert set(events.loc[events["id"].str.contains("warned:1:x"), "to_state"]) == {"queued", "delivered"}
    assert set(events.loc[events["id"].str.contains("warned:1:x"), "by"]) == {"check:x"}


def test_maintenance_keeps_what_is_in_use_and_what_a_version_was_trained_on(trained) -> None:
    spec = trained()
    cited = int(runs.client().get_run(runs.run_of(spec, 1)).data.tags["features_version"])
    then = lake.read("features", spec.name, at=cited)
    days = data.days(AS_OF - timedelta(days=5), FIRST)
    for _ in range(3):
        score_days(spec, days, version=1)
    before = snapshot(spec)
    orphan = Path(lake.path("features", spec.name)) / f"day={FIRST}" / "part-0-orphan.parquet"
    orphan.write_bytes(b"left by a writer that died")
    assert "0 files removed" in steps.maintain(spec)  # all that was replaced is younger than a week
    assert orphan.exists()
    assert lake.maintain("features", spec.name, keep=[cited], hours=0)[1] > 0
    assert not orphan.exists()
    assert snapshot(spec) == before
    pd.testing.assert_frame_equal(lake.read("features", spec.name, at=cited), then)
    assert lake.missing_days("features", spec.name, days, ingest.features_mark(spec)) == []


def test_requeue_adds_what_was_mended_and_touches_nothing_served(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    real = data.read

    def spoilt(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        rows.loc[rows.index[:3], "heat"] = 99.0
        return rows

    monkeypatch.setattr(data, "read", spoilt)
    score_days(spec, [FIRST])
    assert steps.accounted(spec, [FIRST]) == "72 rows read = 69 published + 3 in quarantine"
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    steps.score(spec, [FIRST], "rescored", 2)
    monkeypatch.setattr(data, "read", real)
    said = steps.requeue(spec, [FIRST], "requeued")
    assert said == "72 rows read = 72 published + 0 in quarantine"
    assert set(lake.read("predictions", spec.name)["version"]) == {2}  # a re-scored day stays re-scored
    served = lake.read("served", spec.name)
    assert served["version"].value_counts().to_dict() == {1: 69, 2: 3}
    steps.requeue(spec, [FIRST], "again")
    pd.testing.assert_frame_equal(lake.read("served", spec.name), served)


def test_rows_that_went_missing_are_noticed(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    lake.replace_days("predictions", spec.name, lake.read("predictions", spec.name).head(70), [FIRST])
    with pytest.raises(Unaccounted, match=r"72 rows read = 70 published \+ 0 in quarantine does not add up"):
        steps.publish(spec, [FIRST], "r")


def test_a_row_without_a_time_is_in_quarantine_once(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    given = trained()
    spec = given.model_copy(update={"source": CsvSource(kind="csv", path="all.csv")})
    real = data.read

    def timeless(_: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(given, first, last)
        lost = {"site": "A", "hour": 1, "heat": 20.0, "open": True, "amount": 1.0, "day": pd.Timestamp(first)}
        return pd.concat([rows, pd.DataFrame([lost]).astype({"day": rows["day"].dtype})], ignore_index=True)

    monkeypatch.setattr(data, "read", timeless)
    for _ in range(2):
        score_days(spec, [FIRST])
        assert steps.accounted(spec, [FIRST]) == "73 rows read = 72 published + 1 in quarantine"
    score_days(spec, [FIRST + timedelta(days=1)])  # the source, one file of all days, gives the row again
    assert steps.accounted(spec, [FIRST + timedelta(days=1)]) == "72 rows read = 72 published + 0 in quarantine"
    assert list(lake.read("quarantine", spec.name)["rule"]) == ["time"]


def test_a_training_on_garbage_is_refused(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path / "models", yaml=models.YAML.replace("max: 60", "max: 15"))
    with pytest.raises(DataError, match=r"not fit to learn from: .* rows are in quarantine, more than quality"):
        steps.train(spec, AS_OF, "t")


def test_a_model_file_that_was_changed_since_is_refused_unread(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained(own=True)
    (path,) = lake.home().glob("mlflow/artifacts/models/*/artifacts/model.skops")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")  # of a name that is there twice
        file.writestr("schema.json", '{"__class__": "Popen", "__module__": "subprocess"}')
    monkeypatch.setattr(runs, "_load_file", lambda path: pytest.fail("it was opened"))
    steps.extract(spec, [FIRST])
    steps.features(spec, [FIRST])
    with pytest.raises(ModelRefused, match="the file of version 1 is not the one that was registered"):
        steps.score(spec, [FIRST], "r")
    assert lake.read("predictions", spec.name).empty


def test_personal_values_are_in_the_tables_and_nowhere_else(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    people = ["Maria da Silva", "João Souza", "Ana Lima"]
    yaml = models.YAML.replace("in: [A, B, C]", f"in: [{', '.join(people)}]").replace("[site, at]", "[plaza, at]")
    spec = models.write(tmp_path / "models", noise=str(CHANGE), yaml=yaml + "personal: [site, heat]\n")
    source = tmp_path / "models" / "sales" / "source.py"
    source.write_text(
        source.read_text().replace('"site": np.array(["A", "B", "C"])', f'"plaza": site, "site": np.array({people!r})')
    )
    steps.train(spec, AS_OF, "t")
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    assert steps.check(spec, day)[0].decision is Decision.RETRAIN
    steps.drift_report(spec, day)
    text = [caplog.text, steps.warning(spec, day).text(), str(steps.status(spec))]
    files = [*home.glob("mlflow/artifacts/**/*"), *home.glob("lake/**/_delta_log/*.json")]
    text += [
        path.read_bytes().decode("utf-8", "replace") for path in files if path.suffix in (".json", ".html", ".yaml")
    ]
    assert len(text) > 30
    assert len(caplog.text) > 1000
    for word in ("Maria", "Souza", "Jo\\u00e3o", "Ana Lima"):
        assert not [part[max(part.find(word) - 100, 0) :][:200] for part in text if word in part]
    assert "Maria da Silva" in set(lake.read("features", spec.name)["site"])
    found = runs.profile(runs.run_of(spec, 1))["site"]
    assert found["hidden"]
    now = lake.read("features", spec.name, day=(FIRST, day))
    assert drift.psi(runs.profile(runs.run_of(spec, 1)), now)["site"] == pytest.approx(0, abs=1e-6)


def test_a_personal_column_is_no_segment(tmp_path: Path) -> None:
    yaml = models.YAML.replace("  slice: 7d\n", "  slice: 7d\n  segments: {{site: {{}}}}\n") + "personal: [site]\n"
    with pytest.raises(EsteiraError, match="'site' is personal, and a segment's values stand in mails and reports"):
        models.write(tmp_path, yaml=yaml)


def test_a_mail_that_is_refused_keeps_none_of_the_others(trained) -> None:
    spec = trained()

    def refuse(mail: Mail) -> None:
        raise ConnectionRefusedError("no mail server")

    def choosy(mail: Mail) -> None:
        if mail.subject == "bad":
            raise ValueError("no such recipient")
        sent.append(mail.subject)

    sent: list[str] = []
    for subject in ("bad", "good", "better"):
        with pytest.raises(ConnectionRefusedError):
            steps.post(spec, Mail(f"sales/{subject}", ("ops@example.com",), subject, "l"), FIRST, "x", refuse)
    with pytest.raises(ValueError, match="no such recipient"):
        steps.deliver(spec, 0, choosy)
    assert sorted(sent) == ["better", "good"]


def test_labels_that_a_later_delivery_lacks_stay_known(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    real = data.read_labels
    for part in (slice(0, 30), slice(30, 50)):
        monkeypatch.setattr(data, "read_labels", lambda *args, part=part: real(*args).iloc[part])
        ingest.labels(spec, FIRST, FIRST + timedelta(days=1))
    rows = lake.read("labels", spec.name, day=FIRST)
    assert len(rows) == len(rows.drop_duplicates(["site", "at"])) == 50


def test_what_another_run_scored_in_between_is_served_all_the_same(trained) -> None:
    spec = trained()
    steps.extract(spec, [FIRST])
    steps.features(spec, [FIRST])
    steps.score(spec, [FIRST], "mine")
    steps.score(spec, [FIRST], "another's")
    assert steps.publish(spec, [FIRST], "mine") == 0
    assert set(lake.read("served", spec.name)["run"]) == {"another's"}
    assert steps.publish(spec, [FIRST], "another's") == 72
    assert len(lake.read("served", spec.name)) == 72
