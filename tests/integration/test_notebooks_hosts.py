from __future__ import annotations

import base64
import http.server
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pytest
from esteira.errors import EsteiraError
from esteira.notebooks import execute, git, hosts

TOKEN = "a-token-that-nobody-may-see"
FIRST, SECOND = date(2026, 3, 1), date(2026, 3, 8)


@dataclass
class Host:
    """A git host on the loopback: repositories over HTTP, and the calls that open pull requests; both ask for the token."""

    folder: Path
    port: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    down: bool = False
    answer: tuple[int, str] = (201, "{}")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.folder / "team" / "models.git"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def branches(self) -> list[str]:
        return self.git("for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads").splitlines()


def _body(request: http.server.BaseHTTPRequestHandler) -> bytes:
    if request.headers.get("Transfer-Encoding") != "chunked":
        return request.rfile.read(int(request.headers.get("Content-Length") or 0))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    return body


def _git_backend(
    host: Host, request: http.server.BaseHTTPRequestHandler, body: bytes
) -> tuple[int, dict[str, str], bytes]:
    path, _, query = request.path.partition("?")
    environment = {
        **os.environ,
        "GIT_PROJECT_ROOT": str(host.folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "PATH_INFO": path.replace("/_git/", "/"),
        "QUERY_STRING": query,
        "REQUEST_METHOD": request.command,
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        "REMOTE_USER": "team",
    }
    done = subprocess.run(["git", "http-backend"], input=body, env=environment, capture_output=True, check=True).stdout
    head, _, content = done.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    return int(headers.pop("Status", "200")[:3]), headers, content


def _handler(host: Host) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def _any(self) -> None:
            body = _body(self)
            sent = self.headers.get("Authorization", "")
            allowed = {f"Bearer {TOKEN}"} | {
                "Basic " + base64.b64encode(f"{user}:{TOKEN}".encode()).decode() for user in ("", "x-access-token")
            }
            if host.down or sent not in allowed:
                self.send_error(503 if host.down else 401)
            elif "pull" in self.path.partition("?")[0].rpartition("/")[2]:
                host.asked.append((self.path, json.loads(body)))
                status, text = host.answer
                self._reply(status, {"Content-Type": "application/json"}, text.encode())
            else:
                self._reply(*_git_backend(host, self, body))

        do_GET = do_POST = _any  # noqa: N815  # names of the standard library's

        def _reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host whose repository team/models has one commit on main; the notebooks' contents are given by `contents`."""
    host = Host(tmp_path / "host")
    bare = host.folder / "team" / "models.git"
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", str(bare)], check=True)
    host.git("config", "http.receivepack", "true")
    empty = subprocess.run(
        ["git", "-C", str(bare), "hash-object", "-w", "-t", "tree", "--stdin"],
        input=b"",
        capture_output=True,
        check=True,
    )
    first = host.git(*hosts.AUTHOR, "commit-tree", empty.stdout.decode().strip(), "-m", "the beginning")
    host.git("update-ref", "refs/heads/main", first)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(host))
    server.daemon_threads = True
    host.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    contents = iter(["first", "first", "second", "third", "fourth"])
    monkeypatch.setattr(execute, "execute", lambda target, parameters: target.write_text(next(contents)))
    monkeypatch.setenv("ESTEIRA_GIT", str(tmp_path / "notebooks"))
    monkeypatch.setenv("ESTEIRA_GIT_REMOTE", f"http://127.0.0.1:{host.port}/team/models.git")
    monkeypatch.setenv("ESTEIRA_GIT_TOKEN", TOKEN)
    monkeypatch.setenv("ESTEIRA_GIT_HOST", "github")
    yield host
    server.shutdown()
    server.server_close()


def test_github_gets_a_branch_and_a_pull_request(host: Host) -> None:
    commit = git.commit("sales", FIRST, {})
    assert host.git("rev-parse", "esteira/sales/2026-03-01") == commit
    assert host.git("show", f"{commit}:notebooks/sales/2026-03-01.ipynb") == "first"
    assert host.git("rev-parse", f"{commit}^") == host.git("rev-parse", "main")
    (path, body), *others = host.asked
    assert path == "/api/v3/repos/team/models/pulls"
    assert (body["head"], body["base"]) == ("esteira/sales/2026-03-01", "main")
    assert "sales" in body["title"]
    assert not others


