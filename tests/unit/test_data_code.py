"""A model's own code: what it gets, and how its failures are told."""

from __future__ import annotations

import os
import sqlite3
import sys
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import write_deltalake
from esteira import data
from esteira.errors import DataError, OutOfReach
from esteira.spec import ModelSpec, load

from tests import models

DAY = date(2026, 1, 2)
ROWS = pd.DataFrame(
    {
        "at": ["2026-01-02T03:00:00Z", "2026-01-02T12:30:00Z", "2026-01-02T14:30:00Z"],
        "site": ["A", "B", "C"],
        "heat": [1.0, 2.0, 3.0],
        "open": True,
        "amount": 1.0,
    }
)
DOCS = Path(__file__).parents[2] / "docs" / "model.md"


def declare(tmp_path: Path, kind: str, code: str) -> ModelSpec:
    """A model in São Paulo with a features.py, whose source of the kind holds ROWS."""
    timed = ROWS.assign(at=pd.to_datetime(ROWS["at"]))
    source = f"kind: {kind}, path: {tmp_path}/x"
    if kind == "csv":
        ROWS.to_csv(tmp_path / "x", index=False)
    elif kind == "parquet":
        timed.to_parquet(tmp_path / "x")
    elif kind == "delta":
        write_deltalake(str(tmp_path / "x"), timed)
    elif kind == "sql":
        with sqlite3.connect(tmp_path / "x") as connection:
            ROWS.to_sql("t", connection, index=False)
        connection.close()
        source = f"kind: sql, url: 'sqlite:///{tmp_path}/x', query: 'select * from t where at between :first and :last || char(90)'"
    else:
        source = "kind: python, function: source.read"
    yaml = models.YAML.replace("kind: python, function: source.read", source)
    yaml = yaml.replace("{{column: at}}", "{{column: at, timezone: America/Sao_Paulo}}")
    spec = models.write(tmp_path, yaml=yaml)
    if kind == "python":
        timed.to_pickle(tmp_path / "x")
        (spec.folder / "source.py").write_text(
            f"import pandas as pd\n\ndef read(first, last):\n    return pd.read_pickle('{tmp_path}/x')\n"
        )
    (spec.folder / "features.py").write_text(code)
    return load(spec.folder / "model.yaml")


def example() -> str:
    """The features.py of the docs."""
    text = DOCS.read_text(encoding="utf-8")
    return text.partition("## features.py")[2].partition("```python\n")[2].partition("```")[0]


@pytest.mark.parametrize("kind", ["csv", "parquet", "delta", "sql", "python"])
def test_features_code_gets_the_time_on_the_models_clock_from_every_source(tmp_path: Path, kind: str) -> None:
    spec = declare(tmp_path, kind, example())
    rows = data.read(spec, DAY, DAY)
    good, bad = data.storable(spec, rows, {})
    built = data.build_features(spec, good)
    assert bad.empty
    assert list(built["hour"]) == [0, 9, 11]
    assert list(built["event_time"]) == [
        pd.Timestamp("2026-01-02 00:00"),
        *pd.to_datetime(["2026-01-02 09:30", "2026-01-02 11:30"]),
    ]


FAILURES = [
    ("def build(rows):\n    return rows['aat']\n", r"features\.py, line 2: KeyError: 'aat'"),
    ("def build(rows):\n    return half(rows)\n\ndef half(rows):\n    return rows + {}\n", r"features\.py, line 5: "),
    (
        "import nothing_of_the_kind\ndef build(rows):\n    return rows\n",
        r"line 1: ModuleNotFoundError: No module named",
    ),
    ("def build(rows):\n    exit('done')\n", r"line 2: SystemExit: done"),
    ("import sys\ndef build(rows):\n    sys.exit()\n", r"line 3: SystemExit; build gets"),
    ("class Stop(BaseException): pass\ndef build(rows):\n    raise Stop('x')\n", r"line 3: Stop: x"),
    ("def build():\n    return None\n", r"features\.py, line 1: TypeError: build\(\) takes 0 positional arguments"),
    ("def build(rows):\n    open('/no/such/file')\n", r"line 2: FileNotFoundError"),
    ("def build(rows):\n    1 / 0\n", r"line 2: ZeroDivisionError"),
    (
        "class Mute(Exception):\n    def __str__(self): return 1 / 0\ndef build(rows):\n    raise Mute\n",
        r"line 4: Mute; build gets",
    ),
    ("import json\ndef build(rows):\n    return json.loads('{')\n", r"features\.py, line 3: JSONDecodeError"),
]


