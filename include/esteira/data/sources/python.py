"""A model's own code: functions of the .py files in its folder. What fails in one is said with its file and line."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import pandas as pd

from esteira.data.sources.columns import plain
from esteira.data.sources.errors import sentence
from esteira.data.sources.reader import Part, Reader
from esteira.errors import DataError, EsteiraError, OutOfReach
from esteira.outages import is_transient
from esteira.spec.sources import PythonSource

SHOWN = 30  # columns
PREFIX = "esteira_model_"


@dataclass(frozen=True)
class PythonReader(Reader):
    """Calls the model's own function."""

    source: PythonSource

    def parts(self, first: date, last: date) -> Iterator[Part]:
        """What the function returns, or yields, for the days."""
        folder, dotted = self.spec.folder, self.source.function
        where = f"{folder / dotted.partition('.')[0]}.py"
        for rows in _frames(folder, dotted, first, last):
            yield plain(rows, where, self.spec), (dotted, None)


def function(folder: Path, dotted: str, returns: str = "a number") -> Callable[..., Any]:
    """`module.function` of a model's own folder; what goes wrong in it is a DataError with the file, the line and the cause.

    An outage that it meets is OutOfReach, so that it is tried again.
    """
    module_name, _, name = dotted.partition(".")
    path = folder / f"{module_name}.py"

    def checked(*args: Any) -> Any:
        said: str = f"{name} gets {', '.join(map(_described, args))}; it must return {returns}"
        return _guarded(path, name, said, lambda: getattr(_module(path), name)(*args))

    return checked


def _guarded(path: Path, name: str, said: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (EsteiraError, OutOfReach):
        raise
    except BaseException as error:
        if not _is_of_the_code(error):
            raise
        failure = _failure(path, name, error, said)
    raise failure  # outside of the except block, so that no traceback of ours comes with it


def call(folder: Path, dotted: str, returns: str = "a pandas DataFrame") -> Callable[..., pd.DataFrame]:
    """A function of a model's own folder, wrapped to say whose it is when it does not return a DataFrame."""

    def checked(*args: Any) -> pd.DataFrame:
        return _required(folder, dotted, function(folder, dotted, returns)(*args))

    return checked


def _required(folder: Path, dotted: str, result: Any) -> pd.DataFrame:
    if not isinstance(result, pd.DataFrame):
        raise DataError(f"{folder}: {dotted} must return a pandas DataFrame, got {type(result).__name__}")
    return result


def _frames(folder: Path, dotted: str, first: date, last: date) -> Iterator[pd.DataFrame]:
    """What a source's function returns, or one after the other what it yields, as for days that do not fit into memory."""
    returns = "a pandas DataFrame, or yield some"
    result = function(folder, dotted, returns)(first, last)
    if not isinstance(result, Iterator):
        yield _required(folder, dotted, result)
        return
    module_name, _, name = dotted.partition(".")
    said = f"{name} gets {_described(first)}, {_described(last)}; it must return {returns}"
    while (rows := _guarded(folder / f"{module_name}.py", name, said, lambda: next(result, None))) is not None:
        yield _required(folder, dotted, rows)


class _AsWritten(SourceFileLoader):
    """Compiles the file as it stands: Python's bytecode cache can't tell an edit of the same second and size."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _module(path: Path) -> ModuleType:
    name = f"{PREFIX}{path.parent.name}_{path.stem}"
    place = importlib.util.spec_from_loader(name, _AsWritten(name, _own(path)))
    assert place is not None, f"{path} is not a Python file"
    assert place.loader is not None, f"{path} has no loader"
    module = importlib.util.module_from_spec(place)
    sys.modules[name] = module  # where dataclasses and typing look for it
    place.loader.exec_module(module)
    return module


def _own(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  # links stay as they are


def _is_of_the_code(error: BaseException) -> bool:
    """Whether it is the model's code that failed, or ended the program; an interrupt or a timeout of Airflow's is not."""
    kind = type(error).__module__
    if kind.partition(".")[0] == "airflow":
        return False
    return isinstance(error, Exception | SystemExit) or kind.startswith(PREFIX)


def _failure(path: Path, name: str, error: BaseException, said: str) -> DataError | OutOfReach:
    where = f"{path}, line {_line(path, name, error)}"
    text = f"{where}: {type(error).__name__}: {sentence(error)[:500]}".rstrip(": ")
    if is_transient(error):
        return OutOfReach(f"{text}; see that what it reads from can be reached, and run the task again")
    return DataError(f"{text}; {said}. Fix it there")


def _line(path: Path, name: str, error: BaseException) -> int:
    """The line at fault: the last of the file's own that was at work; for a file that does not compile, the one named."""
    own = _own(path)
    if isinstance(error, SyntaxError) and error.filename == own:
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    if lines:
        return lines[-1] or 1
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    defined = (number for number, text in enumerate(texts, 1) if text.startswith(f"def {name}"))
    return next(defined, 1)


def _described(given: object) -> str:
    if isinstance(given, pd.DataFrame):
        names = [str(name) for name in given.columns]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        return f"a DataFrame of {len(given)} rows with the columns {', '.join(names[:SHOWN])}{more}"
    if isinstance(given, np.ndarray):
        return f"an array of {' x '.join(map(str, given.shape))} values of {given.dtype}"
    return f"the day {given}" if isinstance(given, date) else type(given).__name__
