"""Values that are out of every range, and files of very many columns: each costs its own row, and a fair time."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from esteira import data, steps
from esteira.data import kinds
from esteira.data.sources import delta
from esteira.errors import DataError
from esteira.spec import ModelSpec, load
from esteira.store import lake

from tests import models

DAY = date(2026, 1, 2)
GOOD = pd.to_datetime(["2026-01-02 01:00", "2026-01-02 02:00"])
REST = {"site": ["A", "B", "C"], "hour": [1, 2, 3], "heat": [1.0] * 3, "open": [True] * 3, "amount": [1.0] * 3}
PYTHON = "import pyarrow.parquet as pq\n\ndef read(first, last):\n    return pq.read_table('{}').to_pandas()\n"


def declare(tmp_path: Path, kind: str, table: pa.Table, zone: str = "UTC", key: str = "[site, at]") -> ModelSpec:
    """A model whose source of the kind holds the table."""
    path = tmp_path / ("2026-01-02.x" if kind.endswith("by day") else "all.x")
    source = f"kind: {kind.split()[0]}, path: '{tmp_path}/{'{{day}}' if kind.endswith('by day') else 'all'}.x'"
    if kind.startswith("csv"):
        table.to_pandas(integer_object_nulls=True).to_csv(path, index=False)
    elif kind == "delta":
        write_deltalake(str(path), table)
    else:
        pq.write_table(table, path)
    source = "kind: python, function: source.read" if kind == "python" else source
    yaml = models.YAML.replace("{{kind: python, function: source.read}}", f"{{{{{source}}}}}")
    yaml = yaml.replace("{{column: at}}", f"{{{{column: at, timezone: {zone}}}}}").replace("[site, at]", key)
    spec = models.write(tmp_path, yaml=yaml)
    (spec.folder / "source.py").write_text(PYTHON.format(path))
    return spec


def outcome(spec: ModelSpec) -> tuple[list[str], list[str]]:
    """The sites that are published, and the rules of the others."""
    good, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
    fine, worse = data.validate(spec, good)
    return sorted(data.build_features(spec, fine)["site"]), [*bad["rule"], *worse["rule"]]


KINDS = ["csv", "csv by day", "parquet", "parquet by day", "delta", "python"]


@pytest.mark.parametrize(
    "moment", ["9999-12-31T23:59:00", "0001-01-01T00:00:00", "1600-06-01T00:00:00", "2262-04-11T23:47:17"]
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/Sao_Paulo"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_time_that_no_clock_holds_costs_its_row(tmp_path: Path, kind: str, zone: str, moment: str) -> None:
    at = pd.Series([*GOOD, pd.Timestamp(moment).as_unit("us")], dtype="datetime64[us]")
    if zone != "UTC":  # at noon, so that they are of the day in each zone
        at = (at + pd.to_timedelta([11, 11, 0], unit="h")).dt.tz_localize("UTC")
    assert outcome(declare(tmp_path, kind, pa.table({"at": pa.Array.from_pandas(at), **REST}), zone)) == (
        ["A", "B"],
        ["time"],
    )


@pytest.mark.parametrize("kind", ["parquet", "parquet by day", "delta"])
@pytest.mark.parametrize("year", [1, 9999])
def test_a_date_that_no_clock_holds_costs_its_row(tmp_path: Path, kind: str, year: int) -> None:
    at = pa.array([date(2026, 1, 2), date(2026, 1, 2), date(year, 12, 31)], pa.date32())
    assert outcome(declare(tmp_path, kind, pa.table({"at": at, **REST}))) == (["A", "B"], ["time"])


@pytest.mark.parametrize("kind", ["parquet", "parquet by day"])
@pytest.mark.parametrize("column", ["at", "until"])
def test_a_date_that_python_has_none_of_costs_nothing_else(tmp_path: Path, kind: str, column: str) -> None:
    odd = pa.array([20455, 20455, 2**31 - 1], pa.int32()).cast(pa.date32())
    table = pa.table({"at": ["2026-01-02"] * 3, **REST, column: odd})
    expected = (["A", "B"], ["time"]) if column == "at" else (["A", "B", "C"], [])
    assert outcome(declare(tmp_path, kind, table)) == expected


def test_an_engine_that_filters_gives_times_that_no_clock_holds_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = pd.Series([*GOOD, pd.Timestamp("9999-12-31")], dtype="datetime64[us]").dt.tz_localize("UTC")
    spec = declare(tmp_path, "delta", pa.table({"at": pa.Array.from_pandas(at), **REST}))
    monkeypatch.setattr(delta, "_is_plain", lambda *_: False)
    assert outcome(spec) == (["A", "B"], ["time"])


BIG = [2**63, -(2**63) - 1, 10**30]


@pytest.mark.parametrize("key", BIG)
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_key_that_no_integer_holds_costs_its_row(tmp_path: Path, kind: str, key: int) -> None:
    keys = pa.array([1, 2, key], pa.decimal128(38, 0)) if not kind.startswith("csv") else pa.array(["1", "2", str(key)])
    at = pa.Array.from_pandas(pd.Series([*GOOD, GOOD[0]], dtype="datetime64[us]"))
    spec = declare(tmp_path, kind, pa.table({"at": at, "id": keys, **REST}), key="[id]")
    rows = data.read(spec, DAY, DAY)
    good, bad = data.storable(spec, rows, {"id": pa.int64()})
    assert (list(good["site"]), list(good["id"]), list(bad["rule"])) == (["A", "B"], [1, 2], ["type"])
    good, bad = data.storable(spec, rows, {})  # a table's first day decides the type: none is lost
    assert (len(good), len(bad)) == (3, 0)


@pytest.mark.parametrize(
    "keys", [np.array([1, 2, 2**64 - 1], "uint64"), [1, 2, 2**63], [1, 2, -(2**70)], [1.0, 2.0, 1e300]]
)
def test_a_key_of_code_that_no_integer_holds_costs_its_row(tmp_path: Path, keys: list[object]) -> None:
    spec = models.write(tmp_path, yaml=models.YAML.replace("[site, at]", "[id]"))
    rows = pd.DataFrame({"at": "2026-01-02", "id": keys, **REST})
    rows = rows.assign(event_time=data.event_time(spec, rows), day=pd.Timestamp(DAY))
    good, bad = data.storable(spec, rows, {"id": pa.int64()})
    assert (list(good["id"]), list(bad["rule"])) == ([1, 2], ["type"])


def test_of_ten_thousand_columns_only_those_that_are_asked_for_are_looked_at_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One by one they took 90 seconds for six rows; `make bench-day` prints what they take."""
    kinds_of = [range(6), np.arange(6) * 1.5, list("uvwxyz"), [True, False] * 3, [None] * 6]
    frame = pd.DataFrame({f"c{n}": kinds_of[n % 5] for n in range(10_000)})
    own = {
        "at": [f"2026-01-02 0{n}:00" for n in range(6)],
        "site": list("ABCABC"),
        "hour": range(6),
        "heat": 1.0,
        "open": True,
    }
    pd.concat([pd.DataFrame(own), frame], axis=1).to_csv(tmp_path / "x.csv", index=False)
    source = f"{{{{kind: csv, path: {tmp_path}/x.csv}}}}"
    spec = models.write(tmp_path, yaml=models.YAML.replace("{{kind: python, function: source.read}}", source))
    real, one_by_one = kinds.fitted, []
    monkeypatch.setattr(kinds, "fitted", lambda *given, **options: one_by_one.append(given) or real(*given, **options))
    good, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
    fine, _ = data.validate(spec, good)
    assert len(data.build_features(spec, good)) == len(fine) == 6
    assert bad.empty
    assert len(fine.columns) == 10_007
    assert 0 < len(one_by_one) < 20, len(one_by_one)


