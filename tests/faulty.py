"""A proxy before an object store of this machine's, which fails as networks and clouds do, for as long as it is told to.

It is a process of its own: some clients wait for it while no other thread of theirs can run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

import httpx

from tests.objects import require_answer
from tests.ports import free_port

CONTROL = "/_fault"
HOPS = {"connection", "transfer-encoding", "content-encoding", "content-length", "host", "date", "server"}
ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'
ANSWERS = {
    "busy": (503, "SlowDown", "Please reduce your request rate."),
    "broken": (500, "InternalError", "We encountered an internal error."),
    "keys": (403, "InvalidAccessKeyId", "The key is not known."),
    "token": (400, "ExpiredToken", "The provided token has expired."),
}


@dataclass
class Fault:
    """What is wrong: one of ANSWERS, cut (no answer), half (of a body), slow; of `most` requests (-1: of all) after so many."""

    kind: str = ""
    most: int = -1
    after: int = 0
    failed: int = 0

    def asked(self) -> str:
        """What is wrong with the next request."""
        if not self.kind or self.most == 0:
            return ""
        if self.after > 0:
            self.after -= 1
            return ""
        self.most -= 1
        self.failed += 1
        return self.kind


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, target: str) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.target, self.fault, self.lock = target, Fault(), Lock()
        self.client = httpx.Client(timeout=60)

    def handle_error(self, *_: Any) -> None:
        """Clients that go away are no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def handle_one_request(self) -> None:
        """Answer whatever method is asked for."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
        elif self.parse_request():
            self._answer_it()
            self.wfile.flush()

    def _answer_it(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == CONTROL:
            if body:
                self.server.fault = Fault(**json.loads(body))
            self._answer(200, {}, json.dumps(asdict(self.server.fault)).encode())
            return
        with self.server.lock:
            fault = self.server.fault.asked()
        if fault == "cut":
            self.close_connection = True
            return
        if fault in ANSWERS:
            status, code, message = ANSWERS[fault]
            self._answer(status, {"Content-Type": "application/xml"}, ERROR.format(code=code, message=message).encode())
            return
        if fault == "slow":
            time.sleep(1)  # a slow answer is waited for
        given = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in HOPS - {"content-encoding", "date"}
        }
        found = self.server.client.request(self.command, self.server.target + self.path, headers=given, content=body)
        kept = {name: value for name, value in found.headers.items() if name.lower() not in HOPS}
        self._answer(
            found.status_code, kept, found.content, half=fault == "half", told=found.headers.get("content-length")
        )

    def _answer(
        self, status: int, headers: dict[str, str], body: bytes, *, half: bool = False, told: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", told if self.command == "HEAD" and told else str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
        if half:
            self.close_connection = True


@dataclass(frozen=True)
class Faulty:
    """The proxy, and how it is told to fail."""

    address: str

    def set(self, kind: str, most: int = -1, after: int = 0) -> None:
        """Fail from now on; with an empty kind no more."""
        told = {"kind": kind, "most": most, "after": after}
        httpx.post(self.address + CONTROL, json=told, timeout=10).raise_for_status()

    @property
    def failed(self) -> int:
        """How many requests have failed since it was told to."""
        return int(httpx.get(self.address + CONTROL, timeout=10).json()["failed"])


@contextmanager
def before(target: str) -> Iterator[Faulty]:
    """A proxy before a server, which ends with the context."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.faulty", str(port), target])
    found = Faulty(f"http://127.0.0.1:{port}")
    try:
        require_answer(process, lambda: found.set(""))
        yield found
    finally:
        process.terminate()
        process.wait(timeout=30)


if __name__ == "__main__":
    Proxy(int(sys.argv[1]), sys.argv[2]).serve_forever()
