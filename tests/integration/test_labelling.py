"""Steps of `steps/labelling.py`, on real tables and a real registry."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps
from esteira.errors import SpecError
from esteira.spec import ModelSpec
from esteira.steps import champions, labelling
from esteira.store import labels, lake, measurements

from tests import models
from tests.models import AS_OF, FIRST, score_days


def test_labels_keep_when_they_were_first_seen_and_are_read_until_complete(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    real = data.read_labels
    monkeypatch.setattr(data, "read_labels", lambda *args: real(*args).head(30))
    as_of = FIRST + timedelta(days=1)
    assert labelling.store(spec, FIRST, as_of) == 1
    first = lake.read("labels", spec.name, day=FIRST)
    assert len(first) == 30
    monkeypatch.setattr(data, "read_labels", real)
    assert labelling.store(spec, FIRST, as_of) == 1
    again = lake.read("labels", spec.name, day=FIRST)
    assert len(again) == 72
    kept = again.merge(first, on=["site", "at"])
    assert (kept["first_seen_x"] == kept["first_seen_y"]).all()
    assert labelling.store(spec, FIRST, as_of) == 0


def test_labels_of_many_rows_are_looked_at_some_days_at_a_time(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    last = FIRST + timedelta(days=4)
    days = data.days(FIRST, last)
    score_days(spec, days)
    monkeypatch.setattr(labelling, "AT_ONCE", 150)
    asked: list[tuple[date, date]] = []
    real = data.read_labels

    def noted(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        asked.append((first, last))
        return real(spec, first, last)

    monkeypatch.setattr(data, "read_labels", noted)
    assert labelling.store(spec, FIRST, last + timedelta(days=1)) == 5
    assert asked == [(days[0], days[1]), (days[2], days[3]), (days[4], days[4])]
    assert len(lake.read("labels", spec.name, day=(FIRST, last))) == 5 * 72
    assert labelling.store_again(spec, days) == 5
    assert len(asked) == 6


def test_labels_are_counted_without_their_keys_unless_they_came_at_several_times(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    days = data.days(FIRST, FIRST + timedelta(days=1))
    score_days(spec, days)
    labelling.store(spec, FIRST, days[-1] + timedelta(days=1))
    rows = lake.read("labels", spec.name, day=FIRST)
    again = rows.head(3).assign(label=0.0, first_seen=rows["first_seen"].max() + pd.Timedelta(days=1))
    lake.replace_days("labels", spec.name, pd.concat([rows, again]), [FIRST])
    asked: list[object] = []
    real = labels.read
    monkeypatch.setattr(labels, "read", lambda *given: asked.append(given[1]) or real(*given))
    assert labels.counts(spec, days[0], days[-1]) == dict.fromkeys(days, 72)
    assert asked == [FIRST]


def test_another_target_makes_old_labels_stale(trained, tmp_path: Path) -> None:
    spec = trained()
    before = lake.read("labels", spec.name)["label"].mean()
    other = models.write(
        tmp_path / "models",
        yaml=models.YAML.replace("target: amount", "target: hour_of_day").replace(
            "amount: {{min: -1000}}", "hour_of_day: {{min: 0}}"
        ),
    )
    source = tmp_path / "models" / "sales" / "source.py"
    source.write_text(source.read_text().replace('"amount": np', '"hour_of_day": hour, "amount": np'))
    steps.train(other, AS_OF, "t2", promoted=False)
    assert lake.read("labels", spec.name)["label"].mean() == pytest.approx(11.5) != before


def test_labels_of_another_source_meet_their_rows(home: Path, tmp_path: Path) -> None:
    """The labels come as text from a CSV of their own; the rows have times."""
    spec = models.write(
        tmp_path / "models",
        yaml=models.YAML + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n",
    )
    rows = data.read(spec, AS_OF - timedelta(days=30), AS_OF)
    rows[["site", "at", "amount"]].to_csv(tmp_path / "labels.csv", index=False)
    assert "version 1 is the champion" in steps.train(spec, AS_OF, "t")
    assert len(lake.read("labels", spec.name)) == 28 * 72


@pytest.mark.parametrize(
    ("written", "time"),
    [
        ("%d/%m/%Y %H:%M", ', format: "%d/%m/%Y %H:%M"'),
        ("%Y-%m-%dT%H:%M:%SZ", ""),
        ("%Y-%m-%dT%H:%M:%S+01:00", ", timezone: Europe/Berlin"),
        ("%Y-%m-%dT%H:%M:%S", ""),
    ],
)
@pytest.mark.parametrize("is_zoned", [False, True])
def test_labels_meet_their_rows_on_the_models_clock(
    home: Path, tmp_path: Path, written: str, time: str, is_zoned: bool
) -> None:
    """Times that are written otherwise, with an offset or without, beside rows whose times are times."""
    day = date(2026, 2, 3)
    at = pd.Timestamp(day) + pd.to_timedelta(range(6), unit="h")
    zone = "Europe/Berlin" if "Berlin" in time else "UTC"
    rows = pd.DataFrame({"site": "A", "at": at, "hour": 1, "heat": 2.0, "open": True})
    source = tmp_path / "rows"
    source.mkdir()
    (rows.assign(at=at.tz_localize(zone)) if is_zoned else rows).to_parquet(source / f"{day}.parquet", index=False)
    labels = pd.DataFrame({"site": "A", "at": at.strftime(written), "amount": 7.0})
    labels.to_csv(tmp_path / "labels.csv", index=False)
    yaml = models.YAML.replace(
        "{{kind: python, function: source.read}}", f'{{{{kind: parquet, path: "{source}/{{{{day}}}}.parquet"}}}}'
    ).replace("{{column: at}}", f"{{{{column: at{time}}}}}")
    spec = models.write(
        tmp_path / "models", yaml=yaml + f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n"
    )
    steps.extract(spec, [day])
    steps.features(spec, [day])
    labelling.store(spec, day, day + timedelta(days=3))
    assert len(lake.read("labels", spec.name, day=day)) == 6


def test_a_column_that_begins_with_whole_numbers_takes_fractions_later(
    trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = trained()
    real = data.read
    monkeypatch.setattr(data, "batches", lambda *args: [real(*args[:3]).assign(heat=20)])
    score_days(spec, [FIRST])
    monkeypatch.setattr(data, "batches", lambda *args: [real(*args[:3]).assign(heat=20.5)])
    score_days(spec, [FIRST + timedelta(days=1)])
    assert set(lake.read("raw", spec.name, day=(FIRST, FIRST + timedelta(days=1)))["heat"]) == {20.0, 20.5}


def test_a_changed_spec_makes_old_features_stale(trained, tmp_path: Path) -> None:
    spec = trained()
    assert steps.lacking(spec, AS_OF) == []
    fewer = models.write(
        tmp_path / "models",
        yaml=models.YAML.replace("numeric: [hour, heat]", "numeric: [hour]").replace(
            "heat: {{min: -50, max: 60}}, ", ""
        ),
    )
    assert len(steps.lacking(fewer, AS_OF)) == 28


def test_labels_that_a_later_delivery_lacks_stay_known(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    real = data.read_labels
    for part in (slice(0, 30), slice(30, 50)):
        monkeypatch.setattr(data, "read_labels", lambda *args, part=part: real(*args).iloc[part])
        labelling.store(spec, FIRST, FIRST + timedelta(days=1))
    rows = lake.read("labels", spec.name, day=FIRST)
    assert len(rows) == len(rows.drop_duplicates(["site", "at"])) == 50


def corrected(monkeypatch: pytest.MonkeyPatch, by: float) -> None:
    """From now on the source says another label for each row of site A."""
    real = data.read_labels

    def read(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(label=rows["label"] + by * (rows["site"] == "A"))

    monkeypatch.setattr(data, "read_labels", read)


def sum_of(spec: ModelSpec, day: date) -> float:
    return float(labels.read(spec, day, day)["label"].sum())


def test_a_correction_is_a_new_row_and_the_latest_counts(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    labelling.store(spec, FIRST, FIRST + timedelta(days=1))
    before, version = sum_of(spec, FIRST), lake.version("labels", spec.name)
    corrected(monkeypatch, 100)
    assert labelling.store(spec, FIRST, FIRST + timedelta(days=2)) == 0  # whole, and nothing says that it may change
    assert steps.requeue(spec, [FIRST], "again")
    assert sum_of(spec, FIRST) == pytest.approx(before + 24 * 100)
    rows = lake.read("labels", spec.name, day=FIRST)
    assert len(rows) == 72 + 24  # what was known stays
    assert float(labels.read(spec, FIRST, FIRST, version)["label"].sum()) == pytest.approx(before)
    steps.requeue(spec, [FIRST], "once more")
    assert len(lake.read("labels", spec.name, day=FIRST)) == 72 + 24  # the same label is no correction
    frame = labelling.labelled(spec, FIRST, FIRST)
    assert len(frame) == 72
    assert frame["label"].sum() == pytest.approx(before + 24 * 100)


def test_a_new_run_of_a_day_reads_its_labels_again(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    assert labels.read(spec, FIRST, FIRST).empty  # the day's own are not asked for yet
    labelling.store(spec, FIRST, FIRST + timedelta(days=1))
    before = sum_of(spec, FIRST)
    corrected(monkeypatch, 1)
    score_days(spec, [FIRST], run="again")
    assert sum_of(spec, FIRST) == pytest.approx(before + 24)


SETTLING = models.YAML.replace("label_delay: 1d\n", "label_delay: 1d\nlabels: {{settle: 7d}}\n")


def test_labels_that_settle_are_read_until_they_have_and_used_after(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.write(tmp_path / "models", yaml=SETTLING)
    steps.train(spec, AS_OF, "t")
    assert champions.load_version(spec, 1).trained_through <= AS_OF - timedelta(days=8)
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=20)))
    last = FIRST + timedelta(days=9)
    assert labelling.mature_through(spec, last) == FIRST + timedelta(days=1)
    assert labelling.store(spec, FIRST, last) == 9
    assert labelling.store(spec, FIRST, last) == 7  # two have settled
    before = sum_of(spec, FIRST), sum_of(spec, FIRST + timedelta(days=5))
    corrected(monkeypatch, 1)
    # A check a week later: all that has settled meanwhile is read once more, and then never again.
    assert labelling.store(spec, FIRST, FIRST + timedelta(days=16)) == 14
    assert (sum_of(spec, FIRST), sum_of(spec, FIRST + timedelta(days=5))) == pytest.approx((before[0], before[1] + 24))
    assert labelling.store(spec, FIRST, FIRST + timedelta(days=16)) == 7
    verdict = steps.check(spec, FIRST + timedelta(days=16), keep_notebook=False).verdict
    (window,) = measurements.windows(spec, FIRST + timedelta(days=16))
    assert (verdict.decision.value, window.last) == ("keep", FIRST + timedelta(days=6))


def test_settling_alone_makes_no_label_stale(trained, tmp_path: Path) -> None:
    spec = trained()
    assert labelling.labels_mark(models.write(tmp_path / "again", yaml=SETTLING)) == labelling.labels_mark(spec)


@pytest.mark.parametrize(
    ("block", "says"),
    [("{{key: [site]}}", "give labels.source, too"), ("{{}}", "says nothing"), ("{{settle: 7}}", "settle")],
)
def test_a_block_of_labels_that_can_not_be_used_is_named(tmp_path: Path, block: str, says: str) -> None:
    with pytest.raises(SpecError, match=says):
        models.write(tmp_path, yaml=SETTLING.replace("{{settle: 7d}}", block))


def test_a_correction_beside_a_check_is_not_lost(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check has read the source before it was corrected, and writes after the correction was stored."""
    spec = trained()
    score_days(spec, [FIRST])
    real, done = data.read_labels, []

    def read(*given: object) -> pd.DataFrame:
        rows = real(*given)  # type: ignore[arg-type]
        if not done:
            done.append(True)
            labelling.store(spec, FIRST, FIRST + timedelta(days=1))
            monkeypatch.setattr(data, "read_labels", lambda *given: real(*given).assign(label=500.0))
            labelling.store_again(spec, [FIRST])
        return rows

    monkeypatch.setattr(data, "read_labels", read)
    labelling.store(spec, FIRST, FIRST + timedelta(days=1))
    assert set(labels.read(spec, FIRST, FIRST)["label"]) == {500.0}