def test_a_frame_whose_index_has_a_number_twice_is_read_row_by_row(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    rows = (
        "pd.DataFrame({'at': ['2026-01-02', '2026-01-09'], 'site': ['A', 'B'], 'hour': 1, 'heat': 1.0, 'open': True})"
    )
    (spec.folder / "source.py").write_text(
        f"import pandas as pd\n\ndef read(first, last):\n    return pd.concat([{rows}, {rows}])\n"
    )
    assert list(data.read(spec, DAY, DAY)["site"]) == ["A", "A"]


@pytest.mark.parametrize(
    ("column", "values", "stored"),
    [
        ("site", ["A", "\ud800x"], ["A", r"\ud800x"]),
        ("site", [b"A", b"\xff"], ["A", r"\xff"]),
        ("site", [1 + 2j, 2 + 0j], ["(1+2j)", "(2+0j)"]),
        ("extra", ["A", "\udfff"], ["A", r"\udfff"]),
        ("amount", ["\ud800", 2.0], [r"\ud800", "2"]),
    ],
)
def test_what_no_table_can_take_is_kept_as_text(
    tmp_path: Path, home: Path, column: str, values: list[object], stored: list[str]
) -> None:
    spec = models.write(tmp_path)
    columns = {**{name: each[:2] for name, each in REST.items()}, "at": list(GOOD), column: "VALUES"}
    code = f"pd.DataFrame({columns!r})".replace("'VALUES'", f"pd.Series({values!r}, dtype=object)")
    (spec.folder / "source.py").write_text(
        f"import pandas as pd\nfrom pandas import Timestamp\n\ndef read(first, last):\n    return {code}\n"
    )
    steps.extract(spec, [DAY])
    steps.validate(spec, [DAY])
    steps.features(spec, [DAY])
    assert list(lake.read("raw", spec.name)[column]) == stored
    assert len(lake.read("features", spec.name)) + len(lake.read("quarantine", spec.name)) == 2


@pytest.mark.parametrize("kind", ["complex64", "complex128"])
def test_a_complex_number_is_no_number(tmp_path: Path, kind: str) -> None:
    spec = models.write(tmp_path)
    rows = pd.DataFrame({**REST, "heat": np.array([1 + 2j, 2, 3], kind), "at": "2026-01-02"})
    rows.to_pickle(tmp_path / "x")
    (spec.folder / "source.py").write_text(
        f"import pandas as pd\n\ndef read(first, last):\n    return pd.read_pickle('{tmp_path}/x')\n"
    )
    good, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
    assert (len(good), next(iter(bad["reason"]))) == (0, "'heat' is not a number: '(1+2j)'")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("rows.columns = pd.MultiIndex.from_product([rows.columns, ['x']])", "its columns have names in 2 levels"),
        (f"rows['{kinds.SHORT}'] = 1", "is Esteira's own; rename the column"),
    ],
)
def test_columns_that_can_not_be_named_are_refused(tmp_path: Path, change: str, says: str) -> None:
    spec = models.write(tmp_path)
    (spec.folder / "source.py").write_text(
        f"import pandas as pd\n\ndef read(first, last):\n    rows = pd.DataFrame({REST!r})\n    {change}\n    return rows\n"
    )
    with pytest.raises(DataError, match=says):
        data.read(spec, DAY, DAY)


