"""The files of a source: found by the pattern as it is written, regular files only, whole, and unchanged while they are read."""

from __future__ import annotations

import fnmatch
import glob
import logging
import os
import re
import stat
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from esteira.data.sources import objects
from esteira.data.sources.errors import require_reachable
from esteira.data.sources.reader import BATCH, Part, Reader
from esteira.data.sources.times import days, event_time
from esteira.errors import DataError, OutOfReach, Unfinished
from esteira.spec import ModelSpec
from esteira.spec.sources import FileSource

DAY = "{day}"
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class File:
    """A file of a source. `day` is the one that it is named for; links may not lead out of `folder`."""

    path: str
    folder: str
    day: date | None = None
    follow_links: bool = False


@dataclass(frozen=True)
class Place:
    """A path of model.yaml: the folder that it names, and the parts after it, from the first with {day} or a pattern on."""

    folder: str
    parts: tuple[str, ...]
    key: str

    def on(self, day: date) -> Place:
        """The place on a day."""
        parts = tuple(part.replace(DAY, day.isoformat()) for part in self.parts)
        return Place(self.folder, parts, self.key)

    def __str__(self) -> str:
        return os.path.join(self.folder, *self.parts)  # noqa: PTH118  # a part may be a pattern


@dataclass(frozen=True)
class FileReader(Reader):
    """Reads files, of whatever format."""

    source: FileSource

    @abstractmethod
    def read(self, file: File, first: date, last: date) -> Iterator[pd.DataFrame]:
        """The rows of a file, some at a time. Raises DataError where it can't be read, Unfinished where it is not whole."""

    @abstractmethod
    def header(self, path: str, handle: BinaryIO) -> list[str]:
        """The columns of an open file. Raises DataError where it has none."""

    def parts(self, first: date, last: date) -> Iterator[Part]:
        """The rows of each file; none where it is of a day beside those asked, and can't be used."""
        for file in find(self.source, self.spec, first, last):
            of = (file.path, file.day)
            if file.day is None or first <= file.day <= last:
                yield from ((rows, of) for rows in self.read(file, first, last))
                continue
            try:
                # All of it, or nothing; no more is kept of it than rows of the days.
                yield from [(self._of_days(rows, first, last), of) for rows in self.read(file, first, last)]
            except (DataError, Unfinished) as error:
                require_beside(file.day, first, last, error)

    def _of_days(self, rows: pd.DataFrame, first: date, last: date) -> pd.DataFrame:
        if len(rows) < BATCH or not {*self.spec.source_columns} <= {*rows.columns}:
            return rows
        moments = event_time(self.spec, rows)
        return rows[moments.between(pd.Timestamp(first), pd.Timestamp(last + timedelta(days=1)), inclusive="left")]

    def state(self, first: date, last: date) -> str:
        """The files, how long each is, and when it was written."""
        return str([(file.path, *_state(file.path)) for file in find(self.source, self.spec, first, last)])

    def columns(self) -> tuple[str, list[str]]:
        """The newest file and its columns. Raises DataError where there is none."""
        paths = self._paths()
        if not paths:
            raise DataError(f"no file matches {self._path} yet (source.path in model.yaml)")
        path = paths[-1]
        with opened(File(path, os.path.dirname(path), None, self.source.follow_links)) as handle:  # noqa: PTH120
            return path, self.header(path, handle)

    def last_day(self) -> date | None:
        """The last day that a file is named for; without such names, that of the rows."""
        if not self.source.is_by_day:
            return self.last_day_of_rows()
        return max(filter(None, map(self._day_of, self._paths())), default=None)

    @property
    def _path(self) -> str:
        return (
            self.source.path if objects.is_object(self.source.path) else str(Path(self.spec.folder, self.source.path))
        )

    def _paths(self) -> list[str]:
        """Every file that the source's path names, whatever its day."""
        folder = glob.escape(str(self.spec.folder))
        pattern = self.source.path.replace(DAY, "[0-9]" * 4 + "-[0-9][0-9]" + "-[0-9][0-9]")
        if objects.is_object(pattern):
            return objects.matching(pattern)
        return sorted(glob.glob(os.path.join(folder, pattern)))  # noqa: PTH118, PTH207  # a path may be absolute

    def _day_of(self, path: str) -> date | None:
        found = re.findall(r"\d{4}-\d\d-\d\d", path[-len(self.source.path) - 10 :])
        return date.fromisoformat(found[-1]) if found else None


def find(source: FileSource, spec: ModelSpec, first: date, last: date) -> list[File]:
    """The files that match, and where the pattern has a day, each one's.

    Raises OutOfReach where the folder is not there, Unfinished where a file's marker is not, DataError where a path without
    a day matches nothing.
    """
    key = "source.path" if source is spec.source else "labels.source.path"
    if objects.is_object(source.path):
        return _objects(source, spec, key, first, last)
    place = _place(spec.folder, source.path, key)
    _require_folder(spec, place)
    if any(DAY in part for part in place.parts):
        return _of_days(source, spec, place, first, last)
    _require_marker(source, spec, last)
    found = [*_walk(place.folder, place.parts)]
    if not found:
        raise DataError(f"no file matches {place}; put it there, or correct {key} in model.yaml")
    _require_markers_beside(source, spec, last, found)
    return [File(path, place.folder, None, source.follow_links) for path in found]


