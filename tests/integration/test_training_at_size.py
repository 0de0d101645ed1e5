"""Of more rows than may be trained on a sample: the latest whole, the older thinned and weighted, the same each time."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from esteira import data, steps
from esteira.learning import pipelines, predicting
from esteira.spec import ModelSpec
from esteira.steps import estimating, keys, labelling, preparing
from esteira.store import lake, ledger
from esteira.store.records import Window

from tests.models import AS_OF, score_days

FIRST, LAST = AS_OF - timedelta(days=20), AS_OF - timedelta(days=1)
ROWS = 72  # of a day


@pytest.fixture
def spec(trained) -> ModelSpec:
    found: ModelSpec = trained()
    return found


def test_few_enough_rows_are_all_taken_and_have_no_weight(spec: ModelSpec) -> None:
    frame = labelling.labelled(spec, FIRST, LAST, most=20 * ROWS)
    assert len(frame) == 20 * ROWS
    assert data.WEIGHT not in frame
    pd.testing.assert_frame_equal(frame, labelling.labelled(spec, FIRST, LAST))


def test_of_more_the_latest_days_are_whole_and_the_others_thinned_and_weighted(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lake, "BATCH", 100)
    most = 10 * ROWS
    frame = labelling.labelled(spec, FIRST, LAST, most=most)
    counts = frame["day"].dt.date.value_counts()
    latest = data.days(LAST - timedelta(days=4), LAST)
    assert all(counts[day] == ROWS for day in latest), "half of the sample is of the latest days"
    assert (frame.loc[frame["day"].dt.date.isin(latest), data.WEIGHT] == 1.0).all()
    older = frame[~frame["day"].dt.date.isin(latest)]
    assert (older[data.WEIGHT] == 3.0).all(), "15 days, of which a third is taken"
    assert abs(len(frame) - most) < 4 * np.sqrt(15 * ROWS / 3 * 2 / 3)
    assert abs(frame[data.WEIGHT].sum() - 20 * ROWS) < 0.2 * 20 * ROWS, "they stand for all"
    pd.testing.assert_frame_equal(frame, labelling.labelled(spec, FIRST, LAST, most=most))
    whole = labelling.labelled(spec, FIRST, LAST)
    both = frame.merge(whole, on=["day", *spec.key], suffixes=("", "_whole"))
    assert len(both) == len(frame)
    assert (both["label"] == both["label_whole"]).all()


def test_where_the_latest_day_alone_is_too_many_each_day_is_thinned_alike(spec: ModelSpec) -> None:
    frame = labelling.labelled(spec, FIRST, LAST, most=ROWS)
    assert set(frame[data.WEIGHT]) == {20.0}
    assert frame["day"].nunique() > 10


def test_a_model_is_trained_on_the_sample_with_its_weights(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    real = pipelines.weights
    monkeypatch.setattr(pipelines, "weights", lambda frame, *given: (taken.append(len(frame)), real(frame, *given))[1])
    small = spec.model_copy(update={"train": spec.train.model_copy(update={"max_rows": 1_000})})
    assert "version 2" in steps.train(small, AS_OF, "small", again=True)
    assert max(taken) < 1_200 < 28 * ROWS


def test_a_weight_is_how_many_rows_one_stands_for_times_how_recent_it_is(spec: ModelSpec) -> None:
    frame = labelling.labelled(spec, FIRST, LAST, most=10 * ROWS)
    alone = pipelines.weights(frame, None, LAST)
    recent = pipelines.weights(frame.drop(columns=data.WEIGHT), 5, LAST)
    both = pipelines.weights(frame, 5, LAST)
    assert alone is not None
    assert recent is not None
    assert both is not None
    np.testing.assert_allclose(both, alone * recent)


def test_samples_are_shares_of_the_rows() -> None:
    rows = pd.DataFrame({"key": np.arange(100_000)})
    found = keys.digests(rows, ["key"])
    for share in (0.0, 0.1, 0.5, 1.0):
        assert abs(keys.sampled(found, np.full(len(found), share)).mean() - share) < 0.01


def test_what_a_training_is_judged_on_is_whole_or_evenly_thinned(spec: ModelSpec) -> None:
    def cut(most: int, of=preparing.to_judge) -> tuple[pd.DataFrame, pd.DataFrame]:
        small = spec.model_copy(update={"train": spec.train.model_copy(update={"max_rows": most})})
        return of(small, AS_OF, None, labelling.versions(spec))

    whole, judged = cut(10_000)
    assert (len(whole), len(judged)) == (24 * ROWS, 4 * ROWS)
    fitted, same = cut(1_000)
    pd.testing.assert_frame_equal(same, judged.reset_index(drop=True))
    assert fitted["day"].max() == whole["day"].max() < judged["day"].min()
    assert abs(len(fitted) - 1_000) < 100, "the sample is of the days before alone"
    assert data.WEIGHT in fitted
    past, chosen_by = cut(1_000, preparing.to_choose)
    assert (past["day"].nunique(), len(chosen_by)) == (20, 4 * ROWS)
    _, few = cut(ROWS)
    assert data.WEIGHT not in few
    assert few["day"].nunique() == 4
    assert abs(len(few) - ROWS) < 4 * np.sqrt(ROWS * 3 / 4)


def test_what_is_told_of_a_sample_is_of_the_rows_that_it_stands_for(spec: ModelSpec) -> None:
    frame = labelling.labelled(spec, FIRST, LAST, most=10 * ROWS)
    even = pipelines.evened(frame, seed=1)
    share = (even["day"] >= pd.Timestamp(LAST - timedelta(days=4))).mean()
    assert abs(share - 5 / 20) < 0.08, "of the latest days, of which half of the sample is"
    assert data.WEIGHT not in even
    old_low = frame.assign(label=np.where(frame[data.WEIGHT] > 1, 0.0, 9.0))
    assert predicting.scored(spec, pipelines.baseline(spec, old_low), old_low)["prediction"].unique() == [0.0]
    half = old_low.assign(label=np.where(frame["day"] >= frame["day"].median(), 9.0, 0.0))
    unweighted = half.drop(columns=data.WEIGHT)
    assert predicting.scored(spec, pipelines.baseline(spec, unweighted), half)["prediction"].unique() == [9.0]
    assert predicting.scored(spec, pipelines.baseline(spec, half), half)["prediction"].unique() == [0.0]


def test_an_estimate_is_made_of_an_even_sample(spec: ModelSpec) -> None:
    days = data.days(AS_OF + timedelta(days=1), AS_OF + timedelta(days=14))
    score_days(spec, days)
    labelling.store(spec, days[0], days[-1])
    small = spec.model_copy(update={"train": spec.train.model_copy(update={"max_rows": ROWS // 2})})
    few = labelling.features(small, days[0], days[-1])
    assert abs(len(few) - ROWS / 2) < 4 * np.sqrt(ROWS / 2)
    assert few["day"].nunique() > 7
    assert len(labelling.features(spec, days[0], days[-1])) == 14 * ROWS

    def pending(of: ModelSpec) -> set[int]:
        asked = of.model_copy(update={"check": of.check.model_copy(update={"estimate": True})})
        found = estimating.records(asked, ledger.require_champion(spec, days[-1]), days[-1], [])
        return {each.n_rows for each in found if each.window is Window.PENDING}

    assert pending(spec) == {ROWS}
    (rows,) = pending(small)
    assert abs(rows - ROWS / 2) < 4 * np.sqrt(ROWS / 4)


def test_of_many_rows_with_few_labels_all_that_have_one_are_trained_on(spec: ModelSpec) -> None:
    for day in data.days(FIRST, LAST):
        rows = lake.read("labels", spec.name, day=day)
        lake.replace_days("labels", spec.name, rows.head(7), [day])
    whole = labelling.labelled(spec, FIRST, LAST)
    assert len(whole) == 20 * 7
    pd.testing.assert_frame_equal(labelling.labelled(spec, FIRST, LAST, most=500), whole)
    few = labelling.labelled(spec, FIRST, LAST, most=70)
    assert abs(len(few) - 70) < 4 * np.sqrt(140 / 4)
    assert data.WEIGHT in few
