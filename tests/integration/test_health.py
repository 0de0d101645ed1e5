"""How a model is, in a word and a sentence, in each of the states that it can be in."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps, views
from esteira.__main__ import app
from esteira.errors import Damaged, EsteiraError, OutOfReach
from esteira.lifecycle.events import run_key
from esteira.lifecycle.policy import Decision, Verdict
from esteira.spec import ModelSpec
from esteira.steps import ingest, rollbacks
from esteira.steps.rollbacks import Asked
from esteira.store import lake, measurements, opened
from esteira.store.schemas import Kind
from esteira.views import Condition
from typer.testing import CliRunner

from tests import models
from tests.models import AS_OF, CHANGE, FIRST, score_days
from tests.worlds import lived


def evening(day: date) -> datetime:
    """A moment at which no day after this one is due."""
    return datetime(day.year, day.month, day.day, 20, tzinfo=UTC) + timedelta(days=1)


def test_before_the_first_promotion_and_the_first_window_it_is_not_measured_yet(home, trained) -> None:
    untrained = models.write(home / "other", "untrained")
    found = views.health(untrained)
    assert (found.condition, found.why) == (Condition.NEW, "no version was promoted yet")
    assert (found.champion, found.last, found.last_scored, found.quarantined) == (None, None, None, None)
    spec = trained()
    score_days(spec, [FIRST])
    found = views.health(spec, evening(FIRST))
    assert (found.condition, found.why) == (Condition.NEW, "no window is whole yet")
    assert (found.last_scored, found.rows) == (FIRST, 72)


def test_in_range_it_is_healthy_and_watched_when_one_window_is_not(trained) -> None:
    spec = trained(change=str(CHANGE))
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    steps.check(spec, day, keep_notebook=False)
    found = views.health(spec, evening(day))
    assert (found.condition, found.also) == (Condition.HEALTHY, ())
    assert found.last is not None
    assert found.why == f"every metric is in range, in the window to {found.last.last}"
    assert found.labelled_through == day - timedelta(days=1)
    assert found.drift is not None
    assert not found.drifting
    later = CHANGE + timedelta(days=7)
    score_days(spec, data.days(day + timedelta(days=1), later))
    steps.check(spec, later, keep_notebook=False)
    found = views.health(spec, evening(later))
    assert found.condition is Condition.WATCH
    assert "out of range" in found.why
    assert [each.in_range for each in found.trend] == [True, False]


def test_promoted_by_a_check_it_has_recovered_and_is_not_verified(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    found = views.health(spec, evening(day))
    assert found.condition is Condition.UNVERIFIED
    assert found.why == f"version 2 was promoted by the check of {day}"
    assert found.champion is not None
    assert (found.champion.version, found.last_checked) == (2, day)


def test_where_retraining_did_not_help_it_is_warned(trained) -> None:
    spec, day = lived(trained, noise=str(CHANGE))
    steps.check(spec, day, keep_notebook=False)
    found = views.health(spec, evening(day))
    assert found.condition is Condition.WARNED
    assert f"since the window to {day - timedelta(days=1)}" in found.why
    assert found.why.count("did not bring it back") == 1
    title = views.check_title(spec, day)
    assert title.startswith(f"check {day}: warned, mae_over_mean ")
    assert title.endswith(" > 0.3")


def test_a_day_that_was_due_and_is_not_scored_makes_it_late_unless_nothing_is_ever_due(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    due = datetime(FIRST.year, FIRST.month, FIRST.day, 6, tzinfo=UTC) + timedelta(days=2)  # for the day after FIRST
    hours = timedelta(hours=spec.score.deadline or 0)
    assert views.health(spec, due + hours - timedelta(minutes=1)).condition is Condition.NEW
    found = views.health(spec, due + hours + timedelta(minutes=1))
    assert found.condition is Condition.LATE
    assert found.why.startswith(f"{FIRST + timedelta(days=1)} is not scored; it was due on {due:%Y-%m-%d at %H:%M}")
    by_hand = spec.model_copy(update={"score": spec.score.model_copy(update={"schedule": None})})
    assert views.health(by_hand, due + timedelta(days=9)).condition is Condition.NEW
    assert views.health(by_hand).next_due is None


def test_labels_that_do_not_come_and_checks_that_do_not_come_are_told(trained) -> None:
    spec = trained()
    day = FIRST + timedelta(days=20)
    score_days(spec, data.days(FIRST, day))
    measurements.write_decision(spec, day, Verdict(Decision.WAIT, "12% of the rows have one"))
    found = views.health(spec, evening(day))
    assert (found.condition, found.why) == (Condition.WAITING, "12% of the rows have one")
    early = FIRST + timedelta(days=3)
    measurements.write(spec, [], day, measurements.DECISION)
    measurements.write_decision(spec, early, Verdict(Decision.WAIT, "no window is whole yet"))
    found = views.health(spec, evening(day))
    assert found.condition is Condition.STALE, "to wait for the first window is no lack of labels"
    assert found.why == f"the last check was that of {early}, and days up to {day} are scored"


def test_tables_that_are_out_of_reach_make_it_broken_and_the_sentence_says_what_to_do(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()

    def gone(*_: object) -> None:
        raise OutOfReach("the disk is gone; mount it")

    monkeypatch.setattr(lake, "sizes", gone)
    found = views.health(spec)
    assert (found.condition, found.why) == (Condition.BROKEN, "the disk is gone; mount it")
    assert found.trend == ()


def test_the_share_in_quarantine_is_of_the_days_last_scored(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, real = trained(), data.read
    monkeypatch.setattr(
        data,
        "batches",
        lambda *given: [(rows := real(*given[:3])).assign(heat=rows["heat"].where(rows["hour"] > 5, 99.0))],
    )
    score_days(spec, [FIRST])
    found = views.health(spec, evening(FIRST))
    assert found.quarantined == pytest.approx(0.25)
    assert found.rows == 54


def test_labels_in_quarantine_are_no_rows_that_were_put_aside(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    bad = pd.DataFrame({"day": pd.Timestamp(FIRST), "rule": "label", "reason": "no number", "site": ["A"] * 30})
    ingest.quarantine(spec, bad, [FIRST], "labels")
    assert views.health(spec, evening(FIRST)).quarantined == 0
    assert views.score_title(spec, [FIRST]) == f"score {FIRST}: 72 rows by version 1"
    ingest.quarantine(spec, bad.head(8).assign(rule="time"), [FIRST], "extract")
    assert views.health(spec, evening(FIRST)).quarantined == 8 / 80
    assert views.score_title(spec, [FIRST]) == f"score {FIRST}: 72 rows by version 1, 8 in quarantine"


def test_a_run_is_told_in_words(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    assert views.check_title(spec, day).startswith(f"check {day}: promoted version 2, mae_over_mean ")
    said = views.told(spec, day)
    assert said[0] == f"It is about the days up to {day}, which version 1 was to serve."
    assert any(each.startswith("Attempt 2 is back in range: mae_over_mean = ") for each in said)
    assert any(each.startswith("Version 2 was promoted") for each in said)
    before = views.told(spec, day - timedelta(days=1))
    assert not any("promoted" in each for each in before)
    held = f"score {FIRST} to {FIRST + timedelta(days=1)}: 144 rows by version 1"
    assert views.score_title(spec, data.days(FIRST, FIRST + timedelta(days=1))) == held
    assert run_key(day) in [each.by for each in views.history(spec)]


def test_of_many_days_that_are_not_scored_it_is_told_how_many(trained) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    late = datetime(FIRST.year, FIRST.month, FIRST.day, 20, tzinfo=UTC) + timedelta(days=6)
    found = views.health(spec, late)
    assert found.condition is Condition.LATE
    days = FIRST + timedelta(days=1), FIRST + timedelta(days=5)
    assert found.why.startswith(f"5 days that were due are not scored, {days[0]} to {days[1]}; the last was due on ")


def test_a_version_that_was_out_of_range_is_watched_when_it_serves_again(promoted: tuple[ModelSpec, date]) -> None:
    """A check has promoted another one; somebody goes back, and no check came since."""
    spec, day = promoted
    event, _ = rollbacks.perform(spec, Asked(by="ana"))
    assert event is not None
    found = views.health(spec, evening(day))
    assert found.condition is Condition.WATCH
    assert "which version 1 served; none is measured since" in found.why


def test_a_roll_back_that_is_undone_is_no_break(promoted: tuple[ModelSpec, date]) -> None:
    spec, day = promoted
    before = views.health(spec, evening(day)).champion
    spans = [[(span.first, span.last) for span in each.served] for each in views.versions(spec)]
    rollbacks.perform(spec, Asked(by="ana"))
    rollbacks.perform(spec, Asked(by="ana", undo=True))
    assert [[(span.first, span.last) for span in each.served] for each in views.versions(spec)] == spans
    after = views.health(spec, evening(day)).champion
    assert before is not None
    assert after is not None
    assert (after.version, after.effective_day) == (before.version, before.effective_day)


def test_a_log_that_can_t_be_read_is_told_of_its_model_and_of_no_other(trained, tmp_path: Path) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    models.write(tmp_path / "models", "another")
    log = sorted(Path(lake.path("predictions", spec.name), "_delta_log").glob("*.json"))[-1]
    log.write_text(log.read_text()[:100])
    opened.forget(lake.path("predictions", spec.name))
    found = views.health(spec)
    assert found.condition is Condition.BROKEN
    assert f"the log of the table at {lake.path('predictions', spec.name)} can't be read" in found.why
    assert "restore the table from a backup" in found.why
    said = CliRunner().invoke(app, ["status"])
    assert said.exit_code == 0, said.output
    assert [line.split()[:2] for line in said.stdout.splitlines()[1:]] == [["sales", "broken"], ["another", "not"]]


@pytest.mark.parametrize("kind", ["ledger", "predictions"])
def test_a_table_whose_log_is_gone_is_broken_and_no_new_one_is_begun_in_its_place(trained, kind: Kind) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    Path(lake.path(kind, spec.name), "_delta_log").rename(lake.path(kind, spec.name) + "-elsewhere")
    found = views.health(spec)
    assert found.condition is Condition.BROKEN
    assert f"the table {kind} is not at {lake.path(kind, spec.name)}, or has no log there" in found.why
    with pytest.raises(Damaged, match="nothing is written") if kind == "predictions" else pytest.raises(EsteiraError):
        score_days(spec, [FIRST + timedelta(days=1)])
    with pytest.raises(Damaged, match="nothing is written") if kind == "ledger" else nullcontext():
        steps.train(spec, AS_OF, "again", again=True)
    assert lake.version(kind, spec.name) == -1
