"""Digests of keys, on disk, and which of them are there twice."""

from __future__ import annotations

import numpy as np
import pytest
from esteira.steps import keys


def batches(count: int, size: int, seed: int = 0) -> list[keys.Digests]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 2**64, size, dtype="uint64") for _ in range(count)]


def seen_of(parts: list[keys.Digests]) -> keys.Seen:
    seen = keys.Seen()
    for part in parts:
        seen.add(part)
    return seen


def test_those_of_several_batches_are_found_wherever_they_are() -> None:
    parts = batches(20, 1_000)
    ends = np.array([0, 2**64 - 1], dtype="uint64")
    twice = np.concatenate([ends, parts[3][:50], parts[7][:3]])
    parts[11] = np.concatenate([parts[11], twice])
    parts[19] = np.concatenate([parts[19], ends, parts[7][:3]])
    found = seen_of(parts).repeated()
    assert list(found) == sorted({int(each) for each in twice})


def test_all_are_kept() -> None:
    parts = batches(3, 500)
    assert sorted(seen_of(parts).all()) == sorted(np.concatenate(parts))


@pytest.mark.parametrize("parts", [[], [np.array([7, 7], dtype="uint64")], [keys.NONE, keys.NONE]])
def test_of_one_batch_nothing_is_doubtful(parts: list[keys.Digests]) -> None:
    """What is twice in a batch is seen by its keys themselves."""
    assert len(seen_of(parts).repeated()) == 0


def test_shares_are_compared_as_batches_are() -> None:
    one, other = batches(2, 100)
    assert list(keys.repeated([one, np.concatenate([other, one[:1]])])) == [one[0]]
    assert len(keys.repeated([one, other])) == 0
