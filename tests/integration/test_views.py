"""Answers to people's questions, after a life in which a check has promoted and somebody has rolled that back."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from esteira import steps, views
from esteira.lifecycle.policy import Outcome
from esteira.spec import ModelSpec
from esteira.steps import rollbacks
from esteira.steps.rollbacks import Asked
from esteira.store import lake
from esteira.store.records import Window
from typer.testing import CliRunner

from tests.models import CHANGE, FIRST


def test_status(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    found = views.status(spec)
    assert found.champion is not None
    assert (found.champion.version, found.versions) == (2, (1, 2))
    assert (found.last_scored, found.last_checked, found.metric) == (day, day, "mae_over_mean")
    assert found.last_window is not None
    assert (found.last_window.version, found.last_window.in_range) == (1, False)
    assert found.last_change is not None
    assert found.last_change.state == "champion"


def test_a_check(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    found = views.check(spec, day)
    assert found.verdict is not None
    assert (found.champion, found.verdict.decision.value, found.warned) == (1, "retrain", None)
    assert [window.healthy for window in found.windows] == [True, False, False]
    assert found.attempts[2].outcome is Outcome.RECOVERS
    assert found.explanation is not None
    assert found.explanation.worsened[0].segment.startswith("site=")
    assert {each.role for each in views.attempt_days(spec, day)} == {"champion", "challenger"}
    assert {run.tags["kind"] for run in views.attempt_runs(spec, day).values()} == {"attempt"}


def test_versions_and_who_served(promoted: tuple[ModelSpec, date]) -> None:
    spec, _ = promoted
    rollbacks.perform(spec, Asked(by="ana", reason="a test"))
    first, second = views.versions(spec)
    assert second.served == (), "it was rolled back before its first day"
    assert first.served == (views.Served(FIRST, None, first.promotions[0].why),)
    assert (first.published_days, second.published_days) == (22, 0)
    at = views.champion_at(spec, CHANGE)
    assert (at.served, at.published) == (1, 1)
    assert [each.state for each in views.history(spec)][-1] == "rolled back to"
    assert views.history(spec)[-1].by == "ana"


def test_windows_labels_and_quarantine(promoted: tuple[ModelSpec, date]) -> None:
    spec, _ = promoted
    assert [each.in_range for each in views.windows(spec)] == [True, False, False]
    assert len(views.windows(spec, "r2", Window.DAY)) == 21
    labels = views.labels(spec, FIRST, FIRST + timedelta(days=1))
    assert labels == tuple(views.LabelsOf(FIRST + timedelta(days=n), 72, 72) for n in range(2))
    assert views.quarantine(spec, FIRST, FIRST) == ()


def test_bad_rows_are_counted_by_rule(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from esteira import data

    spec, real = trained(), data.read
    monkeypatch.setattr(data, "batches", lambda *given: [real(*given[:3]).assign(heat=99.0)])
    steps.extract(spec, [FIRST])
    steps.validate(spec, [FIRST])
    (found,) = views.quarantine(spec, FIRST, FIRST)
    assert (found.stage, found.rows, found.days) == ("rows", 72, 1)


def test_views_write_nothing(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    before = {kind: lake.version(kind, spec.name) for kind in ("ledger", "metrics", "predictions", "labels")}  # type: ignore[arg-type]
    views.status(spec), views.check(spec, day), views.versions(spec), views.windows(spec), views.history(spec)
    assert {kind: lake.version(kind, spec.name) for kind in before} == before  # type: ignore[arg-type]


def test_history_on_the_command_line(promoted: tuple[ModelSpec, date]) -> None:
    from esteira.__main__ import app

    spec, day = promoted
    said = CliRunner().invoke(app, ["history", spec.name])
    assert said.exit_code == 0, said.output
    assert f"{day + timedelta(days=1)}  version 2  champion: attempt 2 recovers" in said.output
    said = CliRunner().invoke(app, ["history", spec.name, "--day", str(CHANGE)])
    assert f"{CHANGE} was to be served by version 1" in said.output
    assert "its predictions are of version 2: attempt 2 recovers" in said.output
