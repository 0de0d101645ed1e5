"""Delta tables as other writers leave them: read right, or refused by name. The logs are made by hand."""

from __future__ import annotations

import json
import shutil
import struct
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from esteira import data
from esteira.errors import DataError, OutOfReach
from esteira.spec import ModelSpec

from tests import models

DAY = date(2026, 1, 2)
TIMES = [datetime(2026, 1, *rest, tzinfo=UTC) for rest in ((2, 1), (2, 2), (5,))]
ROWS = pa.table(
    {
        "at": pa.array(TIMES, pa.timestamp("us", "UTC")),
        "site": ["A", "B", "C"],
        "hour": pa.array([1, 2, 3], pa.int64()),
        "heat": [1.0, 2.0, 3.0],
        "open": [True, False, True],
        "amount": [10.0, 20.0, 30.0],
    }
)
TYPES = {"at": "timestamp", "site": "string", "hour": "long", "heat": "double", "open": "boolean", "amount": "double"}
Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def table(
    place: Path,
    *,
    names: dict[str, str] | None = None,
    features: list[str] | None = None,
    reader: int = 3,
    deleted: list[int] | None = None,
    configuration: dict[str, str] | None = None,
) -> Path:
    """A table of one file, in which columns may have other names, and rows be deleted by a vector."""
    (place / "_delta_log").mkdir(parents=True)
    names = names or {}
    pq.write_table(ROWS.rename_columns([names.get(name, name) for name in ROWS.column_names]), place / "p.parquet")
    fields = []
    for number, (name, kind) in enumerate(TYPES.items(), 1):
        mapping = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": names.get(name, name)}
        fields.append({"name": name, "type": kind, "nullable": True, "metadata": mapping if names else {}})
    add: dict[str, Any] = {"path": "p.parquet", "partitionValues": {}, "size": (place / "p.parquet").stat().st_size}
    add |= {"modificationTime": 0, "dataChange": True, "stats": json.dumps({"numRecords": 3, "tightBounds": False})}
    if deleted:
        raw = _vector(deleted)
        add["deletionVector"] = {"storageType": "i", "pathOrInlineDv": _z85(raw), "sizeInBytes": len(raw)}
        add["deletionVector"]["cardinality"] = len(deleted)
    protocol: dict[str, Any] = {"minReaderVersion": reader, "minWriterVersion": 5 if reader < 3 else 7}
    if reader >= 3:
        protocol |= {"writerFeatures": features or []}
    if reader == 3:
        protocol |= {"readerFeatures": features or []}
    meta = {
        "id": "00000000-0000-0000-0000-000000000001",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": json.dumps({"type": "struct", "fields": fields}),
        "partitionColumns": [],
        "configuration": configuration or {},
    }
    actions = [{"protocol": protocol}, {"metaData": meta}, {"add": add}]
    log = place / "_delta_log" / "00000000000000000000.json"
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    return place


def _vector(rows: list[int]) -> bytes:
    """Numbers of deleted rows as Delta keeps them: a roaring bitmap with one container."""
    bitmap = struct.pack("<II", 12346, 1) + struct.pack("<HH", 0, len(rows) - 1) + struct.pack("<I", 16)
    return struct.pack("<IQI", 1681511377, 1, 0) + bitmap + b"".join(struct.pack("<H", row) for row in rows)