def _objects(source: FileSource, spec: ModelSpec, key: str, first: date, last: date) -> list[File]:
    """The objects of the days, with a day of slack; of a path without a day all that match."""
    if DAY not in source.path:
        found = objects.matching(source.path)
        _require_object_markers(source, spec, last, found)
        if not found:
            raise DataError(f"no object matches {source.path}; put it there, or correct {key} in model.yaml")
        return [File(path, os.path.dirname(path)) for path in found]  # noqa: PTH120
    files = []
    for day in days(first - timedelta(days=1), last + timedelta(days=1)):
        found = objects.matching(source.path.replace(DAY, day.isoformat()))
        try:
            if found or first <= day <= last:
                _require_object_markers(source, spec, day, found)
        except Unfinished as error:
            require_beside(day, first, last, error)
            continue
        files += [File(path, os.path.dirname(path), day) for path in found]  # noqa: PTH120
    if not files:
        folder = "/".join(takewhile(lambda part: DAY not in part and not glob.has_magic(part), source.path.split("/")))
        objects.require_folder(folder, key)
    return files


def _require_object_markers(source: FileSource, spec: ModelSpec, day: date, found: list[str]) -> None:
    """The marker of a day, or one beside each of the objects."""
    if source.ready is None:
        return
    name = source.ready.replace(DAY, day.isoformat())
    beside = sorted({path.rpartition("/")[0] for path in found}) or [source.path.rpartition("/")[0]]
    marks = [name] if "/" in name else [f"{folder.replace(DAY, day.isoformat())}/{name}" for folder in beside]
    for mark in marks:
        if not objects.matching(mark if objects.is_object(mark) else f"{beside[0]}/{mark}"):
            raise _not_ready(spec, mark)


def _state(path: str) -> tuple[int, object]:
    """How long a file is, and what tells when it was written."""
    if objects.is_object(path):
        return objects.version(path)
    about = os.stat(path)  # noqa: PTH116
    return about.st_size, about.st_mtime_ns


def _of_days(source: FileSource, spec: ModelSpec, place: Place, first: date, last: date) -> list[File]:
    """The files of the days, with a day of slack: they may be cut by another clock than the model's."""
    _require_folders_of_days(spec, place)
    files = []
    for day in days(first - timedelta(days=1), last + timedelta(days=1)):
        try:
            found = [*_walk(place.folder, place.on(day).parts)]
            if found or first <= day <= last:
                _require_marker(source, spec, day)
                _require_markers_beside(source, spec, day, found)
        except Unfinished as error:
            require_beside(day, first, last, error)
            continue
        files += [File(path, place.folder, day, source.follow_links) for path in found]
    return files


def require_beside(day: date | None, first: date, last: date, error: Exception) -> None:
    """Raise the error, unless the file that it is about is of a day beside those asked: then it is that day's own matter."""
    if day is None or first <= day <= last:
        raise error
    log.warning("left out, for it is of another day: %s", error)


def _place(folder: Path, path: str, key: str) -> Place:
    """The folder of a path is literal, as is each further one that is there by its very name, though it has a [, * or ?."""
    *folders, name = Path(path).parts
    place = str(folder)
    for index, part in enumerate(folders):
        deeper = os.path.join(place, part)  # noqa: PTH118
        if DAY in part or (glob.has_magic(part) and not os.path.isdir(deeper)):  # noqa: PTH112
            return Place(place, (*folders[index:], name), key)
        place = deeper
    return Place(place, (name,), key)


def _require_folder(spec: ModelSpec, place: Place) -> None:
    try:
        is_folder = stat.S_ISDIR(os.stat(place.folder).st_mode)  # noqa: PTH116
    except OSError as error:
        why = "is not there" if isinstance(error, FileNotFoundError) else f"can't be read: {error.strerror}"
        raise OutOfReach(
            f"model {spec.name}: the folder {place.folder} {why}; mount it, or correct {place.key} in model.yaml"
        ) from None
    if not is_folder:
        raise DataError(f"model {spec.name}: {place.folder} is not a folder; correct {place.key} in model.yaml")


def _require_folders_of_days(spec: ModelSpec, place: Place) -> None:
    """Where folders before the day are a pattern, one at least must be there: else nothing would ever be found."""
    index = next(index for index, part in enumerate(place.parts) if DAY in part)
    before = place.parts[:index]
    if before and not any(map(os.path.isdir, _walk(place.folder, before))):
        raise OutOfReach(
            f"model {spec.name}: no folder matches {os.path.join(place.folder, *before)}; mount it, or correct {place.key} "  # noqa: PTH118
            "in model.yaml"
        )


