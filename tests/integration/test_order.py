"""Tasks that run again, or at once, in an order that nobody planned: predictions end in what the ledger says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from esteira import data, steps, views
from esteira.__main__ import app
from esteira.errors import DataError, Refused, SpecError
from esteira.lifecycle.actions import Reconcile, Warn, upcoming
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Event, run_key
from esteira.lifecycle.policy import Decision, Outcome
from esteira.lifecycle.sequence import RolledBack
from esteira.spec import ModelSpec
from esteira.steps import champions, checking, evaluating, ingest, rollbacks, scoring
from esteira.steps.rollbacks import Asked
from esteira.steps.scoring import Reconciled, Request
from esteira.store import lake, ledger, measurements, runs
from esteira.store.measurements import Attempt
from typer.testing import CliRunner

from tests import models
from tests.models import AS_OF, CHANGE, FIRST, score_days
from tests.worlds import lived

ANA = Asked(by="ana")


def versions(spec: ModelSpec) -> dict[date, set[int]]:
    rows = lake.read("predictions", spec.name, columns=["day", "version"])
    return {day.date(): set(part["version"].astype(int)) for day, part in rows.groupby("day")}


def published(spec: ModelSpec) -> dict[date, set[int | None]]:
    known = ledger.state(spec)
    return {day: {known.published(day).version} for day in versions(spec)}


@pytest.fixture
def rolled_back(promoted: tuple[ModelSpec, date]) -> tuple[ModelSpec, date]:
    """A check has promoted, and somebody has rolled that back."""
    spec, day = promoted
    rollbacks.perform(spec, ANA)
    assert set().union(*versions(spec).values()) == {1}
    return spec, day


def test_a_check_run_again_undoes_no_roll_back(rolled_back: tuple[ModelSpec, date]) -> None:
    spec, day = rolled_back
    steps.check(spec, day, keep_notebook=False)
    assert set().union(*versions(spec).values()) == {1}
    assert ledger.champion(spec).version == 1  # type: ignore[union-attr]


def test_the_rescoring_of_an_old_check_undoes_no_roll_back(rolled_back: tuple[ModelSpec, date]) -> None:
    spec, day = rolled_back
    assert steps.rescore(spec, day) == Reconciled()
    assert set().union(*versions(spec).values()) == {1}


def test_promoting_again_after_a_roll_back_promotes_no_bad_version(rolled_back: tuple[ModelSpec, date]) -> None:
    spec, day = rolled_back
    with pytest.raises(Refused, match=f"version 2 was promoted by check:{day} before"):
        checking.promote_chosen(spec, day, 2, "commit")
    assert ledger.champion(spec).version == 1  # type: ignore[union-attr]


def test_an_attempt_that_is_made_again_after_a_roll_back_undoes_it_not(rolled_back: tuple[ModelSpec, date]) -> None:
    """As where a person clears `attempt_1.retrain` with all that follows it."""
    spec, day = rolled_back
    score_days(spec, [day + timedelta(days=1)])
    before = measurements.attempts(spec, day)
    with pytest.raises(Refused, match=f"the check of {day} has promoted version 2, so it trains no more"):
        steps.retrain(spec, day, 1)
    assert measurements.attempts(spec, day) == before
    assert upcoming(steps.evidence(spec, day, 1)) == (
        Reconcile(),
    )  # and so nothing more is trained, and nobody is warned
    assert set().union(*versions(spec).values()) == {1}


def test_what_a_check_has_left_after_its_promotion_is_done_by_whoever_begins_it_again(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = lived(trained, noise=str(CHANGE + timedelta(days=7)), change=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    steps.begin(spec, day)
    improved = replace(chosen_of(spec, day), outcome=Outcome.IMPROVES)
    monkeypatch.setattr(measurements, "attempts", lambda *_: {1: improved})
    champions.promote(spec, Proposal(2, day, measured=1, why="better", by=run_key(day)))  # and then it dies
    found = steps.begin(spec, day)
    assert upcoming(found) == (Reconcile(), Warn())
    assert steps.act(spec, day, found).warning is not None
    assert upcoming(steps.begin(spec, day)) == (Reconcile(),)


def chosen_of(spec: ModelSpec, day: date) -> Attempt:
    """An attempt whose model is version 2."""
    steps.train(spec, day, "t2", promoted=False)
    return Attempt(1, runs.run_of(spec, 2), Outcome.RECOVERS, 0.5, 0.1, 0.05, 0.2, 7, 504, 1)


def test_an_attempt_that_can_not_be_told_to_mlflow_has_crashed(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is promoted is what the table says: no attempt is better there that the check took for crashed."""
    spec, day = lived(trained, change=str(CHANGE))
    real = runs.log

    def log(run_id: str, **given: Any) -> None:
        if "outcome" in given.get("tags", {}):
            raise ValueError("a tag that MLflow does not take")
        real(run_id, **given)

    monkeypatch.setattr(runs, "log", log)
    found = steps.check(spec, day, keep_notebook=False)
    assert found.outcomes == (Outcome.FAILS, Outcome.FAILS)
    assert measurements.attempts(spec, day) == {}
    assert found.promoted is None
    assert found.warning is not None
    assert "version 1 stays champion" in found.warning.lead


