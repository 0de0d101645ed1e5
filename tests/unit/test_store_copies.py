"""Copies of what a registry keeps: read, kept, removed when nobody reads them; and those that are not as they were."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from esteira.store import copies, places

OLD, READ, NEW = (hashlib.sha256(content).hexdigest() for content in (b"1", b"2", b"3"))


def test_a_copy_is_read_until_nobody_has_read_it_for_long(home: Path) -> None:
    copies.keep(OLD, b"1")
    copies.keep(READ, b"2")
    folder = home / "cache" / "models"
    long_ago = time.time() - copies.UNUSED - 60
    for name in (OLD, READ):
        os.utime(folder / name, (long_ago, long_ago))
    assert copies.read(READ) == b"2"
    copies.keep(NEW, b"3")
    assert [copies.read(name) for name in (OLD, NEW)] == [None, b"3"]
    assert {path.name for path in folder.iterdir()} == {NEW, READ}
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", [b"", b"1 and more", b"2"])
def test_a_copy_that_is_not_as_it_was_is_none(home: Path, content: bytes) -> None:
    copies.keep(OLD, b"1")
    (home / "cache" / "models" / OLD).write_bytes(content)
    assert copies.read(OLD) is None


def test_a_copy_that_can_not_be_kept_is_no_fault(home: Path) -> None:
    (home / "cache").write_text("a file in its place")
    copies.keep(OLD, b"1")
    assert copies.read(OLD) is None


def test_a_copy_that_can_not_be_put_in_its_place_leaves_nothing(home: Path) -> None:
    (home / "cache" / "models" / OLD).mkdir(parents=True)
    copies.keep(OLD, b"1")
    assert copies.read(OLD) is None
    assert [path.name for path in (home / "cache" / "models").iterdir()] == [OLD]


def test_a_pipe_in_place_of_a_copy_is_none(home: Path) -> None:
    copies.keep(OLD, b"1")
    path = places.home() / "cache" / "models" / OLD
    path.unlink()
    os.mkfifo(path)
    assert copies.read(OLD) is None
