from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira.learning import drift
from esteira.spec import ModelSpec

from tests import models


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return models.write(tmp_path)


def rows(seed: int, shift: float = 0.0, sites: tuple[str, ...] = ("A", "B", "C"), n: int = 4000) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "hour": random.integers(0, 24, n).astype(float),
            "heat": random.normal(20 + shift, 5, n),
            "site": pd.Series(random.choice(sites, n), dtype="str"),
            "open": random.choice([0.0, 1.0], n),
        }
    )


def test_the_same_spread_has_no_drift(spec: ModelSpec) -> None:
    found = drift.measure(drift.profile(spec, rows(1)), rows(2))
    assert set(found) == set(spec.features.all)
    assert max(found.values()) < 0.02


def test_the_same_rows_have_a_psi_of_zero(spec: ModelSpec) -> None:
    assert drift.measure(drift.profile(spec, rows(1)), rows(1)) == dict.fromkeys(spec.features.all, 0.0)


def test_only_what_moved_has_drift(spec: ModelSpec) -> None:
    found = drift.measure(drift.profile(spec, rows(1)), rows(2, shift=5))
    assert found["heat"] > drift.STATISTIC.limit
    assert max(value for name, value in found.items() if name != "heat") < 0.02


def test_a_new_category_and_empty_values_are_drift(spec: ModelSpec) -> None:
    reference = drift.profile(spec, rows(1))
    assert drift.measure(reference, rows(2, sites=("A", "B", "D")))["site"] > drift.STATISTIC.limit
    emptied = rows(2)
    emptied.loc[emptied.index[:2000], "heat"] = np.nan
    assert drift.measure(reference, emptied)["heat"] > drift.STATISTIC.limit


def test_psi_is_the_textbook_sum(spec: ModelSpec) -> None:
    # Half and half became one fifth and four fifths.
    reference = {"open": {"edges": [0.0], "shares": [0.5, 0.5, 0.0]}}
    now = pd.DataFrame({"open": [0.0, 1.0, 1.0, 1.0, 1.0]})
    expected = (0.2 - 0.5) * np.log(0.2 / 0.5) + (0.8 - 0.5) * np.log(0.8 / 0.5)
    assert drift.measure(reference, now)["open"] == pytest.approx(expected)


def test_no_rows_give_no_drift(spec: ModelSpec) -> None:
    assert drift.measure(drift.profile(spec, rows(1)), rows(1).head(0)) == {}


def test_evidently_writes_its_report(spec: ModelSpec, tmp_path: Path) -> None:
    current = rows(2, shift=5, n=300)
    current.loc[current.index[:20], "site"] = None
    drift.report(spec, rows(1, n=300), current.assign(hour=np.nan), tmp_path / "drift.html")
    text = (tmp_path / "drift.html").read_text(encoding="utf-8")
    assert len(text) > 100_000
    assert "heat" in text


def test_a_category_does_not_end_the_script_of_the_report(tmp_path: Path) -> None:
    nasty = "</script><script>alert(1)</script>"
    random = np.random.default_rng(0)

    def rows(*categories: str) -> pd.DataFrame:
        numbers = {name: random.normal(size=60) for name in ("hour", "heat", "open")}
        return pd.DataFrame({**numbers, "site": random.choice(categories, 60)})

    drift.report(models.write(tmp_path), rows("A", nasty), rows("B", nasty), tmp_path / "drift.html")
    page = (tmp_path / "drift.html").read_text()
    assert nasty not in page
    assert "alert(1)" in page
