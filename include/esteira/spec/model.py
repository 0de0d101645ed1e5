"""One model, as its model.yaml declares it."""

from __future__ import annotations

import ast
import hashlib
import json
import zlib
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from esteira.learning.metrics import METRICS, Task
from esteira.spec.policy import Alerts, Check, Limit, Promote, Recipe, Score, Train
from esteira.spec.rows import Expectation, Features, Labels, Quality, Time
from esteira.spec.sources import Source
from esteira.spec.words import (
    RESERVED_COLUMNS,
    Address,
    Block,
    Column,
    Delay,
    Minutes,
    canonical,
    mistake,
    nearest,
)

# Of each .py file that was looked into: the digest of its bytes, and the names of its functions. It is the context of a
# validation, which adds to it.
Functions = dict[str, tuple[str, list[str]]]


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
    quality: Quality = Quality()
    personal: tuple[Column, ...] = ()
    train: Train
    score: Score = Score()
    check: Check
    retrain: tuple[Recipe, ...] = Field(default=(), max_length=3)
    retrain_first: Literal["blend", "none"] = "blend"
    members: int = Field(default=8, ge=2, le=32)
    promote: Promote = Promote()
    alerts: Alerts = Alerts()
    timeout: Minutes = 60
    folder: SkipJsonSchema[Path] = Field(default=Path(), exclude=True)

    @field_validator("key", "inputs", "personal", "retrain", mode="before")
    @classmethod
    def _list(cls, given: object) -> object:
        return tuple(given) if isinstance(given, list) else given

    @property
    def positive_class(self) -> str:
        """The positive class of a binary task, as text: '1' (which is also True) unless the spec names it."""
        return "1" if self.positive is None else canonical(self.positive)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """The attempts of the retraining loop; by default the whole window, a half of it, and the days since the violation began.

        Of those, too, the newest say most: a change that goes on leaves the first of them behind.
        """
        whole, half, quarter = (max(self.train.window // part, 7) for part in (1, 2, 4))
        made = Recipe.model_construct
        default = (
            made(window=whole),
            made(window=half),
            made(window=quarter, half_life=self.check.every, since_violation=True),
        )
        return self.retrain or default

    @property
    def estimates(self) -> bool:
        """Whether a check estimates the metrics of days whose labels are not there yet; by default where they take days."""
        return self.label_delay > 1 if self.check.estimate is None else self.check.estimate

    @property
    def has_features_code(self) -> bool:
        """Whether the model's folder has a features.py that builds the features from the raw rows."""
        return (self.folder / "features.py").is_file()

    @property
    def code(self) -> bytes:
        """The model's own code: what was made by other code is stale. Hidden files are an editor's."""
        files = (path for path in self.folder.glob("*.py") if not path.name.startswith(".") and path.is_file())
        return b"".join(path.read_bytes() for path in sorted(files))

    @property
    def sources(self) -> dict[tuple[str, ...], Source]:
        """The model's source, and that of its labels where they have another, by the keys that lead there."""
        labels = self.labels.source if self.labels else None
        return {("source",): self.source, **({("labels", "source"): labels} if labels else {})}

    def mark(self, *blocks: str) -> int:
        """A number that changes when the blocks, or the model's own code, do: what was made before is stale then."""
        unknown = set(blocks) - set(type(self).model_fields)
        if unknown:  # it would be left out, and what was made of it would never be stale
            raise ValueError(f"a model.yaml has no block {sorted(unknown)}")
        asked = self.model_dump(mode="json", include=set(blocks), exclude={"labels": {"settle"}})
        if asked.get("labels") and asked["labels"].get("source") is None:
            asked["labels"] = None  # as where there is no such block: labels are the source's own
        if not (asked.get("features") or {}).get("whole_day", True):
            del asked["features"]["whole_day"]  # as before there was such a key
        secrets = [secret for source in self.sources.values() for secret in source.secrets.values()]
        return zlib.crc32("".join([json.dumps(asked, sort_keys=True), *secrets]).encode() + self.code)

    @property
    def source_columns(self) -> tuple[str, ...]:
        """The columns that the source must have to be scored, each once: never the target."""
        wanted = (self.time.column, *((self.time.hour,) if self.time.hour else ()), *self.key, *self.inputs)
        wanted += () if self.has_features_code else self.features.all
        return tuple(dict.fromkeys(wanted))

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        given = {"key": self.key, "inputs": self.inputs, "target": (self.target,), "features": self.features.all}
        for where, names in given.items():
            for name in names:
                if name in RESERVED_COLUMNS or (name == "day" and self.time.column != "day"):
                    raise mistake(
                        f"{name!r} is a column that esteira writes itself; rename the source's column (a source.py can)",
                        where,
                    )
        return self

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
        known = list(dict.fromkeys((*self.source_columns, *self.features.all, self.target)))
        for where, names in (("expect", self.expect), ("personal", self.personal)):
            for name in names:
                if name not in known:
                    raise mistake(
                        f"unknown column {name!r}; known: {', '.join(known)}{nearest(name, known)}", where, name
                    )
        return self

    @model_validator(mode="after")
    def _roles_agree(self) -> Self:
        times = (self.time.column, *([self.time.hour] if self.time.hour else []))
        for where, names in {"key": self.key, "time": times, "inputs": self.inputs}.items():
            if self.target in names:
                raise mistake(f"the target {self.target!r} is among them: the answer would leak; remove it", where)
        if len(set(self.key)) < len(self.key):
            raise mistake(f"got {list(self.key)}; name each column of the key once", "key")
        return self

    @model_validator(mode="after")
    def _shares_are_of_the_source(self) -> Self:
        for name, expectation in self.expect.items():
            if expectation.max_null is not None and name not in (*self.source_columns, self.target):
                raise mistake(
                    f"{name!r} is made by features.py, and max_null is of the source's columns: {', '.join(self.source_columns)}",
                    "expect",
                    name,
                    "max_null",
                )
        return self

    @model_validator(mode="after")
    def _metrics_agree(self, info: ValidationInfo) -> Self:
        for where, limits in (("check", self.check.metrics), ("train", self.train.accept or {})):
            part = "metrics" if where == "check" else "accept"
            for name, limit in limits.items():
                self._check_metric((where, part, name), name, limit, info.context)
        for column, limits in self.check.segments.items():
            kinds = (*self.features.categorical, *self.features.boolean)
            if column not in kinds:
                raise mistake(
                    f"got {column!r}; a segment is a categorical or boolean feature: {', '.join(kinds) or 'there is none'}"
                    f"{nearest(column, kinds)}",
                    "check",
                    "segments",
                    column,
                )
            if column in self.personal:
                raise mistake(
                    f"{column!r} is personal, and a segment's values stand in mails and reports; remove one of the two",
                    "check",
                    "segments",
                    column,
                )
            for name, limit in limits.items():
                self._check_metric(("check", "segments", column, name), name, limit, info.context)
        return self

    @model_validator(mode="after")
    def _recipes_agree(self) -> Self:
        for index, recipe in enumerate(self.retrain):
            foreign = [name for name in recipe.features or () if name not in self.features.all]
            if foreign:
                raise mistake(
                    f"{foreign[0]!r} is not a feature of the model{nearest(foreign[0], self.features.all)}; a recipe's features "
                    f"are some of: {', '.join(self.features.all)}",
                    "retrain",
                    index,
                    "features",
                )
        return self

    def higher_is_better(self, metric: str) -> bool:
        """Whether a metric is better when it is higher; of a user's own one the bound given tells."""
        if metric in METRICS:
            return METRICS[metric].higher_is_better
        limits = {**(self.train.accept or {}), **self.check.metrics}
        return limits[metric].min is not None

    def by_recipe(self, recipe: Recipe) -> ModelSpec:
        """The model as a recipe trains it: with its candidates and its features, where it names some."""
        changes: dict[str, object] = {}
        if recipe.candidates:
            changes["train"] = self.train.model_copy(update={"candidates": recipe.candidates})
        if recipe.features:
            changes["features"] = self.features.only(recipe.features)
        return self.model_copy(update=changes)

    def _check_metric(self, keys: tuple[str, ...], name: str, limit: Limit, functions: Functions | None) -> None:
        if "." in name:
            _check_function(self.folder, name, keys, functions)
            if (limit.min is None) == (limit.max is None):
                raise mistake(
                    f"{name} is your own: give min where higher is better, max where lower is, not both", *keys
                )
            return
        allowed = [metric for metric, about in METRICS.items() if self.task in about.tasks]
        if name not in allowed:
            raise mistake(
                f"unknown metric {name!r}; for {self.task}: {_listed(allowed)}{nearest(name, allowed)}; your own is named module.function, of a file in the model's folder",
                *keys,
            )
        higher, best = METRICS[name].higher_is_better, METRICS[name].best
        bound, given = ("min", limit.min) if higher else ("max", limit.max)
        if given is None:
            raise mistake(f"{name} is better when {'higher' if higher else 'lower'}: give {bound}", *keys)
        if given > best if higher else given < best:
            raise mistake(f"{name} {limit} can't be reached, for its best value is {best}; see `esteira limits`", *keys)

    @model_validator(mode="after")
    def _task_agrees(self) -> Self:
        if self.positive is not None and self.task != "binary":
            raise mistake(f"'positive' names the positive class of a binary task; the task is {self.task}", "positive")
        return self

    @model_validator(mode="after")
    def _code_exists(self, info: ValidationInfo) -> Self:
        for where, source in self.sources.items():
            for key, function in source.functions.items():
                _check_function(self.folder, function, (*where, key), info.context)
        if self.has_features_code:
            _check_function(self.folder, "features.build", ("features",), info.context)
            if self.score.shards != 1 and "whole_day" not in self.features.model_fields_set:
                raise mistake(
                    "each shard gives features.py a part of a day: say features: {whole_day: false} if what it makes of a row "
                    "depends on that row alone, or true if it must see the others (the day is scored in one shard then)",
                    "score",
                    "shards",
                )
        return self


def _listed(metrics: list[str]) -> str:
    names = [name for name in metrics if not name.startswith("pinball_")]
    return ", ".join(names if len(names) == len(metrics) else [*names, "pinball_01 to pinball_99"])


def _check_function(folder: Path, dotted: str, keys: tuple[str, ...], functions: Functions | None) -> None:
    module, _, function = dotted.partition(".")
    path = folder / f"{module}.py"
    if not path.is_file():
        found = [file.stem for file in folder.glob("*.py")]
        raise mistake(
            f"{path.name} is not in the model's folder; found: {found or 'no .py file'}{nearest(module, found)}", *keys
        )
    try:
        found = _functions_of(path, {} if functions is None else functions)
    except SyntaxError as error:
        raise mistake(f"{path.name}, line {error.lineno}: {error.msg}", *keys) from None
    if function not in found:
        raise mistake(f"{path.name} has no function {function!r}; it has: {found}{nearest(function, found)}", *keys)


def _functions_of(path: Path, known: Functions) -> list[str]:
    """The functions that a .py file defines, parsed only where its bytes are not those that are known."""
    code = path.read_bytes()
    digest = hashlib.sha256(code).hexdigest()
    if path.name not in known or known[path.name][0] != digest:
        tree = ast.parse(code.decode())
        known[path.name] = digest, [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return known[path.name][1]