def csv_model(tmp_path: Path, **changes: str) -> ModelSpec:
    """A model whose source is all.csv, with parts of its yaml replaced."""
    yaml = models.YAML.replace(
        "{{kind: python, function: source.read}}", f"{{{{kind: csv, path: '{tmp_path}/all.csv'}}}}"
    )
    for old, new in changes.items():
        yaml = yaml.replace(old, new)
    return models.write(tmp_path, yaml=yaml)


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (["01", "02", "07"], ["01", "02", "07"]),
        (["01", "02", "2A"], ["01", "02", "2A"]),
        (["1", "2.0", "3"], ["1", "2", "3"]),
        (["1.0", "2.0", ""], ["1", "2", None]),
        (["1.10", "1E5", " 7"], ["1.10", "1E5", "7"]),
        (["12", "1\uff12", "\u0663"], ["12", "1\uff12", "\u0663"]),
        (["True", "false", "maybe"], ["1", "0", "maybe"]),
        (["9007199254740993", "", "1"], ["9007199254740993", None, "1"]),
    ],
)
def test_a_category_of_a_csv_file_does_not_depend_on_its_other_rows(
    tmp_path: Path, given: list[str], stored: list[str | None]
) -> None:
    spec = csv_model(tmp_path, **{"[site, at]": "[at]", "site: {{in: [A, B, C]}}, ": ""})
    for wanted, some in zip([stored, *[[each] for each in stored]], [given, *[[each] for each in given]], strict=True):
        lines = [f"2026-01-02 0{n}:00,{each},1,1,True,1\n" for n, each in enumerate(some)]
        (tmp_path / "all.csv").write_text("at,site,hour,heat,open,amount\n" + "".join(lines))
        good, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
        assert [None if pd.isna(each) else each for each in good["site"]] == wanted
        assert bad.empty


def test_a_time_of_digits_keeps_its_leading_zero(tmp_path: Path) -> None:
    spec = csv_model(tmp_path, **{"{{column: at}}": "{{column: at, format: '%d%m%Y'}}"})
    days = [date(2026, 2, 1), date(2026, 2, 10), date(2025, 11, 1), date(2026, 2, 3)]
    lines = [f"{each:%d%m%Y},A,1,1,True,1\n" for each in days]
    (tmp_path / "all.csv").write_text("at,site,hour,heat,open,amount\n" + "".join(lines))
    for each in days:
        assert list(data.read(spec, each, each)["event_time"]) == [pd.Timestamp(each)]