@pytest.mark.parametrize(("code", "said"), FAILURES)
def test_what_fails_in_features_code_is_told_with_its_line_and_what_it_gets(
    tmp_path: Path, code: str, said: str
) -> None:
    spec = declare(tmp_path, "csv", code)
    with pytest.raises(DataError, match=said) as failed:
        data.build_features(spec, data.read(spec, DAY, DAY))
    text = str(failed.value)
    assert "build gets a DataFrame of 3 rows with the columns at, site, heat, open, event_time, day" in text
    assert "it must return a pandas DataFrame of the same rows, with their index and every feature" in text
    assert failed.value.__cause__ is None
    assert failed.value.__context__ is None


def test_code_that_does_not_compile_any_more_is_told_with_its_line(tmp_path: Path) -> None:
    spec = declare(tmp_path, "csv", "def build(rows):\n    return rows\n")
    (spec.folder / "features.py").write_text("def build(rows):\n    return (\n")
    with pytest.raises(DataError, match=r"features\.py, line 2: SyntaxError"):
        data.build_features(spec, data.read(spec, DAY, DAY))
    (spec.folder / "features.py").write_text("build_all = 1\n")
    with pytest.raises(DataError, match=r"features\.py, line 1: AttributeError: .*'build'"):
        data.build_features(spec, data.read(spec, DAY, DAY))


def test_what_fails_in_a_source_is_told_too(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    code = spec.folder / "source.py"
    code.write_text("def read(first, last):\n    raise ValueError('no such shop')\n")
    with pytest.raises(
        DataError, match=r"source\.py, line 2: ValueError: no such shop; read gets the day 2026-01-02, the day"
    ):
        data.read(spec, DAY, DAY)
    code.write_text("def read(first, last):\n    raise ConnectionResetError('by peer')\n")
    with pytest.raises(OutOfReach, match=r"source\.py, line 2: ConnectionResetError: by peer; see that what it reads"):
        data.read(spec, DAY, DAY)
    code.write_text("def read(first, last):\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        data.read(spec, DAY, DAY)


def test_a_timeout_of_airflows_is_not_taken_for_a_failure_of_the_code(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    (spec.folder / "source.py").write_text(
        "from airflow.sdk.exceptions import AirflowTaskTimeout\n\ndef read(first, last):\n    raise AirflowTaskTimeout('late')\n"
    )
    with pytest.raises(BaseException, match="late") as raised:
        data.read(spec, DAY, DAY)
    assert type(raised.value).__name__ == "AirflowTaskTimeout"


def test_what_fails_in_a_metric_is_told_too(tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text("def cost(labels, predictions, probabilities):\n    return labels[99]\n")
    with pytest.raises(
        DataError,
        match=r"metrics\.py, line 2: IndexError: .*cost gets an array of 3 values of float64.*must return a number",
    ):
        data.function(tmp_path, "metrics.cost")(*[np.zeros(3)] * 3)


def test_an_edit_within_the_same_second_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's bytecode cache goes by a file's size and its second."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = tmp_path / "metrics.py"
    for value in range(5):
        path.write_text(f"def cost():\n    return {value}\n")
        os.utime(path, (1_000_000_000, 1_000_000_000))
        assert data.function(tmp_path, "metrics.cost")() == value


def test_code_may_declare_dataclasses_and_stays_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "metrics.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n\n"
        "@dataclass\nclass Toll:\n    cost: float = 2\n\ndef cost():\n    return Toll().cost\n"
    )
    assert data.function(tmp_path, "metrics.cost")() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.py"]
