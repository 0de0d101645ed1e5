"""The DAGs are the same with a cache of specs and without, and those of `make bench-parse` are ours but for what they call."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from esteira.dags import building
from esteira.spec import cache, reading

from benchmarks import bare
from tests import models
from tests.conftest import PROJECT

# What names a function, or holds the text of one.
NAMES = ("pre_execute", "_pre_execute_hook", "python_callable_name", "fileloc", "deadline")


def serialized(dag: Any) -> Any:
    from airflow.serialization.serialized_objects import DagSerialization

    return json.loads(json.dumps(DagSerialization.to_dict(dag)))


def values(found: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a DAG, by where it stands, but for what names a function."""
    if isinstance(found, dict):
        for key in found:
            if key not in NAMES:
                yield from values(found[key], f"{at}.{key}")
    elif isinstance(found, list):
        for index, each in enumerate(found):
            yield from values(each, f"{at}[{index}]")
    else:
        yield at, found


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("ESTEIRA_DATA", "/nowhere")


@pytest.mark.parametrize("kind", ["train", "score", "check"])
def test_the_bare_dags_of_the_benchmark_are_ours(kind: str) -> None:
    ours, theirs = building.build(), bare.build(["toll_traffic"])
    name = f"toll_traffic_{kind}"
    assert dict(values(serialized(ours[name]))) == dict(values(serialized(theirs[name])))
    assert bool(ours[name].deadline) == bool(theirs[name].deadline)


def test_a_cached_spec_makes_the_same_dags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_MODELS", f"{PROJECT / 'include' / 'models'}:{PROJECT / 'examples'}")
    cold = {name: serialized(dag) for name, dag in building.build().items()}
    monkeypatch.setattr(reading, "_read", lambda *_: pytest.fail("a YAML was parsed"))
    warm = {name: serialized(dag) for name, dag in building.build().items()}
    assert len(cold) >= 15
    assert warm == cold


def test_where_a_task_runs_its_spec_is_cached_too(dag_bag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.write(tmp_path, "good")
    dag_bag(tmp_path)
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "good_score")
    monkeypatch.setattr(reading, "_read", lambda *_: pytest.fail("a YAML was parsed"))
    assert set(building.build()) == {"good_score"}


def test_a_parse_removes_the_entries_of_models_that_are_gone(
    dag_bag, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        models.write(tmp_path, name)
    monkeypatch.setattr(cache, "YOUNG", -1)
    dag_bag(tmp_path)
    assert len(list(cache.folder().iterdir())) == 2
    (tmp_path / "two" / "model.yaml").unlink()
    dag_bag(tmp_path)
    assert [path.name for path in cache.folder().iterdir()] == [cache._name(tmp_path / "one" / "model.yaml")]


def test_copies_of_a_form_share_its_schema_and_nothing_else() -> None:
    import copy

    from esteira.dags.common import number_field

    field = number_field("Window", "Days")
    copied = copy.deepcopy(field)
    assert copied is not field
    assert copied.schema is field.schema
    copied.resolve(3)
    assert (field.value, copied.value) == (None, 3)
