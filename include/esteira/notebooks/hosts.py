"""A branch, and a pull request, for each retraining notebook: at GitHub, at Azure DevOps, or at any git remote (a branch alone).

ESTEIRA_GIT_REMOTE is the repository's address, ESTEIRA_GIT_TOKEN what may push to it and open pull requests there. Where the
address does not say which of the two it is, ESTEIRA_GIT_HOST does (github or azure).

A branch is built upon the remote's default branch without a checkout, kept as a local branch until the remote has it (and its
pull request), and forgotten then: what could not be delivered goes along with the next one.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import SplitResult, quote, urlsplit

import httpx

from esteira.settings import settings

log = logging.getLogger(__name__)

# A repository is data: neither its hooks nor a monitor that its configuration names are run by our commands.
SAFE = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
AUTHOR = ("-c", "user.name=Esteira", "-c", "user.email=esteira@localhost")
BASE = "refs/esteira/base"  # the remote's default branch, as it was seen last
HTTP_LIMIT = 30  # seconds
LIMIT = 60  # seconds that one git command may take
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class NotDelivered(Exception):
    """The remote does not have it; the text says why, without secrets."""


class NoAnswer(NotDelivered):
    """The remote says nothing."""


@dataclass(frozen=True)
class Remote:
    """Where notebooks are pushed to."""

    address: str
    token: str = ""
    host: str = ""  # github, azure, or unknown

    @classmethod
    def from_environment(cls) -> Remote | None:
        """The remote of ESTEIRA_GIT_REMOTE, ESTEIRA_GIT_TOKEN and ESTEIRA_GIT_HOST; None where there is none."""
        given = settings()
        address = given.git_remote.rstrip("/")
        if not address:
            return None
        name = urlsplit(address).hostname or ""
        known = "github" if name == "github.com" else ""
        if name == "dev.azure.com" or name.endswith(".visualstudio.com"):
            known = "azure"
        return cls(address, given.git_token.get_secret_value(), given.git_host or known)

    @property
    def parts(self) -> SplitResult:
        """The address, parsed."""
        return urlsplit(self.address)

    def cleaned(self, text: str) -> str:
        """A text without the token and without passwords in addresses."""
        return without_passwords(text.replace(self.token, "***") if self.token else text)


def without_passwords(text: str) -> str:
    """A text without what stands before the @ of its addresses."""
    return re.sub(r"//[^/@\s]*@", "//***@", text)


def commit(place: Path, remote: Remote, model: str, day: date, content: bytes) -> str:
    """Commit notebooks/<model>/<day>.ipynb to a branch of the remote, and open its pull request; returns the commit.

    Called again with the same content it returns the same commit and opens nothing new. What can't be delivered is warned
    about, and tried again by the next call. `place` is a git repository.
    """
    branch, path = f"esteira/{model}/{day}", _path(model, str(day))
    parent = _resolved(place, f"refs/heads/{branch}")
    reached = False
    try:
        _fetch(place, remote)
        parent = _tip(place, remote, branch) or parent
        reached = True
    except NotDelivered as error:
        log.warning("the notebook is committed, but branch %s is not delivered: %s", branch, error)
    blob = git(place, "hash-object", "-w", "--stdin", stdin=content)
    made = _built(place, parent or _resolved(place, BASE), path, blob, f"{model}: retraining of {day}")
    if made != _resolved(place, BASE):
        git(place, "update-ref", f"refs/heads/{branch}", made)
    pending = git(place, "for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads/esteira/").splitlines()
    for each in pending if reached else []:
        try:
            _deliver(place, remote, each)
        except NotDelivered as error:
            log.warning("the notebook is committed, but branch %s is not delivered: %s", each, error)
            if isinstance(error, NoAnswer):
                break  # each of the others would wait as long
    return made


def _path(model: str, day: str) -> str:
    return f"notebooks/{model}/{day}.ipynb"


def _built(place: Path, parent: str, path: str, blob: str, message: str) -> str:
    """The commit that has the blob at the path, upon `parent`; `parent` itself where it has it already."""
    index = {"GIT_INDEX_FILE": str(place / ".git" / "esteira-index")}
    Path(index["GIT_INDEX_FILE"]).unlink(missing_ok=True)
    if parent:
        git(place, "read-tree", parent, environment=index)
    git(place, "update-index", "--add", "--cacheinfo", f"100644,{blob},{path}", environment=index)
    tree = git(place, "write-tree", environment=index)
    if parent and tree == git(place, "rev-parse", f"{parent}^{{tree}}"):
        return parent
    return git(place, *AUTHOR, "commit-tree", tree, *(["-p", parent] if parent else []), "-m", message)


def _deliver(place: Path, remote: Remote, branch: str) -> None:
    """Push a branch, open its pull request, and forget it here."""
    local = tip = git(place, "rev-parse", f"refs/heads/{branch}")
    _, model, day = branch.split("/")
    blob = _blob(place, tip, _path(model, day))
    there = _tip(place, remote, branch)
    known = git(place, "show", "--no-patch", "--format=%P", tip)
    if not known or there not in ("", tip, known):
        # It was made while the remote could not be asked: before it was ever reached, or without the branch that it has.
        message = f"{model}: retraining of {day}\n\nFirst committed as {tip}."
        tip = _built(place, there or git(place, "rev-parse", BASE), _path(model, day), blob, message)
    _over(place, remote, "push", "--quiet", remote.address, f"{tip}:refs/heads/{branch}")
    if not remote.token or not remote.host:
        log.info("branch %s is pushed; no pull request: %s", branch, "no token" if remote.host else "an unknown host")
    elif blob != _blob(place, BASE, _path(model, day)):  # else it is merged already
        _open_pull_request(place, remote, branch)
    git(place, "update-ref", "-d", f"refs/heads/{branch}", local)


def _blob(place: Path, commit: str, path: str) -> str:
    """The file's object in a commit; empty where that has no such file."""
    return git(place, "ls-tree", "--format=%(objectname)", commit, path)


