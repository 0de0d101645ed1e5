"""What was read of a model.yaml, kept on disk, so that not every process that builds DAGs parses it again.

An entry holds what follows from the bytes of files alone: the YAML as it was parsed, and the names of the functions of
the model's .py files, each by the digest of its file. The rest is done anew at each read: the variables of the environment
are filled in, and every rule of the contract is checked. So an entry has no value of a variable, which may be a secret,
and can't make a wrong spec a right one.

It is only a cache: an entry that is not there, can't be read or written, or is of other bytes counts as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from esteira.settings import settings

log = logging.getLogger(__name__)

DAY = "$day"  # the key under which JSON, which has no dates, holds one
MOST = 2**19  # characters: a file has at most half of them, but an alias may repeat what is long thousands of times
YOUNG = 86_400  # seconds; another process, with other folders of models, may still need what is not older


@dataclass(frozen=True)
class Entry:
    """The YAML of a model, its ${NAME}s as they stand in the file; and of each .py file looked into, digest and functions."""

    document: Any
    functions: dict[str, tuple[str, list[str]]] = field(default_factory=dict)


def folder() -> Path:
    """Where the entries lie."""
    return settings().state_folder / "cache" / "specs"


def read(path: Path, text: str) -> Entry | None:
    """What is kept of the model.yaml at `path`, whose text is `text`; None where that is nothing."""
    try:
        seal, _, body = (folder() / _name(path)).read_bytes().partition(b"\n")
        if seal.decode() != _seal(path, text, body):
            return None
        kept = json.loads(body, object_hook=_day_of)
        return Entry(kept["document"], {name: (digest, names) for name, (digest, names) in kept["functions"].items()})
    except (OSError, ValueError):  # it is not there, can't be read, or is no text
        return None


def write(path: Path, text: str, entry: Entry) -> None:
    """Keep the entry, unless it is large, JSON can't hold it as it is, or the folder can't be written."""
    try:
        if _characters(entry.document) > MOST:
            return
        body = json.dumps({"document": entry.document, "functions": entry.functions}, default=_dated, allow_nan=False)
        if not _same(json.loads(body, object_hook=_day_of)["document"], entry.document):
            return
        _replace(folder() / _name(path), f"{_seal(path, text, body.encode())}\n{body}")
    except (TypeError, ValueError, OSError) as error:
        log.debug("%s is not cached: %s", path, error)


def prune(paths: Iterable[Path]) -> None:
    """Remove the entries of all models but these, and what a killed process has left, once they are a day old."""
    names = {_name(path) for path in paths}
    with suppress(OSError), os.scandir(folder()) as entries:
        for entry in entries:
            if entry.name not in names:
                _remove_old(entry)


def _remove_old(entry: os.DirEntry[str]) -> None:
    with suppress(OSError):  # another process was faster
        if time.time() - entry.stat(follow_symlinks=False).st_mtime > YOUNG:
            Path(entry.path).unlink()


def _name(path: Path) -> str:
    return f"{hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]}.json"


def _seal(path: Path, text: str, body: bytes) -> str:
    """The digest of all that an entry depends on, and of the entry itself."""
    found = hashlib.sha256(_version())
    for part in (os.fsencode(path.absolute()), text.encode(), body):
        found.update(hashlib.sha256(part).digest())
    return found.hexdigest()


@cache
def _version() -> bytes:
    """What reads: the code of this package, Python's parser and the YAML's. Another one may refuse what this one took."""
    code = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    if not code:
        raise FileNotFoundError("the code's version can't be known without its source")
    return hashlib.sha256(f"{sys.version}\n{yaml.__version__}\n".encode() + code).digest()


def _dated(value: object) -> dict[str, str]:
    if type(value) is not date:  # a time of day is a date, too, to isinstance
        raise TypeError(f"JSON has no {type(value).__name__}")
    return {DAY: value.isoformat()}


def _day_of(block: dict[str, Any]) -> Any:
    return date.fromisoformat(block[DAY]) if block.keys() == {DAY} else block


def _same(one: object, other: object) -> bool:
    """Whether two documents are equal to the type: 1 is not True, and a list no tuple."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return one == other


def _characters(value: object) -> int:
    """About how long a document is in JSON, without making it."""
    if isinstance(value, dict):
        return sum(len(key) + _characters(item) for key, item in value.items())
    if isinstance(value, list):
        return sum(map(_characters, value))
    return len(value) if isinstance(value, str) else len(repr(value))


def _replace(path: Path, text: str) -> None:
    """Write the file at once, for several processes may do so at a time, and others read it."""
    for place in (settings().state_folder, path.parent.parent, path.parent):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=path.parent, suffix=".new")  # which only its user can read
    draft = Path(name)
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
