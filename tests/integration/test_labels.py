"""Steps of `steps/labels.py`, on real tables and a real registry."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from esteira import data, steps
from esteira.steps import ingest, training
from esteira.store import lake

from tests import models
from tests.models import AS_OF, FIRST, score_days


def test_labels_keep_when_they_were_first_seen_and_are_read_until_complete(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    real = data.read_labels
    monkeypatch.setattr(data, "read_labels", lambda *args: real(*args).head(30))
    as_of = FIRST + timedelta(days=1)
    assert ingest.labels(spec, FIRST, as_of) == 1
    first = lake.read("labels", spec.name, day=FIRST)
    assert len(first) == 30
    monkeypatch.setattr(data, "read_labels", real)
    assert ingest.labels(spec, FIRST, as_of) == 1
    again = lake.read("labels", spec.name, day=FIRST)
    assert len(again) == 72
    kept = again.merge(first, on=["site", "at"])
    assert (kept["first_seen_x"] == kept["first_seen_y"]).all()
    assert ingest.labels(spec, FIRST, as_of) == 0


def test_another_target_makes_old_labels_stale(trained, tmp_path: Path) -> None:
    spec = trained()
    before = lake.read("labels", spec.name)["label"].mean()
    other = models.write(
        tmp_path / "models",
        yaml=models.YAML.replace("target: amount", "target: hour_of_day").replace(
            "amount: {{min: -1000}}", "hour_of_day: {{min: 0}}"
        ),
    )
    source = tmp_path / "models" / "sales" / "source.py"
    source.write_text(source.read_text().replace('"amount": np', '"hour_of_day": hour, "amount": np'))
    steps.train(other, AS_OF, "t2", promoted=False)
    assert lake.read("labels", spec.name)["label"].mean() == pytest.approx(11.5) != before


def test_labels_of_another_source_meet_their_rows(home: Path, tmp_path: Path) -> None:
    """The labels come as text from a CSV of their own; the rows have times."""
    spec = models.write(
        tmp_path / "models",
        yaml=models.YAML + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n",
    )
    rows = data.read(spec, AS_OF - timedelta(days=30), AS_OF)
    rows[["site", "at", "amount"]].to_csv(tmp_path / "labels.csv", index=False)
    assert "version 1 is the champion" in steps.train(spec, AS_OF, "t")
    assert len(lake.read("labels", spec.name)) == 28 * 72


def test_a_column_that_begins_with_whole_numbers_takes_fractions_later(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    real = data.read
    monkeypatch.setattr(data, "read", lambda *args: real(*args).assign(heat=20))
    score_days(spec, [FIRST])
    monkeypatch.setattr(data, "read", lambda *args: real(*args).assign(heat=20.5))
    score_days(spec, [FIRST + timedelta(days=1)])
    assert set(lake.read("raw", spec.name, day=(FIRST, FIRST + timedelta(days=1)))["heat"]) == {20.0, 20.5}


def test_a_changed_spec_makes_old_features_stale(trained, tmp_path: Path) -> None:
    spec = trained()
    assert training.lacking(spec, AS_OF) == []
    fewer = models.write(
        tmp_path / "models",
        yaml=models.YAML.replace("numeric: [hour, heat]", "numeric: [hour]").replace(
            "heat: {{min: -50, max: 60}}, ", ""
        ),
    )
    assert len(training.lacking(fewer, AS_OF)) == 28


def test_labels_that_a_later_delivery_lacks_stay_known(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    real = data.read_labels
    for part in (slice(0, 30), slice(30, 50)):
        monkeypatch.setattr(data, "read_labels", lambda *args, part=part: real(*args).iloc[part])
        ingest.labels(spec, FIRST, FIRST + timedelta(days=1))
    rows = lake.read("labels", spec.name, day=FIRST)
    assert len(rows) == len(rows.drop_duplicates(["site", "at"])) == 50
