"""What README.md, CONTRIBUTING.md and docs/*.md name is there: commands, flags, targets, variables, links, files, tests, keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from esteira import settings, spec

from tests.docs import pages
from tests.docs.pages import CLI, MAKEFILE, PROJECT, REFERENCES, TARGETS, Snippet

SERVICES = set(yaml.safe_load((PROJECT / "docker-compose.yaml").read_text())["services"])
# Flags of other programs that sentences name alone.
OTHER_FLAGS = {"--allowed-hosts": "mlflow server"}
# Read by the code, but not for users to set.
INTERNAL = {
    "ESTEIRA_COMMIT": "make image sets it",
    "ESTEIRA_SETUP": "make up marks its processes with it",
}

each_page = pytest.mark.parametrize("path", REFERENCES, ids=pages.name_of)


def subcommands() -> dict[str, click.Command]:
    return dict(CLI.commands)  # type: ignore[attr-defined]


def flags(command: click.Command) -> set[str]:
    return {"--help"} | {flag for each in command.params for flag in [*each.opts, *each.secondary_opts]}


def calls(snippet: Snippet) -> Iterator[list[str]]:
    """The calls of `esteira` in a command, as words; `esteira a | b` names two."""
    for found in re.finditer(r"(?:^|/|exec [\w-]+ )esteira ([^>&;]+)", snippet.text):
        first, *others = re.split(r" \| ", found[1])
        yield shlex.split(first)
        yield from (shlex.split(other) for other in others)


@each_page
def test_each_command_exists_with_its_flags(path: Path) -> None:
    known = subcommands()
    for snippet in pages.commands(path):
        for name, *words in calls(snippet):
            assert name in known or name == "--help", f"{snippet}: no such command: esteira {name}"
            given = {word.split("=")[0] for word in words if word.startswith("-")}
            wrong = given - flags(known[name]) if name in known else set()
            assert not wrong, f"{snippet}: esteira {name} has no {sorted(wrong)}"


@each_page
def test_each_flag_that_stands_alone_is_one_of_ours(path: Path) -> None:
    ours = {flag for command in subcommands().values() for flag in flags(command)}
    for snippet in pages.inline(path):
        flag = snippet.text.split()[0]
        if flag.startswith("--"):
            assert flag in ours | set(OTHER_FLAGS), f"{snippet}: no command has this flag"


@each_page
def test_each_make_target_exists(path: Path) -> None:
    for snippet in pages.commands(path):
        for found in re.finditer(r"(?:^|&& )make ((?:[\w=/.\"<>-]+ ?)+)", snippet.text):
            for word in shlex.split(found[1].replace("<", "").replace(">", "")):
                name, is_variable, _ = word.partition("=")
                there = re.search(rf"\$\$?[({{]{name}\b", MAKEFILE) if is_variable else name in TARGETS
                assert there, f"{snippet}: the Makefile has no {'variable' if is_variable else 'target'} {name}"


@each_page
def test_each_service_that_docker_is_asked_for_exists(path: Path) -> None:
    for snippet in pages.commands(path):
        for name in re.findall(r"docker compose .*?(?:exec |--scale )([\w-]+)", snippet.text):
            assert name in SERVICES, f"{snippet}: docker-compose.yaml has no service {name}"


def variables(paths: Iterator[Path]) -> set[str]:
    found = (re.findall(r"ESTEIRA_[A-Z_]*[A-Z]", path.read_text(encoding="utf-8")) for path in paths)
    return {name for names in found for name in names}


def code() -> Iterator[Path]:
    yield from (PROJECT / name for name in ("Makefile", "docker-compose.yaml", "Dockerfile"))
    for folder in ("include/esteira", "ops", "dags", "plugins"):
        yield from (PROJECT / folder).rglob("*.py")
    yield from (PROJECT / "config").iterdir() if (PROJECT / "config").is_dir() else ()


def test_variables_that_the_docs_name_are_read_and_those_that_are_read_are_named() -> None:
    files = (path for path in code() if path.is_file())
    read, named = variables(files) | set(settings.NAMES), variables(iter(REFERENCES))
    others = variables(iter([*(PROJECT / "examples").rglob("model.yaml"), *(PROJECT / "benchmarks").glob("*.py")]))
    assert named - read - others == set(), "the docs name variables that nothing reads"
    assert read - named == set(INTERNAL), "say in docs/running.md what these do, or in INTERNAL why not"


@each_page
def test_each_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for address in re.findall(r"\]\(([^)]+)\)", text):
        if address.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = address.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path}: no file {address}"
        assert not anchor or anchor in pages.headings(target), f"{path}: no heading {address}"


@each_page
def test_each_file_of_the_project_that_is_named_exists(path: Path) -> None:
    top = {each.name for each in PROJECT.iterdir() if each.is_dir() and not each.name.startswith(".")}
    for snippet in pages.inline(path):
        first = snippet.text.split("/")[0]
        if first in top and "/" in snippet.text and not re.search(r"[\s*<>{]", snippet.text):
            assert (PROJECT / snippet.text).exists(), f"{snippet}: there is no such file"


@each_page
def test_each_test_that_is_named_exists(path: Path) -> None:
    files = list((PROJECT / "tests").rglob("test_*.py"))
    names, text = {each.name for each in files}, "".join(each.read_text(encoding="utf-8") for each in files)
    for snippet in pages.inline(path):
        if re.fullmatch(r"test_\w+\.py", snippet.text):
            assert snippet.text in names, f"{snippet}: there is no such file of tests"
        elif found := re.fullmatch(r"(test_\w+)…?", snippet.text):
            assert f"def {found[1]}" in text, f"{snippet}: there is no such test"


def keys(schema: Any) -> Iterator[str]:
    """The names of all keys of a JSON Schema."""
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for each in schema.values():
            yield from keys(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from keys(each)


def test_each_key_of_model_yaml_is_explained() -> None:
    text = "\n".join((PROJECT / "docs" / name).read_text(encoding="utf-8") for name in ("model.md", "data.md"))
    fences, rest = re.findall(r"```.*?```", text, re.S), re.sub(r"```.*?```", "", text, flags=re.S)
    code_of_page = " ".join([*fences, *re.findall(r"`([^`]+)`", rest)])
    missing = {key for key in keys(spec.json_schema()) if not re.search(rf"\b{key}\b", code_of_page)}
    assert not missing, f"docs/model.md explains every key, says README.md; it lacks {sorted(missing)}"
