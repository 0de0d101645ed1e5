"""What runs keep in their tags: names and text stay as registries have them."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from esteira.store.lineage import DataVersions, DaysSeen, Evaluation, Tuned, Validated

EVALUATION = {
    "accepted": "True",
    "why": "better",
    "measured": "3",
    "versions": "3/-1",
    "window": "28",
    "identity": "abc",
}


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (Tuned(1, {"depth": 5, "alpha": 0.5}), {"candidate": "1", "params": '{"depth": 5, "alpha": 0.5}'}),
        (Validated(Tuned(0, {}), 0.125), {"candidate": "0", "params": "{}", "value": "0.125"}),
        (Evaluation(True, "better", 3, DataVersions(3, -1), 28, "abc"), EVALUATION),
        (
            Evaluation(False, "worse", None, DataVersions(0, 4), 7, ""),
            {"accepted": "False", "why": "worse", "measured": "0", "versions": "0/4", "window": "7", "identity": ""},
        ),
        (
            DaysSeen(date(2026, 1, 2), date(2026, 2, 3)),
            {"first_day": "2026-01-02", "trained_through": "2026-02-03"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_written_as_tags_and_read_from_them(value: Any, tags: dict[str, str]) -> None:
    assert value.tags() == tags
    assert type(value).of({**tags, "kind": "another tag"}) == value


def test_the_first_trainings_had_no_identity() -> None:
    tags = {name: text for name, text in EVALUATION.items() if name != "identity"}
    assert Evaluation.of(tags) == Evaluation(True, "better", 3, DataVersions(3, -1), 28, "")


@pytest.mark.parametrize("versions", [DataVersions(3, 4), DataVersions(0, -1)])
def test_the_versions_of_the_data_go_as_text_from_task_to_task(versions: DataVersions) -> None:
    assert DataVersions.parse(str(versions)) == versions
    assert str(DataVersions(3, 4)) == "3/4"


def test_a_version_cites_the_data_that_it_was_trained_on() -> None:
    assert DataVersions(3, 4).tags() == {"features_version": "3", "labels_version": "4"}
    assert DataVersions.cited({"features_version": "3", "labels_version": "4", "kind": "model"}) == DataVersions(3, 4)
    assert DataVersions.cited({"kind": "registered by hand"}) is None