def test_a_training_that_is_said_again_does_not_promote_what_was_rolled_back(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = trained(), AS_OF + timedelta(days=2)
    monkeypatch.setattr(evaluating, "_compare", lambda *_: (True, "it is better", {}))
    said = steps.train(spec, day, "first")
    assert "version 2 is the champion" in said
    rollbacks.perform(spec, ANA)
    with pytest.raises(
        Refused, match=r"version 2 was rolled back by ana, .*take it again .*or train it anew with --again"
    ):
        steps.train(spec, day, "another run")
    assert ledger.champion(spec).version == 1  # type: ignore[union-attr]
    assert "version 3 is the champion" in steps.train(spec, day, "once more", again=True)


def test_a_roll_back_is_of_the_champion_that_was_seen(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    plan = rollbacks.plan(spec, ANA)
    steps.train(spec, day, "meanwhile", promoted=False)
    champions.promote(spec, Proposal(3, day, measured=2, why="a mend", by="x"))
    with pytest.raises(
        Refused, match=r"its champion has changed meanwhile: version 3 serves from .* Nothing was rolled back"
    ):
        rollbacks.perform(spec, plan.asked)
    assert ledger.champion(spec).version == 3  # type: ignore[union-attr]


def test_a_promotion_while_a_roll_back_is_written_is_not_rolled_back_unseen(
    promoted: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = promoted
    steps.train(spec, day, "meanwhile", promoted=False)
    real, raced = ledger.write, []

    def write(spec: ModelSpec, *events: Event) -> int:
        if not raced and isinstance(events[0], RolledBack):
            raced.append(True)
            champions.promote(spec, Proposal(3, day, measured=2, why="a mend", by="x"))
        return real(spec, *events)

    monkeypatch.setattr(ledger, "write", write)
    with pytest.raises(Refused, match="its champion has changed meanwhile"):
        rollbacks.perform(spec, ANA)
    assert ledger.champion(spec).version == 3  # type: ignore[union-attr]


def test_what_a_run_has_let_go_it_does_not_let_go_again(trained) -> None:
    spec, day = trained(), FIRST
    steps.train(spec, AS_OF + timedelta(days=2), "t2", promoted=False)
    score_days(spec, [day], "by hand", version=1)
    steps.score(spec, [day], "let go", Request(champion=True))
    score_days(spec, [day], "ana", version=2)
    steps.score(spec, [day], "let go", Request(champion=True))  # the task runs again
    assert versions(spec)[day] == {2}


def test_scoring_a_day_again_undoes_no_roll_back_and_no_promotion(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    score_days(spec, [CHANGE], run="again")  # who served that day was version 1
    assert versions(spec)[CHANGE] == {2}
    rollbacks.perform(spec, ANA)
    score_days(spec, [CHANGE, day], run="once more")
    assert versions(spec)[CHANGE] == versions(spec)[day] == {1}


def test_an_undone_roll_back_leaves_healthy_days_as_they_were(promoted: tuple[ModelSpec, date]) -> None:
    spec, _ = promoted
    before = versions(spec)
    healthy = lake.read("predictions", spec.name, day=(FIRST, CHANGE - timedelta(days=1)))
    _, there = rollbacks.perform(spec, ANA)
    event, back = rollbacks.perform(spec, Asked(by="ana", undo=True))
    assert event is not None
    assert there.days == back.days == tuple(each for each in before if each >= CHANGE)
    assert versions(spec) == before
    again = lake.read("predictions", spec.name, day=(FIRST, CHANGE - timedelta(days=1)))
    assert again.equals(healthy)  # not even written anew


def test_a_roll_back_from_a_day_on_leaves_those_before_it(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    since = CHANGE + timedelta(days=3)
    _, done = rollbacks.perform(spec, Asked(by="ana", first_day=since))
    assert done.days == tuple(data.days(since, day))
    assert versions(spec) == published(spec)
    assert versions(spec)[since - timedelta(days=1)] == {2}


def beside(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Do something once, when scoring has read its champion and has not written yet."""
    real, done = scoring.Prediction._predict, []

    def predict(*given: object) -> object:
        if not done:
            done.append(True)
            meanwhile()
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(scoring.Prediction, "_predict", predict)


@pytest.fixture
def tomorrow(trained) -> tuple[ModelSpec, date, date]:
    """A model whose next check promotes, and a day whose features are there."""
    spec, day = lived(trained, change=str(CHANGE))
    after = day + timedelta(days=1)
    steps.extract(spec, [after])
    steps.features(spec, [after])
    return spec, day, after


def test_a_score_beside_a_promotion_ends_in_the_new_champion(
    tomorrow: tuple[ModelSpec, date, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day, after = tomorrow
    beside(monkeypatch, lambda: steps.check(spec, day, keep_notebook=False))
    steps.score(spec, [after], "score")
    assert versions(spec)[after] == {2}
    assert versions(spec) == published(spec)


def test_a_score_beside_a_roll_back_ends_in_the_old_champion(
    tomorrow: tuple[ModelSpec, date, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day, after = tomorrow
    steps.check(spec, day, keep_notebook=False)
    beside(monkeypatch, lambda: rollbacks.perform(spec, ANA))
    steps.score(spec, [*data.days(CHANGE, after)], "score")
    assert versions(spec) == published(spec)
    assert versions(spec)[after] == versions(spec)[CHANGE] == {1}


def test_what_was_computed_from_an_older_state_is_not_written_over_newer(
    tomorrow: tuple[ModelSpec, date, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day, after = tomorrow

    def meanwhile() -> None:
        steps.check(spec, day, keep_notebook=False)
        steps.score(spec, [after], "another")

    beside(monkeypatch, meanwhile)
    steps.score(spec, [after], "score")
    rows = lake.read("predictions", spec.name, day=after)
    assert (set(rows["version"]), len(rows)) == ({2}, 72)


def spoiled(spec: ModelSpec, day: date) -> None:
    """The features of a day are of another model.yaml."""
    lake.replace_days("features", spec.name, lake.read("features", spec.name, day=day), [day], mark=7)


def test_a_day_whose_features_are_of_another_spec_is_built_anew(promoted: tuple[ModelSpec, date]) -> None:
    spec, _ = promoted
    spoiled(spec, CHANGE)
    said = CliRunner().invoke(app, ["rollback", spec.name, "--dry-run"])
    assert f"the features of {CHANGE} are gone, or of another model.yaml: they are built anew first" in said.output
    _, done = rollbacks.perform(spec, ANA)
    assert done.kept == {}
    assert versions(spec) == published(spec)


def test_a_day_that_can_not_be_built_anew_is_left_and_told(
    promoted: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = promoted
    spoiled(spec, CHANGE)

    def unbuilt(*_: object) -> None:
        raise DataError("the source has no such column")

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "ensure_features", unbuilt)
        _, done = rollbacks.perform(spec, ANA)
        assert list(done.kept) == [CHANGE]
        assert (
            f"{CHANGE} left as it is: its features are gone, or of another model.yaml, and can't be built anew"
            in str(done)
        )
        assert versions(spec)[CHANGE] == {2}
        assert versions(spec)[CHANGE + timedelta(days=1)] == {1}
        assert views.status(spec).outdated == (CHANGE,)
        for command in (["rollback", spec.name, "--yes"], ["reconcile", spec.name]):
            assert CliRunner().invoke(app, command).exit_code == 1
        with pytest.raises(DataError, match=f"{CHANGE} left as it is"):
            steps.rescore(spec, day).require_whole(spec)
        said = CliRunner().invoke(app, ["history", spec.name, "--day", str(CHANGE)])
        assert "its predictions are still of version 2, and to be of version 1: " in said.output
    assert CliRunner().invoke(app, ["reconcile", spec.name]).exit_code == 0
    assert views.status(spec).outdated == ()
    assert versions(spec) == published(spec)


def test_days_that_a_training_has_built_anew_are_made_whole(trained, tmp_path: Path) -> None:
    """An expectation is loosened: its rows leave quarantine in the training, and must be predicted and served, too."""
    strict = models.YAML.replace("max: 60", "max: 22")
    spec = trained(yaml=strict)
    score_days(spec, [FIRST])
    before = len(lake.read("predictions", spec.name))
    assert before < 72
    loose = models.write(tmp_path / "models")
    steps.train(loose, FIRST + timedelta(days=2), "t2", promoted=False)
    assert steps.reconcile(loose, "hourly").days == (FIRST,)
    assert steps.accounted(loose, [FIRST]) == "72 rows read = 72 published + 0 in quarantine"
    assert len(lake.read("served", spec.name)) == 72
    assert steps.reconcile(loose, "hourly") == Reconciled()


def test_a_feature_that_is_dropped_leaves_the_days_of_older_versions_as_they_are(trained, tmp_path: Path) -> None:
    """A training builds their features anew, which their version can't score: they are as published, and nothing is red."""
    spec = trained()
    score_days(spec, [FIRST])
    before = lake.read("predictions", spec.name)
    fewer = models.write(tmp_path / "models", yaml=models.YAML.replace("numeric: [hour, heat]", "numeric: [heat]"))
    steps.train(fewer, FIRST + timedelta(days=2), "t2", promoted=False)
    assert steps.reconcile(fewer, "hourly") == Reconciled()
    assert lake.read("predictions", spec.name).equals(before)


def test_a_check_of_a_day_too_late_does_not_switch_the_loop_off(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    assert steps.check(spec, day + timedelta(days=200), keep_notebook=False).verdict.decision is Decision.WAIT
    assert steps.check(spec, day, keep_notebook=False).promoted == 2


def test_the_command_line_names_the_champion_that_serves(
    promoted: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = promoted
    monkeypatch.setattr(rollbacks, "shown", lambda *_: [str(rollbacks.perform(spec, Asked(by="bob"))[1])])  # meanwhile
    said = CliRunner().invoke(app, ["rollback", spec.name, "--yes"])
    assert "somebody else has done so meanwhile" in said.output
    assert "version 1 is the champion; 0 days scored again" in said.output
    said = CliRunner().invoke(app, ["check", spec.name, "--day", str(day)])
    assert "version 2 was promoted by this check, and version 1 is the champion since" in said.output


def test_a_version_that_can_not_score_is_not_gone_back_to(promoted: tuple[ModelSpec, date], tmp_path: Path) -> None:
    spec, day = promoted
    fewer = models.write(
        tmp_path / "models", change=str(CHANGE), yaml=models.YAML.replace("numeric: [hour, heat]", "numeric: [heat]")
    )
    for perform in (rollbacks.plan, rollbacks.perform):
        with pytest.raises(Refused, match=r"version 1 was trained on \['hour'\], which model.yaml no longer has"):
            perform(fewer, ANA)
    with pytest.raises(Refused, match="no longer has among its features"):
        steps.score(fewer, [day], "by hand", Request(1))
    assert ledger.champion(spec).version == 2  # type: ignore[union-attr]


def test_a_promotion_that_was_rolled_back_is_not_verified(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    after = day + timedelta(days=8)
    score_days(spec, data.days(day + timedelta(days=1), after))
    rollbacks.perform(spec, ANA)
    assert steps.verify(spec, after - timedelta(days=1)) is None


def test_of_several_models_a_broken_one_keeps_none_of_the_others(trained, tmp_path: Path) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.train(spec, day, "t2", promoted=False)
    champions.promote(spec, Proposal(2, day, measured=1, why="x", by="x", replaces_from=CHANGE))
    broken = tmp_path / "models" / "a_broken_one"
    broken.mkdir()
    (broken / "model.yaml").write_text("name: 7")
    said = CliRunner().invoke(app, ["reconcile"])
    assert said.exit_code == 1
    assert "a_broken_one" in str(said.exception)
    assert versions(spec) == published(spec)


def test_what_died_before_its_days_were_scored_is_brought_along(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.train(spec, AS_OF + timedelta(days=2), "t2", promoted=False)
    champions.promote(spec, Proposal(2, day, measured=1, why="x", by="x", replaces_from=CHANGE))  # and then it dies
    assert set().union(*versions(spec).values()) == {1}
    done = steps.reconcile(spec, "hourly")
    assert done.days == tuple(data.days(CHANGE, day))
    assert versions(spec) == published(spec)
    assert steps.reconcile(spec, "hourly") == Reconciled()


def test_a_day_is_not_scored_on_features_that_a_version_has_not(trained, tmp_path: Path) -> None:
    """A feature that model.yaml has lost is an empty column of the table: the version that needs it would be crippled."""
    spec = trained()
    score_days(spec, [FIRST])
    before = lake.read("predictions", spec.name)
    fewer = models.write(tmp_path / "models", yaml=models.YAML.replace("numeric: [hour, heat]", "numeric: [heat]"))
    with pytest.raises(SpecError, match=r"a version was trained on \['hour'\], which model.yaml no longer has"):
        score_days(fewer, [FIRST])
    assert lake.read("predictions", spec.name).equals(before)
    with pytest.raises(DataError, match=r"are not those of the model\.yaml as it is now"):
        steps.score(spec, [FIRST], "the task alone")


def test_a_requeue_beside_a_score_is_not_overwritten(
    tomorrow: tuple[ModelSpec, date, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _, after = tomorrow
    real = data.read

    def warmer(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(hour=3)

    def meanwhile() -> None:
        monkeypatch.setattr(data, "read", warmer)
        steps.requeue(spec, [after], "requeue")

    beside(monkeypatch, meanwhile)
    steps.score(spec, [after], "score")
    made = lake.read("predictions", spec.name, day=after)["prediction"].tolist()
    steps.score(spec, [after], "again")
    assert lake.read("predictions", spec.name, day=after)["prediction"].tolist() == made


def test_a_promotion_between_two_looks_at_the_state_is_not_missed(
    tomorrow: tuple[ModelSpec, date, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number that a day's write carries is of the very state by which its version was chosen."""
    spec, day, after = tomorrow
    real, done = ledger.require_published, []

    def late(*given: object) -> object:
        if not done:
            done.append(True)
            steps.check(spec, day, keep_notebook=False)
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "require_published", late)
    steps.score(spec, [after], "score")
    assert lake.marks("predictions", spec.name, [after]) == {after: ledger.state(spec).number + 1}
    rollbacks.perform(spec, ANA)
    assert versions(spec) == published(spec)


def test_what_is_let_go_for_a_day_stays_chosen_for_the_others(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.train(spec, AS_OF + timedelta(days=2), "t2", promoted=False)
    days = data.days(FIRST, FIRST + timedelta(days=3))
    steps.score(spec, days, "r1", Request(2))
    steps.score(spec, days[:1], "r2", Request(champion=True))
    steps.score(spec, days[:1], "r1", Request(2))  # the task of the choice, run again
    steps.reconcile(spec, "hourly")
    assert [versions(spec)[each] for each in days] == [{1}, {2}, {2}, {2}]
    assert versions(spec)[day] == {1}
