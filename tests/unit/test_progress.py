"""Signs of life."""

from __future__ import annotations

import pytest

from ops import progress


def test_a_long_step_shows_that_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.heartbeat("making it", every=0.01):
        limit = progress.time.monotonic() + 10
        shown = ""
        while "  … making it, 0 s\n" not in shown and progress.time.monotonic() < limit:
            shown += capsys.readouterr().out
    shown += capsys.readouterr().out
    assert shown.startswith("making it\n  … making it, 0 s\n")
    assert shown.endswith("  done in 0 s\n")
