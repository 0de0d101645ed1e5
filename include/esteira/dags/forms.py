"""A format of Airflow's forms: a day that is not in the future. The API server knows it by plugins/esteira_plugin.py."""

from __future__ import annotations

from datetime import date
from functools import partial
from zoneinfo import available_timezones

from esteira.spec import FIRST_DAY, fault_of_day, today


def until_today(zone: str) -> str:
    """The name of the format: a day from 1900 on that has begun in the time zone."""
    return f"day from {FIRST_DAY} until today in {zone}"


def register() -> None:
    """Make the formats known to jsonschema, with which Airflow checks what a form was given.

    A form's schema is data: it can name a format, and not call a function. So there is one for each time zone.
    """
    from jsonschema import FormatChecker

    FormatChecker.checkers.update(
        {until_today(zone): (partial(_has_begun, zone), ValueError) for zone in available_timezones()}
    )


def _has_begun(zone: str, given: object) -> bool:
    if not isinstance(given, str):  # a field that is left empty
        return True
    return not fault_of_day(date.fromisoformat(given), today(zone))
