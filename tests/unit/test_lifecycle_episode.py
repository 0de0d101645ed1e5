"""Episodes: when the next loop is opened, whom it is told, and when a limit can't be met."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from esteira.lifecycle.episode import Episode, episode, open_since
from esteira.lifecycle.events import Event, Known, Recovered, Unrecovered, Warned, run_key
from esteira.lifecycle.policy import Outcome
from esteira.lifecycle.state import fold

START, EVERY = date(2026, 1, 7), 7
SAME = Known(spec="a", past=100, off=0.2)
OTHER = Known(spec="b", past=100, off=0.2)


def after(windows: float) -> date:
    return START + timedelta(days=round(windows * EVERY))


def loop(windows: float, known: Known = SAME, **more: object) -> Unrecovered:
    last = after(windows)
    return Unrecovered(version=1, last=last, known=known, day=last, by=run_key(last), why="x", **more)  # type: ignore[arg-type]


def in_range(windows: float, *, healed: bool) -> Recovered:
    last = after(windows)
    return Recovered(version=1, last=last, healed=healed, day=last, by=run_key(last), why="x")


def warned(windows: float) -> Warned:
    last = after(windows)
    return Warned(version=1, last=last, day=last, by=run_key(last), why="x")


def of(*events: Event) -> Episode:
    return episode(fold(events))


def test_after_loops_that_do_not_help_1_2_4_8_windows_pass_without_one_and_no_more() -> None:
    failed, at = [], 0
    for passing in (1, 2, 4, 8, 8, 8):
        failed.append(loop(at))
        for window in range(1, passing + 1):
            held = of(*failed).held_back(after(at + window), EVERY, SAME)
            assert f"it waits for {passing + 1 - window} more window" in held
        at += passing + 1
        assert of(*failed).held_back(after(at), EVERY, SAME) == ""


def test_after_a_loop_that_has_improved_3_windows_at_least_are_left_to_the_blend() -> None:
    first, fourth = loop(0, improved=True), loop(10, improved=True)
    assert "for 1 more window" in of(first).held_back(after(3), EVERY, SAME)
    assert of(first).held_back(after(4), EVERY, SAME) == ""
    assert of(first).held_back(after(1), EVERY, OTHER) == "", "but for news"
    assert "8 more windows" in of(loop(0), loop(2), loop(5), fourth).held_back(after(11), EVERY, SAME)


def test_after_three_loops_that_did_not_help_those_that_follow_are_probes_but_for_news() -> None:
    loops = loop(0), loop(2), loop(5)
    assert not of(*loops[:2]).is_probe(after(5), EVERY, SAME, {})
    assert of(*loops).is_probe(after(10), EVERY, SAME, {})
    assert not of(*loops).is_probe(after(10), EVERY, OTHER, {})
    assert not of(*loops, loop(10, news="farther")).is_probe(after(12), EVERY, SAME, {}), "news began a new row"
    assert not of(*loops, in_range(6, healed=True)).is_probe(after(9), EVERY, SAME, {})
    near = [loop(at, improved=True, half_way=True) for at in (0, 2, 4)]
    assert not of(*near).is_probe(after(6), EVERY, SAME, {}), "training helps"


def test_where_all_recipes_but_the_first_are_spent_so_are_they_though_windows_were_in_range() -> None:
    healed = of(loop(0), loop(2), in_range(6, healed=True))
    ended = {0: Outcome.FAILS, 1: Outcome.RECOVERS, 2: Outcome.FAILS, 3: Outcome.FAILS}
    tries = {after(at): ended for at in (0, 2, 4)}
    assert healed.is_probe(after(9), EVERY, SAME, tries)
    assert healed.is_probe(after(9), EVERY, SAME, {after(-9): {2: Outcome.IMPROVES}, **tries}), "before those three"
    assert healed.is_probe(after(9), EVERY, SAME, {**tries, after(6): {1: Outcome.FAILS}}), (
        "a probe says nothing of them"
    )
    assert not healed.is_probe(after(9), EVERY, SAME, {after(at): ended for at in (2, 4)}), "refused twice only"
    assert not healed.is_probe(after(9), EVERY, SAME, {**tries, after(6): {2: Outcome.UNPROVEN}}), "one has passed"
    assert not healed.is_probe(after(60), EVERY, SAME, tries), "a year is over"
    assert not healed.is_probe(after(9), EVERY, SAME, {day: {1: Outcome.FAILS} for day in tries}), "there are no others"
    assert not of().is_probe(after(9), EVERY, SAME, tries), "of which it can't be told whether something is new"


def test_what_was_refused_comes_back_with_news_and_counts_by_the_present_spec_only() -> None:
    healed = of(loop(0), loop(2), in_range(6, healed=True))
    tries = {after(at): {2: Outcome.FAILS} for at in (0, 2, 4)}
    assert not healed.is_probe(after(9), EVERY, Known(spec="a", past=100, off=0.9), tries), "nor was it so far"
    assert not healed.is_probe(after(9), EVERY, OTHER, tries)
    asked = of(loop(0), loop(2), loop(8, known=OTHER), in_range(10, healed=True))
    assert not asked.is_probe(after(12), EVERY, OTHER, tries)
    assert asked.is_probe(after(20), EVERY, OTHER, {after(at): {2: Outcome.FAILS} for at in (12, 14, 16)})


def test_a_loop_that_brought_it_half_of_the_way_back_lengthens_no_wait() -> None:
    near = [loop(at, improved=True, half_way=True) for at in (0, 2, 4)]
    assert "for 1 more window" in of(*near).held_back(after(5), EVERY, SAME)
    assert of(*near).held_back(after(6), EVERY, SAME) == ""
    assert "for 1 more window" in of(*near, loop(6)).held_back(after(7), EVERY, SAME), "the first that did not"


def test_without_a_loop_nothing_is_held_back() -> None:
    assert of().held_back(START, EVERY, SAME) == ""
    assert of().news(SAME) == ""


@pytest.mark.parametrize(("before", "farther"), [(0.01, 0.25), (0.1, 0.25), (0.2, 0.4), (0.5, 1.0), (1.0, 1.5)])
def test_much_farther_is_twice_as_far_or_by_half_of_the_error_that_is_allowed(before: float, farther: float) -> None:
    known = of(loop(0, Known(past=100, off=before)))
    assert known.news(Known(past=100, off=farther)) == "the metric is much farther out of range"
    assert known.news(Known(past=100, off=farther - 0.001)) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (Known(spec="b", past=100, off=0.2), "the model.yaml or its code is another"),
        (Known(spec="a", past=200, off=0.2), "there are 200 days to learn from, and were 100"),
        (Known(spec="a", past=100, off=0.7), "the metric is much farther out of range"),
        (Known(spec="a", past=100, off=0.2, drifted=True), "more features have drifted"),
        (Known(spec="a", past=100, off=0.4), "the metric is much farther out of range"),
        (Known(spec="a", past=199, off=0.39), ""),
    ],
)
def test_news_open_the_next_loop_early_but_not_on_the_same_window(now: Known, said: str) -> None:
    known = of(loop(0), loop(1))
    assert known.news(now) == said
    assert (known.held_back(after(2), EVERY, now) == "") == bool(said)
    assert known.held_back(after(1), EVERY, now) != ""


def test_a_loop_that_news_have_opened_begins_to_wait_anew() -> None:
    known = of(loop(0), loop(1), loop(3), loop(4, Known(spec="a", past=100, off=1.0), news="farther"))
    assert known.held_back(after(6), EVERY, SAME) == ""
    assert "farther" not in known.news(Known(spec="a", past=100, off=1.2)), "farther than in any loop before"


def test_a_window_in_range_does_not_shorten_the_wait_and_so_many_as_a_violation_takes_do() -> None:
    loops = loop(0), loop(2), loop(5)
    assert of(*loops, in_range(6, healed=False)).held_back(after(9), EVERY, SAME) != ""
    assert of(*loops, in_range(6, healed=True)).held_back(after(7), EVERY, SAME) == ""


def test_a_violation_goes_on_from_a_loop_or_a_promotion_until_a_window_is_in_range() -> None:
    loops = loop(0), loop(1), loop(3)
    assert open_since(fold(loops)) == START
    assert open_since(fold([*loops, in_range(4, healed=False)])) is None
    assert open_since(fold([*loops, in_range(1, healed=False)])) == after(3)
    assert open_since(fold(loops), but=START) == after(1)
    assert open_since(fold([*loops, in_range(4, healed=False)]), but=after(4)) == START


def test_what_failed_long_ago_is_forgotten() -> None:
    loops = loop(0), loop(1), loop(3), loop(7)
    assert "4 loops" in of(*loops).held_back(after(8), EVERY, SAME)
    assert "1 loop did" in of(*loops, loop(40)).held_back(after(40.5), EVERY, SAME)


def test_people_are_told_once_in_8_windows_but_where_the_spec_is_another() -> None:
    known = of(loop(0), warned(0), loop(1))
    assert not known.is_told(after(3), EVERY, SAME, improved=False)
    assert not known.is_told(after(7.9), EVERY, SAME, improved=False)
    assert known.is_told(after(8), EVERY, SAME, improved=False)
    assert known.is_told(after(3), EVERY, OTHER, improved=False)
    assert of(loop(0)).is_told(after(1), EVERY, SAME, improved=False), "nobody was told yet"


def test_people_hear_again_of_what_is_much_worse_than_what_they_were_told_of() -> None:
    over = of(loop(0), warned(0), loop(1), in_range(2, healed=True))
    assert not over.is_told(after(4), EVERY, Known(spec="a", past=100, off=0.39), improved=False)
    assert over.is_told(after(4), EVERY, Known(spec="a", past=100, off=0.4), improved=False)
    assert not over.is_told(after(4), EVERY, Known(spec="a", past=100, off=0.4), improved=True)
    far = Known(spec="a", past=100, off=0.9)
    both = of(loop(0, far), warned(0), loop(4, OTHER), warned(4))
    assert not both.is_told(after(7), EVERY, Known(spec="b", past=100, off=1.0), improved=False), "of worse they heard"
    assert both.is_told(after(8), EVERY, Known(spec="b", past=100, off=1.0), improved=False), "8 windows before"


def test_of_a_loop_that_has_improved_people_are_told_where_they_heard_nothing_for_twice_as_long() -> None:
    known = of(loop(0), warned(0), loop(1))
    assert not known.is_told(after(8), EVERY, OTHER, improved=True)
    assert not known.is_told(after(15.9), EVERY, SAME, improved=True)
    assert known.is_told(after(16), EVERY, SAME, improved=True)
    assert of(loop(0)).is_told(after(1), EVERY, SAME, improved=True), "nobody was told yet"


def test_of_an_improvement_they_hear_again_where_it_was_twice_as_bad_and_by_the_error_that_is_allowed() -> None:
    for loops in ((loop(0), warned(0)), (loop(0, improved=True), warned(0))):
        known = of(*loops)
        assert not known.is_told(after(3), EVERY, Known(spec="a", past=100, off=1.19), improved=True)
        assert known.is_told(after(3), EVERY, Known(spec="a", past=100, off=1.2), improved=True)
    far = of(loop(0, Known(spec="a", past=100, off=1.5)), warned(0))
    assert not far.is_told(after(3), EVERY, Known(spec="a", past=100, off=2.9), improved=True)
    assert far.is_told(after(3), EVERY, Known(spec="a", past=100, off=3.0), improved=True)


def test_a_mail_of_an_improvement_tells_of_no_failure() -> None:
    known = of(loop(0, improved=True), warned(0))
    assert known.is_told(after(1), EVERY, SAME, improved=False)
    assert not known.is_told(after(15), EVERY, SAME, improved=True)
    both = of(loop(0), warned(0), loop(6, improved=True), warned(6))
    assert not both.is_told(after(7), EVERY, SAME, improved=False), "of a failure they were told 7 windows before"
    assert both.is_told(after(8), EVERY, SAME, improved=False)


def test_what_a_days_own_check_has_written_can_be_left_out() -> None:
    known = fold([loop(0), warned(0)])
    assert episode(known, but=START) == Episode(())
    assert [each.last for each in episode(known, but=START + timedelta(days=1)).told] == [START]


def test_a_warning_of_a_lake_without_loops_is_one() -> None:
    (found,) = of(warned(0)).loops
    assert (found.version, found.last, found.known) == (1, START, Known())


def test_a_limit_can_not_be_met_where_four_loops_have_not() -> None:
    *loops, last = (
        loop(n, reached={"mae": value, "r2": 0.1 * value}) for n, value in enumerate([9.0, 3.0, 5.0, 4.0, 4.5])
    )
    met_by = of(*loops).cannot_be_met(last, {"mae": False, "r2": True})
    assert met_by == pytest.approx({"mae": 5.0, "r2": 0.3})
    assert of(*loops[:2]).cannot_be_met(last, {"mae": False}) == {}
    assert of(*loops).cannot_be_met(loop(9, met=True), {"mae": False}) == {}
    assert of(*loops).cannot_be_met(loop(9), {"mae": False}) == {}, "of a loop that measured nothing nothing is known"
    assert of(*loops, in_range(3.5, healed=False)).cannot_be_met(last, {"mae": False}) == {}, "a window has met it"
    assert of(*loops, in_range(1, healed=False)).cannot_be_met(last, {"mae": False}) == {"mae": 5.0}, "but not since"
