"""The contract: one model.yaml, read once into a frozen ModelSpec; every mistake is named with its line and its mend."""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from croniter import croniter
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

ALLOWED_PACKAGES = ("sklearn", "lightgbm", "xgboost")
RESERVED_COLUMNS = frozenset(
    [
        "event_time",
        "label",
        "prediction",
        "probability",
        "read_at",
        "run",
        "trained_through",
        "version",
        "load_seconds",
        "predict_seconds",
        "first_seen",
        "rule",
        "reason",
        "row",
        "stage",
        "found_at",
    ]
)

Task = Literal["regression", "binary", "multiclass"]
HIGHER, LOWER = True, False
METRICS: Mapping[str, tuple[frozenset[Task], bool]] = {
    # name: (the tasks that it measures, whether higher is better); learn.py holds the functions
    "mae": (frozenset({"regression"}), LOWER),
    "rmse": (frozenset({"regression"}), LOWER),
    "mape": (frozenset({"regression"}), LOWER),
    "mae_over_mean": (frozenset({"regression"}), LOWER),
    "r2": (frozenset({"regression"}), HIGHER),
    "accuracy": (frozenset({"binary", "multiclass"}), HIGHER),
    "balanced_accuracy": (frozenset({"binary", "multiclass"}), HIGHER),
    "f1": (frozenset({"binary", "multiclass"}), HIGHER),
    "roc_auc": (frozenset({"binary"}), HIGHER),
    "average_precision": (frozenset({"binary"}), HIGHER),
    "log_loss": (frozenset({"binary"}), LOWER),
    "brier": (frozenset({"binary"}), LOWER),
}


class EsteiraError(Exception):
    """What a user can mend; the text says how."""


class SpecError(EsteiraError):
    """A model.yaml is wrong. The text has a line for each mistake: where, what was got, what is allowed, the mend."""


