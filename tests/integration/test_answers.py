"""Commands that answer questions, on real tables."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps
from esteira.__main__ import app
from esteira.cli.answers import _bars
from esteira.spec import ModelSpec, load
from esteira.store import lake
from typer.testing import CliRunner

from tests import models
from tests.models import CHANGE, FIRST, score_days

KEY = ["--key", "site=A", "--key", f"at={CHANGE} 05:00:00"]


def say(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def say_json(*words: str) -> object:
    return json.loads(say(*words, "--json"))


def test_status_has_a_row_for_each_model_the_worst_first(promoted: tuple[ModelSpec, date], tmp_path: Path) -> None:
    models.write(tmp_path / "models", "another")
    lines = say("status").splitlines()
    assert lines[0].split()[:3] == ["model", "state", "metric"]
    assert [line.split()[0] for line in lines[1:]] == ["sales", "another"], "late comes before not measured"
    found = say_json("status")
    assert isinstance(found, list)
    assert [each["model"] for each in found] == ["sales", "another"]
    assert [each["condition"] for each in found[0]["also"]] == ["recovered, not verified yet"]
    assert found[0]["champion"]["version"] == 2
    one = say_json("status", "sales")
    assert isinstance(one, dict)
    assert (one["versions"], one["health"]["condition"]) == ([1, 2], "late")
    assert "version 1, window to" in say("status", "sales"), "each figure says of which version it is"


def test_history_at_a_day_says_which_version_served_it_since_when_and_why(promoted: tuple[ModelSpec, date]) -> None:
    _, day = promoted
    said = say("history", "sales", "--at", str(CHANGE))
    assert f"{CHANGE} was to be served by version 1 (serving since {FIRST}): " in said
    assert "its predictions are of version 2: attempt 2 recovers" in said
    found = say_json("history", "sales", "--at", str(CHANGE))
    assert isinstance(found, dict)
    assert (found["served"], found["since"], found["published"]) == (1, str(FIRST), 2)
    events = say_json("history", "sales")
    assert isinstance(events, list)
    assert events[-1]["state"] == "champion"
    assert events[-1]["day"] == str(day + timedelta(days=1))


def test_metrics_attempts_versions_and_labels(promoted: tuple[ModelSpec, date]) -> None:
    _, day = promoted
    said = say("metrics", "sales")
    assert "wanted ≤ 0.3" in said
    assert said.count("OUT OF RANGE") == 2
    assert "no window of mae since" in say("metrics", "sales", "--metric", "mae")
    windows = say_json("metrics", "sales", "--weeks", "1")
    assert isinstance(windows, list)
    assert [each["last"] for each in windows] == [str(day - timedelta(days=1))]
    tried = say_json("attempts", "sales")
    assert isinstance(tried, list)
    assert {number: each["outcome"] for number, each in tried[0]["attempts"].items()}["2"] == "recovers"
    assert "attempt 2  recovers" in say("attempts", "sales")
    rows = say("versions", "sales").splitlines()
    assert rows[2].split()[:4] == ["2", str(day + timedelta(days=1)), "to", "now"]
    labels = say_json("labels", "sales", "--weeks", "1")
    assert labels[-1] == {"day": str(day), "rows": 72, "labelled": 0}  # type: ignore[index]
    assert labels[-2] == {"day": str(day - timedelta(days=1)), "rows": 72, "labelled": 72}  # type: ignore[index]


def test_quarantine_by_rule_and_its_rows_without_personal_values(
    trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, real = trained(), data.read
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text() + "personal: [site]\n")
    spec = load(yaml)
    monkeypatch.setattr(data, "batches", lambda *given: [real(*given[:3]).assign(heat=99.0)])
    steps.extract(spec, [FIRST])
    steps.validate(spec, [FIRST])
    monkeypatch.setattr("esteira.cli.answers._since", lambda *_: (FIRST, FIRST))
    said = say("quarantine", "sales", "--rows", "2")
    assert said.splitlines()[1].split()[:3] == ["72", "1", "rows"]
    found = say_json("quarantine", "sales", "--rows", "2")
    assert isinstance(found, dict)
    assert len(found["rows"]) == 2
    assert {each["values"]["site"] for each in found["rows"]} == {"(personal)"}
    assert {each["values"]["heat"] for each in found["rows"]} == {99.0}
    assert '"A"' not in say("quarantine", "sales", "--rows", "72")


def test_export_writes_predictions_with_version_label_and_features(
    promoted: tuple[ModelSpec, date], tmp_path: Path
) -> None:
    place = tmp_path / "rows.parquet"
    assert say("export", "sales", str(place), "--day", str(CHANGE)) == f"{place}: 72 rows\n"
    rows = pd.read_parquet(place)
    assert set(rows["version"]) == {2}
    assert set(rows["replaces"]) == {1}
    assert rows["label"].notna().all()
    assert {"heat", "hour", "open", "site"} <= {*rows}
    one = tmp_path / "one.csv"
    say("export", "sales", str(one), "--day", str(CHANGE), *KEY)
    assert len(pd.read_csv(one)) == 1
    for words, told in (
        (["rows.xlsx", "--day", str(CHANGE)], "a file's name ends with .csv or .parquet"),
        (["rows.csv", "--day", "2020-01-01"], "no prediction from 2020-01-01 to 2020-01-01"),
        (["rows.csv", "--day", str(CHANGE), "--key", "town=A"], "write column=value, for the key of sales: site, at"),
    ):
        done = CliRunner().invoke(app, ["export", "sales", *words])
        assert done.exit_code != 0
        assert told in " ".join((done.output + str(done.exception)).replace("│", " ").split())


def test_a_key_is_compared_by_its_columns_type(promoted: tuple[ModelSpec, date]) -> None:
    """A page sends a time back as JSON has it."""
    plain = say_json("explain", "sales", "--day", str(CHANGE), *KEY)
    other = ["--key", "site=A", "--key", f"at={CHANGE}T05:00:00"]
    assert say_json("explain", "sales", "--day", str(CHANGE), *other) == plain
    done = CliRunner().invoke(app, ["explain", "sales", "--day", str(CHANGE), "--key", "site=A", "--key", "at=noon"])
    assert "no prediction" in str(done.exception)


def test_a_row_is_explained(promoted: tuple[ModelSpec, date]) -> None:
    found = say_json("explain", "sales", "--day", str(CHANGE), *KEY)
    assert isinstance(found, dict)
    first, now = found["predictions"]
    assert (first["version"], first["published"]) == (1, False)
    assert (now["version"], now["published"], now["run"]) == (2, True, f"check:{CHANGE + timedelta(days=14)}")
    assert found["base"] + sum(found["shares"].values()) == pytest.approx(now["prediction"])
    assert {*found["shares"]} == {"hour", "heat", "site", "open"}
    assert found["features"]["site"] == "A"
    assert found["label"] == pytest.approx(now["prediction"], rel=0.5)
    said = say("explain", "sales", "--day", str(CHANGE), *KEY)
    assert "served first: " in said
    assert "published: " in said
    done = CliRunner().invoke(app, ["explain", "sales", "--day", str(CHANGE), "--key", "site=A"])
    assert "24 predictions on" in str(done.exception)


def test_the_report_is_one_page_in_which_what_users_wrote_is_text(
    promoted: tuple[ModelSpec, date], tmp_path: Path
) -> None:
    from esteira.steps import rollbacks

    spec, _ = promoted
    rollbacks.perform(spec, rollbacks.Asked(by="<b>ana</b>", reason="<script>alert(1)</script>"))
    place = tmp_path / "report.html"
    assert say("report", "sales", "-o", str(place)) == f"{place}\n"
    page = place.read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "http://" not in page
    assert "https://" not in page
    for word in ("Windows", "Versions", "Attempts", "What happened", "OUT OF RANGE", "data:image/png;base64,"):
        assert word in page, word


def test_a_window_without_labels_has_no_bar() -> None:
    assert _bars([1.0, float("nan")], 0.5) == ["███████████████│██████████████", "               │"]


def test_a_bar_has_its_limit_at_one_place_whatever_the_values_are() -> None:
    assert _bars([0.0, 1.0, 2.0], 1.0) == [" " * 15 + "│", "█" * 15 + "│", "█" * 15 + "│" + "█" * 14]
    assert _bars([-1.0, 1.0], None) == ["", "█" * 30]
    assert _bars([0.0], None) == [""]


def test_answers_of_a_model_that_has_done_nothing_yet(trained) -> None:
    spec = trained()
    for words in (["metrics"], ["attempts"], ["quarantine"], ["labels"], ["versions"], ["history"]):
        say(*words, spec.name)
        assert say_json(*words, spec.name) is not None
    score_days(spec, [FIRST])
    assert "label: not known yet" in say(
        "explain", "sales", "--day", str(FIRST), "--key", "site=A", "--key", f"at={FIRST} 05:00:00"
    )


def test_why_says_what_a_check_came_to_and_what_moved(promoted: tuple[ModelSpec, date]) -> None:
    _, day = promoted
    said = say("why", "sales")
    assert said.startswith(f"check {day}: promoted version 2, mae_over_mean ")
    assert "Attempt 2 is back in range" in said
    assert "No input moved" in said
    assert say("why", "sales", "--day", str(day)) == said
    found = say_json("why", "sales")
    assert isinstance(found, dict)
    assert list(found["attempts"]) == ["1", "2"]
    assert found["explanation"]["moved"] == []


def test_tables_have_their_rows_and_sizes(promoted: tuple[ModelSpec, date]) -> None:
    found = say_json("tables", "sales")
    assert isinstance(found, list)
    rows = {each["kind"]: each["rows"] for each in found}
    assert rows["predictions"] == rows["served"] == len(lake.read("predictions", "sales"))
    lines = say("tables", "sales").splitlines()
    assert lines[0].split()[:4] == ["table", "rows", "MB", "days"]
    assert len(lines) == 1 + len(found)
