"""A sign of life on long steps, also where the output is a file."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 5.0  # seconds


@contextmanager
def heartbeat(what: str, every: float = EVERY) -> Iterator[None]:
    """Say what is being done, again every few seconds while it lasts, and how long it took."""
    began, over = time.monotonic(), threading.Event()

    def beat() -> None:
        while not over.wait(every):
            print(f"  … {what}, {time.monotonic() - began:.0f} s", flush=True)

    print(what, flush=True)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    print(f"  done in {time.monotonic() - began:.0f} s", flush=True)
