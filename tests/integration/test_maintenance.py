"""Steps of `steps/maintenance.py`, on real tables and a real registry."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd
from esteira import data, steps
from esteira.steps import ingest
from esteira.store import lake, mlflow_tracking, runs

from tests.models import AS_OF, FIRST, score_days
from tests.worlds import snapshot


def test_maintenance_keeps_what_is_in_use_and_what_a_version_was_trained_on(trained) -> None:
    spec = trained()
    cited = int(mlflow_tracking.client().get_run(runs.run_of(spec, 1)).data.tags["features_version"])
    then = lake.read("features", spec.name, at=cited)
    days = data.days(AS_OF - timedelta(days=5), FIRST)
    for _ in range(3):
        score_days(spec, days, version=1)
    before = snapshot(spec)
    orphan = Path(lake.path("features", spec.name)) / f"day={FIRST}" / "part-0-orphan.parquet"
    orphan.write_bytes(b"left by a writer that died")
    assert "0 files removed" in steps.maintain(spec)  # all that was replaced is younger than a week
    assert orphan.exists()
    assert lake.maintain("features", spec.name, keep=[cited], hours=0)[1] > 0
    assert not orphan.exists()
    assert snapshot(spec) == before
    pd.testing.assert_frame_equal(lake.read("features", spec.name, at=cited), then)
    assert lake.missing_days("features", spec.name, days, ingest.features_mark(spec)) == []
