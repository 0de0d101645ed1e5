"""What to do next, from what was measured: pure functions of numbers, the standard library only."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from itertools import pairwise

from esteira.text import counted

# With 5 to 7 days a draw often repeats one block, and its own error is then next to nothing: without a floor the bound is
# so low that hardly any gain passes. Measured over 1,000 series of 5, 6, 7 days at a nominal 1.7 %: a gain of three
# standard deviations passed in 9, 22, 71 % without it and in 82, 84, 95 % with it; no gain in 1.3, 0.4, 1.1 and 2.3, 1.1, 1.5 %.
FLOOR = 0.25
STRONGEST = 0.8  # the first autocorrelation of daily gains that is believed at most
# Days on which two versions must differ. Of equal ones that differ in 2 to 5 % of 8 rows a day, 14 to 25 % of 600 pairs passed
# at a nominal 10 %, since one day of 14 may decide; with it 1 to 8 %.
DIFFERING = 4


class Decision(StrEnum):
    """What a check decides."""

    KEEP = "keep"
    WATCH = "watch"  # out of range, but not yet violated: nothing is done
    WAIT = "wait"  # too little is known
    BLEND = "blend"  # a loop is held back: only what trains nothing is tried
    PROBE = "probe"  # loops before have not helped: only one training is tried
    RETRAIN = "retrain"

    @property
    def trains(self) -> bool:
        """Whether a loop is opened that may train, and is told of where it does not help."""
        return self in (Decision.PROBE, Decision.RETRAIN)


class Outcome(StrEnum):
    """How an attempt ended."""

    RECOVERS = "recovers"  # passes the gate and is back in range
    IMPROVES = "improves"  # only passes the gate
    UNPROVEN = "unproven"  # passes the gate, where that is too little: one that recovers, or of which more is sure, would be promoted
    FAILS = "fails"
    UNKNOWN = "unknown"  # too few days that neither version has seen


@dataclass(frozen=True)
class Rules:
    """What a window must have to be judged by, and of how many windows it takes to act."""

    min_days: int
    min_rows: int = 1
    at_least: int = 1

    def allow(self, days: int, rows: int) -> bool:
        """Whether so many days and rows are enough to be judged by."""
        return days >= self.min_days and rows >= self.min_rows


@dataclass(frozen=True)
class Reached:
    """What a metric came to, how far that is beyond what was asked of it then, and what that was, in words.

    `beyond` is in the metric's own unit, and 0 or less within the range.
    """

    value: float
    beyond: float
    wanted: str = ""

    @property
    def in_range(self) -> bool:
        """Whether it is within what was asked of it."""
        return self.beyond <= 0


@dataclass(frozen=True)
class Measurement:
    """The metrics of one window of days, by name: `first` to `last`, both included.

    `days` and `rows` count what has a mature label and was served by the version measured. `incomplete` says why its labels
    can't be trusted yet, where they can't.
    """

    first: date
    last: date
    rows: int
    days: int
    metrics: Mapping[str, Reached]
    incomplete: str = ""

    @property
    def healthy(self) -> bool:
        """Whether every metric is within its limits."""
        return all(each.in_range for each in self.metrics.values())

    def is_evidence(self, rules: Rules) -> bool:
        """Whether it has days, rows and labels enough to be judged by."""
        return rules.allow(self.days, self.rows) and not self.incomplete

    def out_of_range(self) -> str:
        """The metrics that are out of range, with their values."""
        return ", ".join(f"{name} = {each.value:.4g}" for name, each in self.bad.items())

    @property
    def bad(self) -> Mapping[str, Reached]:
        """The metrics that are out of range."""
        return {name: each for name, each in self.metrics.items() if not each.in_range}


@dataclass(frozen=True)
class Verdict:
    """A decision and the sentence that says why."""

    decision: Decision
    why: str


def recipes_tried(verdict: Verdict | None, recipes: int) -> int:
    """How many of a model's recipes the loop of a check trains by, at most; where nothing is known of it, by all."""
    if verdict is not None and verdict.decision is Decision.BLEND:
        return 0
    return 1 if verdict is not None and verdict.decision is Decision.PROBE else recipes


def decide(
    windows: Sequence[Measurement],
    held_out: Measurement | None,
    rules: Rules,
    *,
    only_measured: str = "",
) -> Verdict:
    """Keep, watch, wait or retrain.

    `windows` are the champion's, in order of time, the latest one last; `held_out` is the slice that attempts would be judged
    on. `only_measured` says why nothing is to be done whatever was measured.
    """
    if only_measured:
        return Verdict(Decision.KEEP, only_measured)
    verdict = weigh(windows, rules)
    if verdict.decision is not Decision.RETRAIN:
        return verdict
    if held_out is None or not held_out.is_evidence(rules):
        return Verdict(Decision.WAIT, f"{verdict.why}, but {_lacking(held_out, rules)}")
    return verdict


