"""What events come to: by example, and over thousands of random histories. Each rule is broken once, and found."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from esteira.errors import Refused
from esteira.lifecycle import changes
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Event
from esteira.lifecycle.sequence import RolledBack
from esteira.lifecycle.state import State, fold

from tests.simulation import lifecycle

START = date(2026, 1, 1)


def day(number: int) -> date:
    return START + timedelta(days=number)


def promoted(state: State, version: int, as_of: int, back: int | None = None) -> State:
    now = state.champion
    since = None if back is None else day(back)
    proposal = Proposal(
        version,
        day(as_of),
        measured=now.version if now else None,
        why="better",
        by=f"check:{version}",
        replaces_from=since,
    )
    event = changes.promote(state, proposal)
    return after(state, event)


def after(state: State, event: Event | None) -> State:
    return state if event is None else fold([*state.numbered, *state.others, event])


@pytest.fixture
def two() -> State:
    """Version 1 from day 1 on, version 2 from day 11 on, which replaces days 8 to 10, too."""
    return promoted(promoted(fold([]), 1, 0), 2, 10, back=8)


def versions(state: State, days: range) -> list[int | None]:
    return [state.published(day(number)).version for number in days]


def test_a_promotion_replaces_what_it_says_and_serves_from_the_day_after(two: State) -> None:
    assert versions(two, range(12)) == [None, *[1] * 7, *[2] * 4]
    assert [two.serving(day(n)).version for n in (1, 10, 11)] == [1, 1, 2]  # type: ignore[union-attr]
    assert two.serving(day(0)) is None


def test_days_that_a_version_has_seen_are_its_twin_s(two: State) -> None:
    refitted = Proposal(4, day(14), measured=2, why="better", by="c", replaces_from=day(10), twin=3, seen=day(12))
    state = after(two, changes.promote(two, refitted))
    assert versions(state, range(9, 17)) == [2, 3, 3, 3, 4, 4, 4, 4]
    assert [state.serving(day(n)).version for n in (14, 15)] == [2, 4]  # type: ignore[union-attr]
    back = after(state, changes.roll_back(state, to=None, last_served=day(16), by="x"))
    assert versions(back, range(9, 17)) == [2] * 8
    again = after(back, changes.undo(back, last_served=day(16), by="x"))
    assert versions(again, range(9, 17)) == versions(state, range(9, 17))


def test_a_rollback_takes_back_only_what_it_voids_and_its_undoing_is_exact(two: State) -> None:
    back = after(two, changes.roll_back(two, to=None, last_served=day(12), by="x"))
    assert versions(back, range(12)) == [None, *[1] * 11]
    assert [back.serving(day(n)).version for n in (12, 13)] == [2, 1]  # type: ignore[union-attr]
    assert changes.roll_back(back, to=None, last_served=day(12), by="x") is None  # said twice
    again = after(back, changes.undo(back, last_served=day(14), by="x"))
    assert versions(again, range(20)) == versions(two, range(20))
    assert [again.serving(day(n)).version for n in (12, 14, 15)] == [2, 1, 2]  # type: ignore[union-attr]
    assert changes.undo(again, last_served=day(14), by="x") is None


def test_a_rollback_with_a_first_day_leaves_the_days_before_it(two: State) -> None:
    back = after(two, changes.roll_back(two, to=None, last_served=day(12), first_day=day(10), by="x"))
    assert versions(back, range(12)) == [None, *[1] * 7, 2, 2, 1, 1]


def test_going_back_further_voids_all_that_came_since(two: State) -> None:
    three = promoted(two, 3, 14)
    event = changes.roll_back(three, to=1, last_served=day(16), reason="a test", by="x")
    assert event is not None
    assert (event.version, event.bad, event.voids, event.why) == (1, 3, (2, 3), "rolled back from version 3: a test")
    assert versions(after(three, event), range(18)) == [None, *[1] * 17]


def test_going_back_further_voids_what_was_void_on_some_days_only(two: State) -> None:
    three = promoted(two, 3, 14, back=12)
    partly = after(three, changes.roll_back(three, to=None, last_served=day(16), first_day=day(15), by="x"))
    assert versions(partly, range(10, 17)) == [2, 2, 3, 3, 3, 2, 2]
    back = after(partly, changes.roll_back(partly, to=1, last_served=day(16), by="x"))
    assert versions(back, range(18)) == [None, *[1] * 17]
    again = after(back, changes.undo(back, last_served=day(17), by="x"))
    assert versions(again, range(17)) == versions(partly, range(17))


def test_a_rollback_goes_on_from_where_an_undoing_has_left_it(two: State) -> None:
    three = promoted(two, 3, 14, back=12)
    state = after(three, changes.roll_back(three, to=None, last_served=day(16), first_day=day(15), by="x"))
    partly = versions(state, range(17))
    state = after(state, changes.roll_back(state, to=None, last_served=day(16), by="x"))
    widened = versions(state, range(17))
    state = after(state, changes.undo(state, last_served=day(16), by="x"))
    assert versions(state, range(17)) == partly
    assert changes.roll_back(state, to=None, last_served=day(16), first_day=day(15), by="x") is None
    state = after(state, changes.roll_back(state, to=None, last_served=day(16), by="x"))
    assert versions(state, range(17)) == widened
    assert state.champion is not None
    assert state.champion.version == 2


def test_the_promotion_by_which_a_version_serves(two: State) -> None:
    def by(state: State) -> int | None:
        found = state.promotion_of(state.champion) if state.champion else None
        return found.version if found else None

    three = promoted(two, 3, 14)
    back = after(three, changes.roll_back(three, to=None, last_served=day(16), by="x"))
    undone = after(back, changes.undo(back, last_served=day(16), by="x"))
    assert [by(state) for state in (two, three, back, undone)] == [2, 3, None, 3]
    further = after(back, changes.roll_back(back, to=1, last_served=day(16), by="x"))
    assert by(after(further, changes.undo(further, last_served=day(16), by="x"))) is None  # the first roll-back stands


def test_no_going_back_gives_the_champion_days_that_its_promotion_does_not_replace(two: State) -> None:
    with pytest.raises(Refused, match="its promotion replaces predictions from 2026-01-09 on, not from 2026-01-03"):
        changes.roll_back(two, to=2, last_served=day(12), first_day=day(2), by="x")
    assert changes.roll_back(two, to=2, last_served=day(12), first_day=day(8), by="x") is None


def test_a_version_that_was_rolled_back_is_promoted_by_no_other_run(two: State) -> None:
    back = after(two, changes.roll_back(two, to=None, last_served=day(12), by="ana"))
    again = Proposal(2, day(14), measured=1, why="better", by="another run")
    with pytest.raises(Refused, match="version 2 was rolled back by ana, on the way to version 1; take it again"):
        changes.promote(back, again)
    undone = after(back, changes.undo(back, last_served=day(14), by="ana"))
    assert changes.promote(undone, again) is None  # it is champion


def test_a_person_may_take_again_what_was_rolled_back(two: State) -> None:
    """After another promotion, which an undoing would not survive."""
    back = after(two, changes.roll_back(two, to=None, last_served=day(12), by="ana"))
    three = promoted(back, 3, 14)
    with pytest.raises(Refused, match="the last change is no roll-back"):
        changes.undo(three, last_served=day(16), by="ana")
    again = after(three, changes.roll_back(three, to=2, last_served=day(16), reason="it was well", by="ana"))
    assert again.champion is not None
    assert (again.champion.version, again.champion.effective_day) == (2, day(17))
    assert versions(again, range(14, 19)) == [1, 3, 3, 2, 2]
    assert again.promotions[-1].why == "chosen again: it was well"
    assert changes.roll_back(again, to=2, last_served=day(16), by="ana") is None


def test_what_a_run_has_found_done_it_does_not_do_later(two: State) -> None:
    state = after(two, changes.release(two, day(3), day(3), by="r", run="r"))
    state = after(state, changes.pin(state, 1, day(3), day(3), by="ana", run="a"))
    assert changes.release(state, day(3), day(3), by="r", run="r") is None
    state = after(state, changes.pin(state, 1, day(3), day(3), by="b", run="b"))
    state = after(state, changes.release(state, day(3), day(3), by="ana", run="c"))
    assert changes.pin(state, 1, day(3), day(3), by="b", run="b") is None


def test_a_run_that_promotes_once_promotes_no_other_version_either(two: State) -> None:
    back = after(two, changes.roll_back(two, to=None, last_served=day(12), by="ana"))
    other = Proposal(3, day(14), measured=1, why="better", by="check:2")
    assert changes.promote(back, other) is not None
    with pytest.raises(Refused, match=r"version 2 was promoted by check:2 before.*so version 3 is not promoted"):
        changes.promote(back, replace(other, once=True))


def test_a_task_that_runs_again_does_not_undo_a_rollback(two: State) -> None:
    back = after(two, changes.roll_back(two, to=None, last_served=day(12), by="x"))
    with pytest.raises(Refused, match="version 2 was promoted by check:2 before, and version 1 is the champion since"):
        changes.promote(back, Proposal(2, day(10), measured=1, why="better", by="check:2", replaces_from=day(8)))


@pytest.mark.parametrize(
    ("act", "says"),
    [
        (lambda state: changes.roll_back(fold([]), to=None, last_served=None, by="x"), "there is no champion yet"),
        (
            lambda state: changes.roll_back(state, to=7, last_served=None, by="x"),
            "version 7 was never champion",
        ),
        (lambda state: changes.undo(state, last_served=None, by="x"), "the last change is no roll-back"),
        (
            lambda state: changes.promote(state, Proposal(3, day(20), measured=1, why="", by="y")),
            "version 3 was measured against version 1, but the champion is version 2",
        ),
        (
            lambda state: changes.promote(state, Proposal(3, day(2), measured=2, why="", by="y")),
            "older than the champion, which serves from 2026-01-12",
        ),
    ],
)
def test_what_is_refused_says_why(two: State, act, says: str) -> None:
    with pytest.raises(Refused, match=says):
        act(two)


def test_the_first_champion_has_none_before_it() -> None:
    with pytest.raises(Refused, match="version 1 is the first champion"):
        changes.roll_back(promoted(fold([]), 1, 0), to=None, last_served=None, by="x")


def test_a_pin_holds_through_promotions_until_it_is_released(two: State) -> None:
    pinned = promoted(after(two, changes.pin(two, 1, day(11), day(12), by="ana")), 3, 20, back=9)
    assert versions(pinned, range(8, 14)) == [2, 3, 3, 1, 1, 3]
    assert pinned.published(day(11)).why == "pinned by ana"
    assert versions(after(pinned, changes.release(pinned, day(11), day(11), by="ana")), range(8, 14)) == [
        2,
        3,
        3,
        3,
        1,
        3,
    ]
    assert changes.release(pinned, day(13), day(14), by="ana") is None


def test_of_two_choices_for_a_day_the_last_holds_and_a_run_chooses_once(two: State) -> None:
    first = after(two, changes.pin(two, 1, day(11), day(12), by="ana", run="r1"))
    other = after(first, changes.pin(first, 2, day(11), day(11), by="ana", run="r2"))
    assert changes.pin(other, 1, day(11), day(12), by="ana", run="r1") is None  # the same task, run again
    assert changes.pin(other, 1, day(12), day(12), by="ana", run="r1") is None  # a part of it
    assert changes.pin(other, 1, day(13), day(13), by="ana", run="r1") is not None  # a run of its name, for other days
    assert changes.pin(other, 2, day(11), day(12), by="ana", run="r1") is not None
    let_go = after(other, changes.release(other, day(11), day(11), by="ana", run="r4"))
    assert changes.release(let_go, day(11), day(11), by="ana", run="r4") is None
    assert changes.release(let_go, day(12), day(12), by="ana", run="r4") is not None
    again = after(other, changes.pin(other, 1, day(11), day(12), by="ana", run="r3"))
    assert versions(again, range(11, 13)) == [1, 1]


def test_a_roll_back_from_a_day_on_can_be_made_wider_and_undone(two: State) -> None:
    narrow = after(two, changes.roll_back(two, to=None, last_served=day(14), first_day=day(12), by="ana"))
    assert versions(narrow, range(8, 14)) == [2, 2, 2, 2, 1, 1]
    assert changes.roll_back(narrow, to=None, last_served=day(14), first_day=day(13), by="ana") is None
    wide = after(narrow, changes.roll_back(narrow, to=None, last_served=day(14), by="ana"))
    assert versions(wide, range(8, 14)) == [1] * 6
    back = after(wide, changes.undo(wide, last_served=day(14), by="ana"))
    assert versions(back, range(8, 14)) == versions(narrow, range(8, 14))
    assert back.champion is not None
    assert back.champion.version == 1


def test_a_roll_back_from_a_later_day_on_serves_from_that_day(two: State) -> None:
    event = changes.roll_back(two, to=None, last_served=day(14), first_day=day(20), by="ana")
    assert event is not None
    assert event.day == day(20)


def test_an_old_rollback_voids_what_was_promoted_since_its_version(two: State) -> None:
    old = RolledBack(
        number=3, version=1, bad=2, voids=None, day=day(13), by="rollback/2", why="rolled back from version 2"
    )
    assert versions(after(two, old), range(12)) == [None, *[1] * 11]


def test_a_thousand_histories_keep_every_rule() -> None:
    assert lifecycle.check_many(0, 1000) == 1000


MUTATIONS = {
    "what is void is not published": lambda patch: patch.setattr(State, "is_void", lambda *_: False),
    "a roll-back touches only the days that it is told to": lambda patch: patch.setattr(
        State, "is_void", lambda self, each, _: each not in self.standing()
    ),
    "who served a day is history": lambda patch: patch.setattr(State, "serving", lambda self, _: self.champion),
    "a promotion replaces every day that it says": lambda patch: patch.setattr(
        State, "replaces_from", lambda _, each: each.day
    ),
    "a promotion touches only the days that it replaces": lambda patch: patch.setattr(
        State, "replaces_from", lambda *_: date.min
    ),
    "a day that was let go": lambda patch: patch.setattr(
        State, "_by_hand", property(lambda self: tuple(e for e in self.numbered if isinstance(e, lifecycle.Pinned)))
    ),
    "a pin holds for its days": lambda patch: patch.setattr(State, "pinned", lambda *_: None),
    "an undoing is exact": lambda patch: patch.setattr(
        State, "rollbacks", property(lambda self: tuple(e for e in self.numbered if isinstance(e, RolledBack)))
    ),
    "numbers have no gap": lambda patch: _changed(patch, "promote", lambda each: replace(each, number=each.number + 1)),
    "the last promotion that stands": lambda patch: _changed(
        patch, "roll_back", lambda each: replace(each, version=each.bad)
    ),
    "the version undone serves": lambda patch: _changed(
        patch, "undo", lambda each: replace(each, version=each.version + 1)
    ),
    "the last change serves": lambda patch: patch.setattr(
        State, "champion", property(lambda self: self.changes[0] if self.changes else None)
    ),
    "only what came after it is void": lambda patch: _changed(
        patch, "roll_back", lambda each: replace(each, voids=(1, *each.voids)) if each.voids[0] > 2 else each
    ),
    "what a run has promoted it promotes once": lambda patch: _forgetful(patch),
    "what was rolled back is not promoted again": lambda patch: patch.setattr(State, "voided_by", lambda *_: None),
    "what came since the version gone back to is gone": lambda patch: _narrow(patch),
    "the order in which rows are read": lambda patch: patch.setattr(
        lifecycle, "fold", lambda events: State(tuple(e for e in events if isinstance(e, lifecycle.Numbered)), (), {})
    ),
}


def _changed(patch: pytest.MonkeyPatch, name: str, change) -> None:
    real = getattr(changes, name)

    def made(*given, **options):
        event = real(*given, **options)
        return event and change(event)

    patch.setattr(changes, name, made)


def _narrow(patch: pytest.MonkeyPatch) -> None:
    """As it was: a roll-back left alone what another one had voided on some days only."""
    real = changes.roll_back

    def made(state: State, **options: Any) -> RolledBack | None:
        event = real(state, **options)
        if not isinstance(event, RolledBack):
            return event
        stands = {each.number for each in state.standing()}
        return replace(event, voids=tuple(each for each in event.voids or () if each in stands))

    patch.setattr(changes, "roll_back", made)


def _forgetful(patch: pytest.MonkeyPatch) -> None:
    real = changes.promote
    patch.setattr(State, "voided_by", lambda *_: None)
    patch.setattr(
        changes,
        "promote",
        lambda state, given: (
            replace(event, by=given.by) if (event := real(state, replace(given, by="somebody else"))) else None
        ),
    )


@pytest.mark.parametrize("rule", MUTATIONS)
def test_a_rule_that_is_broken_is_found(monkeypatch: pytest.MonkeyPatch, rule: str) -> None:
    MUTATIONS[rule](monkeypatch)
    with pytest.raises(lifecycle.Broken, match=rule):
        lifecycle.check_many(0, 3000)
