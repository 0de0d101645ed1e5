"""What tasks of a run leave for its later ones: files in the lake, beside the tables, that are removed when they were used."""

from __future__ import annotations

import hashlib
import posixpath
from contextlib import suppress
from datetime import datetime
from uuid import uuid4

import pyarrow.fs as pafs

from esteira.store import lake, opened, parts

FOLDER = "handover"


def leave(model: str, run: str, name: str, content: bytes) -> None:
    """Leave a file, whole or not at all, in place of one of the same name."""
    system, path = _place(model, run, name)
    with opened.reaching(lake.root()):
        system.create_dir(posixpath.dirname(path), recursive=True)
        draft = f"{path}.{uuid4().hex}"  # two tries of a task may leave it at once
        with system.open_output_stream(draft) as sink:
            sink.write(content)
        system.move(draft, path)


def found(model: str, run: str, name: str) -> bytes | None:
    """The content of a file that was left; None where there is none."""
    system, path = _place(model, run, name)
    with opened.reaching(lake.root()):
        if system.get_file_info(path).type != pafs.FileType.File:
            return None
        with system.open_input_stream(path) as source:
            return bytes(source.read())


def remove(model: str, run: str, *names: str) -> None:
    """Remove files that a run has left; those that are gone already are."""
    for name in names:
        system, path = _place(model, run, name)
        with opened.reaching(lake.root()), suppress(FileNotFoundError):
            system.delete_file(path)


def remove_older(model: str, before: datetime) -> None:
    """Remove what runs have left that never came to use it."""
    system, folder = parts.file_system(lake.root()), f"{FOLDER}/{model}"
    with opened.reaching(lake.root()):
        if system.get_file_info(folder).type != pafs.FileType.Directory:
            return
        for each in system.get_file_info(pafs.FileSelector(folder)):
            files = system.get_file_info(pafs.FileSelector(each.path))
            old = [file.path for file in files if file.mtime is not None and file.mtime < before]
            if len(old) == len(files):
                system.delete_dir(each.path)
                continue
            for path in old:  # of a run that goes on: the parts that they name are as old, and go, too
                system.delete_file(path)


def _place(model: str, run: str, *names: str) -> tuple[pafs.FileSystem, str]:
    """The lake's files, and where those of a run are: its name may have signs that a path must not."""
    digest = hashlib.sha256(run.encode()).hexdigest()[:32]
    return parts.file_system(lake.root()), posixpath.join(FOLDER, model, digest, *names)
