"""A first look at a source of each kind: what is missing of it, and its last day."""

from __future__ import annotations

import sqlite3
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from deltalake import write_deltalake
from esteira import data
from esteira.spec import ModelSpec

from tests import models

ROWS = pd.DataFrame(
    {
        "at": pd.to_datetime(["2026-01-02 05:00", "2026-01-04 09:00"]),
        "site": ["A", "B"],
        "hour": [5, 9],
        "heat": [1.0, 2.0],
        "open": True,
        "amount": 1.0,
    }
)
KINDS = ["csv", "csv by day", "parquet", "parquet by day", "delta", "sql", "python"]


def declare(tmp_path: Path, kind: str, rows: pd.DataFrame | None) -> ModelSpec:
    """A model whose source of the kind holds the rows; without rows nothing is there."""
    name = "2026-01-04" if "by day" in kind else "x"
    source = f"kind: {kind.split()[0]}, path: '{tmp_path}/{'{{day}}' if 'by day' in kind else 'x'}'"
    if kind == "python":
        source = "kind: python, function: source.read"
    elif kind == "sql":
        source = f"kind: sql, url: 'sqlite:///{tmp_path}/x', query: 'select * from t where :first < :last'"
    if rows is not None and kind.startswith("csv"):
        rows.to_csv(tmp_path / name, index=False)
    elif rows is not None and kind.startswith("parquet"):
        rows.to_parquet(tmp_path / name)
    elif rows is not None and kind == "delta":
        write_deltalake(str(tmp_path / name), rows)
    elif rows is not None and kind == "sql":
        with sqlite3.connect(tmp_path / "x") as connection:
            rows.to_sql("t", connection, index=False)
        connection.close()
    return models.write(tmp_path, yaml=models.YAML.replace("kind: python, function: source.read", source))


@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_source_lacks_nothing(tmp_path: Path, kind: str) -> None:
    assert data.look(declare(tmp_path, kind, ROWS)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_is_missing_is_named_where_nothing_need_be_run(tmp_path: Path, kind: str) -> None:
    said = data.look(declare(tmp_path, kind, ROWS.rename(columns={"heat": "heart"})))
    place = tmp_path / ("2026-01-04" if "by day" in kind else "x")
    known = [f"{place} has no column 'heat'; did you mean 'heart'?"]
    assert said == ([] if kind in ("sql", "python") else known)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_that_is_not_there_is_said(tmp_path: Path, kind: str) -> None:
    said = " ".join(data.look(declare(tmp_path, kind, None)))
    if kind in ("sql", "python"):
        assert said == ""
    else:
        assert ("there is no Delta table" if kind == "delta" else "no file matches") in said


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_day_is_that_of_files_and_tables(tmp_path: Path, kind: str) -> None:
    found = data.last_day(declare(tmp_path, kind, ROWS))
    assert found == (None if kind in ("sql", "python") else date(2026, 1, 4))


@pytest.mark.parametrize("kind", ["csv", "csv by day", "parquet by day"])
def test_without_rows_there_is_no_last_day(tmp_path: Path, kind: str) -> None:
    rows = ROWS.head(0) if kind == "csv" else None
    assert data.last_day(declare(tmp_path, kind, rows)) is None
