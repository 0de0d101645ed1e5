"""A form's day: the API server refuses one that has not begun where the model lives."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from esteira.dags import forms
from jsonschema import FormatChecker, ValidationError, validate


@pytest.mark.parametrize("zone", ["UTC", "America/Sao_Paulo", "Pacific/Kiritimati"])
def test_a_day_is_refused_until_it_has_begun(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FormatChecker, "checkers", dict(FormatChecker.checkers))  # known to this test only
    forms.register()
    schema = {"type": ["null", "string"], "format": "date", "allOf": [{"format": forms.until_today(zone)}]}
    today = datetime.now(ZoneInfo(zone)).date()
    for good in (None, "1900-01-01", str(today), str(today - timedelta(days=1))):
        validate(good, schema, format_checker=FormatChecker())
    for bad in (str(today + timedelta(days=1)), "1899-12-31", "9999-12-31", "2026-02-30", "soon"):
        with pytest.raises(ValidationError):
            validate(bad, schema, format_checker=FormatChecker())
