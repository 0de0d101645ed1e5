"""By what a version is scored: chosen when it is registered, kept in the ledger, and never loaded if it is another file."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from esteira import steps, views
from esteira.learning import blending, compiled, trees
from esteira.learning.trees import CantCompile
from esteira.lifecycle.events import Registered
from esteira.spec import ModelSpec, load
from esteira.steps import champions, engines
from esteira.store import copies, lake, ledger, places, runs
from esteira.store.lineage import DaysSeen

from tests import models
from tests.models import AS_OF, FIRST, score_days

BOOSTED = models.YAML.replace(
    "{{estimator: sklearn.tree.DecisionTreeRegressor, search: {{max_depth: {{int: [5, 9]}}}}, trials: 2}}",
    "{{estimator: sklearn.ensemble.HistGradientBoostingRegressor, params: {{max_iter: 12}}}}",
).replace("    - {{estimator: sklearn.linear_model.Ridge}}\n", "")
COMPILED = BOOSTED + "score: {{engine: compiled}}\n"
LINEAR = models.YAML.replace(
    "    - {{estimator: sklearn.tree.DecisionTreeRegressor, search: {{max_depth: {{int: [5, 9]}}}}, trials: 2}}\n", ""
)

Trained = Callable[..., ModelSpec]


def engine(spec: ModelSpec, version: int = 1) -> Registered:
    found = ledger.registered(spec, version)
    assert found is not None
    return found


def predictions(spec: ModelSpec) -> pd.DataFrame:
    return lake.read("predictions", spec.name, day=FIRST).sort_values(["site", "at"], ignore_index=True)


def rewritten(spec: ModelSpec, old: str, new: str) -> ModelSpec:
    path = spec.folder / "model.yaml"
    path.write_text(path.read_text().replace(old, new))
    return load(path)


def test_a_compiled_version_scores_what_scikit_learn_would(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spec = trained(own=True, yaml=COMPILED)
    kept = engine(spec)
    assert len(kept.compiled) == 64
    assert kept.not_compiled == ""
    assert runs.versions(spec)[0].tags["engine"] == "compiled"
    assert views.versions(spec)[0].engine == "compiled"
    assert "of scikit-learn's time" in caplog.text
    assert isinstance(champions.load_scorer(spec, 1).pipeline, trees.Trees)
    score_days(spec, [FIRST], "fast")
    fast = predictions(spec)
    slow_spec = rewritten(spec, "engine: compiled", "engine: sklearn")
    assert not isinstance(champions.load_scorer(slow_spec, 1).pipeline, trees.Trees)
    score_days(slow_spec, [FIRST], "slow")
    pd.testing.assert_series_equal(fast["prediction"], predictions(spec)["prediction"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("yaml", "why"),
    [
        (BOOSTED, "days of 72 rows at most are scored in no time"),
        (BOOSTED + "score: {{engine: sklearn}}\n", "model.yaml asks for it"),
        (LINEAR + "score: {{engine: compiled}}\n", "Ridge is not of trees"),
    ],
)
def test_a_version_that_scikit_learn_scores_says_why(trained: Trained, yaml: str, why: str) -> None:
    spec = trained(yaml=yaml)
    assert engine(spec).compiled == ""
    assert why in engine(spec).not_compiled
    assert (views.versions(spec)[0].engine, views.versions(spec)[0].not_compiled) == (
        "scikit-learn",
        engine(spec).not_compiled,
    )
    tags = runs.versions(spec)[0].tags
    assert (tags["engine"], tags["engine_why"]) == ("sklearn", engine(spec).not_compiled)
    assert not isinstance(champions.load_scorer(spec, 1).pipeline, trees.Trees)


@pytest.mark.parametrize(("share", "is_compiled"), [(0.5, True), (0.95, False)])
def test_days_of_many_rows_are_compiled_if_that_is_faster(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, share: float, is_compiled: bool
) -> None:
    monkeypatch.setattr(engines, "WORTH", 72)
    real: Any = compiled.compared
    monkeypatch.setattr(compiled, "compared", lambda *given: real(*given) and share)
    spec = trained(own=True, yaml=BOOSTED)
    assert bool(engine(spec).compiled) is is_compiled
    assert ("take 0.95 of its time" in engine(spec).not_compiled) is not is_compiled


def test_trees_that_differ_are_not_kept(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = trees._asked
    monkeypatch.setattr(trees, "_asked", lambda library: lambda given: real(library)(given) + 1e-9)
    spec = trained(own=True, yaml=COMPILED)
    assert engine(spec).compiled == ""
    assert "differ from scikit-learn's by " in engine(spec).not_compiled


def forget_copies() -> None:
    """As on a machine that has not trained the model, and has not scored by it."""
    shutil.rmtree(places.home() / "cache" / "models")


def artifact(spec: ModelSpec) -> str:
    return f"compiled-{engine(spec).compiled[:16]}.zip"


def scores_by_scikit_learn(spec: ModelSpec, why: str, caplog: pytest.LogCaptureFixture) -> None:
    score_days(spec, [FIRST])
    assert len(predictions(spec)) == 72
    assert why in caplog.text
    assert not isinstance(champions.load_scorer(spec, 1).pipeline, trees.Trees)


def test_a_library_that_was_not_registered_is_never_loaded(
    trained: Trained, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained(own=True, yaml=COMPILED)
    run_id, name = engine(spec).by, artifact(spec)
    content = runs.kept(run_id, name)
    assert content is not None
    runs.keep(run_id, name, content + b"\0")
    forget_copies()

    def loaded(*_: object) -> None:
        raise AssertionError("it was loaded")

    monkeypatch.setattr(trees, "loaded", loaded)
    scores_by_scikit_learn(spec, "is not the one that was registered", caplog)


def test_a_copy_of_a_library_that_was_changed_is_read_again(trained: Trained, caplog: pytest.LogCaptureFixture) -> None:
    spec = trained(own=True, yaml=COMPILED)
    sha256 = engine(spec).compiled
    assert isinstance(champions.load_scorer(spec, 1).pipeline, trees.Trees)
    (path,) = (places.home() / "cache" / "models").glob(sha256)
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    assert copies.read(sha256) is None
    assert isinstance(champions.load_scorer(spec, 1).pipeline, trees.Trees)
    assert path.read_bytes() == whole
    assert "scikit-learn scores" not in caplog.text


def test_a_library_that_is_gone_costs_time_only(
    trained: Trained, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained(own=True, yaml=COMPILED)
    monkeypatch.setattr(runs, "kept", lambda *_: None)
    forget_copies()
    scores_by_scikit_learn(spec, "of version 1 is gone", caplog)


def test_a_library_of_another_machine_costs_time_only(
    trained: Trained, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained(own=True, yaml=COMPILED)

    def cant(*_: object) -> None:
        raise CantCompile("it was compiled for another machine")

    monkeypatch.setattr(trees, "loaded", cant)
    scores_by_scikit_learn(spec, "compiled for another machine", caplog)


def test_a_registration_that_died_before_the_ledger_is_made_once(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(champions.ledger, "write", killed)
        with pytest.raises(Killed):
            trained(own=True, yaml=COMPILED)
    spec = load(Path(os.environ["ESTEIRA_MODELS"]) / "sales" / "model.yaml")
    steps.train(spec, AS_OF, "again")
    (version,) = runs.versions(spec)
    assert engine(spec, version.number).compiled
    assert isinstance(champions.load_scorer(spec, version.number).pipeline, trees.Trees)


def test_a_blend_that_serves_is_compiled_too(trained: Trained) -> None:
    spec = trained(own=True, yaml=COMPILED)
    steps.train(spec, AS_OF + timedelta(days=7), "second")
    members = [champions.load_version(spec, number) for number in (1, 2)]
    frame = models.labelled(spec)
    blend = blending.Blend([each.pipeline for each in members], [0.5, 0.5], "shift", 1.0)
    with runs.tracked(spec, "blend", "blend", kind="blend", as_of=AS_OF) as run_id:
        model = replace(members[0], pipeline=blend)
        runs.log_model(spec, run_id, model, frame.head(3), {})
        runs.log(run_id, tags=DaysSeen(AS_OF - timedelta(days=5), AS_OF).tags())
    version = champions.register(spec, run_id, AS_OF)
    found = champions.load_scorer(spec, version).pipeline
    assert isinstance(found, blending.Blend)
    assert [type(each) for each in found.members] == [trees.Trees] * 2


SCORED = """
import sys
from datetime import date
from esteira import spec, steps
steps.score_from_source(spec.find("sales"), [date.fromisoformat(sys.argv[1])], "by hand")
print(sorted({name.partition(".")[0] for name in sys.modules} & {"sklearn", "skops", "mlflow", "matplotlib", "optuna"}))
"""


@pytest.mark.parametrize(("yaml", "needed"), [(COMPILED, "[]"), (LINEAR, "['sklearn', 'skops']")])
def test_scoring_imports_what_it_needs_and_no_more(trained: Trained, yaml: str, needed: str) -> None:
    """To import the rest takes longer than to score a small day."""
    trained(own=True, yaml=yaml)
    done = subprocess.run([sys.executable, "-c", SCORED, str(FIRST)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == needed


IN_A_TASK = """
import runpy
import sys
runpy.run_path(sys.argv[2])["preload"]()
before = set(sys.modules)
from datetime import date
from esteira import spec, steps
steps.score_from_source(spec.find("sales"), [date.fromisoformat(sys.argv[1])], "a task")
steps.store_labels(spec.find("sales"), date.fromisoformat(sys.argv[1]))
print(*sorted(name for name in set(sys.modules) - before if name.startswith(("esteira.", "sklearn.", "skops.", "tl2cgen."))))
"""


@pytest.mark.parametrize("yaml", [COMPILED, LINEAR])
def test_a_task_of_airflow_finds_imported_what_it_needs(trained: Trained, yaml: str) -> None:
    trained(own=True, yaml=yaml)
    settings = Path(__file__).parents[2] / "config" / "airflow_local_settings.py"
    command = [sys.executable, "-c", IN_A_TASK, str(FIRST), str(settings)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ""


def test_the_archive_says_nothing_of_when_it_was_made(trained: Trained, tmp_path: Path) -> None:
    spec = trained(own=True, yaml=COMPILED)
    content = runs.kept(engine(spec).by, artifact(spec))
    assert content is not None
    (tmp_path / "kept.zip").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "kept.zip") as archive:
        assert [(each.filename, each.date_time) for each in archive.infolist()] == [
            ("0.so", (1980, 1, 1, 0, 0, 0)),
            ("preparation.json", (1980, 1, 1, 0, 0, 0)),
        ]
