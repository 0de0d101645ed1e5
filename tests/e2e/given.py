"""What the live Airflow of the tests is given, and its tests look for."""

from __future__ import annotations

from datetime import UTC, datetime

SECRET = "hunter2-is-not-shown"
TODAY = datetime.now(UTC).date()
