"""`esteira validate`: models by name or by file, what is missing of a source, and one day's features without keeping any."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import steps
from esteira.__main__ import app
from esteira.errors import OutOfReach
from esteira.spec import ModelSpec
from esteira.store import lake
from typer.testing import CliRunner, Result

from tests import models
from tests.models import AS_OF

CSV = models.YAML.replace("{{kind: python, function: source.read}}", "{{kind: csv, path: 'in/{{day}}.csv'}}")


@pytest.fixture
def spec(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> ModelSpec:
    """A model whose source has two days of files."""
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    spec = models.write(tmp_path / "models", yaml=CSV)
    place = spec.folder / "in"
    place.mkdir()
    space: dict = {}
    exec((spec.folder / "source.py").read_text(), space)
    for day in (AS_OF, AS_OF + timedelta(days=1)):
        space["day_of"](day).to_csv(place / f"{day}.csv", index=False)
    return spec


def validate(*asked: str) -> Result:
    return CliRunner().invoke(app, ["validate", *asked])


def test_a_model_is_found_by_name_by_folder_and_by_file(spec: ModelSpec) -> None:
    for given in ("sales", str(spec.folder), str(spec.folder / "model.yaml")):
        said = validate(given)
        assert said.exit_code == 0, said.output
        assert "model.yaml: ok: regression, 4 features, 2 candidates" in said.output
    said = CliRunner().invoke(app, ["validate", "sails"])
    assert said.exit_code != 0
    assert "no model and no file 'sails'; models: sales; did you mean 'sales'?" in str(said.exception)


def test_the_last_day_of_the_files_is_built_and_nothing_is_kept(spec: ModelSpec, home: Path) -> None:
    said = validate("sales", "--data")
    assert said.exit_code == 0, said.output
    assert f"{AS_OF + timedelta(days=1)}: 72 rows read = 72 good rows + 0 for quarantine" in said.output
    assert "heat" in said.output
    assert lake.read("features", "sales").empty
    assert not (home / "lake").exists()


def test_a_bad_row_is_told_with_its_reason(spec: ModelSpec) -> None:
    path = spec.folder / "in" / f"{AS_OF}.csv"
    rows = pd.read_csv(path)
    rows.loc[0, "heat"] = 99
    rows.to_csv(path, index=False)
    said = validate("sales", "--data", "--day", str(AS_OF))
    assert "72 rows read = 71 good rows + 1 for quarantine" in said.output
    assert "1 row: max: 'heat' is above 60" in said.output


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: [path.unlink() for path in (folder / "in").iterdir()], "no file matches"),
        (
            lambda folder: [
                path.write_text(path.read_text().replace("heat", "heet")) for path in (folder / "in").iterdir()
            ],
            "has no column 'heat'; did you mean 'heet'?",
        ),
    ],
    ids=["file", "column"],
)
def test_what_is_missing_of_a_source_is_a_note_and_with_data_an_error(spec: ModelSpec, spoil, says: str) -> None:
    spoil(spec.folder)
    plain = validate("sales")
    assert plain.exit_code == 0
    assert f"note: {'' if 'column' in says else says}" in plain.output
    assert says in plain.output
    with_data = validate("sales", "--data")
    assert with_data.exit_code == 1
    assert says in with_data.output


def test_a_missing_variable_is_named(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spec.folder / "model.yaml"
    path.write_text(path.read_text().replace("in/{day}.csv", "${SALES_DATA}/{day}.csv"))
    said = validate("sales")
    assert said.exit_code == 1
    assert "the environment has no SALES_DATA; set it, or write the value here" in said.output


def test_a_day_without_rows_says_so(spec: ModelSpec) -> None:
    said = validate("sales", "--data", "--day", str(AS_OF - timedelta(days=9)))
    assert said.exit_code == 1
    assert "the source has no row for 2026-01-22; give another --day" in said.output


def test_a_day_that_would_be_refused_is_no_ok(spec: ModelSpec) -> None:
    """Dates that are not written as ISO says, and no time.format."""
    path = spec.folder / "in" / f"{AS_OF}.csv"
    rows = pd.read_csv(path)
    rows.assign(at=pd.to_datetime(rows["at"]).dt.strftime("%d/%m/%Y %H:%M")).to_csv(path, index=False)
    said = validate("sales", "--data", "--day", str(AS_OF))
    assert said.exit_code == 1
    assert "72 rows read = 0 good rows + 72 for quarantine" in said.output
    assert "set time.format, such as %d/%m/%Y %H:%M" in said.output
    model = spec.folder / "model.yaml"
    model.write_text(model.read_text().replace("time: {column: at}", 'time: {column: at, format: "%d/%m/%Y %H:%M"}'))
    assert validate("sales", "--data", "--day", str(AS_OF)).exit_code == 0


def test_a_state_folder_that_can_not_be_made_is_a_sentence(spec: ModelSpec, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path / "file"))
    with pytest.raises(OutOfReach, match=r"can.t be made: File exists; set ESTEIRA_HOME to a folder that can"):
        steps.extract(spec, [AS_OF])


def test_status_without_a_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "none"))
    said = CliRunner().invoke(app, ["status"])
    assert said.exit_code != 0
    assert "no model.yaml was found" in str(said.exception)


def test_limits_that_chance_reaches_are_told(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is noise that no feature tells anything of."""
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    models.write(tmp_path / "models", noise="2000-01-01")
    said = CliRunner().invoke(app, ["limits", "sales", "--as-of", str(AS_OF)])
    assert said.exit_code == 0, said.output
    assert "note: that is no better than chance: a model that knows no feature reaches" in said.output
    models.write(tmp_path / "models")
    good = CliRunner().invoke(app, ["limits", "sales", "--as-of", str(AS_OF)])
    assert good.exit_code == 0, good.output
    assert "no better than chance" not in good.output
