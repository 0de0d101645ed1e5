"""One model, as its model.yaml declares it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from esteira.spec.policy import Alerts, Check, Limit, Promote, Recipe, Score, Train
from esteira.spec.rows import Expectation, Features, Labels, PythonSource, Source, Time
from esteira.spec.words import (
    HIGHER,
    METRICS,
    RESERVED_COLUMNS,
    Address,
    Block,
    Column,
    Delay,
    Task,
    canonical,
    mistake,
    nearest,
)


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
            raise mistake(
                f"the target {self.target!r} is among the features: the answer would leak; remove it", "features"
            )
        foreign = [
            name for name in (self.labels.key if self.labels and self.labels.key else ()) if name not in self.key
        ]
        if foreign:
            raise mistake(
                f"{foreign[0]!r} is not part of the model's key {list(self.key)}; name columns of it", "labels", "key"
            )
        for name in (*self.features.all, *self.key, *self.inputs):
            if name in RESERVED_COLUMNS or (name == "day" and self.time.column != "day"):
                raise mistake(f"{name!r} is a column that esteira writes itself; rename the source's column")
        known = list(dict.fromkeys((*self.source_columns, *self.features.all, self.target)))
        for name in self.expect:
            if name not in known:
                raise mistake(
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
            raise mistake(
                f"unknown metric {name!r}; for {self.task}: {', '.join(allowed)}{nearest(name, allowed)}", *keys
            )
        bound = "min" if METRICS[name][1] is HIGHER else "max"
        if getattr(limit, bound) is None:
            better = "higher" if bound == "min" else "lower"
            raise mistake(f"{name} is better when {better}: give {bound}", *keys)

    @model_validator(mode="after")
    def _task_agrees(self) -> Self:
        if self.positive is not None and self.task != "binary":
            raise mistake(f"'positive' names the positive class of a binary task; the task is {self.task}", "positive")
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
        raise mistake(
            f"{path.name} is not in the model's folder; found: {found or 'no .py file'}{nearest(module, found)}", *keys
        )
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise mistake(f"{path.name}, line {error.lineno}: {error.msg}", *keys) from None
    found = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if function not in found:
        raise mistake(f"{path.name} has no function {function!r}; it has: {found}{nearest(function, found)}", *keys)
