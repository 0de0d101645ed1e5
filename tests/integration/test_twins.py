"""A version that is fitted again for serving, and its twin: what the twin is judged for, and what it predicts."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest
from esteira import data, steps
from esteira.errors import UnknownVersion
from esteira.learning import predicting
from esteira.spec import ModelSpec
from esteira.steps import champions, labelling, outcomes, rollbacks
from esteira.steps.rollbacks import Asked
from esteira.store import lake, ledger, runs

from tests import models
from tests.models import AS_OF, CHANGE, FIRST, score_days

REFIT = models.YAML.replace("refit: false", "refit: true")


def versions(spec: ModelSpec) -> dict[date, int]:
    """The one version that each day's predictions are of."""
    rows = lake.read("predictions", spec.name)
    return {moment.date(): part["version"].drop_duplicates().item() for moment, part in rows.groupby("day")}


@pytest.fixture
def spec(trained) -> ModelSpec:
    return trained(change=str(CHANGE), yaml=REFIT)


def test_what_serves_is_fitted_on_everything_and_its_twin_is_what_was_measured(spec: ModelSpec) -> None:
    (promoted,) = ledger.state(spec).promotions
    assert (promoted.version, promoted.twin, promoted.seen) == (2, 1, AS_OF - timedelta(days=1))
    own, twin = champions.load_judges(spec, 2)
    assert own.trained_through == promoted.seen
    assert twin.trained_through < AS_OF - timedelta(days=4)
    assert runs.aliases(spec) == {"champion": 2, "challenger": 1}


def test_trainings_that_follow_each_other_closely_can_be_compared(spec: ModelSpec) -> None:
    """The champion has seen all of the test part but two days; by its twin all of it is judged."""
    said = steps.train(spec, AS_OF + timedelta(days=2), "t2", window=42)
    assert "only 2 days" not in said
    assert "than the champion's, version 2, over 6 days" in said


def test_a_check_promotes_what_is_fitted_again_and_its_twin_scores_what_that_has_seen(spec: ModelSpec) -> None:
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    before = versions(spec)
    checked = steps.check(spec, day, keep_notebook=False)
    promoted = ledger.state(spec).promotions[-1]
    assert checked.promoted == promoted.version
    assert promoted.twin is not None
    assert promoted.seen == day - timedelta(days=1)
    assert promoted.replaces_from is not None
    shown = data.days(promoted.replaces_from, promoted.seen)
    assert checked.rescored is not None
    assert checked.rescored.days == (*shown, day)
    wanted = before | dict.fromkeys(shown, promoted.twin) | {day: promoted.version}
    assert versions(spec) == wanted
    rows = lake.read("predictions", spec.name, day=(day - timedelta(days=2), day))
    assert (rows["day"] > rows["trained_through"]).all()  # on the held-out slice, too, nothing is flattered
    asked = Asked(by="ana")
    rollbacks.perform(spec, asked)
    assert versions(spec) == before
    rollbacks.perform(spec, Asked(by="ana", undo=True))
    assert versions(spec) == wanted


def test_a_champion_whose_twin_is_gone_is_judged_by_itself(spec: ModelSpec, tmp_path: Path) -> None:
    from esteira.store import mlflow_tracking

    mlflow_tracking.client().delete_model_version(spec.name, "1")
    runs._run_of.cache_clear()
    assert [model.version for model in champions.load_judges(spec, 2)] == [2]


def test_days_before_a_champion_served_are_judged_by_its_twin(spec: ModelSpec) -> None:
    """Of ten days the champion has served two days; of the others its twin has seen none."""
    last = FIRST + timedelta(days=1)
    score_days(spec, data.days(FIRST, last))
    labelling.store(spec, AS_OF - timedelta(days=9), last + timedelta(days=1))
    first = last - timedelta(days=9)
    rows = outcomes.judged(spec, 2, first, last)
    own, twin = champions.load_judges(spec, 2)
    assert first < twin.trained_through + timedelta(days=1) < FIRST
    unseen = data.days(twin.trained_through + timedelta(days=1), last)
    found = sorted({moment.date() for moment in rows["day"]})
    assert found == [day for day in unseen if day != AS_OF], "nobody has asked for the features of that day"
    assert own.trained_through >= AS_OF - timedelta(days=1)
    early = rows[rows["day"] <= str(own.trained_through)]
    frame = labelling.labelled(spec, first, last)
    asked = frame[frame["day"].isin(early["day"])].sort_values(["day", *spec.key], kind="stable")
    expected = predicting.predict(spec, twin, asked)["prediction"]
    assert early["prediction"].tolist() == expected.tolist()
    late = rows[rows["day"] >= str(FIRST)]
    assert late["prediction"].tolist() == outcomes.served(spec, 2, FIRST, last)["prediction"].tolist()


def test_of_a_version_that_was_deleted_what_it_served_is_judged(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_days(spec, [FIRST])
    labelling.store(spec, AS_OF, FIRST + timedelta(days=1))

    def gone(*_: object) -> None:
        raise UnknownVersion("it was deleted")

    monkeypatch.setattr(champions, "load_version", gone)
    rows = outcomes.judged(spec, 2, FIRST - timedelta(days=6), FIRST)
    assert {moment.date() for moment in rows["day"]} == {FIRST}
