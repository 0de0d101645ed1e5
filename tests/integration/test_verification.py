"""Steps of `steps/verification.py`, on real tables and a real registry."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira import data, steps
from esteira.learning import evaluation
from esteira.lifecycle.policy import Decision
from esteira.spec import ModelSpec
from esteira.steps import checking, rollbacks, verification
from esteira.steps.rollbacks import Asked
from esteira.steps.verification import to_verify
from esteira.store import lake, ledger, outbox

from tests import models
from tests.models import CHANGE, score_days
from tests.worlds import lived, promoted_worse


def test_the_first_window_verifies_a_promotion(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    version = steps.check(spec, day, keep_notebook=False).promoted
    later = data.days(day + timedelta(days=1), day + timedelta(days=8))
    score_days(spec, later)
    assert to_verify(spec, later[-2]) is None
    steps.check(spec, later[-1], keep_notebook=False)
    known = lake.read("ledger", spec.name, to_state="verified")
    assert list(known["version"]) == [version]
    assert "which it replaced, would have had" in known["why"].iloc[0]
    rows = lake.read("metrics", spec.name, window="verification", metric="mae_over_mean")
    values = dict(zip(rows["role"], rows["value"], strict=True))
    assert values["champion"] < values["replaced"]
    assert (rows["n_rows"] == 7 * 72).all()
    assert "queued" not in set(ledger.rows(spec)["to_state"])


def test_labels_that_look_incomplete_verify_nothing(
    promoted: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, day = promoted
    later = data.days(day + timedelta(days=1), day + timedelta(days=8))
    score_days(spec, later)
    real = data.read_labels

    def partly(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows[(rows["day"] <= pd.Timestamp(day)) | (rows["site"] == "A")]

    with monkeypatch.context() as patched:
        patched.setattr(data, "read_labels", partly)
        steps.check(spec, later[-1], keep_notebook=False)
    assert not len(lake.read("ledger", spec.name, to_state="verified"))
    steps.check(spec, later[-1], keep_notebook=False)
    assert len(lake.read("ledger", spec.name, to_state="verified")) == 1


def test_a_promotion_whose_roll_back_was_undone_is_verified(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    rollbacks.perform(spec, Asked(by="ana"))
    assert to_verify(spec, days[-1] + timedelta(days=1)) is None
    rollbacks.perform(spec, Asked(by="ana", undo=True))
    day = days[-1] + timedelta(days=1)
    score_days(spec, [day])
    found = steps.check(spec, day, keep_notebook=False).worse
    assert found is not None
    assert (found.version, found.replaced, found.worse) == (2, 1, True)
    assert re.search(r"worse by [\d.]+ \(between [\d.]+ and [\d.]+ worse, over 7 days", found.why), found.why


@pytest.mark.parametrize(
    ("lost", "worse", "word"),
    [
        ([-0.02] * 7, False, "better"),
        ([0.01] * 7, False, "worse, though by little:"),  # of 0.3 that is allowed
        ([0.03] * 7, True, "worse"),
        ([-0.15, 0.25, -0.1, 0.2, -0.2, 0.25, 0.0], False, "not surely worse, though"),
        ([-0.17, -0.03, 0.22, 0.21, 0.36, 0.02, 0.29], True, "probably worse"),
    ],
)
def test_worse_is_what_lost_something_surely_or_much_probably(
    tmp_path: Path, lost: list[float], worse: bool, word: str
) -> None:
    spec = models.write(tmp_path / "models")
    days = pd.date_range("2026-02-01", periods=7)
    old = pd.DataFrame({"day": days, "label": 1.0, "prediction": 0.6, "probability": np.nan})
    new = old.assign(prediction=[0.6 - each for each in lost])
    seen = evaluation.gate(spec, old, new, confidence=verification.SURE)
    assert verification._is_worse(spec, seen, old, new) is worse
    assert verification._word(seen, worse) == word


def test_a_check_that_makes_attempts_leaves_the_mail_to_the_next_one(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    rule = spec.check.violated.model_copy(update={"at_least": 1, "of_last": 1})
    at_once = spec.model_copy(update={"check": spec.check.model_copy(update={"violated": rule})})
    with monkeypatch.context() as patched:
        patched.setattr(checking, "_attempt", lambda *_: None)  # none of them helps
        found = steps.check(at_once, days[-1], keep_notebook=False)
    assert found.verdict.decision is Decision.RETRAIN
    assert found.worse is not None
    assert found.worse.worse
    assert outbox.mails(spec, found.worse.id) == []
    tomorrow = days[-1] + timedelta(days=1)
    score_days(spec, [tomorrow], "r2")
    for _ in range(2):
        steps.check(spec, tomorrow, keep_notebook=False)
        (mail,) = outbox.mails(spec, found.worse.id)
        assert "version 2 is worse than version 1" in mail.subject
    assert to_verify(spec, tomorrow + timedelta(days=1)) is None, "they were told"


def test_of_a_worse_version_that_the_check_has_replaced_nobody_is_told(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    rule = spec.check.violated.model_copy(update={"at_least": 1, "of_last": 1})
    at_once = spec.model_copy(update={"check": spec.check.model_copy(update={"violated": rule})})
    found = steps.check(at_once, days[-1], keep_notebook=False)
    assert found.promoted is not None
    assert found.worse is not None
    tomorrow = days[-1] + timedelta(days=1)
    score_days(spec, [tomorrow], "r2")
    steps.check(spec, tomorrow, keep_notebook=False)
    assert outbox.mails(spec, found.worse.id) == []
