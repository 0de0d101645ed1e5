"""What each feature adds to a prediction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from esteira.learning.attribution import attribute
from hypothesis import given, settings
from hypothesis import strategies as st

RANDOM = np.random.default_rng(3)
BACKGROUND = pd.DataFrame({"a": RANDOM.normal(size=40), "b": RANDOM.normal(size=40), "c": ["x", "y"] * 20})


def weighted(rows: pd.DataFrame) -> np.ndarray:
    return (2 * rows["a"] - rows["b"] + 3 * (rows["c"] == "y")).to_numpy(dtype="float64")


def test_of_a_sum_each_feature_adds_what_it_is_beyond_its_mean() -> None:
    row = pd.DataFrame({"a": [1.5], "b": [0.5], "c": ["y"]})
    found = attribute(weighted, row, BACKGROUND)
    assert found.base == pytest.approx(weighted(BACKGROUND).mean())
    assert found.prediction == pytest.approx(5.5)
    assert found.shares == pytest.approx(
        {"a": 2 * (1.5 - BACKGROUND["a"].mean()), "b": -(0.5 - BACKGROUND["b"].mean()), "c": 1.5}
    )


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_shares_add_up_to_the_prediction_whatever_the_model_is(seed: int) -> None:
    def tangled(rows: pd.DataFrame) -> np.ndarray:
        return np.where(rows["c"] == "y", rows["a"] * rows["b"], np.exp(rows["a"] / 3)).astype("float64")

    row = BACKGROUND.sample(1, random_state=seed)
    found = attribute(tangled, row, BACKGROUND, seed=seed)
    assert found.base + sum(found.shares.values()) == pytest.approx(found.prediction)


def test_two_features_that_only_matter_together_share_alike_and_one_that_does_not_matter_adds_nothing() -> None:
    background = pd.DataFrame({"a": [0.0], "b": [0.0], "idle": [7.0]})
    found = attribute(lambda rows: (rows["a"] * rows["b"]).to_numpy(), background.assign(a=1.0, b=1.0), background)
    assert found.shares == pytest.approx({"a": 0.5, "b": 0.5, "idle": 0.0})


def test_a_model_of_one_feature_gives_it_all() -> None:
    background = pd.DataFrame({"a": [0.0, 2.0]})
    found = attribute(lambda rows: rows["a"].to_numpy(), pd.DataFrame({"a": [5.0]}), background)
    assert found.shares == {"a": 4.0}
