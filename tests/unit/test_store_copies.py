"""Copies of what a registry keeps: read, kept, removed when nobody reads them; and a folder that can't be."""

from __future__ import annotations

import os
import time
from pathlib import Path

from esteira.store import copies


def test_a_copy_is_read_until_nobody_has_read_it_for_long(home: Path) -> None:
    copies.keep("old", b"1")
    copies.keep("read", b"2")
    long_ago = time.time() - copies.UNUSED - 60
    for name in ("old", "read"):
        os.utime(home / "cache" / "models" / name, (long_ago, long_ago))
    assert copies.read("read") == b"2"
    copies.keep("new", b"3")
    assert [copies.read(name) for name in ("old", "read", "new")] == [None, b"2", b"3"]
    assert sorted(path.name for path in (home / "cache" / "models").iterdir()) == ["new", "read"]
    assert (home / "cache" / "models").stat().st_mode & 0o077 == 0


def test_a_copy_that_can_not_be_kept_is_no_fault(home: Path) -> None:
    (home / "cache").write_text("a file in its place")
    copies.keep("name", b"1")
    assert copies.read("name") is None
