from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from esteira.learning import evaluation
from esteira.learning.estimation import ENOUGH, estimate
from esteira.spec import ModelSpec

from tests import models

BINARY = ("accuracy", "balanced_accuracy", "f1", "roc_auc", "average_precision", "log_loss", "brier")
REGRESSION = ("mae", "rmse", "mae_over_mean", "r2", "pinball_90", "mape")


def scores(seed: int, rows: int, centre: float, sharp: float = 0.5) -> pd.DataFrame:
    """Rows of a binary task whose model is too sure of itself: the truth has `sharp` times its log-odds."""
    random = np.random.default_rng(seed)
    odds = random.normal(centre, 2, rows)
    given = 1 / (1 + np.exp(-odds))
    truth = random.random(rows) < 1 / (1 + np.exp(-sharp * odds))
    return pd.DataFrame(
        {
            "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(rows) % 4, unit="D"),
            "label": np.where(truth, "yes", "no"),
            "prediction": np.where(given > 0.5, "yes", "no"),
            "probability": given,
        }
    )


@pytest.fixture
def binary(tmp_path: Path) -> ModelSpec:
    yaml = models.YAML.replace("task: regression", "task: binary\npositive: 'yes'").replace(
        "{{mae_over_mean: {{max: 0.3}}, r2: {{min: 0.1}}}}", "{{accuracy: {{min: 0.5}}}}"
    )
    return models.write(tmp_path, yaml=yaml)


@pytest.mark.parametrize("rows", [ENOUGH - 200, 8000])
@pytest.mark.parametrize("centre", [0.0, -1.5])
def test_expected_metrics_are_near_the_realised_ones_when_the_inputs_drift(
    binary: ModelSpec, rows: int, centre: float
) -> None:
    known, later = scores(1, rows, 0.0), scores(2, 8000, centre)
    found = estimate(binary, known, later.drop(columns="label"), BINARY)[-1]
    real = evaluation.evaluate(binary, later, BINARY)
    near = 0.03 if rows > ENOUGH else 0.09
    for name in BINARY:
        if name == "log_loss":  # of the model's own probabilities, which are far too sure: its tail is wide
            near = 0.15
        assert found[name] == pytest.approx(real[name], abs=near), name


def test_an_estimate_sees_that_the_day_is_harder(binary: ModelSpec) -> None:
    known = scores(1, 5000, 0.0)
    sure, unsure = scores(2, 3000, 4.0), scores(3, 3000, 0.0)
    values = [estimate(binary, known, rows, ("accuracy",))[-1]["accuracy"] for rows in (sure, unsure)]
    assert values[0] > values[1] + 0.05


def test_each_day_has_an_estimate_and_all_of_them_one(binary: ModelSpec) -> None:
    found = estimate(binary, scores(1, 2000, 0.0), scores(2, 400, 0.0), ("accuracy",))
    assert len(found) == 5
    assert all(0.4 < each["accuracy"] < 1 for each in found)


def test_labels_of_one_class_give_that_class_its_share(binary: ModelSpec) -> None:
    known = scores(1, 300, 0.0).assign(label="no")
    later = scores(2, 300, 0.0)
    found = estimate(binary, known, later, ("accuracy",))[-1]["accuracy"]
    assert found == pytest.approx((later["prediction"] == "no").mean())


def losses(seed: int, spec: ModelSpec, rows: int, hard: float) -> pd.DataFrame:
    """Rows of a regression whose error is three times as large where the site is C."""
    random = np.random.default_rng(seed)
    site = random.choice(["A", "B", "C"], rows, p=[(1 - hard) / 2, (1 - hard) / 2, hard])
    prediction = random.normal(100, 10, rows)
    return pd.DataFrame(
        {
            "day": pd.Timestamp("2026-01-01"),
            "site": site,
            "hour": random.integers(0, 24, rows).astype(float),
            "heat": random.normal(20, 5, rows),
            "open": 1.0,
            "prediction": prediction,
            "probability": np.nan,
            "label": prediction + random.normal(0, 1, rows) * np.where(site == "C", 15, 5),
        }
    )


@pytest.mark.parametrize("hard", [0.2, 0.8])
def test_the_loss_of_a_regression_is_estimated_directly(tmp_path: Path, hard: float) -> None:
    spec = models.write(tmp_path)
    known, later = losses(1, spec, 4000, 0.3), losses(2, spec, 4000, hard)
    found = estimate(spec, known, later.drop(columns="label"), REGRESSION)[-1]
    real = evaluation.evaluate(spec, later, REGRESSION)
    for name in REGRESSION:
        assert found[name] == pytest.approx(real[name], rel=0.12, abs=0.03), name


def test_what_can_not_be_estimated_is_not_a_number(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    known = losses(1, spec, 300, 0.3)
    assert math.isnan(estimate(spec, known, known, ("metrics.cost",))[-1]["metrics.cost"])
