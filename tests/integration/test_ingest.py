"""What extract takes for a day's rows: a day that had some does not lose them without a word."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps
from esteira.errors import DataError, Unaccounted
from esteira.spec import ModelSpec
from esteira.steps import ingest
from esteira.store import lake

from tests import models
from tests.models import AS_OF, FIRST, score_days

SECOND = FIRST + timedelta(days=1)


def without(monkeypatch: pytest.MonkeyPatch, *gone: date) -> None:
    """The source has no row of these days any more."""
    real = data.read

    def read(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows[~rows["day"].isin(pd.to_datetime(list(gone)))]

    monkeypatch.setattr(data, "batches", lambda *asked: [read(*asked[:3])])


def test_a_day_that_never_had_rows_is_an_empty_day(trained, monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    spec = trained()
    without(monkeypatch, FIRST)
    with caplog.at_level("INFO"):
        score_days(spec, [FIRST])
    assert lake.read("predictions", spec.name).empty
    assert lake.unwritten_days("predictions", spec.name, [FIRST]) == []
    assert f"the source has no row for {FIRST}: an empty day" in caplog.text
    assert steps.accounted(spec, [FIRST]) == "0 rows read = 0 published + 0 in quarantine"


def test_a_day_that_had_rows_is_not_replaced_by_none(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST, SECOND])
    without(monkeypatch, FIRST)
    for days in ([FIRST], [FIRST, SECOND]):
        with pytest.raises(
            DataError, match=rf"no row for {FIRST}, of which 72 rows were read before; nothing was replaced"
        ):
            steps.extract(spec, days)
    assert len(lake.read("raw", spec.name, day=FIRST)) == 72
    score_days(spec, [SECOND])  # which the source still has
    assert len(lake.read("predictions", spec.name)) == 144


def test_who_says_so_may_empty_a_day(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    without(monkeypatch, FIRST)
    said = steps.requeue(spec, [FIRST], "requeue", "replace")
    assert said == "0 rows read = 0 published + 0 in quarantine"
    assert lake.read("predictions", spec.name).empty
    assert len(lake.read("served", spec.name)) == 72  # what was given out stays


def test_a_training_keeps_the_rows_that_its_source_has_no_more(trained, monkeypatch, caplog) -> None:
    """The window's days are read anew when the spec changed; a source that keeps a month would lose the others."""
    spec = trained()
    gone = AS_OF - timedelta(days=20)
    before = len(lake.read("raw", spec.name))
    without(monkeypatch, gone)
    days = data.days(gone - timedelta(days=1), gone + timedelta(days=1))
    assert ingest.extract(spec, days, "keep") == 144
    assert len(lake.read("raw", spec.name)) == before
    assert f"the source has no row for {gone} any more: what was read before (72 rows) is kept" in caplog.text


def test_a_day_that_was_never_extracted_is_refused(trained) -> None:
    """Tasks may be skipped, or marked as a success by hand: 0 rows = 0 + 0 would be green."""
    spec = trained()
    never = f"nothing is known of the rows of {FIRST}: extract never ran for it"
    with pytest.raises(DataError, match=never):
        steps.validate(spec, [FIRST])
    with pytest.raises(DataError, match=never):
        steps.features(spec, [FIRST])
    with pytest.raises(DataError, match=never):
        steps.accounted(spec, [FIRST])
    steps.extract(spec, [FIRST])
    with pytest.raises(DataError, match=f"of {SECOND}"):
        steps.validate(spec, [FIRST, SECOND])


def test_features_that_were_never_built_do_not_publish_a_day(trained) -> None:
    spec = trained()
    steps.extract(spec, [FIRST])
    with pytest.raises(DataError, match="the features of 2026-02-01 are not those of the model"):
        steps.score(spec, [FIRST], "r")  # validate and features were marked as a success by hand
    with pytest.raises(Unaccounted, match="72 rows read = 0 published"):
        steps.publish(spec, [FIRST], "r")


def test_a_days_features_do_not_depend_on_the_days_read_with_it(home: Path, tmp_path: Path) -> None:
    """A features.py may look across rows: it gets one day, whether that is scored alone, in a range or trained on."""
    spec = models.write(tmp_path / "models")
    code = "def build(rows):\n    return rows.assign(heat=rows['heat'] - rows['heat'].mean())\n"
    (spec.folder / "features.py").write_text(code)
    days = [FIRST, SECOND]

    def built() -> pd.DataFrame:
        for asked in [days] if together else [[day] for day in days]:
            ingest.extract(spec, asked)
            ingest.validate(spec, asked)
            ingest.features(spec, asked)
        return lake.read("features", spec.name).sort_values(["day", "site", "at"], ignore_index=True)

    together = True
    at_once = built()
    together = False
    pd.testing.assert_frame_equal(built(), at_once)
    assert abs(at_once.groupby("day")["heat"].mean()).max() < 1e-9


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("pd.concat([rows, rows[['heat']]], axis=1)", "must return columns of one name each; twice: heat"),
        ("rows.head(3)", "must return the 72 rows that it got, with their index; it returned 3"),
    ],
)
def test_nonsense_of_a_features_py_is_a_sentence(home: Path, tmp_path: Path, code: str, says: str) -> None:
    spec = models.write(tmp_path / "models")
    (spec.folder / "features.py").write_text(f"import pandas as pd\n\n\ndef build(rows):\n    return {code}\n")
    steps.extract(spec, [FIRST])
    with pytest.raises(DataError, match=says):
        steps.validate(spec, [FIRST])


def test_a_row_in_quarantine_has_all_of_its_digits(trained) -> None:
    spec = trained()
    heats = [1.5e-12, 0.12345678901234566, 1e-300, 1e300, 2.5, float("nan")]
    bad = pd.DataFrame({"day": pd.Timestamp(FIRST), "rule": "x", "reason": "y", "site": "Ä/", "heat": heats})
    ingest.quarantine(spec, bad, [FIRST], "rows")
    kept = [json.loads(row) for row in lake.read("quarantine", spec.name, day=FIRST)["row"]]
    assert [row["heat"] for row in kept] == [*heats[:-1], None]
    assert {row["site"] for row in kept} == {"Ä/"}