def _z85(raw: bytes) -> str:
    raw += b"\0" * (-len(raw) % 4)
    numbers = (int.from_bytes(raw[at : at + 4], "big") for at in range(0, len(raw), 4))
    return "".join(Z85[number // 85**power % 85] for number in numbers for power in (4, 3, 2, 1, 0))


def declare(tmp_path: Path) -> ModelSpec:
    source = f"{{{{kind: delta, path: {tmp_path}/t}}}}"
    return models.write(tmp_path, yaml=models.YAML.replace("{{kind: python, function: source.read}}", source))


def read(tmp_path: Path) -> pd.DataFrame:
    return data.read(declare(tmp_path), DAY, DAY).sort_values("at")


@pytest.mark.parametrize("reader", [2, 3])
def test_renamed_and_swapped_columns_are_read_by_their_own_names(tmp_path: Path, reader: int) -> None:
    names = {"heat": "amount", "amount": "heat", "site": "col-1"}
    mode = {"delta.columnMapping.mode": "name"}
    table(tmp_path / "t", names=names, features=["columnMapping"], reader=reader, configuration=mode)
    rows = read(tmp_path)
    assert list(rows["site"]) == ["A", "B"]
    assert (list(rows["heat"]), list(rows["amount"]), list(rows["hour"])) == ([1, 2], [10, 20], [1, 2])
    assert rows["event_time"].dtype == "datetime64[us]"


def test_deleted_rows_are_not_read(tmp_path: Path) -> None:
    table(tmp_path / "t", features=["deletionVectors"], deleted=[0, 2])
    assert list(read(tmp_path)["site"]) == ["B"]


def test_deleted_rows_of_renamed_columns_are_not_read(tmp_path: Path) -> None:
    features, mode = ["columnMapping", "deletionVectors"], {"delta.columnMapping.mode": "name"}
    table(tmp_path / "t", names={"site": "x"}, features=features, deleted=[1], configuration=mode)
    assert list(read(tmp_path)["site"]) == ["A"]


def test_the_engines_types_are_those_of_a_plain_table(tmp_path: Path) -> None:
    table(tmp_path / "t", features=["deletionVectors"], deleted=[1])
    by_engine = read(tmp_path)
    shutil.rmtree(tmp_path / "t")
    table(tmp_path / "t")
    pd.testing.assert_frame_equal(by_engine, read(tmp_path).head(1))


SITE, BY_ID = {"site": "x"}, {"delta.columnMapping.mode": "id"}
REFUSED = [
    ({"features": ["typeWidening"]}, "the feature typeWidening"),
    ({"features": ["vacuumProtocolCheck"]}, "the feature vacuumProtocolCheck"),
    ({"features": ["v2Checkpoint"]}, "the feature v2Checkpoint"),
    ({"features": ["variantType"]}, "the feature variantType"),
    ({"features": ["unheardOf"]}, "unheardOf"),
    ({"reader": 4}, "[Rr]eader version:? 4"),
    ({"features": ["columnMapping"], "names": SITE, "configuration": BY_ID}, r"columnMapping\.mode = id"),
    ({"reader": 2, "names": SITE, "configuration": BY_ID}, r"columnMapping\.mode = id"),
]


@pytest.mark.parametrize(("made", "said"), REFUSED)
def test_what_can_not_be_read_right_is_refused_by_name(tmp_path: Path, made: dict[str, Any], said: str) -> None:
    table(tmp_path / "t", **made)
    with pytest.raises(DataError, match=said) as refused:
        read(tmp_path)
    assert "read are: columnMapping, deletionVectors, timestampNtz" in str(refused.value)
    assert "write" in str(refused.value)


def test_a_table_whose_folder_is_gone_may_come_back(tmp_path: Path) -> None:
    with pytest.raises(
        OutOfReach, match=r"t: there is no Delta table; make it, mount its volume, or correct source\.path"
    ):
        read(tmp_path)
    (tmp_path / "t").mkdir()
    with pytest.raises(DataError, match="there is no Delta table"):
        read(tmp_path)


@pytest.mark.parametrize("lost", ["first", "last", "checkpointed", "file", "half a line"])
def test_a_table_that_lacks_a_part_is_refused(tmp_path: Path, lost: str) -> None:
    for _ in range(3):
        write_deltalake(str(tmp_path / "t"), ROWS, mode="append")
    logs = sorted((tmp_path / "t" / "_delta_log").glob("*.json"))
    if lost == "first":
        logs[0].unlink()
    elif lost == "last":  # what is left is a table still: that of the version before
        logs[-1].unlink()
        assert len(read(tmp_path)) == 4
        return
    elif lost == "checkpointed":
        logs[1].unlink()
    elif lost == "file":
        next((tmp_path / "t").glob("*.parquet")).unlink()
    else:
        logs[1].write_text(logs[1].read_text()[:-30])
    with pytest.raises(DataError, match="Delta table") as refused:
        read(tmp_path)
    assert str(tmp_path / "t") in str(refused.value)
