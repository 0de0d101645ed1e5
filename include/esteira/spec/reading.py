"""Read a model.yaml; every mistake is named with its line and its mend."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Hashable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import (
    ValidationError,
)
from pydantic_core import ErrorDetails

from esteira.errors import SpecError
from esteira.settings import settings
from esteira.spec import cache
from esteira.spec.model import Functions, ModelSpec
from esteira.spec.sources import KINDS, SECRET_KEYS
from esteira.spec.words import nearest

# What a model.yaml may be at most. Every model of a team is a few kilobytes; beyond this a file is a mistake, or an attack on
# whoever parses it: nine lines of aliases can stand for a billion values.
MAX_BYTES = 256 * 1024
MAX_VALUES = 20_000
MAX_DEPTH = 20
MAX_SHOWN = 1_000  # characters of a mistake


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


def _text(path: Path) -> str:
    """The file's text. A pipe or a device, which might never end, is not opened."""
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            raise SpecError(f"{path}: is not a regular file; put the model.yaml itself there")
        if kind.st_size > MAX_BYTES:
            raise SpecError(
                f"{path}: is {kind.st_size:,} bytes; a model.yaml has at most {MAX_BYTES:,}. Data belongs into its source"
            )
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8") from None
    except OSError as error:
        raise SpecError(f"{path}: can't be read: {error.strerror}") from None