def test_azure_devops_gets_a_branch_and_a_pull_request(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_GIT_HOST", "azure")
    monkeypatch.setenv("ESTEIRA_GIT_REMOTE", f"http://127.0.0.1:{host.port}/team/_git/models.git")
    commit = git.commit("sales", FIRST, {})
    assert host.git("rev-parse", "esteira/sales/2026-03-01") == commit
    ((path, body),) = host.asked
    assert path == "/team/_apis/git/repositories/models.git/pullrequests?api-version=7.1"
    assert body["sourceRefName"] == "refs/heads/esteira/sales/2026-03-01"
    assert body["targetRefName"] == "refs/heads/main"


def test_said_again_it_is_the_same_commit_and_one_branch(host: Host) -> None:
    first = git.commit("sales", FIRST, {})
    host.answer = (422, '{"errors": [{"message": "A pull request already exists for team:esteira"}]}')
    assert git.commit("sales", FIRST, {}) == first
    changed = git.commit("sales", FIRST, {})
    assert host.git("rev-parse", f"{changed}^") == first
    assert host.branches() == ["esteira/sales/2026-03-01", "main"]


def test_a_branch_of_another_day_does_not_carry_the_first_along(host: Host) -> None:
    git.commit("sales", FIRST, {})
    second = git.commit("sales", SECOND, {})
    assert host.git("rev-parse", f"{second}^") == host.git("rev-parse", "main")


def test_after_the_merge_and_the_branch_s_end_nothing_comes_back(host: Host) -> None:
    host.git("update-ref", "refs/heads/main", git.commit("sales", FIRST, {}))
    host.git("update-ref", "-d", "refs/heads/esteira/sales/2026-03-01")
    assert git.commit("sales", FIRST, {}) == host.git("rev-parse", "main")
    git.commit("sales", SECOND, {})
    assert host.branches() == ["esteira/sales/2026-03-08", "main"]
    assert len(host.asked) == 2


def test_a_host_that_is_down_blocks_nothing_and_gets_it_with_the_next(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    git.commit("sales", FIRST, {})
    host.down = True
    missed = git.commit("sales", SECOND, {})
    assert "branch esteira/sales/2026-03-08 is not delivered" in caplog.text
    host.down = False
    git.commit("stock", SECOND, {})
    assert host.git("rev-parse", "esteira/sales/2026-03-08") == missed
    assert [body["head"] for _, body in host.asked] == [
        "esteira/sales/2026-03-01",
        "esteira/sales/2026-03-08",
        "esteira/stock/2026-03-08",
    ]


def test_what_was_made_before_the_host_was_ever_reached_gets_a_common_past(host: Host) -> None:
    host.down = True
    assert len(git.commit("sales", FIRST, {})) == 40
    host.down = False
    git.commit("sales", SECOND, {})
    assert host.git("merge-base", "main", "esteira/sales/2026-03-01") == host.git("rev-parse", "main")
    assert host.git("show", "esteira/sales/2026-03-01:notebooks/sales/2026-03-01.ipynb") == "first"


def test_a_branch_that_changed_while_the_host_was_down_goes_upon_what_the_host_has(host: Host) -> None:
    first = git.commit("sales", FIRST, {})
    assert git.commit("sales", FIRST, {}) == first  # delivered, and forgotten here
    host.down = True
    missed = git.commit("sales", FIRST, {})
    host.down = False
    git.commit("stock", FIRST, {})
    tip = host.git("rev-parse", "esteira/sales/2026-03-01")
    assert host.git("show", f"{tip}:notebooks/sales/2026-03-01.ipynb") == "second"
    assert host.git("rev-parse", f"{tip}^") == first
    assert missed in host.git("show", "--no-patch", "--format=%b", tip)  # what the ledger cites can be found


def test_a_merged_branch_that_was_kept_gets_no_second_pull_request(host: Host) -> None:
    merged = git.commit("sales", FIRST, {})
    host.git("update-ref", "refs/heads/main", merged)
    host.answer = (422, '{"errors": [{"message": "No commits between main and esteira/sales/2026-03-01"}]}')
    assert git.commit("sales", FIRST, {}) == merged
    assert len(host.asked) == 1
    assert _branches_here(host) == []


def test_a_host_that_says_nothing_costs_one_wait(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host.down = True
    git.commit("sales", FIRST, {})
    git.commit("stock", FIRST, {})
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("ESTEIRA_GIT_REMOTE", f"http://127.0.0.1:{silent.getsockname()[1]}/team/models.git")
        monkeypatch.setattr(hosts, "LIMIT", 2)
        began = time.monotonic()
        git.commit("sales", SECOND, {})
        assert time.monotonic() - began < 2 * hosts.LIMIT + 2
    assert "took more than 2 s" in caplog.text
    assert len(_branches_here(host)) == 3


@pytest.mark.parametrize(
    "lock", ["esteira-index.lock", "config.lock", "shallow.lock", "packed-refs.lock", "refs/esteira/base.lock"]
)
def test_a_lock_that_a_killed_git_left_stops_nothing(host: Host, tmp_path: Path, lock: str) -> None:
    git.commit("sales", FIRST, {})
    path = tmp_path / "notebooks" / ".git" / lock
    path.touch()
    os.utime(path, (0, 0))
    git.commit("sales", SECOND, {})
    assert host.branches() == ["esteira/sales/2026-03-01", "esteira/sales/2026-03-08", "main"]


def _branches_here(host: Host) -> list[str]:
    place = host.folder.parent / "notebooks"
    command = ["git", "-C", str(place), "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/esteira/"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_pull_request_that_is_refused_is_asked_for_again(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.answer = (403, '{"message": "Resource not accessible by this token"}')
    git.commit("sales", FIRST, {})
    assert "no pull request: 403" in caplog.text
    assert "Resource not accessible" in caplog.text
    host.answer = (201, "{}")
    git.commit("sales", SECOND, {})
    assert [body["head"] for _, body in host.asked] == ["esteira/sales/2026-03-01"] * 2 + ["esteira/sales/2026-03-08"]


def test_without_a_token_there_is_a_branch_and_no_pull_request(tmp_path: Path, host: Host, monkeypatch) -> None:
    monkeypatch.delenv("ESTEIRA_GIT_TOKEN")
    monkeypatch.setenv("ESTEIRA_GIT_REMOTE", str(host.folder / "team" / "models.git"))
    commit = git.commit("sales", FIRST, {})
    assert host.git("rev-parse", "esteira/sales/2026-03-01") == commit
    assert not host.asked


def test_the_token_is_in_no_file_address_or_message(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    host.answer = (500, f"the token {TOKEN} is bad")
    git.commit("sales", FIRST, {})
    monkeypatch.setenv("ESTEIRA_GIT_REMOTE", f"http://me:{TOKEN}@127.0.0.1:1/team/models.git")
    git.commit("sales", SECOND, {})
    assert "not delivered" in caplog.text
    assert TOKEN not in caplog.text
    told = base64.b64encode(f"x-access-token:{TOKEN}".encode())
    for path in (tmp_path / "notebooks").rglob("*"):
        if path.is_file():
            assert TOKEN.encode() not in path.read_bytes(), path
            assert told not in path.read_bytes(), path


def test_a_token_is_not_sent_in_the_clear(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ESTEIRA_GIT_REMOTE", "http://git.example.com/team/models.git")
    git.commit("sales", FIRST, {})
    assert "a token is sent over https only" in caplog.text


@pytest.mark.parametrize(
    ("address", "host", "endpoint"),
    [
        ("https://github.com/team/models", "github", "https://api.github.com/repos/team/models/pulls"),
        ("https://github.com/team/models.git", "github", "https://api.github.com/repos/team/models/pulls"),
        (
            "https://dev.azure.com/org/project/_git/models",
            "azure",
            "https://dev.azure.com/org/project/_apis/git/repositories/models/pullrequests?api-version=7.1",
        ),
        (
            "https://org@dev.azure.com/org/my%20project/_git/models",
            "azure",
            "https://dev.azure.com/org/my%20project/_apis/git/repositories/models/pullrequests?api-version=7.1",
        ),
        (
            "https://org.visualstudio.com/project/_git/models",
            "azure",
            "https://org.visualstudio.com/project/_apis/git/repositories/models/pullrequests?api-version=7.1",
        ),
    ],
)
def test_the_host_is_known_by_its_address(
    address: str, host: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTEIRA_GIT_REMOTE", address)
    monkeypatch.setenv("ESTEIRA_GIT_TOKEN", TOKEN)
    monkeypatch.delenv("ESTEIRA_GIT_HOST", raising=False)
    asked: list[str] = []

    def post(url: str, **_: object) -> hosts.httpx.Response:
        asked.append(url)
        return hosts.httpx.Response(201)

    monkeypatch.setattr(hosts.httpx, "post", post)
    remote = hosts.Remote.from_environment()
    assert remote is not None
    assert remote.host == host
    {"github": hosts._ask_github, "azure": hosts._ask_azure}[host](remote, "b", "main", "t", "x")
    assert asked == [endpoint]


def test_an_unknown_kind_of_host_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_GIT_REMOTE", "https://git.example.com/team/models")
    monkeypatch.setenv("ESTEIRA_GIT_HOST", "gitlab")
    with pytest.raises(
        EsteiraError, match="ESTEIRA_GIT_HOST can't be used: got 'gitlab'; input should be '', 'github' or 'azure'"
    ):
        hosts.Remote.from_environment()
