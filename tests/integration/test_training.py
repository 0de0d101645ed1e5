"""A training that is said twice, on too little, or on one class only."""

from __future__ import annotations

import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps
from esteira.errors import (
    DataError,
    EsteiraError,
    OutOfReach,
    UnknownVersion,
)
from esteira.learning import tuning
from esteira.lifecycle.changes import Proposal
from esteira.spec import ModelSpec, find
from esteira.steps import champions, training
from esteira.store import lake, ledger, mlflow_tracking, places, runs, schemas
from filelock import FileLock

from tests import models
from tests.models import AS_OF, FIRST, score_days


def versions(spec: ModelSpec) -> int:
    return len(mlflow_tracking.client().search_model_versions(f"name = '{spec.name}'"))


def test_the_same_training_is_not_registered_twice(trained) -> None:
    spec = trained()
    said = steps.train(spec, AS_OF, "again")
    assert said.startswith(
        "trained before, of the same day, spec and data (--again trains anew): version 1 is the champion"
    )
    assert versions(spec) == 1
    steps.train(spec, AS_OF, "third", again=True)
    assert versions(spec) == 2


def test_another_day_or_spec_or_window_is_another_training(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    steps.train(spec, AS_OF + timedelta(days=1), "day")
    steps.train(spec, AS_OF, "window", window=14)
    path = spec.folder / "model.yaml"
    path.write_text(path.read_text().replace("max_depth: {int: [5, 9]}", "max_depth: {int: [4, 9]}"))
    steps.train(find("sales"), AS_OF, "spec")
    assert versions(spec) == 4


def test_the_dag_registers_the_same_training_once(trained) -> None:
    """Each run of the DAG trains by itself; what it trained is the same."""
    spec = trained()
    data_versions = steps.prepare(spec, AS_OF, None, [])

    def run(name: str, again: bool = False) -> int:
        chosen = steps.select(spec, [steps.candidate(spec, AS_OF, index, data_versions, name) for index in (0, 1)])
        evaluated = steps.evaluate(spec, AS_OF, chosen, data_versions, name)
        return steps.register(spec, evaluated, AS_OF, again=again)

    assert run("first") == run("second") == 1
    assert run("third", again=True) == 2


def test_a_version_that_another_champion_was_compared_with_is_trained_anew(trained) -> None:
    """Else its promotion would be refused for good: it was measured against a champion that is no more."""
    spec = trained()
    other = training.retrained(spec, AS_OF, "other")
    champions.promote(spec, Proposal(other, AS_OF, measured=1, why="by hand", by="test"))
    steps.train(spec, AS_OF, "again")
    assert versions(spec) == 3


def test_no_label_is_a_sentence(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = models.write(tmp_path / "models")
    nothing = pd.DataFrame({"event_time": pd.to_datetime([]), "day": pd.to_datetime([])})
    monkeypatch.setattr(data, "batches", lambda *_: [nothing])
    for work in (lambda: steps.train(spec, date(1999, 1, 1), "t"), lambda: steps.limits(spec, date(1999, 1, 1))):
        with pytest.raises(DataError, match=r"no row with a label from 1998-12-04 to 1998-12-31"):
            work()


def test_one_candidate_with_nothing_to_search_is_not_cross_validated(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = (
        "    - {{estimator: sklearn.tree.DecisionTreeRegressor, search: {{max_depth: {{int: [5, 9]}}}}, trials: 2}}\n"
    )
    assert first in models.YAML
    spec = models.write(tmp_path / "models", yaml=models.YAML.replace(first, ""))
    monkeypatch.setattr(tuning, "cross_validate", lambda *_, **__: pytest.fail("it has nothing to be compared with"))
    assert "is the champion" in steps.train(spec, AS_OF, "t")


def test_a_promotion_says_what_it_rests_on(trained, caplog: pytest.LogCaptureFixture) -> None:
    spec = trained()
    evidence = {"gain": 0.1234, "gain_lower": 0.05, "gain_upper": 0.2, "commit": "abc123"}
    with caplog.at_level("INFO"):
        other = training.retrained(spec, AS_OF, "other")
        champions.promote(spec, Proposal(other, AS_OF, measured=1, why="better", by="test", facts=evidence))
    assert (
        "model sales: version 2 is champion from 2026-02-01 on: better; gain 0.1234 (interval 0.05 to 0.2); commit abc123"
        in caplog.text
    )


@pytest.mark.parametrize("kind", ["raw", "features"])
def test_a_training_for_the_same_day_writes_no_table(trained, kind: schemas.Kind) -> None:
    spec = trained()
    before = lake.version(kind, spec.name)
    steps.train(spec, AS_OF, "again")
    assert lake.version(kind, spec.name) == before


@pytest.mark.parametrize(
    ("days", "says"),
    [
        (60, "a binary task needs two classes of which one is the positive, '1'; the labels hold \\['0'\\]"),
        (10, "roc_auc can't be computed on the validation part, .*: its labels hold one class only, '0'"),
        (4, "roc_auc can't be computed on the test part, .*: its labels hold one class only, '0'"),
    ],
)
def test_a_training_on_one_class_says_what_to_do(home: Path, tmp_path: Path, days: int, says: str) -> None:
    spec = models.write_late(tmp_path / "models", AS_OF - timedelta(days=days))
    with pytest.raises(EsteiraError, match=f"{says}.*(W|w)iden train.window, (or )?train for a later day"):
        steps.train(spec, AS_OF, "t")


def test_a_champion_that_was_deleted_in_mlflow_can_be_replaced(trained, caplog: pytest.LogCaptureFixture) -> None:
    spec = trained()
    mlflow_tracking.client().delete_model_version(spec.name, "1")
    runs._run_of.cache_clear()  # as in the next process
    score_days(spec, [FIRST])  # the ledger has it still, and the run its file
    with pytest.raises(UnknownVersion, match="If it was deleted in MLflow, restore it there, go to another one"):
        champions.load_version(spec, 1)
    said = steps.train(spec, AS_OF + timedelta(days=1), "next")
    assert "version 2 is the champion from 2026-02-02 on: the champion, version 1, is no longer in MLflow" in said
    assert runs.aliases(spec)["champion"] == 2


def test_a_lock_that_can_not_be_had_says_so(home: Path) -> None:
    (home / "check-sales.lock").mkdir(parents=True)
    with (
        pytest.raises(OutOfReach, match=r"check-sales\.lock can't be locked: .*; it must be a file"),
        places.alone("check", "sales"),
    ):
        pass


@pytest.mark.parametrize("command", [("train", "--as-of"), ("check", "--day")])
def test_two_trainings_or_checks_of_a_model_from_the_command_line_do_not_meet(
    home: Path, tmp_path: Path, monkeypatch, command: tuple[str, str]
) -> None:
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    models.write(tmp_path / "models")
    with FileLock(home / f"{command[0]}-sales.lock"):
        code = "from esteira.__main__ import main; main()"
        asked = [sys.executable, "-c", code, command[0], "sales", command[1], str(AS_OF)]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert f"another {command[0]} of it is at work on this machine; wait for it" in done.stderr


def test_a_training_that_died_before_the_ledger_knew_its_version_s_digest_notes_it_when_it_is_said_again(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.write(tmp_path / "models")
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            steps.train(spec, AS_OF, "t")
    assert runs.version_of(spec, runs.run_of(spec, 1)) == 1
    assert ledger.registered(spec, 1) is None
    steps.train(spec, AS_OF, "t")
    found = ledger.registered(spec, 1)
    assert found is not None
    assert found.sha256 == runs.model_digest(runs.run_of(spec, 1))
    assert [each.number for each in runs.versions(spec)] == [1]


def test_train_registers_and_promotes_with_its_lineage(trained) -> None:
    spec = trained()
    now = ledger.champion(spec)
    assert now is not None
    assert (now.version, now.effective_day) == (1, FIRST)
    assert runs.aliases(spec) == {"champion": 1}
    run_id = runs.run_of(spec, 1)
    run = mlflow_tracking.client().get_run(run_id)
    for tag in ("features_version", "labels_version", "trained_through", "lock", "model_yaml", "first_day"):
        assert run.data.tags[tag], tag
    assert run.data.params["seed"] == "0"
    assert {"test_mae_over_mean", "test_r2", "baseline_mae_over_mean"} <= set(run.data.metrics)
    files = {file.path for file in mlflow_tracking.client().list_artifacts(run_id)}
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
    info = mlflow.models.get_model_info(mlflow_tracking.client().get_run(runs.run_of(spec, 1)).data.tags["model_uri"])
    assert [column.name for column in info.signature.inputs] == list(spec.features.all)
    assert info.saved_input_example_info is not None
    assert info.flavors["sklearn"]["serialization_format"] == "skops"


def test_training_again_does_not_promote_what_is_not_better(trained) -> None:
    spec = trained()
    said = steps.train(spec, AS_OF + timedelta(days=14), "t2")
    assert "was not promoted" in said
    now = ledger.champion(spec)
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
    assert ledger.champion(spec) is None
    assert runs.aliases(spec) == {"challenger": 1}


def test_refit_promotes_a_version_of_its_own(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path, yaml=models.YAML.replace("refit: false", "refit: true"))
    steps.train(spec, AS_OF, "t")
    now = ledger.champion(spec)
    assert now is not None
    assert now.version == 2
    assert runs.load_version(spec, 2).trained_through == AS_OF - timedelta(days=1)
    assert runs.load_version(spec, 1).trained_through < AS_OF - timedelta(days=1)


def test_the_demos_change_raises_the_champions_error_by_at_least_half(home: Path) -> None:
    spec = find("toll_traffic")
    steps.train(spec, AS_OF, "t", candidates=[0])
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=27)))
    truth = data.read(spec, FIRST, FIRST + timedelta(days=27))
    rows = lake.read("served", spec.name).merge(truth[["plaza", "at", "vehicles"]], on=["plaza", "at"])
    error = (rows["prediction"] - rows["vehicles"]).abs() / rows["vehicles"].mean()
    changed = rows["day"] >= pd.Timestamp(2026, 2, 15)
    assert error[changed].mean() >= 1.5 * error[~changed].mean()


def test_a_training_on_garbage_is_refused(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path / "models", yaml=models.YAML.replace("max: 60", "max: 15"))
    with pytest.raises(DataError, match=r"not fit to learn from: .* rows are in quarantine, more than quality"):
        steps.train(spec, AS_OF, "t")