def _lacking(held_out: Measurement | None, rules: Rules) -> str:
    if held_out is not None and held_out.incomplete:
        return f"the labels of the slice are not enough to judge by: {held_out.incomplete}"
    days, rows = (held_out.days, held_out.rows) if held_out is not None else (0, 0)
    size = f"{counted(days, 'day')} and {counted(rows, 'row')}"
    return f"the slice has {size}, and {rules.min_days} and {rules.min_rows} are needed"


def weigh(windows: Sequence[Measurement], rules: Rules) -> Verdict:
    """Keep, watch, wait or retrain, from the windows alone, the latest one last.

    Retrain when the latest window and at least `at_least` of those given are out of range and, where that takes several, so
    is the mean of those given: of windows that are now and then just beyond a limit, chance makes two of three. A window
    that is no evidence means wait as the latest one, and does not count as an earlier one.
    """
    if not windows:
        return Verdict(
            Decision.WAIT, "no window of days with mature labels served by the present champion is whole yet"
        )
    latest = windows[-1]
    span = f"{latest.first} to {latest.last}"
    for count, least, what in ((latest.days, rules.min_days, "day"), (latest.rows, rules.min_rows, "row")):
        if count < least:
            why = f"{counted(count, what)} with mature labels from {span}; at least {least} are needed"
            return Verdict(Decision.WAIT, why)
    if latest.incomplete:
        return Verdict(Decision.WAIT, f"the labels from {span} are not enough to judge by: {latest.incomplete}")
    if latest.healthy:
        return Verdict(Decision.KEEP, f"every metric is in range from {span}")
    bad = _bad(windows, rules)
    what = f"{latest.out_of_range()} is out of range from {span}"
    if len(windows) > 1:
        what += f"; {bad} of the last {len(windows)} windows {'is' if bad == 1 else 'are'}"
    if bad < rules.at_least:
        return Verdict(Decision.WATCH, f"{what}; {rules.at_least} are needed to act")
    if rules.at_least > 1 and not _is_mean_beyond(windows, rules):
        return Verdict(Decision.WATCH, f"{what}, but {_mean_in_range(windows, rules)}")
    return Verdict(Decision.RETRAIN, what)


def _bad(windows: Sequence[Measurement], rules: Rules) -> int:
    return sum(not window.healthy for window in windows if window.is_evidence(rules))


def _last(windows: Sequence[Measurement], rules: Rules) -> list[Mapping[str, Reached]]:
    """What the last windows reached of which the mean counts: one more than a violation takes, for with more of them it would come late."""
    return [window.metrics for window in windows[-(rules.at_least + 1) :] if window.is_evidence(rules)]


def _is_mean_beyond(windows: Sequence[Measurement], rules: Rules) -> bool:
    """Whether the mean of a metric that is out of range in the latest window is so, too."""
    last = _last(windows, rules)
    return any(_mean(each[name].beyond for each in last if name in each) > 0 for name in windows[-1].bad)


def _mean_in_range(windows: Sequence[Measurement], rules: Rules) -> str:
    """The mean of the metric that is out of range in the latest window, in words."""
    last, (name, reached) = _last(windows, rules), next(iter(windows[-1].bad.items()))
    mean = _mean(each[name].value for each in last if name in each)
    return f"{name} is {mean:.4g} in the mean of the last {len(last)}, which is in range ({reached.wanted})"


def _mean(values: Iterable[float]) -> float:
    """The mean; where values are so far apart that there is none, infinite: then their number alone counts."""
    try:
        return statistics.fmean(values)
    except (ValueError, OverflowError):
        return math.inf


def is_violated(windows: Sequence[Measurement], rules: Rules) -> bool:
    """Whether so many of the windows are out of range as a violation takes, be the latest one or their mean in range."""
    return _bad(windows, rules) >= rules.at_least


def first_violated(windows: Sequence[Measurement], rules: Rules) -> date:
    """The first day of the run of unhealthy windows that ends with the latest one; one that is no evidence ends it too."""
    start = windows[-1].first
    for window in reversed(windows):
        if window.healthy or not window.is_evidence(rules):
            break
        start = window.first
    return start


@dataclass(frozen=True)
class Gate:
    """What the gate saw: the gain of the challenger over the champion in the metric's own unit, and its interval.

    Each bound is one-sided, at the confidence that the gate asks for. A gain `is_sure` of which two thirds are above the lower bound.
    """

    gain: float
    lower: float
    upper: float
    days: int
    passed: bool

    @property
    def is_sure(self) -> bool:
        """Whether two thirds of the gain are sure."""
        return self.lower >= 2 / 3 * self.gain


