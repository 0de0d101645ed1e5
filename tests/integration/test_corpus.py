"""Every input of the corpus through the command line: accepted, quarantined or refused, as its case.yaml says."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from esteira import steps
from esteira.__main__ import main
from esteira.data.sources import csv, reading
from esteira.steps import ingest, labelling
from esteira.store import lake

from tests import corpora, models
from tests.corpora import Case

CASES = corpora.cases()


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[bool, str]]:
    """Call `esteira …` in this process; returns whether it exits with 0, and what it prints."""

    def call(*words: str) -> tuple[bool, str]:
        monkeypatch.setattr(sys, "argv", ["esteira", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capfd.readouterr()
        text = "" if isinstance(ended.value.code, int) else str(ended.value.code)
        return ended.value.code in (0, None), said.out + said.err + text

    return call


def test_the_corpus_is_large_and_has_every_outcome() -> None:
    assert len(CASES) >= 60
    assert {case.outcome for case in CASES} == {"accepted", "quarantined", "refused"}


@pytest.mark.parametrize("large", [0, pytest.param(1, marks=pytest.mark.slow)], ids=["", "bit by bit"])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(
    case: Case, large: int, corpus_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    """Also as if its files were large ones, and its day one of many batches."""
    if large:
        case = replace(
            case, says=() if "2 of 6" in str(case.says) else case.says
        )  # how many is not known before the end
        monkeypatch.setattr(csv, "LARGE", -1)
        monkeypatch.setattr(csv, "BATCH", 2)
        monkeypatch.setattr(reading, "BATCH", 2)
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    spec = corpora.declare(case, tmp_path / "models")
    for day in case.before:
        assert command("score", "corpus", "--day", day)[0]
    corpora.require_outcome(case, spec, *command("score", "corpus", "--day", case.day))
    if case.outcome == "accepted" or not case.mendable:
        return
    first = corpora.rows("served", spec, case.day)
    corpora.mend(case, spec)
    done, said = command("requeue", "corpus", "--day", case.day)
    assert done, said
    assert "0 are left" in said
    assert steps.left_over(spec, [corpora.date.fromisoformat(case.day)]) == {}
    served, published = (corpora.rows(kind, spec, case.day) for kind in ("served", "predictions"))
    assert len(served) == len(published) > 0
    if len(first):  # what was given out first stays as it was
        again = served[served["run"] == first["run"].iloc[0]]
        assert again["prediction"].sort_values().tolist() == first["prediction"].sort_values().tolist()


def test_rows_that_come_a_day_late_wait_in_quarantine_until_their_day_is_run_again(
    corpus_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command
) -> None:
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    (plain,) = (case for case in CASES if case.name == "plain")
    spec = corpora.declare(plain, tmp_path / "models")
    day, after = corpora.DAY, corpora.DAY + timedelta(days=1)
    own, next_file = (spec.folder / "in" / f"{each}.csv" for each in (day, after))
    header, first, *_ = own.read_text().splitlines()
    assert command("score", "corpus", "--day", str(day))[0]
    late = [f"{day} 23:40,A,20.5,car,True,110", f"{day} 23:50,B,warm,car,True,110"]
    new = [f"{after} 08:00,A,20.5,car,True,110"]
    next_file.write_text("\n".join([header, first, *late, *new]) + "\n")  # the first row of the day comes again, too
    for _ in range(2):
        done, said = command("score", "corpus", "--day", str(after))
        assert done, said
        assert "1 row read = 1 published + 0 in quarantine" in said
        bad = corpora.rows("quarantine", spec, str(day))
        assert list(bad["rule"]) == ["late", "late"]
        assert f"esteira requeue corpus --day {day}" in bad["reason"].iloc[0]
    _, said = command("requeue", "corpus", "--day", str(day))
    assert "9 rows read = 7 published + 2 in quarantine" in said
    assert sorted(corpora.rows("quarantine", spec, str(day))["rule"]) == ["type", "unique_key"]
    assert command("score", "corpus", "--day", str(after))[0]  # they are known by now, good or bad
    assert sorted(corpora.rows("quarantine", spec, str(day))["rule"]) == ["type", "unique_key"]


def test_a_label_of_a_short_row_waits_in_quarantine(home: Path, tmp_path: Path) -> None:
    lines = [
        "at,site,amount,note",
        "2026-01-30 00:00:00,A,10,x",
        "2026-01-30 00:00:00,B,2",
        "2026-01-30 01:00:00,A,11,x",
    ]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    labels = f"labels: {{{{source: {{{{kind: csv, path: {tmp_path}/labels.csv}}}}}}}}\n"
    spec = models.write(tmp_path / "models", yaml=models.YAML + labels)
    day = corpora.date(2026, 1, 30)
    ingest.ensure_features(spec, [day])
    labelling.store(spec, day, day + timedelta(days=1))
    assert sorted(lake.read("labels", spec.name)["label"]) == [10, 11]
    bad = lake.read("quarantine", spec.name, stage="labels")
    assert list(bad["rule"]) == ["short"]
    assert '"label":2' in bad["row"].iloc[0].replace(" ", "")


def test_a_short_row_without_a_time_is_told_once(home: Path, tmp_path: Path) -> None:
    lines = [
        "site,hour,heat,open,amount,at",
        "A,1,1.5,True,10,2026-01-30 01:00",
        "B,2",
        "A,1,1.5,True,10,2026-01-31 01:00",
    ]
    (tmp_path / "all.csv").write_text("\n".join(lines) + "\n")
    source = f"{{{{kind: csv, path: {tmp_path}/all.csv}}}}"
    spec = models.write(tmp_path, yaml=models.YAML.replace("{{kind: python, function: source.read}}", source))
    for day in (corpora.date(2026, 1, 30), corpora.date(2026, 1, 31)):
        for _ in range(2):
            ingest.ensure_features(spec, [day])
            ingest.extract(spec, [day])
    bad = lake.read("quarantine", spec.name)
    assert (list(bad["rule"]), list(bad["day"].dt.day)) == (["short"], [30])
    assert bad["reason"].iloc[0] == "the row has 2 fields, fewer than the header"
