"""Labels: of the rows themselves or of a source of their own, joined by their key."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira import data
from esteira.errors import DataError

from tests import models

DAY = date(2026, 1, 2)
ROWS = pd.DataFrame(
    {
        "site": ["A", "A", "B", "A"],
        "at": pd.to_datetime(["2026-01-01 10:00", "2026-01-02 00:00", "2026-01-02 23:00", "2026-01-03 00:00"]),
        "amount": [1.0, 2.0, 3.0, 4.0],
    }
)


def test_bad_labels_are_told_apart(tmp_path: Path) -> None:
    rows = pd.DataFrame({"label": [1.0, None, "x", np.inf, -2000.0]})
    good, bad = data.validate_labels(models.write(tmp_path), rows)
    assert list(good["label"]) == [1.0]
    assert list(bad["rule"]) == ["label", "label", "label", "min"]


def test_labels_of_another_source_are_joined_by_their_key(tmp_path: Path) -> None:
    ROWS.to_csv(tmp_path / "labels.csv", index=False)
    spec = models.write(
        tmp_path, yaml=models.YAML + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n"
    )
    found = data.read_labels(spec, DAY, DAY)
    assert list(found.columns) == ["day", "site", "at", "label", "disputed"]
    assert list(found["label"]) == [1.0, 2.0, 3.0, 4.0]


def test_labels_without_a_day_need_a_key_of_their_own(tmp_path: Path) -> None:
    ROWS[["site", "amount"]].to_csv(tmp_path / "labels.csv", index=False)
    spec = models.write(
        tmp_path,
        yaml=models.YAML + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}, key: [site]}}}}\n",
    )
    with pytest.raises(
        DataError,
        match=r"3 rows whose key is not the only one of its kind, such as {'site': 'A'}; add the time column 'at'",
    ):
        data.read_labels(spec, DAY, DAY)


def test_two_labels_of_one_key_are_both_in_doubt(tmp_path: Path) -> None:
    rows = pd.concat([ROWS, ROWS.tail(1), ROWS.head(2).assign(amount=[99.0, 2.0])])
    rows.to_csv(tmp_path / "labels.csv", index=False)
    labels = f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n"
    spec = models.write(tmp_path, yaml=models.YAML + labels)
    found = data.read_labels(spec, DAY, DAY)
    assert list(found["disputed"]) == [True, False, False, False]
    good, bad = data.validate_labels(spec, found)
    assert (len(good), list(bad["rule"])) == (3, ["unique_key"])