def gate(
    daily_gains: Sequence[float],
    *,
    min_gain: float,
    confidence: float,
    attempts: int,
    differing: int | None = None,
    seed: int = 0,
) -> Gate:
    """Whether a challenger is better: by `min_gain` at least, and surely so.

    `daily_gains` are a day's gains whose mean is the whole gain. Sure is: the lower bound of the mean, by a studentised
    moving-block bootstrap over days, is above 0 at confidence 1 - (1 - confidence) / attempts, since each look flatters; and the
    two differ on 4 days at least, if there are so many. `differing` is on how many they do; None: on all.
    """
    gain = math.fsum(daily_gains) / len(daily_gains) if daily_gains else math.nan
    sure = 1 - (1 - confidence) / attempts
    lower = min(lower_bound(daily_gains, sure, seed), gain)
    upper = max(-lower_bound([-value for value in daily_gains], sure, seed), gain)
    days = len(daily_gains)
    shows = differing is None or differing >= min(DIFFERING, days)
    return Gate(gain, lower, upper, days, bool(gain >= min_gain and lower > 0 and shows))


def lower_bound(values: Sequence[float], confidence: float, seed: int = 0, draws: int = 2000) -> float:
    """The one-sided lower bound of the mean of `values`, in order of time, whose neighbours may depend on each other.

    Blocks of about n^(1/3) days are drawn with replacement, and each draw's mean is divided by that draw's own standard
    error (Götze and Künsch 1996): with a week or two of days, plain percentiles promote noise too often. What so short
    blocks can't see of the dependence is added as that of an autoregression of order one (Andrews and Monahan 1992).
    """
    n = len(values)
    if n < 3:
        return -math.inf
    size = max(1, round(n ** (1 / 3)))
    spread = _standard_error(values, size)
    if spread == 0:
        return min(values)
    blocks = [list(values[start : start + size]) for start in range(n - size + 1)]
    count = math.ceil(n / size)
    mean = statistics.fmean(values)
    means = [math.fsum(block) / size for block in blocks]
    # The drawn means scatter around the mean of the blocks, in which the days at the ends count less.
    centre = math.fsum(means) / len(means)
    draw = random.Random(seed)  # noqa: S311  # a bootstrap, not a secret
    ratios: list[float] = []
    for _ in range(draws):
        drawn = draw.choices(means, k=count)
        middle = math.fsum(drawn) / count
        error = math.sqrt(math.fsum((each - middle) ** 2 for each in drawn) / (count - 1) / count) if count > 1 else 0.0
        ratios.append((middle - centre) / max(error, FLOOR * spread))
    ratios.sort()
    return mean - ratios[min(draws, math.ceil(confidence * draws)) - 1] * spread * _unseen(values, size)


def _standard_error(values: Sequence[float], size: int) -> float:
    # Overlapping block means: their spread holds what neighbouring days share.
    n = len(values)
    means = [statistics.fmean(values[start : start + size]) for start in range(n - size + 1)]
    return math.sqrt(size * statistics.variance(means) / n) if len(means) > 1 else 0.0


def _unseen(values: Sequence[float], size: int) -> float:
    """How many times larger the standard error is than blocks of `size` show, if the days follow an autoregression."""
    n, mean = len(values), statistics.fmean(values)
    apart = [value - mean for value in values]
    first = math.fsum(a * b for a, b in pairwise(apart)) / math.fsum(a * a for a in apart)
    first = min(max(first + (1 + 3 * first) / n, 0.0), STRONGEST)  # of few days the estimate is too low (Kendall 1954)
    seen = 1 + 2 * math.fsum((1 - lag / size) * math.pow(first, lag) for lag in range(1, size))
    return math.sqrt((1 + first) / (1 - first) / seen)


def judge(
    evidence: Gate, rows: int, rules: Rules, *, healthy: bool, must_recover: bool = False, must_be_sure: bool = False
) -> Outcome:
    """How a challenger did, from the gate's evidence, over so many rows, and whether it is in range on the held-out slice.

    `must_recover`: to improve is too little; `must_be_sure`: so is a gain of which not two thirds are sure.
    """
    if not rules.allow(evidence.days, rows):
        return Outcome.UNKNOWN
    if not evidence.passed:
        return Outcome.FAILS
    if must_be_sure and not evidence.is_sure:
        return Outcome.UNPROVEN
    if healthy:
        return Outcome.RECOVERS
    return Outcome.UNPROVEN if must_recover else Outcome.IMPROVES


def off_by(value: float, bound: float, best: float) -> float:
    """By which share of the error that a bound allows a value is worse than it; of a metric whose best is 1 the error is what it lacks to that."""
    allowed = abs(bound - best)
    return abs(value - bound) / allowed if allowed else math.inf


def best_attempt(outcomes: Mapping[int, tuple[Outcome, float]]) -> int | None:
    """The attempt to promote: the one that recovered, else of those that improved the surest, else none.

    `outcomes` gives each attempt's outcome and the lower bound of its gain: a gain itself may be of fewer days than another one's.
    """
    for attempt, (outcome, _) in sorted(outcomes.items()):
        if outcome is Outcome.RECOVERS:
            return attempt
    improved = {attempt: lower for attempt, (outcome, lower) in outcomes.items() if outcome is Outcome.IMPROVES}
    return max(improved, key=lambda attempt: improved[attempt]) if improved else None
