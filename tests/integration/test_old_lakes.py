"""A lake that version 0.1 has left is read as what it meant: promotions, a check's days scored again, a roll-back.

tests/data/lake-0.1.tar.gz was made by that version: version 1 promoted for 2026-02-01, version 2 by the check of 2026-02-22,
which scored again from 2026-02-08 on, version 3 rejected, and on 2026-02-27 a roll-back to version 1.
"""

from __future__ import annotations

import tarfile
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from esteira.lifecycle.events import Dated
from esteira.lifecycle.sequence import Promoted, RolledBack
from esteira.spec import ModelSpec
from esteira.store import lake, ledger

from tests import models

KEPT = Path(__file__).parents[1] / "data" / "lake-0.1.tar.gz"


@pytest.fixture
def spec(home: Path, tmp_path: Path) -> ModelSpec:
    with tarfile.open(KEPT) as kept:
        kept.extractall(home / "lake", filter="data")
    return models.write(tmp_path)


def test_its_events_are_what_they_meant(spec: ModelSpec) -> None:
    found = ledger.state(spec)
    assert [type(each) for each in found.numbered] == [Promoted, Promoted, RolledBack]
    assert [(each.version, each.effective_day.isoformat(), each.number) for each in found.changes] == [
        (1, "2026-02-01", 1),
        (2, "2026-02-23", 2),
        (1, "2026-02-28", 3),
    ]
    assert found.voided(found.rollbacks[0]) == {2}
    assert [found.serving(date(2026, 2, day)).version for day in (1, 22, 23, 27, 28)] == [1, 1, 2, 2, 1]  # type: ignore[union-attr]


def test_what_is_published_is_what_its_predictions_are(spec: ModelSpec) -> None:
    rows = lake.read("predictions", spec.name, columns=["day", "version"])
    made = {day.date(): set(some) for day, some in rows.groupby("day")["version"]}
    found = ledger.state(spec)
    assert len(made) == 30
    assert {day: {found.published(day).version} for day in made} == made


def test_before_the_rollback_the_check_had_replaced_days_before_its_own(spec: ModelSpec) -> None:
    """Of those days its row says nothing; the predictions of then did, and are told to the fold."""
    from esteira.lifecycle.state import fold

    found = ledger.state(spec)
    before = fold(found.numbered[:2], since={2: date(2026, 2, 8)})
    assert [before.published(date(2026, 2, day)).version for day in (1, 7, 8, 23)] == [1, 1, 2, 2]


def test_the_first_reconcile_changes_no_row(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from esteira.steps import champions, scoring

    monkeypatch.setattr(champions, "repair_aliases", lambda _: None)  # no registry was kept with it
    before = lake.read("predictions", spec.name)
    assert scoring.reconcile(spec, "first") == scoring.Reconciled()
    pd.testing.assert_frame_equal(lake.read("predictions", spec.name), before)
    dated = ledger.state(spec).of(Dated)
    # That the check had scored from the 8th on is told by what its rows were replaced by.
    assert [(each.promotion, str(each.day)) for each in dated] == [(1, "2026-02-01"), (2, "2026-02-08")]
    known = ledger.state(spec).at(2)
    assert known.published(date(2026, 2, 25)).version == 2