def nearest(word: object, allowed: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """'; did you mean …?' where an allowed word is close to `word`, else ''."""
    close = get_close_matches(str(word), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def canonical(value: object) -> str:
    """A category or class as text, the same for 1, 1.0 and '1', and for True and 1."""
    if type(value).__name__ in ("bool", "bool_"):  # numpy's bool has a type of its own
        return str(int(value))  # type: ignore[call-overload]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _mistake(message: str, *keys: str) -> PydanticCustomError:
    # The message goes through pydantic's own str.format; `keys` lead from the block to the line at fault.
    return PydanticCustomError("spec", "{text}", {"text": message, "keys": keys})


def _days(given: object) -> int:
    match = re.fullmatch(r"(\d+)([dw])", given) if isinstance(given, str) else None
    if not match:
        raise _mistake(f"got {given!r}; a duration is a whole number of days or weeks, such as 7d or 4w")
    return int(match[1]) * {"d": 1, "w": 7}[match[2]]


def _day_or_none(given: object) -> object:
    if isinstance(given, date) or given is None:
        return given
    raise _mistake(f"got {given!r}; a day is written YYYY-MM-DD, such as 2026-01-31")


def _is_identifier(given: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.\- ]{0,127}", given):
        raise _mistake(
            f"got {given!r}; a column starts with a letter or _ and has letters, digits, spaces, '_', '-' or '.'"
        )
    return given


def _is_address(given: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*", given):
        raise _mistake(f"got {given!r}; an address looks like team@example.com")
    return given


def _is_cron(given: str) -> str:
    if not croniter.is_valid(given) or len(given.split()) not in (1, 5):
        raise _mistake(
            f"got {given!r}; a schedule is five cron fields, such as '0 6 * * *', or @daily, @weekly, @monthly"
        )
    return given


Delay = Annotated[int, BeforeValidator(_days, json_schema_input_type=str)]
Days = Annotated[Delay, Field(ge=1)]
Day = Annotated[date, BeforeValidator(_day_or_none)]
Column = Annotated[str, BeforeValidator(lambda given: _is_identifier(given) if isinstance(given, str) else given)]
Address = Annotated[str, BeforeValidator(lambda given: _is_address(given) if isinstance(given, str) else given)]
Cron = Annotated[str, BeforeValidator(lambda given: _is_cron(given) if isinstance(given, str) else given)]


class Block(BaseModel):
    """A block of the YAML: frozen, and no key is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            raise _mistake(f"got {type(given).__name__}; a block is wanted, with keys of: {', '.join(cls._keys())}")
        for key in given:
            if key not in cls._keys() and key != "folder":
                raise _mistake(
                    f"unknown key {key!r}; allowed: {', '.join(cls._keys())}{nearest(key, cls._keys())}", str(key)
                )
        return given

    @classmethod
    def _keys(cls) -> list[str]:
        return [field.alias or name for name, field in cls.model_fields.items() if name != "folder"]


class CsvSource(Block):
    """Text files with a header line. `path` may be a glob, and `{day}` in it stands for YYYY-MM-DD."""

    kind: Literal["csv"]
    path: str
    separator: str = ","
    encoding: str = "utf-8"


class ParquetSource(Block):
    """Parquet files. `path` may be a glob, and `{day}` in it stands for YYYY-MM-DD."""

    kind: Literal["parquet"]
    path: str


class DeltaSource(Block):
    """A Delta table: a folder or an s3:// address."""

    kind: Literal["delta"]
    path: str


class SqlSource(Block):
    """A query through SQLAlchemy; `:first` and `:last` in it are the days wanted, both included, as YYYY-MM-DD."""

    kind: Literal["sql"]
    url: SecretStr
    query: str

    @field_validator("url", mode="before")
    @classmethod
    def _url_is_secret(cls, given: object) -> object:
        return SecretStr(given) if isinstance(given, str) else given

    @field_validator("query")
    @classmethod
    def _query_is_bounded(cls, query: str) -> str:
        if ":first" not in query or ":last" not in query:
            raise _mistake("the query must use :first and :last, the days wanted, so that a day's run reads one day")
        return query


class PythonSource(Block):
    """`function: source.read` is read(first, last) of source.py in the model's folder; it returns a pandas DataFrame."""

    kind: Literal["python"]
    function: str = Field(pattern=r"^[A-Za-z_]\w*\.[A-Za-z_]\w*$")


Source = Annotated[CsvSource | ParquetSource | DeltaSource | SqlSource | PythonSource, Field(discriminator="kind")]


class Time(Block):
    """When a row happened: a column of dates or times, with the hour beside it where it has a column of its own."""

    column: Column
    hour: Column | None = None
    format: str | None = None
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _timezone_is_known(cls, name: str) -> str:
        from zoneinfo import ZoneInfo, available_timezones

        try:
            ZoneInfo(name)
        except (KeyError, OSError, ValueError):
            zones = available_timezones()
            raise _mistake(
                f"unknown time zone {name!r}{nearest(name, sorted(zones))}; such as America/Sao_Paulo"
            ) from None
        return name


class Features(Block):
    """The columns that a model learns from, by kind."""

    numeric: tuple[Column, ...] = ()
    categorical: tuple[Column, ...] = ()
    boolean: tuple[Column, ...] = ()

    @field_validator("numeric", "categorical", "boolean", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @property
    def all(self) -> tuple[str, ...]:
        """Every feature, in the order in which the model gets them."""
        return self.numeric + self.categorical + self.boolean

    @model_validator(mode="after")
    def _once(self) -> Self:
        if not self.all:
            raise _mistake("no feature is named; list columns under numeric, categorical or boolean")
        for name in self.all:
            if self.all.count(name) > 1:
                raise _mistake(f"{name!r} is named {self.all.count(name)} times; name each feature once")
        return self


class Labels(Block):
    """Where labels come from, when it is not the source's own target column."""

    source: Source
    key: tuple[Column, ...] | None = None

    @field_validator("key", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given


class Expectation(Block):
    """What a value of a column must be; a row that is not so goes to the quarantine table."""

    min: float | None = None
    max: float | None = None
    values: tuple[str | int | float | bool, ...] | None = Field(default=None, alias="in")
    required: bool = False

    @field_validator("values", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _check_range(self.min, self.max)
        if self.values is not None and not self.values:
            raise _mistake("'in' is empty, so no row could pass; list the values that are allowed")
        return self


def _check_range(low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise _mistake(f"impossible range: min {low:g} is above max {high:g}; swap them")


class Limit(Block):
    """The range in which a metric is healthy, in the metric's own unit."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.min is None and self.max is None:
            raise _mistake("the range is empty; give min, max or both")
        _check_range(self.min, self.max)
        return self

    def holds(self, value: float) -> bool:
        """Whether `value` is inside the range; a value that is not a number never is."""
        return value == value and (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        return " and ".join(
            f"{word} {bound:g}" for word, bound in (("≥", self.min), ("≤", self.max)) if bound is not None
        )


class Dimension(Block):
    """One dimension of a search: a range (log, float, int) or a list (choice)."""

    log: tuple[float, float] | None = None
    real: tuple[float, float] | None = Field(default=None, alias="float")
    whole: tuple[int, int] | None = Field(default=None, alias="int")
    choice: tuple[str | int | float | bool | None, ...] | None = None

    @field_validator("log", "real", "whole", "choice", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [bounds for bounds in (self.log, self.real, self.whole, self.choice) if bounds is not None]
        if len(given) != 1:
            raise _mistake(f"got {len(given)} of log, float, int, choice; a dimension is exactly one of them")
        if self.choice is not None:
            if not self.choice:
                raise _mistake("'choice' is empty; list the values to try", "choice")
            return self
        low, high = self.bounds
        if not low < high:
            raise _mistake(f"impossible range [{low:g}, {high:g}]; the first bound must be below the second")
        if self.log and low <= 0:
            raise _mistake(f"got {low:g}; a log range starts above 0", "log")
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
            raise _mistake(
                f"got {path!r}; an estimator is an import path within {', '.join(ALLOWED_PACKAGES)}, such as "
                f"sklearn.linear_model.Ridge{nearest(package, ALLOWED_PACKAGES)}"
            )
        return path

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Self:
        both = sorted(set(self.params) & set(self.search))
        if both:
            raise _mistake(
                f"{both[0]!r} is both fixed and searched; keep it under params or under search", "search", both[0]
            )
        endless = [name for name, dimension in self.search.items() if dimension.choice is None]
        if self.method == "grid" and endless:
            raise _mistake(
                f"a grid needs a list: write {endless[0]}: {{choice: [...]}}, or use method: random", "method"
            )
        return self


class FeatureSelection(Block):
    """Keep the best features of the prepared ones, by a univariate test inside the pipeline."""

    percentile: int = Field(ge=1, le=100)


class Train(Block):
    """When and on what a model is trained, and what it must reach on the test part before it may be promoted."""

    schedule: Cron | None = None
    start: Day | None = None
    window: Days = 180
    candidates: tuple[Candidate, ...] = Field(min_length=1)
    feature_selection: FeatureSelection | None = None
    half_life: Days | None = None
    accept: dict[str, Limit] | None = None
    folds: int = Field(default=3, ge=2, le=20)
    seed: int = Field(default=0, ge=0)

    @field_validator("candidates", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @model_validator(mode="after")
    def _long_enough(self) -> Self:
        if self.window < 7:
            raise _mistake(f"got {self.window}d; a window is at least 7d, to be split 70/15/15 by days", "window")
        return self


def _one_shard(given: object) -> object:
    if given != 1:
        raise _mistake(f"got {given!r}; only shards: 1 is built so far: remove the key")
    return given


class Score(Block):
    """When a day is scored. The run at the cron's time scores the day before."""

    schedule: Cron | None = "0 6 * * *"
    start: Day | None = None
    catchup: bool = False
    shards: Annotated[int, BeforeValidator(_one_shard)] = 1

    @field_validator("schedule")
    @classmethod
    def _once_a_day(cls, schedule: str | None) -> str | None:
        if schedule and schedule != "@daily" and not re.fullmatch(r"\d+ \d+ \* \* \*", schedule):
            raise _mistake(f"got {schedule!r}; each day is scored once: write a minute, an hour and '* * *', or @daily")
        return schedule

    @model_validator(mode="after")
    def _catchup_has_a_start(self) -> Self:
        if self.catchup and self.start is None:
            raise _mistake("catchup scores every day since the start: give start, such as 2026-01-31", "catchup")
        return self


class Violated(Block):
    """A metric is violated when the latest window and `at_least` of the last `of_last` windows are out of range."""

    at_least: int = Field(default=2, ge=1)
    of_last: int = Field(default=3, ge=1, le=12)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.at_least > self.of_last:
            raise _mistake(f"impossible: at_least {self.at_least} of the last {self.of_last} windows", "at_least")
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
    slice: Days = 14
    drift: Drift = Drift()

    @property
    def metric(self) -> str:
        """The gate's metric: the first one listed."""
        return next(iter(self.metrics))

    @model_validator(mode="after")
    def _enough_days(self) -> Self:
        for name, days in (("every", self.every), ("slice", self.slice)):
            if days < self.min_days:
                raise _mistake(
                    f"{name} is {days}d, fewer than min_days {self.min_days}: it could never be measured", name
                )
        return self


class Recipe(Block):
    """One attempt of the retraining loop."""

    window: Annotated[Days, Field(ge=3)]
    half_life: Days | None = None
    keep_old: float | None = Field(default=None, gt=0, le=1)
    trials: int | None = Field(default=None, ge=1, le=1000)


def _no_approval(given: object) -> object:
    if given == "human":
        raise _mistake("got 'human'; approval by a person is not built yet: use approval: none")
    return given


class Promote(Block):
    """What a challenger must show to replace the champion, and what happens then."""

    approval: Annotated[Literal["none"], BeforeValidator(_no_approval)] = "none"
    min_gain: float = Field(default=0.0, ge=0)
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    refit: bool = False


class Alerts(Block):
    """Whom warnings reach."""

    email: tuple[Address, ...] = ()

    @field_validator("email", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given


class ModelSpec(Block):
    """One model, as its model.yaml declares it. `folder` is where the file lies."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")
    owner: Address
    task: Task
    source: Source
    time: Time
    key: tuple[Column, ...] = Field(min_length=1)
    target: Column
    positive: str | int | bool | None = None
    label_delay: Delay = 1
    labels: Labels | None = None
    inputs: tuple[Column, ...] = ()
    features: Features
    expect: dict[Column, Expectation] = Field(default_factory=dict)
    train: Train
    score: Score = Score()
    check: Check
    retrain: tuple[Recipe, ...] = Field(default=(), max_length=3)
    promote: Promote = Promote()
    alerts: Alerts = Alerts()
    folder: SkipJsonSchema[Path] = Field(default=Path(), exclude=True)

    @field_validator("key", "inputs", "retrain", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @property
    def positive_class(self) -> str:
        """The positive class of a binary task, as text: '1' (which is also True) unless the spec names it."""
        return "1" if self.positive is None else canonical(self.positive)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The attempts of the retraining loop; by default the whole window, a half and a quarter of it."""
        window = self.train.window
        default = tuple(Recipe.model_construct(window=max(window // part, 7)) for part in (1, 2, 4))
        return self.retrain or default

    @property
    def has_features_code(self) -> bool:
        """Whether the model's folder has a features.py that builds the features from the raw rows."""
        return (self.folder / "features.py").is_file()

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The columns that the source must have to be scored, each once: never the target."""
        wanted = (self.time.column, *((self.time.hour,) if self.time.hour else ()), *self.key, *self.inputs)
        wanted += () if self.has_features_code else self.features.all
        return tuple(dict.fromkeys(wanted))

    @model_validator(mode="after")
    def _columns_agree(self) -> Self:
        if self.target in self.features.all:
            raise _mistake(
                f"the target {self.target!r} is among the features: the answer would leak; remove it", "features"
            )
        foreign = [
            name for name in (self.labels.key if self.labels and self.labels.key else ()) if name not in self.key
        ]
        if foreign:
            raise _mistake(
                f"{foreign[0]!r} is not part of the model's key {list(self.key)}; name columns of it", "labels", "key"
            )
        for name in (*self.features.all, *self.key, *self.inputs):
            if name in RESERVED_COLUMNS or (name == "day" and self.time.column != "day"):
                raise _mistake(f"{name!r} is a column that esteira writes itself; rename the source's column")
        known = list(dict.fromkeys((*self.source_columns, *self.features.all, self.target)))
        for name in self.expect:
            if name not in known:
                raise _mistake(
                    f"unknown column {name!r}; known: {', '.join(known)}{nearest(name, known)}", "expect", name
                )
        return self

    @model_validator(mode="after")
    def _metrics_agree(self) -> Self:
        for where, limits in (("check", self.check.metrics), ("train", self.train.accept or {})):
            part = "metrics" if where == "check" else "accept"
            for name, limit in limits.items():
                self._check_metric((where, part, name), name, limit)
        return self

    def _check_metric(self, keys: tuple[str, ...], name: str, limit: Limit) -> None:
        allowed = [metric for metric, (tasks, _) in METRICS.items() if self.task in tasks]
        if name not in allowed:
            raise _mistake(
                f"unknown metric {name!r}; for {self.task}: {', '.join(allowed)}{nearest(name, allowed)}", *keys
            )
        bound = "min" if METRICS[name][1] is HIGHER else "max"
        if getattr(limit, bound) is None:
            better = "higher" if bound == "min" else "lower"
            raise _mistake(f"{name} is better when {better}: give {bound}", *keys)

    @model_validator(mode="after")
    def _task_agrees(self) -> Self:
        if self.positive is not None and self.task != "binary":
            raise _mistake(f"'positive' names the positive class of a binary task; the task is {self.task}", "positive")
        return self

    @model_validator(mode="after")
    def _code_exists(self, info: ValidationInfo) -> Self:
        for keys, source in (("source",), self.source), (("labels", "source"), self.labels and self.labels.source):
            if isinstance(source, PythonSource):
                _check_function(self.folder, source.function, (*keys, "function"))
        if self.has_features_code:
            _check_function(self.folder, "features.build", ("features",))
        return self


def _check_function(folder: Path, dotted: str, keys: tuple[str, ...]) -> None:
    module, _, function = dotted.partition(".")
    path = folder / f"{module}.py"
    if not path.is_file():
        found = [file.stem for file in folder.glob("*.py")]
        raise _mistake(
            f"{path.name} is not in the model's folder; found: {found or 'no .py file'}{nearest(module, found)}", *keys
        )
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise _mistake(f"{path.name}, line {error.lineno}: {error.msg}", *keys) from None
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if function not in found:
        raise _mistake(f"{path.name} has no function {function!r}; it has: {found}{nearest(function, found)}", *keys)


@dataclass(frozen=True)
class _Document:
    data: Any
    lines: Mapping[tuple[Hashable, ...], int]

    def keys(self, at: tuple[Hashable, ...]) -> tuple[Hashable, ...]:
        """`at` without the union tags that pydantic puts between; a last key that the file lacks (a missing one) stays."""
        found: tuple[Hashable, ...] = ()
        for index, key in enumerate(at):
            if (*found, key) in self.lines or index == len(at) - 1:
                found = (*found, key)
        return found

    def line(self, at: tuple[Hashable, ...]) -> int:
        """The line of the deepest of the keys that the file has."""
        keys = self.keys(at)
        return self.lines.get(keys, self.lines.get(keys[:-1], 1))


def _read(path: Path) -> _Document:
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise SpecError(f"{path}: can't be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from None
    try:
        node = loader.get_single_node()
        lines: dict[tuple[Hashable, ...], int] = {}
        _walk(node, (), lines, path)
        return _Document(loader.construct_document(node) if node else None, lines)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise SpecError(f"{path}: not valid YAML: {error}") from None
    except RecursionError:
        raise SpecError(f"{path}: an alias (*name) stands within what it names; write it out") from None
    finally:
        loader.dispose()


def _walk(node: yaml.Node | None, at: tuple[Hashable, ...], lines: dict[tuple[Hashable, ...], int], path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                raise SpecError(
                    f"{path}, line {line}: a block stands where a key is wanted; write ${{NAME}} for a variable"
                )
            if key.value in seen:
                raise SpecError(f"{path}, line {key.start_mark.line + 1}: {key.value!r} is given twice; keep one")
            seen.add(key.value)
            lines[(*at, key.value)] = key.start_mark.line + 1
            _walk(value, (*at, key.value), lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines[(*at, index)] = value.start_mark.line + 1
            _walk(value, (*at, index), lines, path)


def _fill(value: Any, fill: Callable[[tuple[Hashable, ...], str], str], at: tuple[Hashable, ...] = ()) -> Any:
    """`value` with `fill` called for each ${NAME} in its texts, `at` the keys that lead there."""
    if isinstance(value, dict):
        return {key: _fill(item, fill, (*at, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, fill, (*at, index)) for index, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+)\}", lambda match: fill(at, match[1]), value)


def load(path: Path, environment: Mapping[str, str] | None = None) -> ModelSpec:
    """The model that `path` declares. Raises SpecError that names every mistake with its line.

    What came from the environment may be a secret: an error shows its name in place of it.
    """
    document, variables, filled = _read(path), os.environ if environment is None else environment, dict[str, str]()

    def fail(at: tuple[Hashable, ...], message: str) -> SpecError:
        for value, name in filled.items():
            message = message.replace(value, f"${{{name}}}")
        where = ".".join(str(key) for key in document.keys(at))
        return SpecError(f"{path}, line {document.line(at)}: {where + ': ' if where else ''}{message}")

    def fill(at: tuple[Hashable, ...], name: str) -> str:
        if name not in variables:
            raise fail(at, f"the environment has no {name}; set it, or write the value here")
        if variables[name]:
            filled[variables[name]] = name
        return variables[name]

    if not isinstance(document.data, dict):
        raise fail((), "the file is empty or not a block of keys; start with name:, owner:, task:")
    if "folder" in document.data:
        raise fail(("folder",), f"unknown key 'folder'; allowed: {', '.join(ModelSpec._keys())}")
    data = _fill(document.data, fill)
    try:
        spec = ModelSpec.model_validate({**data, "folder": path.parent})
    except ValidationError as error:
        mistakes = dict.fromkeys(str(fail(*_explain(detail))) for detail in error.errors())
        raise SpecError("\n".join(mistakes)) from None
    if spec.name != path.parent.name:
        raise fail(("name",), f"got {spec.name!r}; the name must be that of the folder, {path.parent.name!r}")
    return spec


def _explain(detail: ErrorDetails) -> tuple[tuple[Hashable, ...], str]:
    at, context, got = tuple(detail["loc"]), detail.get("ctx", {}), detail["input"]
    match detail["type"]:
        case "spec":
            return (*at, *context["keys"]), context["text"]
        case "missing":
            return at, "missing; add it"
        case "literal_error":
            allowed = re.findall(r"'([^']*)'", context["expected"])
            return at, f"got {got!r}; allowed: {', '.join(allowed)}{nearest(got, allowed)}"
        case "union_tag_invalid":
            allowed = re.findall(r"'([^']*)'", context["expected_tags"])
            return (
                *at,
                "kind",
            ), f"got {context['tag']!r}; allowed: {', '.join(allowed)}{nearest(context['tag'], allowed)}"
        case "union_tag_not_found":
            return at, "the kind is missing; add kind: csv, parquet, delta, sql or python"
        case "tuple_type":
            return at, f"got {got!r}; a list is wanted, such as [{got}]"
        case "string_pattern_mismatch":
            return at, f"got {got!r}; it must match {context['pattern']}"
    shown = "a value" if "url" in at else repr(got)
    return at, f"got {shown}; {detail['msg'][0].lower()}{detail['msg'][1:]}"


def model_files(folders: str | None = None) -> list[Path]:
    """Every model.yaml under the folders of models: ESTEIRA_MODELS (parted by ':'), else include/models of this project."""
    given = folders if folders is not None else os.environ.get("ESTEIRA_MODELS", "")
    roots = [Path(folder) for folder in given.split(os.pathsep) if folder] or [Path(__file__).parents[1] / "models"]
    return sorted(file for root in roots for file in root.glob("*/model.yaml"))


def find(name: str) -> ModelSpec:
    """The model called `name`. Raises SpecError with the nearest name there is."""
    files = {path.parent.name: path for path in model_files()}
    if name not in files:
        raise SpecError(f"no model {name!r}; there are: {', '.join(files) or 'none'}{nearest(name, list(files))}")
    return load(files[name])


def digest(spec: ModelSpec) -> str:
    """SHA-256 of the model.yaml as it lies on disk, for lineage."""
    return hashlib.sha256((spec.folder / "model.yaml").read_bytes()).hexdigest()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a model.yaml, for editors."""
    return ModelSpec.model_json_schema(by_alias=True, mode="validation")
