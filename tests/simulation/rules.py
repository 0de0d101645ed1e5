"""What must hold after whatever happened, in a model's life that is simulated."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import date, timedelta
from itertools import pairwise

import pandas as pd
from esteira import steps, views
from esteira.data import days as days_between
from esteira.errors import DataError, NoChampion, Refused, Superseded, Unaccounted
from esteira.lifecycle.episode import LONGEST
from esteira.lifecycle.events import Unrecovered, Warned
from esteira.spec import ModelSpec
from esteira.steps import scoring
from esteira.steps.scoring import Request
from esteira.store import lake, ledger, outbox, runs
from hypothesis.stateful import RuleBasedStateMachine, invariant

from tests.simulation import world
from tests.simulation.world import TRAINED, Stepping

# What a person, or a task that is run again later, may be told.
TOLD = (NoChampion, Refused, DataError, Superseded, Unaccounted)
Task = Callable[[], object]


class Rules(RuleBasedStateMachine):
    """The rules of a model's life, each looked at after every event, and at the end when all that died ran again."""

    spec: ModelSpec
    lake: Stepping

    def __init__(self) -> None:
        super().__init__()
        self.dead: list[Task] = []
        self.served = pd.DataFrame()

    def told(self, task: Task) -> None:
        with suppress(TOLD):
            task()

    def score_days(self, days: list[date], run: str) -> None:
        steps.score_from_source(self.spec, days, run, Request(when_gone="keep"))

    def what_was_served_stays(self) -> None:
        now = lake.read("served", self.spec.name)
        if len(self.served):
            key = ["day", "id"]
            before = self.served.sort_values(key, ignore_index=True)
            kept = now.merge(before[key], on=key).sort_values(key, ignore_index=True)
            pd.testing.assert_frame_equal(kept[before.columns], before)
        self.served = now

    def numbers_have_no_gap(self) -> None:
        numbers = [each.number for each in ledger.state(self.spec).numbered]
        assert numbers == list(range(1, len(numbers) + 1))

    def each_warning_has_its_mail(self) -> None:
        queued = list(ledger.rows(self.spec, ["id"], to_state="queued")["id"])
        assert len(queued) == len(set(queued))
        warned = ledger.state(self.spec).of(Warned)
        assert len(warned) == len({(each.version, each.last) for each in warned}), "one for each failed window"
        assert {f"queued:{each.id}" for each in warned} <= set(queued)

    def people_are_told_once_in_eight_windows(self) -> None:
        known = ledger.state(self.spec)
        loops = {(each.version, each.last): each for each in known.of(Unrecovered)}
        warned = sorted(known.of(Warned), key=lambda each: each.last)
        assert {(each.version, each.last) for each in warned} <= set(loops), "a warning is of a loop that did not help"
        failed = [each for each in warned if not loops[each.version, each.last].improved]
        for before, after in pairwise(failed):
            apart = (after.last - before.last).days >= LONGEST * self.spec.check.every
            assert apart or loops[after.version, after.last].news, f"warned of {before.last} and {after.last}"
        for before, after in pairwise(warned):
            apart = (after.last - before.last).days >= 2 * LONGEST * self.spec.check.every
            assert apart or after in failed, f"told of an improvement of {after.last}, and of {before.last}"

    def was_told_of_late(self, day: date) -> None:
        """Of a loop that did not help people hear nothing only where they were told of one not long before."""
        known, found = ledger.state(self.spec), views.check(self.spec, day)
        loops = {(each.version, each.last): each for each in known.of(Unrecovered)}
        loop = loops.get((found.champion, found.windows[-1].last))
        assert loop is not None, f"the loop of {day} failed, and it is not noted"
        windows = 2 * LONGEST if loop.improved else LONGEST
        since = loop.last - timedelta(days=windows * self.spec.check.every)
        warned = [loops[each.version, each.last] for each in known.of(Warned)]
        assert any(each.last > since and (loop.improved or not each.improved) for each in warned), (
            f"the loop of {day} failed, and nobody is warned"
        )

    @invariant()
    def look(self) -> None:
        """What must hold after every event."""
        if not hasattr(self, "spec"):
            return
        self.what_was_served_stays()
        self.numbers_have_no_gap()
        self.each_warning_has_its_mail()
        self.people_are_told_once_in_eight_windows()

    def settle(self) -> None:
        """All that died runs again, and what is hourly comes: then everything is as the ledger says."""
        self.lake.ask = lambda _: None
        for task in self.dead:
            self.told(task)
        scoring.reconcile(self.spec, "settle")
        again = scoring.reconcile(self.spec, "settle")
        assert again.days == (), "what was reconciled is reconciled"
        self._predictions_are_published()
        self._rows_are_accounted_for()
        self._mails_have_a_fate()
        champion = ledger.champion(self.spec)
        assert champion is not None
        assert runs.aliases(self.spec)["champion"] == champion.version

    def _predictions_are_published(self) -> None:
        known = ledger.state(self.spec)
        rows = lake.read("predictions", self.spec.name, columns=["day", "version"])
        for moment, part in rows.groupby("day") if len(rows) else ():
            published = known.published(moment.date())
            if published.version is not None:  # else they stay as they are
                assert set(part["version"]) == {published.version}, f"predictions of {moment.date()}"

    def _rows_are_accounted_for(self) -> None:
        every = days_between(TRAINED + timedelta(days=1), world.NOW.today)
        if every:
            self.told(lambda: self.score_days(every, "settle"))
            try:
                steps.accounted(self.spec, every)
            except Unaccounted as error:
                raise AssertionError("every row is accounted for") from error
            served = lake.read("served", self.spec.name)
            predicted = lake.read("predictions", self.spec.name)
            key = ["day", "id"]
            if len(predicted):  # else it may have no column yet
                assert set(predicted[key].itertuples(index=False)) <= set(served[key].itertuples(index=False))

    def _mails_have_a_fate(self) -> None:
        names = {each.removeprefix("queued:") for each in ledger.rows(self.spec, ["id"], to_state="queued")["id"]}
        waiting = {outbox.name_of(self.spec, each.mail) for each in outbox.waiting(self.spec)}
        rows = ledger.rows(self.spec, ["id", "to_state"])
        ended = list(rows.loc[rows["to_state"].isin(["delivered", "refused", "lost"]), "id"])
        assert names == waiting | {each.partition(":")[2].rpartition("/")[0] for each in ended}