def _require_bounded(path: Path, text: str) -> None:
    """Refuse a document that is too deep, or stands for too many values, before anything is built from it."""
    open_blocks: list[tuple[str | None, int]] = []  # the anchor of each, and how many values came before it
    sizes: dict[str, int] = {}  # by anchor
    values = 0
    for event in yaml.parse(text, Loader=LOADER):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.CollectionStartEvent):
            open_blocks.append((event.anchor, values))
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_blocks.pop()
            if anchor:
                sizes[anchor] = values - before
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in [anchor for anchor, _ in open_blocks]:
                raise SpecError(
                    f"{path}, line {line}: the alias *{event.anchor} stands within what it names; write it out"
                )
            values += sizes.get(str(event.anchor), 1)
        values += isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if len(open_blocks) > MAX_DEPTH:
            raise SpecError(
                f"{path}, line {line}: more than {MAX_DEPTH} blocks within each other; a model.yaml needs 6"
            )
        if values > MAX_VALUES:
            raise SpecError(
                f"{path}, line {line}: more than {MAX_VALUES:,} values, those counted that an alias (*name) repeats; "
                "shorten its lists"
            )


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _read(path: Path, text: str) -> _Document:
    try:
        _require_bounded(path, text)
        loader = LOADER(text)
        try:
            node = loader.get_single_node()
            lines: dict[tuple[Hashable, ...], int] = {}
            _walk(node, (), lines, path)
            return _Document(loader.construct_document(node) if node else None, lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError is of a date or a number that there is not
        raise SpecError(f"{path}: not valid YAML: {error}") from None


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
    return _spec(path, _read(path, _text(path)), os.environ if environment is None else environment, {})


def load_cached(path: Path) -> ModelSpec:
    """The model as load() reads it; its YAML and its code are parsed only where they are not in the cache of spec/cache.py."""
    text = _text(path)
    entry, functions = cache.read(path, text), Functions()
    if entry:
        functions |= entry.functions
        with suppress(SpecError):  # as where a variable is gone; it is said below, with the line, which no entry has
            spec = _spec(path, _Document(entry.document, {}), os.environ, functions)
            if functions != entry.functions:
                cache.write(path, text, cache.Entry(entry.document, functions))
            return spec
    document = _read(path, text)
    functions.clear()
    spec = _spec(path, document, os.environ, functions)
    if not _holds_a_secret(spec, document.data):
        cache.write(path, text, cache.Entry(document.data, functions))
    return spec


def _holds_a_secret(spec: ModelSpec, data: Mapping[str, Any]) -> bool:
    """Whether a secret, such as a database's URL, stands in the model.yaml itself, of which there shall be no second copy."""
    for where, source in spec.sources.items():
        block: Any = data
        for key in where:
            block = block[key]
        if not all(re.fullmatch(r"(\$\{\w+\})+", block[key]) for key in source.secrets):
            return True
    return False


def _spec(path: Path, document: _Document, variables: Mapping[str, str], functions: Functions) -> ModelSpec:
    """The model that a document declares. `functions` are those of its .py files, as far as known; it is added to."""
    filled: dict[str, str] = {}

    def fail(at: tuple[Hashable, ...], message: str) -> SpecError:
        for value, name in filled.items():
            message = message.replace(value, f"${{{name}}}")
        message = (
            message if len(message) <= MAX_SHOWN else f"{message[: MAX_SHOWN // 2]} … {message[-MAX_SHOWN // 2 :]}"
        )
        where = ".".join(str(key) for key in document.keys(at))
        return SpecError(f"{path}, line {document.line(at)}: {where + ': ' if where else ''}{message}")

    def fill(at: tuple[Hashable, ...], name: str) -> str:
        if name not in variables:
            raise fail(at, f"the environment has no {name}; set it, or write the value here")
        if len(variables[name]) > 3:  # a shorter one is no secret, and part of other words
            filled[variables[name]] = name
        return variables[name]

    if not isinstance(document.data, dict):
        raise fail((), "the file is empty or not a block of keys; start with name:, owner:, task:")
    if "folder" in document.data:
        raise fail(("folder",), f"unknown key 'folder'; allowed: {', '.join(ModelSpec.known_keys())}")
    data = _fill(document.data, fill)
    try:
        spec = ModelSpec.model_validate({**data, "folder": path.parent}, context=functions)
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
            return at, f"the kind is missing; add kind: {', '.join(KINDS[:-1])} or {KINDS[-1]}"
        case "tuple_type":
            return at, f"got {got!r}; a list is wanted, such as [{got}]"
        case "string_pattern_mismatch":
            return at, f"got {got!r}; it must match {context['pattern']}"
    shown = "a value" if SECRET_KEYS & {*at} else repr(got)
    return at, f"got {shown}; {detail['msg'][0].lower()}{detail['msg'][1:]}"


def model_files() -> list[Path]:
    """Every model.yaml under the folders of models: ESTEIRA_MODELS (separated by ':'), else include/models of this project."""
    folders_of = (folder for root in dict.fromkeys(settings().model_folders) for folder in root.glob("*"))
    # A link to nothing is there, too: what is wrong with it is said where it is read.
    return sorted(folder / "model.yaml" for folder in folders_of if os.path.lexists(folder / "model.yaml"))


def by_name(files: Iterable[Path]) -> dict[str, list[Path]]:
    """The files, by the name of the model that each declares."""
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(path.parent.name, []).append(path)
    return found


def require_one(path: Path, named: Mapping[str, list[Path]]) -> None:
    """Raise SpecError where another of the files declares a model of the same name: which one is meant, nobody can tell."""
    name = path.parent.name
    alike = named.get(name, [])
    others = [other for other in alike if other.absolute() != path.absolute()] if len(alike) > 1 else []
    if others:
        raise SpecError(
            f"{path}: the model {name!r} is declared a second time, in {', '.join(map(str, others))}; rename one "
            "of the folders (and its name:), or take one of the folders out of ESTEIRA_MODELS"
        )


def find(name: str) -> ModelSpec:
    """The model called `name`. Raises SpecError with the nearest name there is, or where two files declare it."""
    named = by_name(model_files())
    if name not in named:
        raise SpecError(f"no model {name!r}; there are: {', '.join(named) or 'none'}{nearest(name, list(named))}")
    path = named[name][-1]
    require_one(path, named)
    return load(path)


def digest(spec: ModelSpec) -> str:
    """SHA-256 of the model.yaml as it lies on disk, for lineage."""
    return hashlib.sha256((spec.folder / "model.yaml").read_bytes()).hexdigest()


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a model.yaml, for editors."""
    return ModelSpec.model_json_schema(by_alias=True, mode="validation")
