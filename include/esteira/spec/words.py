"""The words of the contract: the kinds of values, and the block that everything else is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from difflib import get_close_matches
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from croniter import croniter
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)
from pydantic_core import PydanticCustomError

ALLOWED_PACKAGES = ("sklearn", "lightgbm", "xgboost")
# What steps write beside a model's own columns, day apart; a test of scoring holds that it is all.
RESERVED_COLUMNS = frozenset(
    [
        "event_time",
        "label",
        "prediction",
        "probability",
        "read_at",
        "run",
        "trained_through",
        "version",
        "replaces",
        "load_seconds",
        "predict_seconds",
        "first_seen",
        "rule",
        "reason",
        "row",
        "stage",
        "found_at",
    ]
)

CENTURY = 36_500  # days
LAST_DAY = date(2200, 1, 1)
FIRST_DAY = date(1900, 1, 1)  # from here on a hundred years back is a day, too


def today(zone: str) -> date:
    """The day it is in a time zone."""
    return datetime.now(ZoneInfo(zone)).date()


def fault_of_day(day: date, today: date) -> str:
    """Why a day that was asked for is refused, and which to give; empty where it has begun by `today`."""
    if day > today:
        return f"{day} is in the future; give a day that has ended"
    return f"{day} is too early; give a day from {FIRST_DAY} on" if day < FIRST_DAY else ""


def nearest(word: object, allowed: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """'; did you mean …?' where an allowed word is close to `word`, else ''."""
    close = get_close_matches(str(word), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def canonical(value: object) -> str:
    """A category or class as text, the same for 1, 1.0 and '1', and for True and 1."""
    if type(value).__name__ in ("bool", "bool_"):  # numpy's bool has a type of its own
        return str(int(value))  # type: ignore[call-overload]
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def mistake(message: str, *keys: str | int) -> PydanticCustomError:
    """A mistake in the block that is being read; `keys` lead from the block to the line at fault."""
    return PydanticCustomError("spec", "{text}", {"text": message, "keys": keys})


def _duration(given: object, units: Mapping[str, int], asked: str, most: int = CENTURY) -> int:
    """A duration as a whole number of its smallest unit; `units` are the letters with what each is worth."""
    match = re.fullmatch(rf"(\d{{1,18}})([{''.join(units)}])", given) if isinstance(given, str) else None
    if not match:
        raise mistake(f"got {given!r}; {asked}")
    found = int(match[1]) * units[match[2]]
    if found > most * units["d"]:
        raise mistake(f"got {given!r}; at most {'a hundred years, 36500d' if most == CENTURY else f'{most}d'}")
    return found


def _days(given: object) -> int:
    return _duration(given, {"d": 1, "w": 7}, "a duration is a whole number of days or weeks, such as 7d or 4w")


def _hours(given: object) -> int:
    asked = "a span is a whole number of hours, days or weeks, such as 6h, 2d or 1w"
    found = _duration(given, {"h": 1, "d": 24, "w": 168}, asked)
    if not found:
        raise mistake(f"got {given!r}; {asked}")
    return found


def _minutes(given: object) -> int:
    asked = "a timeout is a whole number of minutes, hours or days, such as 30m, 2h or 1d"
    found = _duration(given, {"m": 1, "h": 60, "d": 1440}, asked, most=7)
    if not found:
        raise mistake(f"got {given!r}; {asked}")
    return found


def _day_or_none(given: object) -> object:
    if given is None or (type(given) is date and FIRST_DAY <= given <= LAST_DAY):
        return given
    if type(given) is date:
        raise mistake(f"got {given}; days are from {FIRST_DAY} to {LAST_DAY}")
    raise mistake(f"got {given!r}; a day is written YYYY-MM-DD, such as 2026-01-31")


def _is_identifier(given: str) -> str:
    if not re.fullmatch(r"[^\W\d][\w.\- ]{0,127}", given):
        raise mistake(
            f"got {given!r}; a column starts with a letter or _ and has at most 128 letters, digits, spaces, '_', '-' or '.'; a "
            "source.py can give it such a name"
        )
    return given


def _is_address(given: str) -> str:
    word, label = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+", r"[A-Za-z0-9-]+"
    if not re.fullmatch(rf"{word}(\.{word})*@{label}(\.{label})*", given):
        raise mistake(f"got {given!r}; an address looks like team@example.com")
    return given


def _is_cron(given: str) -> str:
    if not croniter.is_valid(given) or len(given.split()) not in (1, 5):
        raise mistake(
            f"got {given!r}; a schedule is five cron fields, such as '0 6 * * *', or @daily, @weekly, @monthly"
        )
    return given


Delay = Annotated[int, BeforeValidator(_days, json_schema_input_type=str)]
Days = Annotated[Delay, Field(ge=1)]
Minutes = Annotated[int, BeforeValidator(_minutes, json_schema_input_type=str)]
Span = Annotated[int, BeforeValidator(_hours, json_schema_input_type=str)]
Day = Annotated[date, BeforeValidator(_day_or_none)]
Column = Annotated[str, BeforeValidator(lambda given: _is_identifier(given) if isinstance(given, str) else given)]
Address = Annotated[str, BeforeValidator(lambda given: _is_address(given) if isinstance(given, str) else given)]
Cron = Annotated[str, BeforeValidator(lambda given: _is_cron(given) if isinstance(given, str) else given)]


class Block(BaseModel):
    """A block of the YAML: frozen, and no key is unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keys_are_known(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            raise mistake(f"got {type(given).__name__}; a block is wanted, with keys of: {', '.join(cls.known_keys())}")
        for key in given:
            if key not in cls.known_keys() and key != "folder":
                raise mistake(
                    f"unknown key {key!r}; allowed: {', '.join(cls.known_keys())}{nearest(key, cls.known_keys())}",
                    str(key),
                )
        return given

    @classmethod
    def known_keys(cls) -> list[str]:
        """The keys that the block may have."""
        return [field.alias or name for name, field in cls.model_fields.items() if name != "folder"]


def check_range(low: float | None, high: float | None) -> None:
    """Raise where no value could lie between the two bounds."""
    if low is not None and high is not None and low > high:
        raise mistake(f"impossible range: min {low:g} is above max {high:g}; swap them")
