"""Models that have lived for a while, and what can be seen of them: what several tests begin with."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from esteira import data
from esteira.lifecycle.changes import Proposal
from esteira.spec import ModelSpec
from esteira.steps import champions, fitting, labelling, preparing, registering
from esteira.store import lake, ledger, schemas

from tests import models
from tests.models import CHANGE, FIRST, score_days

if TYPE_CHECKING:
    import pytest

KINDS: tuple[schemas.Kind, ...] = get_args(schemas.Kind)
CLOCKS = ["read_at", "found_at", "first_seen", "load_seconds", "predict_seconds", "at"]


def snapshot(spec: ModelSpec) -> dict[str, str]:
    """Every table's rows, without what the clock wrote and without the names that MLflow draws by lot."""
    found = {}
    for kind in KINDS:
        rows = lake.read(kind, spec.name)
        rows = rows.drop(columns=[name for name in (*CLOCKS, "run_id", "by", "evidence") if name in rows.columns])
        found[kind] = rows.sort_values(list(rows.columns)).to_csv(index=False) if len(rows.columns) else ""
    return found


def lived(trained, **world: str) -> tuple[ModelSpec, date]:
    """A model whose world changed after a healthy window, scored until two windows are violated."""
    spec = trained(**world)
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    return spec, day


def promoted_worse(trained, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelSpec, list[date]]:
    """A model whose second champion learnt from three days of a world that is over, scored for a window."""
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=6)))
    as_of = FIRST + timedelta(days=6)
    promote_worse(spec, as_of)
    days = data.days(as_of + timedelta(days=1), as_of + timedelta(days=8))
    score_days(spec, days, "r2")
    return spec, days


def promote_worse(spec: ModelSpec, as_of: date) -> None:
    """Promote a version that has learnt from four days whose labels are shuffled."""
    candidate = fitting.candidate(spec, as_of, 1, preparing.prepare(spec, as_of, None, []), "worse")
    frame = labelling.labelled(spec, FIRST, FIRST + timedelta(days=3))
    shuffled = frame.assign(label=frame["label"].sample(frac=1, random_state=0).to_numpy())
    version = registering.refit(spec, as_of, candidate, shuffled, labelling.versions(spec), "worse", None)
    measured = ledger.require_champion(spec, as_of).version
    champions.promote(spec, Proposal(version, as_of, measured=measured, why="a mistake", by="worse"))


SEGMENTED = models.YAML.replace(
    "retrain:", "  segments: {{site: {{mae_over_mean: {{max: 0.3}}}}, open: {{}}}}\nretrain:"
)


def segmented(folder: Path, **world: str) -> ModelSpec:
    return models.write(folder / "models", yaml=SEGMENTED, **world)


def binary_model(folder: Path, metric: str = "accuracy") -> ModelSpec:
    yaml = models.YAML.replace("task: regression", "task: binary\npositive: high").replace(
        "metrics: {{mae_over_mean: {{max: 0.3}}, r2: {{min: 0.1}}}}",
        f"metrics: {{{{{metric}: {{{{min: 0.8}}}}}}}}\n  estimate: true",
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
