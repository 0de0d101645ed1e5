"""The corpus of inputs, good and bad: what each holds, and what is to come of it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from esteira import steps
from esteira.spec import ModelSpec, load
from esteira.store import lake, runs, schemas

CORPUS = Path(__file__).parent / "corpus"
DAY = date(2026, 2, 3)
TRAINED = date(2026, 1, 20)
MODEL: dict[str, Any] = {
    "name": "corpus",
    "owner": "team@example.com",
    "task": "regression",
    "source": {"kind": "csv", "path": "in/{day}.csv"},
    "time": {"column": "at"},
    "key": ["site", "at"],
    "target": "amount",
    "features": {"numeric": ["temp"], "categorical": ["kind"], "boolean": ["open"]},
    "expect": {"temp": {"min": -50, "max": 60}, "amount": {"min": 0}},
    "train": {"window": "14d", "candidates": [{"estimator": "sklearn.linear_model.Ridge"}]},
    "check": {"every": "7d", "metrics": {"mae_over_mean": {"max": 0.9}}},
}
# What the model was trained on: the corpus itself holds single days only.
PAST = """\
import pandas as pd


def read(first, last):
    hours = pd.date_range(first, last + pd.Timedelta(days=1), freq="6h", inclusive="left")
    rows = pd.DataFrame({"at": hours.strftime("%Y-%m-%d %H:%M")}).merge(pd.DataFrame({"site": ["A", "B", "C"]}), how="cross")
    rows = rows.assign(temp=15.0 + rows.index % 7, kind="car", open=rows.index % 5 > 0)
    rows.loc[rows.index % 2 == 1, "kind"] = "bus"
    return rows.assign(amount=50.0 + 10 * rows["temp"] + 90 * (rows["kind"] == "bus"))
"""


@dataclass(frozen=True)
class Case:
    """An input of the corpus with what is to come of it: accepted, quarantined (some of its rows) or refused."""

    folder: Path
    about: str
    outcome: str
    read: int = 0
    published: int = 0
    quarantined: dict[str, int] | None = None
    says: tuple[str, ...] = ()
    day: str = str(DAY)
    before: tuple[str, ...] = ()
    model: dict[str, Any] | None = None
    mendable: bool = True

    @property
    def name(self) -> str:
        return self.folder.name


def cases() -> list[Case]:
    """Every case of the corpus."""
    found = []
    for path in sorted(CORPUS.glob("*/case.yaml")):
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
        found.append(Case(path.parent, **given))
    return found


def train(place: Path) -> None:
    """Make the champion that scores every case; the state folder is the environment's."""
    folder = place / "corpus"
    folder.mkdir(parents=True)
    (folder / "source.py").write_text(PAST)
    source = {"kind": "python", "function": "source.read"}
    (folder / "model.yaml").write_text(yaml.safe_dump({**MODEL, "source": source}))
    spec = load(folder / "model.yaml")
    said = steps.train(spec, TRAINED, "corpus")
    assert "is the champion" in said, said
    assert runs.aliases(spec) == {"champion": 2, "challenger": 1}


def declare(case: Case, place: Path) -> ModelSpec:
    """Write the case's model and input into a folder of models."""
    folder = place / "corpus"
    shutil.copytree(case.folder / "in", folder / "in")
    (folder / "model.yaml").write_text(yaml.safe_dump({**MODEL, **(case.model or {})}, sort_keys=False))
    return load(folder / "model.yaml")


def mend(case: Case, spec: ModelSpec) -> None:
    """Put the mended input in place of the bad one."""
    mended = case.folder / "mended"
    if mended.is_dir():
        shutil.copytree(mended, spec.folder / "in", dirs_exist_ok=True)
    else:
        shutil.copy(CORPUS / "plain" / "in" / f"{DAY}.csv", spec.folder / "in" / f"{DAY}.csv")


def rows(kind: schemas.Kind, spec: ModelSpec, day: str) -> pd.DataFrame:
    """The table's rows of the day."""
    found = lake.read(kind, spec.name, day=date.fromisoformat(day))
    return found.reindex(columns=["day", "rule"]) if found.empty else found


def require_outcome(case: Case, spec: ModelSpec, succeeded: bool, said: str) -> None:
    """What came of the case's day is what was to come of it: in words and in every table."""
    published, served = (len(rows(kind, spec, case.day)) for kind in ("predictions", "served"))
    bad = rows("quarantine", spec, case.day)
    raw = rows("raw", spec, case.day)
    assert succeeded == (case.outcome != "refused"), said
    if case.outcome == "refused":
        assert (published, served) == (0, 0)
        for part in case.says:
            assert part in said, said
        return
    found = bad["rule"].value_counts().to_dict()
    assert found == (case.quarantined or {}), found
    assert (published, served) == (case.published, case.published)
    early = len(bad[bad["stage"] == "extract"]) if len(bad) else 0
    assert len(raw) + early == case.read == published + len(bad)
    assert f"{case.read} rows read = {case.published} published + {len(bad)} in quarantine" in said


def copy_home(trained: Path, place: Path) -> None:
    """A state folder with a champion, of the test's own: tables and MLflow's database; the model files stay where they are."""
    shutil.copytree(trained / "lake", place / "lake", dirs_exist_ok=True)
    (place / "mlflow").mkdir(parents=True, exist_ok=True)
    shutil.copy(trained / "mlflow" / "mlflow.db", place / "mlflow" / "mlflow.db")