def test_a_clock_that_goes_back_takes_no_correction_with_it(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    score_days(spec, [FIRST])
    labelling.store(spec, FIRST, FIRST + timedelta(days=1))
    now = lake.clock()
    monkeypatch.setattr(lake, "clock", lambda: now - timedelta(hours=5))
    corrected(monkeypatch, 100)
    before = sum_of(spec, FIRST)
    labelling.store_again(spec, [FIRST])
    assert sum_of(spec, FIRST) == pytest.approx(before + 2400)


def test_labels_counted_some_days_at_a_time_are_those_of_all_rows(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    late = lake.read("labels", spec.name, day=AS_OF - timedelta(days=3))
    lake.replace_days("labels", spec.name, late.head(50), [AS_OF - timedelta(days=3)])
    first = AS_OF - timedelta(days=10)
    names = ["day", *spec.key]
    rows = lake.read("features", spec.name, columns=names, day=(first, AS_OF)).merge(
        labels.read(spec, first, AS_OF), on=names, how="left"
    )
    whole, usual = labelling.label_counts(spec, first, AS_OF), labelling.usual(spec, AS_OF)
    monkeypatch.setattr(labelling, "AT_ONCE", 1)
    by_day = labelling.label_counts(spec, first, AS_OF)
    pd.testing.assert_frame_equal(by_day, whole)
    assert labelling.usual(spec, AS_OF) == usual
    assert whole["rows"].sum() == len(rows)
    assert labelling.labelled_share(whole) == rows["label"].notna().mean() < 1
    shares = labelling.labelled_shares(whole, whole["day"])
    assert shares.to_dict() == rows["label"].notna().groupby(rows["day"]).mean().to_dict()


def test_of_a_classification_each_label_is_counted(trained) -> None:
    spec = trained()
    day = AS_OF - timedelta(days=1)
    classes = spec.model_copy(update={"task": "multiclass"})
    rows = labels.read(spec, day, day)["label"].value_counts()
    found = labelling.label_counts(classes, day, day)
    assert found.set_index("label")["rows"].to_dict() == rows.to_dict()
    assert len(rows) > 1
