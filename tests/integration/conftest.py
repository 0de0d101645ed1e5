from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from esteira import data, steps
from esteira.spec import ModelSpec

from tests import corpora, models
from tests.conftest import fresh_home, use_home
from tests.models import AS_OF, CHANGE, FIRST, score_days


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Callable[..., Path]:
    """Makes a state folder in which the model of a world has a champion; of each world one, for its tests to copy."""
    made: dict[tuple[tuple[str, str], ...], Path] = {}

    def train(**world: str) -> Path:
        key = tuple(sorted(world.items()))
        if key not in made:
            place = tmp_path_factory.mktemp("trained")
            fresh_home(place, mlflow_template)
            with pytest.MonkeyPatch.context() as patch:
                use_home(place, patch)
                steps.train(models.write(place / "models", **world), AS_OF, "t")
            made[key] = place
        return made[key]

    return train


@pytest.fixture
def trained(
    tmp_path: Path, trained_once: Callable[..., Path], mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ModelSpec]:
    """A model trained as of AS_OF, whose champion is version 1.

    Tables and MLflow's database are the test's own; its model's file is shared, unless `own` asks for a training of its own.
    """

    def train(*, own: bool = False, **world: str) -> ModelSpec:
        home = tmp_path / "home"
        if own:
            fresh_home(home, mlflow_template)
        else:
            corpora.copy_home(trained_once(**world), home)
        use_home(home, monkeypatch)
        monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
        spec = models.write(tmp_path / "models", **world)
        if own:
            steps.train(spec, AS_OF, "t")
        return spec

    return train


@pytest.fixture(scope="session")
def promoted_once(
    tmp_path_factory: pytest.TempPathFactory, trained_once: Callable[..., Path]
) -> tuple[Path, dict[str, str], date]:
    """A state folder in which a check has promoted version 2, which has replaced version 1 since CHANGE; its world, and the day of the check."""
    home, world, day = tmp_path_factory.mktemp("promoted"), {"change": str(CHANGE)}, CHANGE + timedelta(days=14)
    corpora.copy_home(trained_once(**world), home)
    with pytest.MonkeyPatch.context() as patch:
        use_home(home, patch)
        spec = models.write(home / "models", **world)
        score_days(spec, data.days(FIRST, day))
        assert steps.check(spec, day, keep_notebook=False).promoted == 2
    return home, world, day


@pytest.fixture
def promoted(
    tmp_path: Path, promoted_once: tuple[Path, dict[str, str], date], monkeypatch: pytest.MonkeyPatch
) -> tuple[ModelSpec, date]:
    """A model whose check of the day has promoted version 2, which has replaced version 1 since CHANGE."""
    place, world, day = promoted_once
    home = tmp_path / "home"
    corpora.copy_home(place, home)
    use_home(home, monkeypatch)
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    return models.write(tmp_path / "models", **world), day
