"""Which days a run is about, and which of them are refused."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowFailException
from esteira.dags import common

from tests import models

DUE = datetime(2026, 2, 4, 1, 30, tzinfo=UTC)  # in São Paulo it is still the 3rd
SAO_PAULO = models.YAML.replace("{{column: at}}", "{{column: at, timezone: America/Sao_Paulo}}")


@pytest.mark.parametrize(
    ("given", "partition", "first", "last"),
    [
        ({}, None, 2, 2),
        ({"day": None, "last_day": None}, None, 2, 2),
        ({"day": "2026-02-05"}, None, 5, 5),
        ({"day": "2026-02-05", "last_day": "2026-02-07"}, None, 5, 7),
        ({"last_day": "2026-02-07"}, None, 2, 7),
        ({"day": "2026-02-05", "last_day": "2026-02-07"}, "2026-02-01", 1, 1),
    ],
)
def test_a_partition_goes_before_what_was_asked_and_that_before_the_day_that_was_over(
    tmp_path: Path, given: dict[str, str | None], partition: str | None, first: int, last: int
) -> None:
    spec = models.write(tmp_path, yaml=SAO_PAULO)
    assert common.days_asked(spec, given, partition, DUE) == (date(2026, 2, first), date(2026, 2, last))


@pytest.mark.parametrize(("day", "why"), [("2099-01-01", "is in the future"), ("0001-01-01", "is too early")])
@pytest.mark.parametrize("key", ["partition", "day", "last_day"])
def test_a_partition_and_a_conf_pass_no_form_and_are_looked_at_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, day: str, why: str
) -> None:
    params = {"day": "2026-02-01", "last_day": None} | ({key: day} if key != "partition" else {})
    run = SimpleNamespace(
        dag_id="sales_score", run_id="1", conf={}, logical_date=None, run_after=DUE,
        partition_key=day if key == "partition" else None,
    )  # fmt: skip
    context = {"dag_run": run, "params": params, "dag": SimpleNamespace(params=params)}
    monkeypatch.setattr(common, "get_current_context", lambda: context)
    with pytest.raises(AirflowFailException, match=f"day {day} {why}"):
        common.run_days(models.write(tmp_path))
