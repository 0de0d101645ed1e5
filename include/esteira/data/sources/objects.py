"""Files in an object store: s3:// addresses, by Arrow's own client."""

from __future__ import annotations

import fnmatch
import glob
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.fs as pafs

from esteira.data.environment import skip_instance_metadata
from esteira.errors import DataError, OutOfReach, Unfinished

SCHEME = "s3://"
TRIES = 5
CONNECT_WITHIN, ANSWER_WITHIN = 10, 60  # seconds


def is_object(path: str) -> bool:
    """Whether a path is an address of an object store."""
    return path.startswith(SCHEME)


def file_system() -> pafs.FileSystem:
    """The object store that the environment names (AWS_…)."""
    skip_instance_metadata()
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", *keys)
    return _file_system(tuple(os.environ.get(name, "") for name in names))


@lru_cache(maxsize=4)
def _file_system(asked: tuple[str, ...]) -> pafs.FileSystem:
    of_s3, of_all, region, usual, *_ = asked
    scheme, _, host = (of_s3 or of_all).rpartition("://")
    return pafs.S3FileSystem(
        region=region or usual or "us-east-1",
        endpoint_override=host or None,
        scheme=scheme or "https",
        connect_timeout=CONNECT_WITHIN,
        request_timeout=ANSWER_WITHIN,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=TRIES),
    )


def key(address: str) -> str:
    """An address as the file system names it: bucket and key."""
    return address.removeprefix(SCHEME)


@contextmanager
def reaching(address: str) -> Iterator[None]:
    """What fails within is told by OutOfReach, which is tried again."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, OutOfReach | FileNotFoundError):
            raise
        if "NO_SUCH_BUCKET" in str(error):
            raise OutOfReach(f"{address}: there is no such bucket; correct it, or make it") from None
        why = str(error).splitlines()[0][:300]
        raise OutOfReach(
            f"{address}: the object store can't be reached, or refuses: {why}; see that it is there, and that AWS_ENDPOINT_URL, "
            "AWS_REGION and the keys in the environment are right"
        ) from None


def matching(address: str) -> list[str]:
    """The objects that match an address, each of whose parts may be a pattern, in order. Raises OutOfReach."""
    parts = key(address).split("/")
    literal = next((number for number, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    if literal == len(parts):
        return [address] if exists(address) else []
    selector = pafs.FileSelector(
        "/".join(parts[:literal]), allow_not_found=literal > 1, recursive=literal < len(parts) - 1
    )
    with reaching(address):
        found = file_system().get_file_info(selector)
    names = (each.path for each in found if each.type == pafs.FileType.File)
    return sorted(f"{SCHEME}{name}" for name in names if _fits(name.split("/"), parts))


def _fits(names: list[str], patterns: list[str]) -> bool:
    """Whether each part matches, as of paths of this machine: a * does not go beyond a slash."""
    return len(names) == len(patterns) and all(
        fnmatch.fnmatchcase(name, pattern) and (not name.startswith(".") or pattern.startswith("."))
        for name, pattern in zip(names, patterns, strict=True)
    )


def exists(address: str) -> bool:
    """Whether there is such an object. Raises OutOfReach, also where there is no such bucket."""
    with reaching(address):
        if file_system().get_file_info(key(address)).type == pafs.FileType.File:
            return True
        bucket = key(address).partition("/")[0]
        if file_system().get_file_info(bucket).type == pafs.FileType.NotFound:
            raise OutOfReach(f"{address}: there is no bucket {bucket}; correct it, or make it")
    return False


def require_folder(address: str, key_of_model: str) -> None:
    """Raise OutOfReach where nothing lies under an address: a path that was never there must not look like a day without rows."""
    with reaching(address):
        if file_system().get_file_info(key(address)).type == pafs.FileType.NotFound:
            raise OutOfReach(
                f"there is nothing under {address}/; correct {key_of_model} in model.yaml, or see where it is"
            )


def version(address: str) -> tuple[int, str]:
    """Its size, and the store's tag of its content. Raises Unfinished where it is gone."""
    try:
        with reaching(address), file_system().open_input_file(key(address)) as handle:
            return int(handle.size()), str(handle.metadata().get("ETag"))
    except FileNotFoundError:
        raise Unfinished(f"{address}: was there and is gone; deliver it again, and run the task again") from None


@contextmanager
def opened(address: str) -> Iterator[BinaryIO]:
    """The object, open to be read. Raises Unfinished where another was put in its place until the block's end."""
    before = version(address)
    with reaching(address):
        handle = file_system().open_input_file(key(address))
    with handle:
        try:
            yield cast("BinaryIO", io.BufferedReader(_Raw(handle), buffer_size=1 << 20))
        except DataError:
            _require_unchanged(address, before)
            raise
        _require_unchanged(address, before)


def _require_unchanged(address: str, before: tuple[int, str]) -> None:
    if version(address) != before:
        raise Unfinished(f"{address}: changed while it was read; run the task again")


class _Raw(io.RawIOBase):
    """Arrow's file as one of Python's."""

    def __init__(self, handle: pa.NativeFile) -> None:
        self._handle = handle

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        """Go to a place."""
        return int(self._handle.seek(at, whence))

    def tell(self) -> int:
        """Where it is."""
        return int(self._handle.tell())

    def readinto(self, buffer: object) -> int:
        """Some bytes."""
        return int(self._handle.readinto(buffer))
