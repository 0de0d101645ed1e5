"""The facts of each kind of source. Marks of days, and the dump that a training is known by, stay as lakes carry them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from esteira.spec import ModelSpec, load, sources
from esteira.steps import ingest, labelling

from tests import models

CODE = "def read(first, last):\n    return None\n"
SOURCES = {
    "csv": "kind: csv, path: 'in/{{day}}/rows.csv', separator: ';', ready: _DONE",
    "csv that is accepted": "kind: csv, path: in.csv, encoding: latin-1, incomplete: accept, follow_links: true",
    "parquet": "kind: parquet, path: 'in/*.parquet'",
    "delta": "kind: delta, path: s3://lake/rows",
    "sql": "kind: sql, url: 'postgresql://me:word@host/db', query: 'select * from t where at between :first and :last'",
    "python": "kind: python, function: source.read",
}
# By source: the mark of days of features and that of days of labels, which lakes carry, and the dump.
KEPT = {
    "csv": (
        (3640526529, 2535190412),
        {"path": "in/{day}/rows.csv", "kind": "csv", "separator": ";", "encoding": "utf-8"},
    ),
    "csv that is accepted": (
        (3621369515, 694065388),
        {"path": "in.csv", "kind": "csv", "separator": ",", "encoding": "latin-1", "incomplete": "accept"},
    ),
    "parquet": ((1718247176, 4288366584), {"path": "in/*.parquet", "kind": "parquet"}),
    "delta": ((593154316, 993066206), {"kind": "delta", "path": "s3://lake/rows"}),
    "sql": (
        (167368201, 2187762963),
        {"kind": "sql", "url": "**********", "query": "select * from t where at between :first and :last"},
    ),
    "python": ((373423887, 1406835195), {"kind": "python", "function": "source.read"}),
}
LABELS = "labels: {{source: {{kind: sql, url: 'sqlite:///x', query: ':first :last'}}, key: [site], settle: 7d}}\n"


def declare(tmp_path: Path, source: str, more: str = "") -> ModelSpec:
    place = tmp_path / "sales"
    place.mkdir()
    yaml = models.YAML.replace("kind: python, function: source.read", source)
    (place / "model.yaml").write_text((yaml + more).format(name="sales"))
    (place / "source.py").write_text(CODE)
    return load(place / "model.yaml")


def marks(spec: ModelSpec) -> tuple[int, int]:
    return ingest.features_mark(spec), labelling.labels_mark(spec)


@pytest.mark.parametrize("source", SOURCES)
def test_the_marks_and_the_dump_of_each_kind_are_kept(tmp_path: Path, source: str) -> None:
    spec = declare(tmp_path, SOURCES[source])
    kept, dump = KEPT[source]
    assert marks(spec) == kept
    assert spec.source.model_dump_json() == json.dumps(dump, separators=(",", ":"))  # its order, too


def test_the_marks_with_labels_of_another_source_are_kept(tmp_path: Path) -> None:
    spec = declare(tmp_path, SOURCES["sql"], LABELS)
    assert marks(spec) == (3931618715, 3328966379)
    assert spec.labels is not None
    assert spec.labels.model_dump(mode="json") == {
        "source": {"kind": "sql", "url": "**********", "query": ":first :last"},
        "key": ["site"],
        "settle": 7,
    }


def test_what_the_union_says_of_its_kinds() -> None:
    assert sources.KINDS == ("csv", "parquet", "delta", "sql", "python")
    assert sorted(sources.SECRET_KEYS) == ["url"]


@pytest.mark.parametrize(
    ("source", "called", "is_by_day"),
    [
        ("csv", "its source in/{day}/rows.csv", True),
        ("parquet", "its source in/*.parquet", False),
        ("delta", "its delta source", False),
        ("sql", "its sql source", True),
        ("python", "its python source", True),
    ],
)
def test_the_facts_of_each_kind(tmp_path: Path, source: str, called: str, is_by_day: bool) -> None:
    given = declare(tmp_path, SOURCES[source]).source
    assert (given.called, given.is_by_day) == (called, is_by_day)
    assert given.secrets == ({"url": "postgresql://me:word@host/db"} if source == "sql" else {})
    assert given.functions == ({"function": "source.read"} if source == "python" else {})
