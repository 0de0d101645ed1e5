"""A range of days is measured whole: every window of it, in order, and only its last day decides."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira import data, steps, views
from esteira.cli import answers
from esteira.errors import EsteiraError
from esteira.learning import drift, evaluation
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.policy import Decision
from esteira.spec import Limit, ModelSpec, load
from esteira.steps import champions, measuring, outcomes, training
from esteira.store import lake, ledger, outbox, runs

from tests import models
from tests.models import AS_OF, CHANGE, FIRST, score_days
from tests.worlds import SEGMENTED, binary_model


def check(spec: ModelSpec, day: date) -> Decision:
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    return steps.decide(spec, day).decision


def windows(spec: ModelSpec) -> list[tuple[date, date]]:
    """The spans of the champion's windows in the metrics table, in order."""
    rows = lake.read("metrics", spec.name, role="champion", window="window", metric="mae_over_mean")
    found = {(first.date(), last.date()) for first, last in zip(rows["first_day"], rows["last_day"], strict=True)}
    return sorted(found)


def decisions(spec: ModelSpec) -> dict[date, str]:
    rows = lake.read("metrics", spec.name, role="decision").sort_values("check_day")
    return dict(zip(rows["check_day"].dt.date, rows["why"], strict=True))


def weeks(number: int) -> list[tuple[date, date]]:
    return [(FIRST + timedelta(days=7 * n), FIRST + timedelta(days=7 * n + 6)) for n in range(number)]


def test_every_whole_window_of_a_range_is_measured_and_the_last_day_decides(trained) -> None:
    spec, last = trained(), FIRST + timedelta(days=49)
    score_days(spec, data.days(FIRST, last))
    assert check(spec, last) is Decision.KEEP
    assert windows(spec) == weeks(7)
    found = decisions(spec)
    assert list(found)[-1] == last
    assert [why for day, why in found.items() if day < last] == [
        f"only measured: it is part of a range that ends on {last}"
    ] * 4  # the last three windows are the last check's own
    single = lake.read("metrics", spec.name, role="champion", window="day", metric="mae_over_mean")
    assert sorted(single["last_day"].dt.date) == data.days(FIRST, last - timedelta(days=1))  # each day once


@pytest.mark.slow
def test_a_range_day_by_day_and_at_once_measures_the_same_windows(trained, home, mlflow_template) -> None:
    spec, last = trained(change=str(CHANGE)), FIRST + timedelta(days=35)
    score_days(spec, data.days(FIRST, last))
    for day in data.days(FIRST, last):
        steps.store_labels(spec, day)
        steps.measure(spec, day)
    daily = measured(spec)
    for kind in ("metrics",):
        __import__("shutil").rmtree(lake.path(kind, spec.name))
    check(spec, last)
    assert measured(spec).equals(daily)


def measured(spec: ModelSpec) -> pd.DataFrame:
    rows = lake.read("metrics", spec.name, role="champion", window="window")
    columns = ["first_day", "last_day", "segment", "metric", "value", "n_rows", "n_days"]
    return rows[columns].drop_duplicates().sort_values(columns, ignore_index=True)


def test_a_later_range_measures_what_came_since_the_last_check(trained) -> None:
    spec, middle, last = trained(), FIRST + timedelta(days=14), FIRST + timedelta(days=63)
    score_days(spec, data.days(FIRST, last))
    check(spec, middle)
    before = lake.read("metrics", spec.name, check_day=middle)
    check(spec, last)
    assert windows(spec) == weeks(9)
    assert len(lake.read("metrics", spec.name, check_day=middle)) == len(before)


def test_a_range_over_a_promotion_measures_each_champion_on_its_own_windows(trained) -> None:
    spec, middle, last = trained(), FIRST + timedelta(days=20), FIRST + timedelta(days=62)
    score_days(spec, data.days(FIRST, middle))
    second = training.retrained(spec, middle, "second")
    champions.promote(spec, Proposal(second, middle, measured=1, why="second", by="test"))
    score_days(spec, data.days(middle + timedelta(days=1), last), run="later")
    check(spec, last)
    rows = lake.read("metrics", spec.name, role="champion", window="window", metric="mae_over_mean")
    spans = rows.drop_duplicates(["version", "first_day"]).groupby("version")["first_day"].count()
    assert spans.to_dict() == {1: 2, 2: 5}  # of the first 21 days the last label came a day after the promotion


@pytest.mark.parametrize("again", [False, True])
def test_a_check_said_again_measures_no_range_again(trained, again: bool) -> None:
    spec, last = trained(), FIRST + timedelta(days=42)
    score_days(spec, data.days(FIRST, last))
    check(spec, last)
    before = lake.version("metrics", spec.name)
    if again:
        check(spec, last)
    assert lake.version("metrics", spec.name) - before == (2 if again else 0)  # its own rows and its decision
    assert AS_OF < FIRST


