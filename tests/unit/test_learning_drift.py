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


def days_of(n: int) -> pd.Series:
    """A week, whose rows come in order."""
    return pd.Series(pd.date_range("2025-01-01", periods=7)[np.arange(n) * 7 // n])


def outcomes_of(seed: int, n: int = 3000, shift: float = 0.0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    label = random.normal(100 + shift, 10, n)
    return rows(seed, n=n).assign(day=days_of(n), label=label, prediction=random.normal(100, 10, n), probability=np.nan)


def test_labels_predictions_and_errors_are_measured_apart(spec: ModelSpec) -> None:
    before = outcomes_of(1)
    reference = {**drift.profile(spec, before), **drift.outcome_profile(spec, before)}
    same = drift.measure_outcomes(spec, reference, outcomes_of(2))
    assert all(value < most for value, most in same.values())
    moved = drift.measure_outcomes(spec, reference, outcomes_of(3, shift=20))
    assert {what for what, (value, most) in moved.items() if value > most} == {"label", "error"}


def test_a_segment_is_measured_beside_what_it_was(tmp_path: Path) -> None:
    spec = models.write(tmp_path, yaml=models.YAML.replace("  slice: 7d", "  slice: 7d\n  segments: {{site: {{}}}}"))
    before, now = outcomes_of(1), outcomes_of(2)
    reference = {**drift.profile(spec, before), **drift.outcome_profile(spec, before)}
    now.loc[now["site"] == "B", "prediction"] += 30
    found = {
        site: drift.measure_outcomes(spec, reference, now[now["site"] == site], f"site={site}")["prediction"]
        for site in "AB"
    }
    assert found["A"][0] < found["A"][1]
    assert found["B"][0] > found["B"][1]
    assert drift.measure_outcomes(spec, reference, now, "site=Z") == {}, "of a new segment nothing is known"


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_of_a_classification_it_is_the_class_and_the_chance(tmp_path: Path, task: str) -> None:
    spec = models.write(
        tmp_path, yaml=models.BINARY.replace("task: binary", f"task: {task}").replace("roc_auc", "accuracy")
    )
    known = pd.DataFrame({"label": ["1", "0"], "prediction": ["1", "1"], "probability": [0.9, 0.75]})
    found = drift.outcomes(spec, known)
    assert found[drift.LABEL].tolist() == ["1", "0"]
    assert found[drift.PREDICTION].tolist() == ([0.9, 0.75] if task == "binary" else ["1", "1"])
    assert found[drift.ERROR].tolist() == pytest.approx([0.1, 0.75] if task == "binary" else [0.0, 1.0])


def test_of_a_few_rows_what_chance_brings_about_is_no_drift(spec: ModelSpec) -> None:
    reference = drift.profile(spec, rows(1))
    for n in (7, 30, 100):
        drifted = 0
        for seed in range(200):
            now = rows(seed + 2, n=n)
            found = drift.measure(reference, now)
            most = drift.limits(reference, found, now, days_of(n))
            drifted += sum(found[name] > most[name] for name in found)
        assert drifted / 800 <= 0.03, n
    moved = rows(2, n=30, shift=15)
    found = drift.measure(reference, moved)
    assert found["heat"] > drift.limits(reference, found, moved, days_of(30))["heat"]
    many = rows(2, n=5000)
    assert drift.limits(reference, found, many, days_of(5000)) == dict.fromkeys(found, drift.STATISTIC.limit)


def test_rows_that_share_what_their_day_has_count_as_days(spec: ModelSpec) -> None:
    reference = drift.profile(spec, rows(1))
    days = days_of(700)
    shared = (
        rows(2, n=7).iloc[np.repeat(np.arange(7), 100)].reset_index(drop=True)
    )  # the day's heat, for each of its rows
    apart = rows(3, n=700)
    mixed = apart.assign(heat=shared["heat"])
    found = drift.measure(reference, mixed)
    most = drift.limits(reference, found, mixed, days)
    assert found["heat"] > drift.limits(reference, found, apart, days)["heat"], "of 700 rows it would be drift"
    assert found["heat"] < most["heat"]
    by_days = drift.limits(reference, found, shared.iloc[::100], days.iloc[::100])["heat"]
    assert most["heat"] == pytest.approx(by_days, rel=0.1)
    far = shared.assign(heat=shared["heat"] + 500)
    assert drift.measure(reference, far)["heat"] > drift.limits(reference, found, far, days)["heat"]
