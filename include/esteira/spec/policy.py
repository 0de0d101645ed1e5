"""Blocks about what is done with rows: train, score, check, retrain, promote, alert."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from esteira.spec.words import (
    ALLOWED_PACKAGES,
    Address,
    Block,
    Column,
    Cron,
    Day,
    Days,
    Span,
    check_range,
    mistake,
    nearest,
)

Whole = Annotated[int, Field(ge=-(2**53), le=2**53)]


class Limit(Block):
    """The range in which a metric is healthy, in the metric's own unit."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min is None and self.max is None:
            raise mistake("the range is empty; give min, max or both")
        check_range(self.min, self.max)
        return self

    def holds(self, value: float) -> bool:
        """Whether `value` is inside the range; a value that is not a number never is."""
        return value == value and (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def beyond(self, value: float) -> float:
        """How far `value` is out of the range; inside it 0 or less."""
        return max(
            -math.inf if self.min is None else self.min - value, -math.inf if self.max is None else value - self.max
        )

    def __str__(self) -> str:
        return " and ".join(
            f"{word} {bound:g}" for word, bound in (("≥", self.min), ("≤", self.max)) if bound is not None
        )


class Dimension(Block):
    """One dimension of a search: a range (log, float, int) or a list (choice)."""

    log: tuple[float, float] | None = None
    real: tuple[float, float] | None = Field(default=None, alias="float")
    whole: tuple[Whole, Whole] | None = Field(default=None, alias="int")
    choice: tuple[str | int | float | bool | None, ...] | None = Field(default=None, max_length=1000)

    @field_validator("log", "real", "whole", "choice", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [bounds for bounds in (self.log, self.real, self.whole, self.choice) if bounds is not None]
        if len(given) != 1:
            raise mistake(f"got {len(given)} of log, float, int, choice; a dimension is exactly one of them")
        if self.choice is not None:
            if not self.choice:
                raise mistake("'choice' is empty; list the values to try", "choice")
            return self
        low, high = self.bounds
        if not low < high:
            raise mistake(f"impossible range [{low:g}, {high:g}]; the first bound must be below the second")
        if self.log and low <= 0:
            raise mistake(f"got {low:g}; a log range starts above 0", "log")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """The two ends of a range."""
        bounds = self.log or self.real or self.whole
        assert bounds is not None, "a choice has no bounds"
        return bounds


class Candidate(Block):
    """An estimator to try, with fixed parameters and, where a search is given, the trials to spend on it."""

    estimator: str
    params: dict[str, Any] = Field(default_factory=dict)
    search: dict[str, Dimension] = Field(default_factory=dict)
    method: Literal["bayesian", "random", "grid"] = "bayesian"
    trials: int = Field(default=20, ge=1, le=1000)

    @property
    def name(self) -> str:
        """The estimator's class name."""
        return self.estimator.rpartition(".")[2]

    @field_validator("estimator")
    @classmethod
    def _package_is_allowed(cls, path: str) -> str:
        package = path.partition(".")[0]
        if not re.fullmatch(r"\w+(\.\w+)+", path) or package not in ALLOWED_PACKAGES:
            raise mistake(
                f"got {path!r}; an estimator is an import path within {', '.join(ALLOWED_PACKAGES)}, such as "
                f"sklearn.linear_model.Ridge{nearest(package, ALLOWED_PACKAGES)}"
            )
        return path

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Self:
        both = sorted(set(self.params) & set(self.search))
        if both:
            raise mistake(
                f"{both[0]!r} is both fixed and searched; keep it under params or under search", "search", both[0]
            )
        endless = [name for name, dimension in self.search.items() if dimension.choice is None]
        if self.method == "grid" and endless:
            raise mistake(
                f"a grid needs a list: write {endless[0]}: {{choice: [...]}}, or use method: random", "method"
            )
        return self


class FeatureSelection(Block):
    """Keep the best features of the prepared ones, by a univariate test inside the pipeline."""

    percentile: int = Field(ge=1, le=100)


MOST_SHARDS = 64
MOST_CORES = 256


def _cores(given: object) -> object:
    if given != "all" and not (type(given) is int and 1 <= given <= MOST_CORES):
        raise mistake(f"got {given!r}; a whole number from 1 to {MOST_CORES}, or all: those of the machine that trains")
    return given


class Train(Block):
    """When and on what a model is trained, and what it must reach on the test part before it may be promoted."""

    schedule: Cron | None = None
    start: Day | None = None
    window: Days = 180
    candidates: tuple[Candidate, ...] = Field(min_length=1, max_length=100)
    feature_selection: FeatureSelection | None = None
    half_life: Days | None = None
    max_rows: int = Field(default=2_000_000, ge=1_000)
    cores: Annotated[int | Literal["all"], BeforeValidator(_cores)] = 1
    accept: dict[str, Limit] | None = None
    folds: int = Field(default=3, ge=2, le=20)
    seed: int = Field(default=0, ge=0, lt=2**32)

    @field_validator("candidates", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if self.window < 7:
            raise mistake(f"got {self.window}d; a window is at least 7d, to be split 70/15/15 by days", "window")
        return self


def _shards(given: object) -> object:
    if given != "auto" and not (type(given) is int and 1 <= given <= MOST_SHARDS):
        raise mistake(f"got {given!r}; a whole number from 1 to {MOST_SHARDS}, or auto: by the size of the source")
    return given


class Score(Block):
    """When a day is scored. The run at the cron's time scores the day before, and is late `deadline` after it was queued.

    It is cut into `shards`, each of which a task scores, by compiled trees or by scikit-learn.
    """

    schedule: Cron | None = "0 6 * * *"
    start: Day | None = None
    catchup: bool = False
    deadline: Span | None = 6
    shards: Annotated[int | Literal["auto"], BeforeValidator(_shards)] = 1
    engine: Literal["auto", "compiled", "sklearn"] = "auto"

    @field_validator("schedule")
    @classmethod
    def _once_a_day(cls, schedule: str | None) -> str | None:
        if schedule and schedule != "@daily" and not re.fullmatch(r"\d+ \d+ \* \* \*", schedule):
            raise mistake(f"got {schedule!r}; each day is scored once: write a minute, an hour and '* * *', or @daily")
        return schedule

    @model_validator(mode="after")
    def _catchup_has_a_start(self) -> Self:
        if self.catchup and self.start is None:
            raise mistake("catchup scores every day since the start: give start, such as 2026-01-31", "catchup")
        return self


class Violated(Block):
    """A metric is violated when the latest window and `at_least` of the last `of_last` windows are out of range."""

    at_least: int = Field(default=2, ge=1)
    of_last: int = Field(default=3, ge=1, le=12)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.at_least > self.of_last:
            raise mistake(f"impossible: at_least {self.at_least} of the last {self.of_last} windows", "at_least")
        return self


class Drift(Block):
    """The share of features that may drift (PSI above 0.2) before it is reported and e-mailed."""

    max_share: float = Field(default=0.5, ge=0, le=1)


class Check(Block):
    """How the champion is watched: metrics with their range (the first is the gate's), windows, and the held-out slice."""

    metrics: dict[str, Limit] = Field(min_length=1)
    every: Days = 7
    violated: Violated = Violated()
    min_days: int = Field(default=5, ge=1)
    min_rows: int = Field(default=1, ge=1)
    segments: dict[Column, dict[str, Limit]] = Field(default_factory=dict)
    estimate: bool | None = None
    slice: Days = 14
    drift: Drift = Drift()
    patience: int = Field(default=4, ge=1, le=1000)

    @property
    def metric(self) -> str:
        """The gate's metric: the first one listed."""
        return next(iter(self.metrics))

    @model_validator(mode="after")
    def _enough_days(self) -> Self:
        for name, days in (("every", self.every), ("slice", self.slice)):
            if days < self.min_days:
                raise mistake(
                    f"{name} is {days}d, fewer than min_days {self.min_days}: it could never be measured", name
                )
        return self


class Recipe(Block):
    """One attempt of the retraining loop."""

    window: Annotated[Days, Field(ge=3)]
    half_life: Days | None = None
    since_violation: bool = False
    keep_old: float | None = Field(default=None, gt=0, le=1)
    trials: int | None = Field(default=None, ge=1, le=1000)
    candidates: tuple[Candidate, ...] | None = Field(default=None, min_length=1)
    features: tuple[Column, ...] | None = Field(default=None, min_length=1)

    @field_validator("candidates", "features", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given


def _no_approval(given: object) -> object:
    if given == "human":
        raise mistake("got 'human'; approval by a person is not built yet: use approval: none")
    return given


class Promote(Block):
    """What a challenger must show to replace the champion, and what happens then."""

    approval: Annotated[Literal["none"], BeforeValidator(_no_approval)] = "none"
    min_gain: float = Field(default=0.0, ge=0)
    confidence: float = Field(default=0.7, ge=0.5, lt=1)
    refit: bool = True


class Alerts(Block):
    """Whom mails reach, and whether good news are told, too."""

    email: tuple[Address, ...] = ()
    promotions: bool = True
    recoveries: bool = True

    @field_validator("email", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given