def test_a_check_without_a_champion_is_in_nobodys_way(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    assert steps.check(spec, FIRST + timedelta(days=60), keep_notebook=False).verdict.decision is Decision.WAIT
    assert lake.days_of("metrics", spec.name) == []


def test_a_healthy_check_keeps_and_records(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=15)))
    checked = steps.check(spec, FIRST + timedelta(days=14), keep_notebook=False)
    verdict, outcomes, version = checked.verdict, list(checked.outcomes), checked.promoted
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
    steps.store_labels(spec, days[-1])
    assert len(outcomes.served(spec, 1, days[0], days[-1])) == 4 * 72
    rows = lake.read("served", spec.name)
    rows.loc[rows["day"] == pd.Timestamp(days[0]), "trained_through"] = pd.Timestamp(days[0])
    lake.replace_days("served", spec.name, rows, days)
    assert len(outcomes.served(spec, 1, days[0], days[-1])) == 3 * 72
    assert outcomes.served(spec, 2, days[0], days[-1]).empty


def test_what_was_served_is_joined_some_days_at_a_time(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained(yaml=SEGMENTED)
    days = data.days(FIRST, FIRST + timedelta(days=5))
    score_days(spec, days)
    steps.store_labels(spec, days[-1] + timedelta(days=1))
    whole, models_of = outcomes.served(spec, 1, days[0], days[-1]), champions.load_judges(spec, 1)
    as_predicted = outcomes.as_predicted_by(spec, models_of, whole)
    monkeypatch.setattr(lake, "whole_days", lambda counts, _=None: iter([[day] for day in sorted(counts)]))
    by_day = outcomes.served(spec, 1, days[0], days[-1])
    pd.testing.assert_frame_equal(by_day, whole)
    assert len(whole) == 6 * 72
    pd.testing.assert_frame_equal(outcomes.as_predicted_by(spec, models_of, by_day), as_predicted)
    assert as_predicted["prediction"].to_list() == whole["prediction"].to_list()


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
    steps.store_labels(spec, day)
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
    checked = steps.check(spec, day, keep_notebook=False)
    verdict, outcomes = checked.verdict, list(checked.outcomes)
    assert verdict.decision is Decision.WAIT
    assert "% of the rows have one, and at least 90% would be usual" in verdict.why
    assert outcomes == []
    monkeypatch.setattr(data, "read_labels", real)
    assert steps.check(spec, day, keep_notebook=False).verdict.decision is Decision.RETRAIN


@pytest.mark.parametrize("later", [7, 75])
def test_labels_of_one_class_where_both_were_usual_wait_for_ever(
    later: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two months of nothing else the days before say that one class is usual; the champion's training does not."""
    spec = binary_model(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    day = FIRST + timedelta(days=later)
    score_days(spec, data.days(FIRST, day))
    real = data.read_labels

    def only_low(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(label=rows["label"].where(rows["day"] < pd.Timestamp(FIRST), "low"))

    monkeypatch.setattr(data, "read_labels", only_low)
    verdict = steps.check(spec, day, keep_notebook=False).verdict
    assert verdict.decision is Decision.WAIT
    assert "they hold 1 class (amount=low), and several were usual" in verdict.why


def test_a_window_of_one_class_is_no_lack_where_such_windows_were_usual(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows of a fortnight have one class: so many rows of one say as little as one does."""
    spec = binary_model(tmp_path / "models")
    real = data.read_labels

    def by_fortnight(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(label=np.where((rows["day"] - pd.Timestamp(FIRST)).dt.days // 14 % 2, "high", "low"))

    monkeypatch.setattr(data, "read_labels", by_fortnight)
    version = training.retrained(spec, AS_OF, "t")  # no train would accept it: no feature tells the fortnight
    champions.promote(spec, Proposal(version, AS_OF, measured=None, why="taken", by="test"))
    assert runs.profile(runs.run_of(spec, 1))[drift.LABELLED]["spread"] > 10
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    assert steps.check(spec, day, keep_notebook=False).verdict.decision is not Decision.WAIT
    rows = lake.read("metrics", spec.name, role="labels", window="window", metric="classes")
    assert rows[["value", "in_range"]].to_numpy().tolist() == [[1, True]]


@pytest.mark.parametrize(
    ("metric", "a_day", "waits"),
    [("balanced_accuracy", 1, True), ("balanced_accuracy", 2, False), ("accuracy", 1, False)],
)
def test_a_few_rows_of_the_rarer_class_are_no_evidence_for_a_metric_made_of_each_class(
    metric: str, a_day: int, waits: bool, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = binary_model(tmp_path / "models", metric=metric)
    steps.train(spec, AS_OF, "t")
    real = data.read_labels

    def rare(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last).sort_values("day", kind="stable")
        is_rare = (rows.groupby("day").cumcount() < a_day) | (rows["day"] < pd.Timestamp(FIRST))
        return rows.assign(
            label=np.where(is_rare, rows["label"].where(rows["day"] < pd.Timestamp(FIRST), "high"), "low")
        )

    monkeypatch.setattr(data, "read_labels", rare)
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    verdict = steps.check(spec, day, keep_notebook=False).verdict
    assert (verdict.decision is Decision.WAIT) == waits
    assert ("7 of the rows are of the rarer class, and a metric made of each class takes 10" in verdict.why) == waits


def test_of_a_segment_with_a_few_rows_of_the_rarer_class_no_such_metric_is_asked(tmp_path: Path) -> None:
    spec = binary_model(tmp_path / "models", metric="balanced_accuracy")
    limits = {"balanced_accuracy": Limit(min=0.7), "accuracy": Limit(min=0.7)}
    few, enough = (pd.DataFrame({"label": ["high"] * n + ["low"] * 50}) for n in (9, 10))
    assert list(measuring._asked_of_segment(spec, limits, few)) == ["accuracy"]
    assert list(measuring._asked_of_segment(spec, limits, enough)) == ["balanced_accuracy", "accuracy"]


def test_labels_that_came_for_a_third_wait_for_ever(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does a training that is judged by them replace the champion."""
    spec = trained()
    day = FIRST + timedelta(days=75)
    score_days(spec, data.days(FIRST, day))
    real = data.read_labels

    def partial(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows[(rows["day"] < pd.Timestamp(FIRST)) | (rows["site"] == "A")]

    monkeypatch.setattr(data, "read_labels", partial)
    verdict = steps.check(spec, day, keep_notebook=False).verdict
    assert verdict.decision is Decision.WAIT
    assert "33% of the rows have one, and at least 90% would be usual" in verdict.why
    said = steps.train(spec, day, "t2")
    assert "on which it would be judged, are not enough: 33% of the rows have one" in said
    assert len(ledger.state(spec).promotions) == 1


def test_what_is_usual_is_what_rows_as_old_had(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels come late: of the youngest week a half has one, and that was so when the champion was trained."""
    spec = models.write(tmp_path / "models")
    real = data.read_labels
    today: list[date] = [AS_OF]

    def late(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        young = rows["day"] > pd.Timestamp(today[0] - timedelta(days=8))
        return rows[~young | (rows["site"] != "C")]

    monkeypatch.setattr(data, "read_labels", late)
    steps.train(spec, AS_OF, "t")
    known = runs.profile(runs.run_of(spec, 1))[drift.LABELLED]
    (first,) = ledger.state(spec).promotions
    assert "Only 67% of the rows of the test part have a label, and 96% of those before it" in first.why
    assert set(known) == {"shares"}, "of numbers no class is usual"
    shares = known["shares"]
    assert shares[0] == pytest.approx(2 / 3)
    assert shares[1:4] == [1.0, 1.0, 1.0]
    day = today[0] = FIRST + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    assert steps.check(spec, day, keep_notebook=False).verdict.decision is Decision.KEEP
    rows = lake.read("metrics", spec.name, role="labels", metric="labelled_share", window="window")
    assert dict(zip(rows["last_day"].dt.date, rows["min"].round(2), strict=True)) == {
        day - timedelta(days=1): 0.6,
        day - timedelta(days=8): 0.9,
    }


def test_a_version_that_says_nothing_of_its_labels_is_compared_with_the_days_before(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    day = FIRST + timedelta(days=21)
    score_days(spec, data.days(FIRST, day))
    profile = {name: shape for name, shape in runs.profile(runs.run_of(spec, 1)).items() if name != drift.LABELLED}
    monkeypatch.setattr(runs, "profile", lambda _: profile)
    real, late = data.read_labels, day - timedelta(days=7)
    monkeypatch.setattr(
        data,
        "read_labels",
        lambda spec, first, last: real(spec, first, last)[
            lambda rows: (rows["day"] < pd.Timestamp(late)) | (rows["site"] == "A")
        ],
    )
    verdict = steps.check(spec, day, keep_notebook=False).verdict
    assert verdict.decision is Decision.WAIT
    assert "of the rows have one, and at least 90% would be usual" in verdict.why


def test_a_drift_of_the_label_rate_is_no_lack_of_labels(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = binary_model(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    day = FIRST + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    real = data.read_labels

    def mostly_low(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        some = (rows["day"] < pd.Timestamp(FIRST)) | (rows["at"].dt.hour == 3)
        return rows.assign(label=rows["label"].where(some, "low"))

    monkeypatch.setattr(data, "read_labels", mostly_low)
    assert check(spec, day) is Decision.RETRAIN
    (labels,) = [each for each in views.check(spec, day).outcomes if each.what == "label" and not each.segment]
    assert labels.drifted


def test_nobody_is_told_that_a_first_window_takes_as_long_as_its_labels(trained) -> None:
    spec = trained()
    spec = spec.model_copy(
        update={"label_delay": 30, "check": spec.check.model_copy(update={"patience": 1, "estimate": False})}
    )
    decided = []
    for day in data.days(FIRST, FIRST + timedelta(days=36)):
        score_days(spec, [day], f"r{day}")
        decided.append(steps.check(spec, day, keep_notebook=False).verdict.decision)
    assert decided == [Decision.WAIT] * 36 + [Decision.KEEP]
    assert outbox.mails(spec, "waits") == []


def test_people_are_told_once_that_checks_wait_for_longer_than_the_patience(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    spec = spec.model_copy(update={"check": spec.check.model_copy(update={"patience": 2})})
    real = data.read_labels
    monkeypatch.setattr(data, "read_labels", lambda *given: real(*given).head(0))
    told = {}
    for day in data.days(FIRST, FIRST + timedelta(days=30)):
        score_days(spec, [day], f"r{day}")
        assert steps.check(spec, day, keep_notebook=False).verdict.decision is Decision.WAIT
        told[day] = len(outbox.mails(spec, "waits"))
    assert next(day for day, count in told.items() if count) == FIRST + timedelta(days=7 + 15)
    assert max(told.values()) == 1
    (mail,) = outbox.mails(spec, "waits")
    assert mail.subject == f"sales: nothing could be checked since {FIRST}"
    assert "longer than check.patience (2 windows of 7 days)" in mail.lead
    assert steps.queue_wait_mail(spec, FIRST + timedelta(days=30)) is None


@pytest.mark.parametrize(
    ("late", "patience"),
    [
        pytest.param(10, 2, id="within the windows"),
        pytest.param(30, 6, id="later than they are read", marks=pytest.mark.slow),
    ],
)
def test_who_is_told_of_a_wait_hears_how_late_labels_are(
    late: int, patience: int, trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    spec = spec.model_copy(update={"check": spec.check.model_copy(update={"patience": patience})})
    real, today = data.read_labels, [FIRST]

    def known(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows[rows["day"] <= pd.Timestamp(today[0] - timedelta(days=late))]

    monkeypatch.setattr(data, "read_labels", known)
    for day in data.days(FIRST, FIRST + timedelta(days=11 + 7 * patience)):
        today[0] = day
        score_days(spec, [day], f"r{day}")
        steps.check(spec, day, keep_notebook=False)
    (mail,) = outbox.mails(spec, "waits")
    told = date.fromisoformat(mail.lead.split("check of ")[1][:10])
    assert f"The newest day that has its labels is {told - timedelta(days=late)}, {late} days before" in mail.lead
    assert f"write label_delay: {late}d; they may also have stopped" in mail.lead


def test_estimates_precede_the_labels_and_their_error_is_reported(home: Path, tmp_path: Path) -> None:
    spec = binary_model(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    for day in data.days(FIRST, FIRST + timedelta(days=9)):
        score_days(spec, [day], f"r{day}")
        steps.check(spec, day, keep_notebook=False)
    rows = lake.read("metrics", spec.name, role="estimated", metric="accuracy")
    days = rows[rows["window"] == "day"]
    assert len(days) >= 5
    assert (days["last_day"] == days["check_day"]).all()  # with a delay of one day only the day itself is pending
    assert days["value"].between(0.7, 1).all()
    errors = lake.read("metrics", spec.name, role="estimated", metric="accuracy_error")
    assert len(errors) >= 2
    assert (errors["value"] < 0.2).all()
    said = answers.shown(views.status(spec))["estimated accuracy"]
    assert "of the days without labels; estimates were off by 0." in said


def test_a_metric_that_can_not_be_computed_waits(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    real = evaluation.evaluate

    def unknown(spec: ModelSpec, rows: pd.DataFrame, names: tuple[str, ...]) -> dict[str, float]:
        return {**real(spec, rows, names), "mae_over_mean": float("nan")}

    monkeypatch.setattr(evaluation, "evaluate", unknown)
    verdict = steps.check(spec, day, keep_notebook=False).verdict
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
    monkeypatch.setattr("esteira.steps.estimating.records", lambda *_: 1 / 0)
    assert steps.check(spec, FIRST + timedelta(days=7), keep_notebook=False).verdict.decision is Decision.KEEP
    assert "no estimate for the days without labels" in caplog.text


def test_a_personal_column_is_no_segment(tmp_path: Path) -> None:
    yaml = models.YAML.replace("  slice: 7d\n", "  slice: 7d\n  segments: {{site: {{}}}}\n") + "personal: [site]\n"
    with pytest.raises(EsteiraError, match="'site' is personal, and a segment's values stand in mails and reports"):
        models.write(tmp_path, yaml=yaml)
