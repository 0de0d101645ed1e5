"""An episode: loops that did not bring a metric back into its range, one after the other.

By it the check is quiet: each loop that did not help makes the next one wait longer, and people are told of it once in a while.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from esteira.lifecycle.events import CHECK, Event, Known, Recovered, Unrecovered, Warned, run_key
from esteira.lifecycle.policy import Outcome
from esteira.lifecycle.state import State
from esteira.text import counted

LONGEST = 8  # windows that a loop waits, or a person hears nothing, at most
BLENDED = 3  # windows that are left to the blend after a loop that has improved: it has what that loop has trained
REMEMBERED = 4 * LONGEST  # windows: what failed before says nothing of now
WORSE = 0.5  # of the error that a limit allows: a metric off by so much more than in any loop before has moved on
LOOPS = 4  # without any that was in range: the limit can't be met
PROBED = 3  # loops that did not help, or in which a recipe was refused: those after them train once only
SPENT = 365  # days: so long is a recipe left alone that was refused as often
TRIED = (PROBED + 1) * SPENT  # days: what was tried before says nothing of now


@dataclass(frozen=True)
class Episode:
    """The loops that did not help since one last did, in order.

    `told` are all loops that people were told of. `met` is the last window that was in range after such loops. `history` has the
    loops of the rows before, too. That a window is in range again does not end it for the next loop's sake: around its limit a
    metric is so by chance.
    """

    loops: tuple[Unrecovered, ...]
    told: tuple[Unrecovered, ...] = ()
    history: tuple[Unrecovered, ...] = ()
    met: date | None = None

    def held_back(self, last: date, every: int, now: Known) -> str:
        """Why no loop is opened for the window that ends with `last`; empty where one may be.

        After the n-th that did not help, one after the other, 1, 2, 4, 8 windows of `every` days, and no more, pass without one;
        after one that has improved 3 at least, but for one that brought it half of the way back, which lengthens no wait; fewer
        where something is new.
        """
        wait = self._wait(last, every)
        if wait == timedelta(0) or (self.news(now) and last > self.loops[-1].last):
            return ""
        failed = counted(len(self._in_a_row(last, every)), "loop")
        left = counted(-(-wait.days // every), "more window")
        return (
            f"{failed} did not bring it back, the last one on {self.loops[-1].last}: it waits for {left} of mature days"
        )

    def is_probe(self, last: date, every: int, now: Known, tries: Mapping[date, Mapping[int, Outcome]]) -> bool:
        """Whether the loop for the window that ends with `last` is to train once only, for nothing is new, and three in a row have
        not helped, or no recipe but the first has had any use for long.

        `tries` has how the attempts of each check ended, by day, in order, and by number. That windows were in range in between says
        nothing for training: they were so without it.
        """
        if self._failed(last, every) >= PROBED and not self.news(now):
            return True
        return self._are_spent(last, now, tries) and not _news(now, self.history[-PROBED:])

    def _are_spent(self, last: date, now: Known, tries: Mapping[date, Mapping[int, Outcome]]) -> bool:
        """Whether all recipes but the first were refused the last three times, by this model.yaml, and within the year before."""
        others = [each for each in reversed(self.history) if each.known.spec != now.spec]
        since = others[0].day if others else date.min
        by_recipe: dict[int, list[tuple[date, Outcome]]] = {}
        for day, ended in tries.items():
            for number, outcome in ended.items():
                if number > 1 and day > since:
                    by_recipe.setdefault(number, []).append((day, outcome))
        lately = [found[-PROBED:] for found in by_recipe.values()]
        return bool(self.history and lately) and all(
            len(found) == PROBED
            and all(outcome is Outcome.FAILS for _, outcome in found)
            and found[-1][0] > last - timedelta(days=SPENT)
            for found in lately
        )

    def _wait(self, last: date, every: int) -> timedelta:
        """How much later than `last` the window must end that the next loop is opened for."""
        row = self._in_a_row(last, every)
        if not row:
            return timedelta(0)
        windows = min(2 ** max(self._failed(last, every) - 1, 0), LONGEST)
        if row[-1].improved and not row[-1].half_way:
            windows = max(windows, BLENDED)
        return max(self.loops[-1].last + timedelta(days=(windows + 1) * every) - last, timedelta(0))

    def _failed(self, last: date, every: int) -> int:
        """How many of the loops in a row did not bring the metric half of the way back."""
        return sum(not each.half_way for each in self._in_a_row(last, every))

    def _in_a_row(self, last: date, every: int) -> Sequence[Unrecovered]:
        """The loops that count: the last of them that found something new, and those after it."""
        since = last - timedelta(days=REMEMBERED * every)
        known = [each for each in self.loops if each.last > since]
        new = [number for number, each in enumerate(known) if each.news]
        return known[new[-1] :] if new else known

    def news(self, now: Known) -> str:
        """What is known now that was not when the last loop began; empty where nothing is."""
        return _news(now, self.loops)

    def is_told(self, last: date, every: int, now: Known, *, improved: bool) -> bool:
        """Whether people are told that the loop on the window that ends with `last` did not bring the metrics back.

        They are where they were told of no failure in the 8 windows before, where the metric is much farther out of range than in those
        that they were told of, and where the model.yaml is another. A loop that has improved is none: of it they are told where they
        heard nothing at all for twice as long, or the metric is twice as far out of range as in what they heard of, and by the error
        that its limit allows.
        """
        quiet = timedelta(days=LONGEST * every)
        if improved:
            before = max((each.known.off for each in self.told if last < each.last + 2 * quiet), default=None)
            return before is None or now.off >= max(2 * before, before + 2 * WORSE)
        lately = [each.known for each in self.told if last < each.last + quiet and not each.improved]
        if not lately or now.spec != lately[-1].spec:
            return True
        return _is_much_farther(now.off, max(each.off for each in lately))

    def cannot_be_met(self, ended: Unrecovered, higher_is_better: Mapping[str, bool]) -> dict[str, float]:
        """By metric a limit that the best of each of the last four loops, `ended` the last, would have met; empty where one was within
        every limit, or a window since the first of them.
        """
        last = (*self.loops, ended)[-LOOPS:]
        if len(last) < LOOPS or any(each.met for each in last) or (self.met is not None and self.met > last[0].last):
            return {}
        found = {}
        for name, higher in higher_is_better.items():
            values = [each.reached[name] for each in last if name in each.reached]
            if len(values) == LOOPS:
                found[name] = min(values) if higher else max(values)
        return found


def episode(known: State, *, but: date | None = None) -> Episode:
    """The episode that a model is in; without loops where it is in none. `but` leaves out what the check of that day has written."""
    in_range = [each for each in known.of(Recovered) if not _is_by(each, but)]
    since = max((each.last for each in in_range if each.healed), default=date.min)
    warned = [each for each in known.of(Warned) if not _is_by(each, but)]
    loops = {each.last: each for each in known.of(Unrecovered) if not _is_by(each, but)}
    for each in warned:  # before there were such events a warning was all that was written
        old = Unrecovered(version=each.version, last=each.last, day=each.day, by=each.by, why=each.why)
        loops.setdefault(each.last, old)
    history, told = tuple(loops[last] for last in sorted(loops)), {each.last for each in warned}
    return Episode(
        tuple(each for each in history if each.last > since),
        history=history,
        told=tuple(each for each in history if each.last in told),
        met=max((each.last for each in in_range), default=None),
    )


def open_since(known: State, *, but: date | None = None) -> date | None:
    """The first day of which it is known that a violation goes on: a loop did not help, or a check has promoted, and no window was
    in range since. None where none goes on: a promotion alone ends nothing. `but` leaves out what the check of that day has written.
    """
    ends = max((each.last for each in known.of(Recovered) if not _is_by(each, but)), default=date.min)
    promoted = [each.day for each in known.promotions if each.by.startswith(CHECK) and not _is_by(each, but)]
    loops = [each.last for each in episode(known, but=but).loops]
    return min((day for day in (*loops, *promoted) if day > ends), default=None)


def _news(now: Known, loops: Sequence[Unrecovered]) -> str:
    """What is known now that was not when the last of the loops began, or in any of them; empty where nothing is, or there was none."""
    if not loops:
        return ""
    then = loops[-1].known
    if now.spec != then.spec:
        return "the model.yaml or its code is another"
    if now.past >= 2 * then.past:
        return f"there are {counted(now.past, 'day')} to learn from, and were {then.past}"
    if _is_much_farther(now.off, max(each.known.off for each in loops)):
        return "the metric is much farther out of range"
    return "more features have drifted" if now.drifted and not then.drifted else ""


def _is_much_farther(off: float, before: float) -> bool:
    """Whether a metric has moved on since it was off by `before` at most, both in shares of the error that its limit allows.

    Farther by a half of that error; where it was only just out of range, twice as far and a quarter of it.
    """
    return off >= before + WORSE or off >= max(2 * before, WORSE / 2)


def _is_by(event: Event, day: date | None) -> bool:
    return day is not None and event.by == run_key(day)
