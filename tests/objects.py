"""An object store of this machine's: moto's S3 server, which knows conditional puts, on the loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import httpx

from tests.ports import free_port

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
}
READY_WITHIN = 60  # seconds


@contextmanager
def server() -> Iterator[str]:
    """The address of a server, which ends with the context."""
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env={**os.environ, **KEYS}, **quiet)  # type: ignore[call-overload]
    try:
        require_answer(process, lambda: httpx.get(f"{address}/moto-api/", timeout=5).raise_for_status())
        yield address
    finally:
        process.terminate()
        process.wait(timeout=30)


def require_answer(process: subprocess.Popen[bytes], ask: Callable[[], object]) -> None:
    """Wait until a server that was started answers."""
    limit = time.monotonic() + READY_WITHIN
    while True:
        try:
            ask()
        except httpx.HTTPError:
            assert process.poll() is None, f"{process.args} has ended"
            assert time.monotonic() < limit, f"{process.args} does not answer within {READY_WITHIN} s"
            time.sleep(0.1)
        else:
            return


def settings(address: str) -> dict[str, str]:
    """The environment of who keeps the lake in a new bucket there."""
    bucket = f"lake-{uuid4().hex[:12]}"
    httpx.put(f"{address}/{bucket}", timeout=10).raise_for_status()
    return {**KEYS, "AWS_ENDPOINT_URL": address, "ESTEIRA_LAKE": f"s3://{bucket}/esteira"}
