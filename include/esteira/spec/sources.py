"""Where rows come from: a class for each kind of source, with all that differs between them outside of reading them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from esteira.spec.words import Block, mistake, nearest

ORDER = ("kind", "path", "separator", "encoding", "incomplete")


class SourceBlock(Block):
    """What every source is asked, with the answers of one that is a query: each class says where its own are others."""

    @classmethod
    def kind_of(cls) -> str:
        """The name of the kind, as it is written in a model.yaml."""
        (kind,) = get_args(cls.model_fields["kind"].annotation)
        return str(kind)

    @classmethod
    def secret_keys(cls) -> list[str]:
        """The keys whose values no message shows, and of which there is no second copy."""
        fields = cls.model_fields.items()
        return [key for key, field in fields if SecretStr in (field.annotation, *get_args(field.annotation))]

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"its {self.kind_of()} source"

    @property
    def is_by_day(self) -> bool:
        """Whether it is asked for some days, and so gives the same row for no other day."""
        return True

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secret values that it has, by key."""
        return {key: value.get_secret_value() for key, value in self if isinstance(value, SecretStr)}

    @property
    def functions(self) -> Mapping[str, str]:
        """The functions of the model's own code that it calls, by key."""
        return {}


class FileSource(SourceBlock):
    """What the sources of files share. `path` may be a glob, and `{day}` in it stands for YYYY-MM-DD.

    `ready` and `follow_links` say when a file is read, not what is in it: what was read before does not become stale.
    """

    path: str = Field(min_length=1)
    ready: str | None = Field(default=None, min_length=1, exclude=True)
    follow_links: bool = Field(default=False, exclude=True)

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that the block may have, those first that say what is read."""
        last = ("ready", "follow_links")
        return [*sorted(set(super().known_keys()) - {*last}, key=ORDER.index), *last]

    @property
    def called(self) -> str:
        """What messages call it."""
        return f"its source {self.path}"

    @property
    def is_by_day(self) -> bool:
        """Whether each day has files of its own."""
        return "{day}" in self.path

    @field_validator("path")
    @classmethod
    def _path_is_of_files(cls, path: str) -> str:
        if "\0" in path:
            raise mistake(f"got {path!r}, which has a NUL; no file's name has one")
        if "://" in path and not path.startswith("s3://"):
            raise mistake(f"got {path!r}; csv and parquet are files of this machine, or objects: s3://bucket/path")
        if path.endswith("/"):
            raise mistake(f"got {path!r}, which is a folder; name the files in it, such as {path}*")
        return path

    @model_validator(mode="after")
    def _marker_is_of_the_day(self) -> Self:
        if self.ready is None:
            return self
        *folders, name = self.ready.split("/")
        if not name or re.search(r"[*?\[]", name):
            raise mistake(f"got {self.ready!r}; a marker is one file: write its name, without *, ? or [", "ready")
        beside = self.path.rpartition("/")[0] if not folders else ""
        if "{day}" in self.path and "{day}" not in f"{beside}/{self.ready}":
            raise mistake(
                f"got {self.ready!r}, one marker for all days; source.path has {{day}}, so write {{day}} in it too",
                "ready",
            )
        return self


class CsvSource(FileSource):
    """Text files with a header line."""

    kind: Literal["csv"]
    separator: str = ","
    encoding: str = "utf-8"
    incomplete: Literal["refuse", "accept"] = Field(default="refuse", exclude_if=lambda given: given == "refuse")

    @field_validator("separator")
    @classmethod
    def _separator_is_one_sign(cls, sign: str) -> str:
        if sign in (r"\t", r"\s+"):
            return {r"\t": "\t"}.get(sign, sign)
        if len(sign) != 1 or sign in '"\r\n\0':
            raise mistake(
                rf"got {sign!r}; a separator is exactly one character, such as ',' or ';', or \t for a tab, or \s+ for blanks"
            )
        return sign

    @field_validator("encoding")
    @classmethod
    def _encoding_is_known(cls, name: str) -> str:
        try:
            "".encode(name)  # which codecs that are none of text, such as base64, refuse
        except (LookupError, ValueError):
            usual = ["utf-8", "utf-8-sig", "utf-16", "latin-1", "cp1252", "ascii", "shift_jis", "gb18030"]
            raise mistake(f"unknown encoding {name!r}{nearest(name, usual)}; such as {', '.join(usual[:5])}") from None
        return name


class ParquetSource(FileSource):
    """Parquet files."""

    kind: Literal["parquet"]


class DeltaSource(SourceBlock):
    """A Delta table: a folder or an s3:// address."""

    kind: Literal["delta"]
    path: str

    @property
    def is_by_day(self) -> bool:
        """Never: a row without a time is read for whatever day is asked."""
        return False


class SqlSource(SourceBlock):
    """A query through SQLAlchemy; `:first` and `:last` in it are the days wanted, both included, as YYYY-MM-DD."""

    kind: Literal["sql"]
    url: SecretStr
    query: str

    @field_validator("url", mode="before")
    @classmethod
    def _url_is_secret(cls, given: object) -> object:
        return SecretStr(given) if isinstance(given, str) else given

    @field_validator("query")
    @classmethod
    def _query_is_bounded(cls, query: str) -> str:
        if ":first" not in query or ":last" not in query:
            raise mistake("the query must use :first and :last, the days wanted, so that a day's run reads one day")
        return query


class PythonSource(SourceBlock):
    """`function: source.read` is read(first, last) of source.py in the model's folder; it returns a pandas DataFrame."""

    kind: Literal["python"]
    function: str = Field(pattern=r"^[A-Za-z_]\w*\.[A-Za-z_]\w*$")

    @property
    def functions(self) -> Mapping[str, str]:
        """The function that reads."""
        return {"function": self.function}


Source = Annotated[CsvSource | ParquetSource | DeltaSource | SqlSource | PythonSource, Field(discriminator="kind")]
CLASSES: tuple[type[SourceBlock], ...] = get_args(get_args(Source)[0])
KINDS = tuple(each.kind_of() for each in CLASSES)
SECRET_KEYS = frozenset(key for each in CLASSES for key in each.secret_keys())