def _walk(folder: str, parts: tuple[str, ...]) -> Iterator[str]:
    """What matches, in order. TypesDiffer glob's, a folder that can't be read is OutOfReach, and not an empty one."""
    part, *rest = parts
    try:
        literal = not glob.has_magic(part) or _is_there(os.path.join(folder, part))  # noqa: PTH118
        names = [part] if literal else _matching(folder, part)
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118
            if rest and os.path.isdir(path):  # noqa: PTH112
                yield from _walk(path, tuple(rest))
            elif rest and os.path.islink(path) and not os.path.exists(path):  # noqa: PTH110, PTH114
                raise Unfinished(f"{path}: is a link to a folder that is not there; mount it, or remove the link")
            elif not rest and _is_there(path):
                yield path
    except OSError as error:
        if isinstance(error, OutOfReach):
            raise
        raise OutOfReach(
            f"{folder}: can't be read: {error.strerror}; see that its volume is there, and run the task again"
        ) from None


def _matching(folder: str, pattern: str) -> list[str]:
    names = fnmatch.filter(os.listdir(folder), pattern)  # noqa: PTH208
    return sorted(name for name in names if not name.startswith(".") or pattern.startswith("."))


def _is_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _marker(source: FileSource, spec: ModelSpec) -> Place | None:
    """Where the marker is to be: a bare name beside the file, any other as source.path."""
    if source.ready is None:
        return None
    beside = "/" not in source.ready
    path = str(Path(source.path).parent / source.ready) if beside else source.ready
    return _place(spec.folder, path, "source.ready")


def _require_marker(source: FileSource, spec: ModelSpec, day: date) -> None:
    """Without its marker a day is not there yet, whether or not files of it are."""
    marker = _marker(source, spec)
    if marker and not [*_walk(marker.folder, marker.on(day).parts)]:
        raise _not_ready(spec, str(marker.on(day)))


def _require_markers_beside(source: FileSource, spec: ModelSpec, day: date, found: list[str]) -> None:
    """Each folder that files were found in has its marker."""
    if source.ready is None or "/" in source.ready:
        return
    for folder in sorted({os.path.dirname(path) for path in found}):  # noqa: PTH120
        path = os.path.join(folder, source.ready.replace(DAY, day.isoformat()))  # noqa: PTH118
        if not _is_there(path):
            raise _not_ready(spec, path)


def _not_ready(spec: ModelSpec, path: str) -> Unfinished:
    return Unfinished(
        f"model {spec.name}: not ready yet: waits for the marker {path}; make it once all files of the delivery are whole, or "
        "correct source.ready in model.yaml"
    )


def length(handle: BinaryIO) -> int:
    """The bytes of an open file, which is then at its start."""
    handle.seek(0, os.SEEK_END)
    size = handle.tell()
    handle.seek(0)
    return size


@contextmanager
def opened(file: File) -> Iterator[BinaryIO]:
    """The file, open to be read. Raises Unfinished where it changed until the block's end: what was read may be half of it."""
    if objects.is_object(file.path):
        with objects.opened(file.path) as found:
            yield found
        return
    real = os.path.realpath(file.path)
    _require_within(file, real)
    try:
        _require_regular(file, os.stat(real))  # noqa: PTH116  # before it is opened, for to open a device may do something
        handle = os.fdopen(os.open(real, os.O_RDONLY | os.O_NONBLOCK), "rb")  # a pipe does not block
    except FileNotFoundError:
        raise Unfinished(f"{file.path}: was there and is gone; deliver it again, and run the task again") from None
    except OSError as error:
        require_reachable(file.path, error)
        raise
    with handle:
        before = os.fstat(handle.fileno())
        _require_regular(file, before)
        try:
            yield handle
        except DataError:
            _require_unchanged(file, real, before, handle)
            raise
        _require_unchanged(file, real, before, handle)


def _require_within(file: File, real: str) -> None:
    folder = os.path.realpath(file.folder)
    if not file.follow_links and os.path.commonpath([folder, real]) != folder:
        raise DataError(
            f"{file.path}: is a link that leads out of {file.folder}; put the file itself there, or set source.follow_links: "
            "true in model.yaml"
        )


def _require_regular(file: File, known: os.stat_result) -> None:
    if stat.S_ISREG(known.st_mode):
        return
    kind = KINDS.get(stat.S_IFMT(known.st_mode), "no file")
    hint = f"; to read the files in it write {file.path}/* in source.path" if kind == "a folder" else ""
    raise DataError(f"{file.path}: is {kind}, and not a file; remove it{hint}, or correct source.path in model.yaml")


def _require_unchanged(file: File, real: str, before: os.stat_result, handle: BinaryIO) -> None:
    try:
        now = [os.fstat(handle.fileno()), os.stat(real)]  # noqa: PTH116
    except FileNotFoundError:
        now = []
    if not now or any(_version(each) != _version(before) for each in now):
        raise Unfinished(
            f"{file.path}: changed while it was read: it is still being written; run the task again when it is whole (let "
            "its writer rename it into place, or set source.ready in model.yaml)"
        )


def _version(known: os.stat_result) -> tuple[int, ...]:
    return known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns
