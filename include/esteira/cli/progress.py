"""What a command shows while it works for longer: a moving line on a terminal, else a plain one now and then."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

QUIET = 2.0  # seconds: what is done by then shows nothing
EVERY = 15.0  # seconds between two plain lines


@contextmanager
def at_work(what: str) -> Iterator[None]:
    """Show on the error stream that `what` is being done, once it takes longer than two seconds."""
    ended, stream = threading.Event(), sys.stderr
    thread = threading.Thread(target=_show, args=(what, ended, stream), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _show(what: str, ended: threading.Event, stream: TextIO) -> None:
    began = time.monotonic()
    if ended.wait(QUIET):
        return
    if stream.isatty():
        _move(what, ended, stream)
        return
    while True:
        print(f"{what}: {time.monotonic() - began:.0f} s", file=stream, flush=True)
        if ended.wait(EVERY):
            return


def _move(what: str, ended: threading.Event, stream: TextIO) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(file=stream), transient=True) as bar:
        bar.add_task(what, total=None)
        ended.wait()
