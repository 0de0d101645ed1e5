"""Steps of `steps/champions.py`, on real tables and a real registry."""

from __future__ import annotations

import shutil
import warnings
import zipfile
from dataclasses import replace
from datetime import timedelta

import pytest
from esteira import steps, views
from esteira.cli import answers
from esteira.errors import EsteiraError, ModelRefused, Refused
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Event, Noted
from esteira.spec import ModelSpec
from esteira.steps import champions, rollbacks
from esteira.steps.rollbacks import Asked
from esteira.store import lake, ledger, mlflow_tracking, model_files, places, runs

from tests.models import AS_OF, FIRST


def test_a_promotion_is_refused_when_the_champion_changed_or_is_of_a_later_day(trained) -> None:
    spec = trained()
    with pytest.raises(Refused, match="version 9 was measured against version 5, but the champion is version 1"):
        champions.promote(spec, Proposal(9, AS_OF + timedelta(days=3), measured=5, why="x", by="x"))
    with pytest.raises(Refused, match="older than the champion, which serves from"):
        champions.promote(spec, Proposal(9, AS_OF - timedelta(days=3), measured=1, why="x", by="x"))
    champions.promote(spec, Proposal(1, AS_OF, measured=None, why="again", by="x"))
    assert (lake.read("ledger", spec.name)["to_state"] == "champion").sum() == 1


def test_a_run_does_not_promote_again_what_was_rolled_back(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    champions.promote(spec, Proposal(2, AS_OF + timedelta(days=3), measured=1, why="x", by="t2"))
    champions.promote(
        spec, Proposal(2, AS_OF + timedelta(days=3), measured=1, why="x", by="t2")
    )  # a retry changes nothing
    rollbacks.perform(spec, Asked(by="ana"))
    with pytest.raises(Refused, match="version 2 was promoted by t2 before, and version 1 is the champion"):
        champions.promote(spec, Proposal(2, AS_OF + timedelta(days=3), measured=1, why="x", by="t2"))
    assert ledger.champion(spec).version == 1


def test_a_ledger_of_a_newer_version_is_a_sentence(trained) -> None:
    spec = trained()
    ledger.write(spec, Noted(name="champion:2", to_state="split", why="x", by="x", day=FIRST, about=1))
    with pytest.raises(EsteiraError, match=r"model sales: the ledger's row champion:2 is 'split'.*newer one: use that"):
        answers.shown(views.status(spec))


def test_of_two_promotions_at_once_one_wins(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    real, raced = ledger.write, []

    def race(spec: ModelSpec, event: Event) -> int:
        if not raced:
            raced.append(event.id)
            real(spec, replace(event, version=3))  # type: ignore[call-arg]
        return real(spec, event)

    monkeypatch.setattr(ledger, "write", race)
    with pytest.raises(Refused, match="measured against version 1, but the champion is version 3"):
        champions.promote(spec, Proposal(2, AS_OF + timedelta(days=3), measured=1, why="x", by="x"))


def test_an_alias_that_is_set_beside_a_roll_back_follows_it(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    champions.promote(spec, Proposal(2, AS_OF + timedelta(days=3), measured=1, why="x", by="x"))
    runs.alias(spec, "champion", None)
    real, meanwhile = runs.alias, [True]

    def alias(spec: ModelSpec, name: str, version: int | None) -> None:
        if meanwhile.pop() if meanwhile else False:
            rollbacks.perform(spec, Asked(by="ana"))
        real(spec, name, version)

    monkeypatch.setattr(runs, "alias", alias)
    champions.repair_aliases(spec)
    assert runs.aliases(spec)["champion"] == 1


def test_aliases_are_repaired_from_the_ledger(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=3), "t2", promoted=False)
    runs.alias(spec, "champion", 2)
    steps.repair_aliases(spec)
    assert runs.aliases(spec)["champion"] == 1


def test_training_again_keeps_the_run_of_a_registered_version(trained) -> None:
    spec = trained()
    steps.train(spec, AS_OF, "t")
    assert mlflow_tracking.client().get_run(runs.run_of(spec, 1)).info.lifecycle_stage == "active"
    assert len(runs.search(spec, key="t/candidate/0")) == 1


def test_a_model_file_that_was_changed_since_is_refused_unread(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained(own=True)
    (path,) = places.home().glob("mlflow/artifacts/models/*/artifacts/model.skops")
    with warnings.catch_warnings(), zipfile.ZipFile(path, "a") as file:
        warnings.simplefilter("ignore")  # of a name that is there twice
        file.writestr("schema.json", '{"__class__": "Popen", "__module__": "subprocess"}')
    shutil.rmtree(places.home() / "cache" / "models")  # the copy of it as it was
    monkeypatch.setattr(model_files, "load", lambda path: pytest.fail("it was opened"))
    steps.extract(spec, [FIRST])
    steps.features(spec, [FIRST])
    with pytest.raises(ModelRefused, match="the file of version 1 is not the one that was registered"):
        steps.score(spec, [FIRST], "r")
    assert lake.read("predictions", spec.name).empty
