"""Steps of `steps/alerting.py`, on real tables and a real registry."""

from __future__ import annotations

import logging
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps, views
from esteira.cli import operations
from esteira.learning import drift
from esteira.lifecycle.policy import Decision
from esteira.notify import rendering
from esteira.spec import ModelSpec
from esteira.steps import explaining
from esteira.store import lake, runs

from tests import models
from tests.models import AS_OF, CHANGE, FIRST, score_days
from tests.worlds import lived


def test_too_much_drift_is_mailed_and_retrains_nothing(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    real = data.read

    def warmer(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(heat=rows["heat"] + 20, hour=23, open=False)

    monkeypatch.setattr(data, "read", warmer)
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    steps.decide(spec, day)
    mail = steps.report_drift(spec, day)
    assert mail is not None
    assert mail.subject == "[esteira] sales: 3 of 4 features drifted"
    assert "By itself this retrains nothing" in mail.lead
    again = steps.report_drift(spec, day)
    assert again is not None
    assert again.key == mail.key
    next_day = day + timedelta(days=1)
    steps.measure(spec, next_day)
    assert steps.report_drift(spec, next_day) is None
    assert (lake.read("ledger", spec.name)["to_state"] == "drifted").sum() == 1


def test_status_says_what_a_person_wants_to_know(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=7)))
    steps.check(spec, FIRST + timedelta(days=7))
    found = operations.shown(views.status(spec))
    assert found["champion"] == f"version 1, serving from {FIRST}"
    assert found["last day scored"] == str(FIRST + timedelta(days=7))
    assert "in range (≤ 0.3)" in found["last window's mae_over_mean"]


def test_why_it_moved_names_the_segment_and_the_feature(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.labels_for_check(spec, day)
    steps.measure(spec, day)
    worse = explaining.worsened(spec, day)
    assert worse[0].segment.startswith("site=")
    assert all(each.now > each.before for each in worse)
    moved = explaining.moved(spec, day)
    assert {each.feature for each in moved} == set(spec.features.all)
    assert sum(each.importance for each in moved) == pytest.approx(1)
    assert [each.weight for each in moved] == sorted((each.weight for each in moved), reverse=True)
    steps.decide(spec, day)
    text = rendering.text(steps.warn(spec, day))
    assert "Features that drifted, by importance × drift" in text
    assert "Segments that got worse" in text
    assert worse[0].segment in text


def test_personal_values_are_in_the_tables_and_nowhere_else(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    people = ["Maria da Silva", "João Souza", "Ana Lima"]
    yaml = models.YAML.replace("in: [A, B, C]", f"in: [{', '.join(people)}]").replace("[site, at]", "[plaza, at]")
    spec = models.write(tmp_path / "models", noise=str(CHANGE), yaml=yaml + "personal: [site, heat]\n")
    source = tmp_path / "models" / "sales" / "source.py"
    source.write_text(
        source.read_text().replace('"site": np.array(["A", "B", "C"])', f'"plaza": site, "site": np.array({people!r})')
    )
    steps.train(spec, AS_OF, "t")
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    assert steps.check(spec, day).verdict.decision is Decision.RETRAIN
    steps.drift_report(spec, day)
    text = [caplog.text, rendering.text(steps.warn(spec, day)), str(operations.shown(views.status(spec)))]
    files = [*home.glob("mlflow/artifacts/**/*"), *home.glob("lake/**/_delta_log/*.json")]
    text += [
        path.read_bytes().decode("utf-8", "replace") for path in files if path.suffix in (".json", ".html", ".yaml")
    ]
    assert len(text) > 30
    assert len(caplog.text) > 1000
    for word in ("Maria", "Souza", "Jo\\u00e3o", "Ana Lima"):
        assert not [part[max(part.find(word) - 100, 0) :][:200] for part in text if word in part]
    assert "Maria da Silva" in set(lake.read("features", spec.name)["site"])
    found = runs.profile(runs.run_of(spec, 1))["site"]
    assert found["hidden"]
    now = lake.read("features", spec.name, day=(FIRST, day))
    assert drift.psi(runs.profile(runs.run_of(spec, 1)), now)["site"] == pytest.approx(0, abs=1e-6)
