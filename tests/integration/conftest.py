from __future__ import annotations

from pathlib import Path

import pytest
from esteira import steps
from esteira.spec import ModelSpec

from tests import models
from tests.models import AS_OF


@pytest.fixture
def trained(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A model trained as of AS_OF, whose champion is version 1."""

    def train(**world: str) -> ModelSpec:
        spec = models.write(tmp_path / "models", **world)
        monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
        steps.train(spec, AS_OF, "t")
        return spec

    return train
