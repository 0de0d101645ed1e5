"""Steps of `steps/rollbacks.py`, on real tables and a real registry."""

from __future__ import annotations

import re
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from esteira import data, steps
from esteira.errors import Damaged, EsteiraError
from esteira.lifecycle.changes import Proposal
from esteira.notify import messages, rendering
from esteira.spec import ModelSpec
from esteira.steps import champions, rollbacks, scoring
from esteira.steps.rollbacks import Asked
from esteira.steps.scoring import Reconciled, Request
from esteira.store import lake, ledger, outbox, runs

from tests.models import AS_OF, FIRST, score_days
from tests.worlds import promoted_worse


def test_a_promotion_that_turned_out_worse_is_reported_and_can_be_rolled_back(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    steps.check(spec, days[-1], keep_notebook=False)
    (waiting,) = outbox.waiting(spec)
    assert "version 2 is worse than version 1" in waiting.mail.subject
    assert f"esteira rollback {spec.name} --to 1" in rendering.text(waiting.mail)
    served = lake.read("served", spec.name).sort_values(["day", "site", "at"], ignore_index=True)

    asked = Asked(by="ana", reason="it is wrong on Sundays")
    plan = rollbacks.plan(spec, asked)
    assert (plan.champion, plan.target, plan.days, plan.rows) == (2, 1, tuple(days), 72 * len(days))
    old, new = plan.worth
    assert (old.version, old.in_range, new.version, new.in_range) == (1, True, 2, False)
    assert plan.last_window is None  # no check has looked at it while it served
    assert ledger.state(spec).number == 2  # it was only looked at

    event, done = rollbacks.perform(spec, asked)
    assert event is not None
    assert (event.by, event.why) == ("ana", "rolled back from version 2: it is wrong on Sundays")
    assert done.days == tuple(days)
    now = ledger.champion(spec)
    assert now is not None
    assert (now.version, now.effective_day) == (1, days[-1] + timedelta(days=1))
    assert runs.aliases(spec)["champion"] == 1
    rows = lake.read("predictions", spec.name, day=(days[0], days[-1]))
    assert (set(rows["version"]), set(rows["replaces"])) == ({1}, {2.0})
    again = lake.read("served", spec.name).sort_values(["day", "site", "at"], ignore_index=True)
    pd.testing.assert_frame_equal(served, again)
    history = lake.read("ledger", spec.name)
    assert rollbacks.perform(spec, asked) == (None, Reconciled())  # said twice, done once
    pd.testing.assert_frame_equal(lake.read("ledger", spec.name), history)


def test_a_rollback_that_died_is_finished_by_the_next(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    real = scoring._predicted
    monkeypatch.setattr(scoring, "_predicted", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        rollbacks.perform(spec, Asked(by="ana"))
    monkeypatch.setattr(scoring, "_predicted", real)
    assert rollbacks.plan(spec, Asked(by="ana", undo=True)).days == ()  # they are version 2's still
    event, done = rollbacks.perform(spec, Asked(by="ana"))
    assert event is None
    assert done.days == tuple(days)
    assert ledger.state(spec).number == 3
    assert set(lake.read("predictions", spec.name)["version"]) == {1}


def test_the_first_champion_has_none_to_go_back_to(trained) -> None:
    with pytest.raises(EsteiraError, match="version 1 is the first champion"):
        rollbacks.perform(trained(), Asked(by="ana"))


def test_limits_and_rollback_from_the_command_line(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    from esteira.__main__ import app
    from typer.testing import CliRunner

    spec, days = promoted_worse(trained, monkeypatch)
    said = CliRunner().invoke(app, ["limits", spec.name, "--as-of", str(AS_OF)])
    assert said.exit_code == 0, said.output
    found = re.search(
        r"mae_over_mean of \w+ in 1 past window of 7 days up to 2026-01-31:\n  max ([\d.]+) +holds in  50% of them; out of range: 0\n"
        r"(?:  max .*\n)+suggested: mae_over_mean: \{max: ([\d.]+)\} \(out of range: 0\)",
        said.output,
    )
    assert found is not None, said.output
    assert float(found[2]) == pytest.approx(1.25 * float(found[1]), rel=0.01)
    found = re.search(r"r2 of [^:]*:\n  min ([\d.]+) (?s:.*?)suggested: r2: \{min: ([\d.]+)\}", said.output)
    assert found is not None, said.output
    assert float(found[2]) == pytest.approx(1 - 1.25 * (1 - float(found[1])), rel=0.01)

    def rollback(*given: str) -> Result:
        return CliRunner().invoke(app, ["rollback", spec.name, *given])

    steps.check(spec, days[-1], keep_notebook=False)
    shown = rollback("--dry-run")
    assert shown.exit_code == 0, shown.output
    assert "version 1 becomes the champion in place of version 2" in shown.output
    assert f"8 days with 576 rows of predictions would be scored again, {days[0]} to {days[-1]}" in shown.output
    assert "version 2: mae_over_mean (≤ 0.3) = " in shown.output
    assert "nobody can be asked here, so nothing was done" in str(rollback().exception)
    assert ledger.state(spec).number == 2
    said = rollback("--yes", "--reason", "it is wrong on Sundays")
    assert said.exit_code == 0, said.output
    assert f"version 1 is the champion; 8 days scored again, {days[0]} to {days[-1]}" in said.output
    assert "that is how it stands: version 1 is the champion; 0 days" in rollback("--yes").output
    back = rollback("--undo", "--yes")
    assert f"version 2 is the champion; 8 days scored again, {days[0]} to {days[-1]}" in back.output
    assert set(lake.read("predictions", spec.name, day=(days[0], days[-1]))["version"]) == {2}
    assert back.output.endswith(f"to take it back: esteira rollback {spec.name} --to 1\n")
    rollback("--day", str(days[4]), "--yes")
    assert rollback("--undo", "--yes").output.endswith(f"--to 1 --day {days[4]}\n")
    assert "version 7 was never champion" in str(rollback("--to", "7").exception)
    rollback("--yes")
    assert rollback("--to", "2", "--yes").output.endswith("--to 1\n")  # it is a promotion, which nothing undoes
    late = rollback("--to", "2", "--day", str(days[0]), "--yes")
    assert "its promotion replaces predictions from" in str(late.exception)


def test_a_rollback_undoes_a_promotion_that_has_not_served_yet(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=2)))
    as_of = FIRST + timedelta(days=9)  # as the train DAG's schedule may promote before the day's score has run
    steps.train(spec, as_of, "t2", promoted=False)
    champions.promote(spec, Proposal(2, as_of, measured=1, why="a mistake", by="x"))
    assert rollbacks.perform(spec, Asked(by="ana"))[1] == Reconciled()
    now = ledger.champion(spec)
    assert now is not None
    assert (now.version, now.effective_day, now.number) == (1, as_of + timedelta(days=1), 3)


def test_a_finished_rollback_is_not_begun_again_by_its_left_over_rows(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, days = promoted_worse(trained, monkeypatch)
    steps.train(spec, days[-1], "t3", promoted=False)
    champions.promote(spec, Proposal(3, days[-1], measured=2, why="another", by="x"))
    assert champion_after(spec, Asked(by="ana")) == 2
    steps.score(spec, days[:1], "by hand", Request(3))  # rows of the version that was rolled back, again
    assert champion_after(spec, Asked(by="ana", to=1)) == 1
    assert versions_by_day(spec, days) == [3, *[1] * (len(days) - 1)]  # what was chosen by hand stays
    steps.score(spec, days[:1], "by hand", Request(champion=True))
    assert versions_by_day(spec, days) == [1] * len(days)


def champion_after(spec: ModelSpec, asked: Asked) -> int:
    rollbacks.perform(spec, asked)
    now = ledger.champion(spec)
    assert now is not None
    return now.version


def versions_by_day(spec: ModelSpec, days: list[date]) -> list[int]:
    rows = lake.read("predictions", spec.name, day=(days[0], days[-1]))
    return [int(part["version"].unique().item()) for _, part in rows.groupby("day")]


def test_nothing_is_rolled_back_over_a_table_that_is_gone(promoted: tuple[ModelSpec, date]) -> None:
    spec, _ = promoted
    number = ledger.state(spec).number
    Path(lake.path("predictions", spec.name), "_delta_log").rename(lake.path("predictions", spec.name) + "-elsewhere")
    for ask in (rollbacks.plan, rollbacks.perform):
        with pytest.raises(Damaged, match="the table predictions is not at"):
            ask(spec, Asked(by="ana"))
    assert ledger.state(spec).number == number


def test_the_mail_of_a_roll_back_has_what_was_known_before_and_leads_to_its_undoing(
    promoted: tuple[ModelSpec, date],
) -> None:
    spec, _ = promoted
    asked = Asked(by="ana", reason="<b>wrong</b>")
    plan = tuple(rollbacks.shown(spec, rollbacks.plan(spec, asked)))
    event, done = rollbacks.perform(spec, asked)
    assert event is not None
    mail = messages.rolled_back(spec, event, str(done), plan, "http://airflow/dags/esteira_rollback/runs/1")
    assert mail.subject == "sales: it was rolled back, version 1 serves (by ana)"
    assert ("How to take it back", "http://airflow/plugin/esteira/sales#undo") in mail.links
    assert "version 1 was OUT OF RANGE when it last served" in rendering.text(mail)
    assert "&lt;b&gt;wrong&lt;/b&gt;" in rendering.html(mail)