@pytest.mark.parametrize("given", [["01", "02"], ["01", "02", "2A"]])
def test_classes_are_the_same_text_in_every_file(tmp_path: Path, given: list[str]) -> None:
    spec = csv_model(
        tmp_path,
        **{
            "task: regression": "task: multiclass",
            ", amount: {{min: -1000}}": "",
            "mae_over_mean: {{max: 0.3}}, r2: {{min: 0.1}}": "accuracy: {{min: 0.1}}",
        },
    )
    lines = [f"2026-01-02 0{n}:00,A,1,1,True,{each}\n" for n, each in enumerate(given)]
    (tmp_path / "all.csv").write_text("at,site,hour,heat,open,amount\n" + "".join(lines))
    assert sorted(data.as_label(spec, data.read_labels(spec, DAY, DAY)["label"])) == given


@pytest.mark.parametrize(
    ("column", "value", "hint"),
    [
        ("heat", "13,22", "with a decimal comma a source.py must read it"),
        ("open", "yes", "and no true or false"),
    ],
)
def test_what_is_nearly_a_number_is_told_how_to_become_one(tmp_path: Path, column: str, value: str, hint: str) -> None:
    spec = csv_model(tmp_path)
    cells = {
        "at": "2026-01-02 01:00",
        "site": "A",
        "hour": "1",
        "heat": "1",
        "open": "True",
        "amount": "1",
        column: value,
    }
    lines = [";".join(cells), ";".join(cells.values())]
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    model = spec.folder / "model.yaml"
    model.write_text(model.read_text().replace("kind: csv,", "kind: csv, separator: ';',"))
    spec = load(model)
    _, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
    assert hint in bad["reason"].iloc[0]


def test_a_feature_that_code_makes_complex_is_no_number(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    (spec.folder / "features.py").write_text("def build(rows):\n    return rows.assign(heat=rows['heat'] + 9j)\n")
    spec = load(spec.folder / "model.yaml")
    rows = pd.DataFrame({**REST, "at": "2026-01-02", "event_time": pd.Timestamp(DAY), "day": pd.Timestamp(DAY)})
    good, bad = data.validate(spec, rows)
    assert (len(good), set(bad["rule"])) == (0, {"number"})


@pytest.mark.parametrize("index", ["at", "site", ["site", "at"]])
def test_an_index_of_a_parquet_file_is_columns(tmp_path: Path, index: str | list[str]) -> None:
    table = pa.table({"at": GOOD, **{name: values[:2] for name, values in REST.items()}})
    spec = declare(tmp_path, "parquet", table)
    table.to_pandas().set_index(index).to_parquet(tmp_path / "all.x")
    assert sorted(data.read(spec, DAY, DAY)["site"]) == ["A", "B"]


def test_stale_notes_of_pandas_in_a_parquet_file_change_no_type(tmp_path: Path) -> None:
    table = pa.table({"at": [*GOOD, GOOD[0]], **REST})
    stale = pa.Table.from_pandas(table.to_pandas().assign(heat="x", open="x"))
    for name in ("heat", "open"):
        stale = stale.set_column(stale.schema.get_field_index(name), name, table[name])
    spec = declare(tmp_path, "parquet", table)
    pq.write_table(stale, tmp_path / "all.x")
    good, bad = data.storable(spec, data.read(spec, DAY, DAY), {})
    assert (list(good["heat"]), list(good["open"]), len(bad)) == ([1.0] * 3, [1.0] * 3, 0)


@pytest.mark.parametrize(
    ("form", "times"),
    [
        (None, ["2026-01-02 06:00 +01:00", "2026-01-02 06:00 -03:00"]),
        ("%Y-%m-%d %H:%M %z", ["2026-01-02 06:00 +0000", "2026-01-02 06:00 +0100"]),
    ],
)
def test_a_space_before_the_offset_is_no_other_time(tmp_path: Path, form: str | None, times: list[str]) -> None:
    said = {"{{column: at}}": f"{{{{column: at, format: '{form}'}}}}"} if form else {}
    spec = csv_model(tmp_path, **said)
    lines = [f"{each},A,1,1,True,1\n" for each in times]
    (tmp_path / "all.csv").write_text("at,site,hour,heat,open,amount\n" + "".join(lines))
    assert data.read(spec, DAY, DAY)["event_time"].notna().all()