def _fetch(place: Path, remote: Remote) -> None:
    """See the remote's default branch."""
    told = _over(place, remote, "ls-remote", "--symref", remote.address, "HEAD")
    found = re.match(r"ref: refs/heads/(\S+)\tHEAD", told)
    if not found:
        raise NotDelivered(f"{remote.cleaned(remote.address)} has no default branch; push a first commit there")
    git(place, "config", "esteira.base", found[1])
    _over(place, remote, "fetch", "--quiet", "--depth=1", remote.address, f"+refs/heads/{found[1]}:{BASE}")


def _tip(place: Path, remote: Remote, branch: str) -> str:
    """The remote's tip of a branch; empty where it has none."""
    if not _over(place, remote, "ls-remote", remote.address, f"refs/heads/{branch}"):
        return ""
    _over(place, remote, "fetch", "--quiet", "--depth=1", remote.address, f"refs/heads/{branch}")
    return git(place, "rev-parse", "FETCH_HEAD")


def _resolved(place: Path, ref: str) -> str:
    return git(place, "for-each-ref", "--format=%(objectname)", ref)


# -------------------------------------------------------------------------------------------------------- pull requests


def _open_pull_request(place: Path, remote: Remote, branch: str) -> None:
    """Open the pull request of a branch, unless there is one. Raises NotDelivered with the host's own words."""
    base = git(place, "config", "esteira.base")
    _, model, day = branch.split("/")
    title = f"{model}: retraining notebook of {day}"
    text = f"The check of {day} found {model} out of its range and retrained it. Made by Esteira."
    ask = {"github": _ask_github, "azure": _ask_azure}[remote.host]
    try:
        answer = ask(remote, branch, base, title, text)
    except httpx.HTTPError as error:
        raise NoAnswer(remote.cleaned(f"no pull request: {type(error).__name__}: {error}")) from None
    there = {"github": (422, "already exists"), "azure": (409, "TF401179")}[remote.host]
    if not answer.is_success and not (answer.status_code == there[0] and there[1] in answer.text):
        raise NotDelivered(remote.cleaned(f"no pull request: {answer.status_code} {answer.text[:300]}"))


def _ask_github(remote: Remote, branch: str, base: str, title: str, text: str) -> httpx.Response:
    parts = remote.parts
    api = "https://api.github.com" if parts.hostname == "github.com" else f"{_origin(parts)}/api/v3"
    return httpx.post(
        f"{api}/repos{parts.path.removesuffix('.git')}/pulls",
        json={"title": title, "body": text, "head": branch, "base": base},
        headers={"Authorization": f"Bearer {remote.token}", "Accept": "application/vnd.github+json"},
        timeout=HTTP_LIMIT,
    )


def _ask_azure(remote: Remote, branch: str, base: str, title: str, text: str) -> httpx.Response:
    project, _, repository = remote.parts.path.partition("/_git/")
    return httpx.post(
        f"{_origin(remote.parts)}{project}/_apis/git/repositories/{quote(repository)}/pullrequests?api-version=7.1",
        json={
            "title": title,
            "description": text,
            "sourceRefName": f"refs/heads/{branch}",
            "targetRefName": f"refs/heads/{base}",
        },
        auth=("", remote.token),
        timeout=HTTP_LIMIT,
    )


def _origin(parts: SplitResult) -> str:
    """Scheme, host and port, without what may stand before an @."""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


# ------------------------------------------------------------------------------------------------------------------ git


def _over(place: Path, remote: Remote, *arguments: str) -> str:
    """A git command that talks to the remote. Raises NotDelivered where that fails."""
    parts = remote.parts
    header = {}
    if remote.token and parts.scheme in ("http", "https"):
        if parts.scheme == "http" and parts.hostname not in LOOPBACK:
            raise NotDelivered("a token is sent over https only; ESTEIRA_GIT_REMOTE begins with http://")
        # In the environment of this one process: not in an address, an argument or a file.
        basic = base64.b64encode(f"x-access-token:{remote.token}".encode()).decode()
        header = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"http.{_origin(parts)}/.extraHeader",
            "GIT_CONFIG_VALUE_0": f"Authorization: Basic {basic}",
        }
    try:
        return git(place, *arguments, environment=header)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"git {arguments[0]} took more than {LIMIT} s") from None
    except subprocess.CalledProcessError as error:
        raise NotDelivered(
            remote.cleaned(f"git {arguments[0]}: {error.stderr.decode(errors='replace').strip()}")
        ) from None


def git(place: Path, *arguments: str, stdin: bytes | None = None, environment: Mapping[str, str] | None = None) -> str:
    """Run git in a repository; returns what it printed. Raises CalledProcessError, TimeoutExpired."""
    done = subprocess.run(  # noqa: S603
        ["git", "-C", str(place), *SAFE, *arguments],  # noqa: S607
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=LIMIT,
        env={**os.environ, "GIT_TERMINAL_PROMPT": "0", **(environment or {})},
        check=True,
    )
    return done.stdout.decode().strip()
