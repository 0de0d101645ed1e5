"""A command that works for long says so, on the error stream."""

from __future__ import annotations

import os
import pty
import time

import pytest
from esteira.cli import progress


def test_what_is_done_soon_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.at_work("training sales"):
        pass
    assert capsys.readouterr() == ("", "")


def test_where_there_is_no_terminal_lines_say_what_is_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.01)
    said = ""
    limit = time.monotonic() + 30
    with progress.at_work("training sales"):
        while said.count("\n") < 2 and time.monotonic() < limit:
            said += capsys.readouterr().err
    assert said.splitlines()[:2] == ["training sales: 0 s"] * 2


@pytest.mark.timeout(60)  # where the terminal says nothing more, reading it waits for ever
def test_on_a_terminal_a_line_moves_and_is_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "QUIET", 0.0)
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        shown = b""
        with progress.at_work("training sales"):
            while b"training sales" not in shown:
                shown += os.read(leader, 4096)
        while b"\x1b[2K" not in shown.rpartition(b"training sales")[2]:  # the line is wiped
            shown += os.read(leader, 4096)
    os.close(leader)
    assert shown.rstrip(b"\r\n\x1b[?25h").endswith(b"\x1b[2K"), "nothing is left of it"


def test_what_goes_wrong_is_raised_as_it_was() -> None:
    with pytest.raises(ValueError, match="broken"), progress.at_work("training sales"):
        raise ValueError("broken")
