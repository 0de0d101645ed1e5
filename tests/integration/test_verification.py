"""Steps of `steps/verification.py`, on real tables and a real registry."""

from __future__ import annotations

import re
from datetime import date, timedelta

import pandas as pd
import pytest
from esteira import data, steps
from esteira.spec import ModelSpec
from esteira.steps import rollbacks
from esteira.steps.rollbacks import Asked
from esteira.steps.verification import to_verify
from esteira.store import lake, ledger

from tests.models import CHANGE, score_days
from tests.worlds import lived, promoted_worse


def test_the_first_window_verifies_a_promotion(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    version = steps.check(spec, day).promoted
    later = data.days(day + timedelta(days=1), day + timedelta(days=8))
    score_days(spec, later)
    assert to_verify(spec, later[-2]) is None
    steps.check(spec, later[-1])
    known = lake.read("ledger", spec.name, to_state="verified")
    assert list(known["version"]) == [version]
    assert "which it replaced, would have had" in known["why"].iloc[0]
    rows = lake.read("metrics", spec.name, window="verification", metric="mae_over_mean")
    values = dict(zip(rows["role"], rows["value"], strict=True))
    assert values["champion"] < values["replaced"]
    assert (rows["n_rows"] == 7 * 72).all()
    assert "queued" not in set(ledger.rows(spec)["to_state"])


def test_labels_that_look_incomplete_verify_nothing(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    assert steps.check(spec, day).promoted
    later = data.days(day + timedelta(days=1), day + timedelta(days=8))
    score_days(spec, later)
    real = data.read_labels

    def partly(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows[(rows["day"] <= pd.Timestamp(day)) | (rows["site"] == "A")]

    with monkeypatch.context() as patched:
        patched.setattr(data, "read_labels", partly)
        steps.check(spec, later[-1])
    assert not len(lake.read("ledger", spec.name, to_state="verified"))
    steps.check(spec, later[-1])
    assert len(lake.read("ledger", spec.name, to_state="verified")) == 1


def test_a_promotion_whose_roll_back_was_undone_is_verified(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    rollbacks.perform(spec, Asked(by="ana"))
    assert to_verify(spec, days[-1] + timedelta(days=1)) is None
    rollbacks.perform(spec, Asked(by="ana", undo=True))
    day = days[-1] + timedelta(days=1)
    score_days(spec, [day])
    found = steps.check(spec, day).worse
    assert found is not None
    assert (found.version, found.replaced, found.worse) == (2, 1, True)
    assert re.search(r"worse by [\d.]+ \(between [\d.]+ and [\d.]+ worse, over 7 days", found.why), found.why
