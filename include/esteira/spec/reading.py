"""Read a model.yaml; every mistake is named with its line and its mend."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)
from pydantic_core import ErrorDetails

from esteira.spec.model import ModelSpec
from esteira.spec.words import SpecError, nearest


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
        raise fail(("folder",), f"unknown key 'folder'; allowed: {', '.join(ModelSpec.known_keys())}")
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
    roots = [Path(folder) for folder in given.split(os.pathsep) if folder] or [Path(__file__).parents[2] / "models"]
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
