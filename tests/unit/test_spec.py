from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from esteira import spec as specs
from esteira.errors import SpecError
from esteira.spec import canonical, load

from tests import models
from tests.models import FULL, MINIMAL


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "bike_demand") -> Path:
        path = tmp_path / name / "model.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def test_the_whole_example_is_read(write) -> None:
    spec = load(write(FULL), {"DATA": "/data"})
    assert spec.source.path == "/data/hour.csv"
    assert spec.check.metric == "mae_over_mean"
    assert (spec.recipes[1].window, spec.recipes[1].half_life, spec.recipes[1].keep_old) == (60, 14, 0.2)
    assert spec.features.all == ("temp", "hum", "hr", "season", "weathersit", "holiday")
    assert spec.train.candidates[0].search["max_leaf_nodes"].bounds == (15, 127)


def test_a_minimal_model_has_fewer_than_20_lines_and_three_recipes(write) -> None:
    assert len(MINIMAL.splitlines()) < 20
    spec = load(write(MINIMAL))
    assert [recipe.window for recipe in spec.recipes] == [180, 90, 45]
    assert (spec.label_delay, spec.check.every, spec.score.schedule) == (1, 7, "0 6 * * *")


def test_a_spec_is_frozen(write) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(write(MINIMAL)).name = "other"  # type: ignore[misc]


# (what is replaced, by what, the line that is named, what the message says)
WRONG = [
    ("task: regression", "task: regresion", 3, "got 'regresion'; allowed: regression, binary, multiclass; did you mean 'regression'?"),
    ("owner: demand@example.com\n", "", 1, "owner: missing; add it"),
    ("owner: demand@", "owner: demand", 2, "an address looks like team@example.com"),
    ("owner: demand@example.com", 'owner: "a@b.c\\nBcc: x@y.z"', 2, "an address looks like"),
    ("name: bike_demand", "name: Bike-Demand", 1, "it must match"),
    ("name: bike_demand", "name: bikes", 1, "the name must be that of the folder, 'bike_demand'"),
    ("kind: csv", "kind: cvs", 4, "got 'cvs'; allowed: csv, parquet, delta, sql, python; did you mean 'csv'?"),
    ("{kind: csv, path", "{path", 4, "the kind is missing"),
    ("path:", "pth:", 4, "unknown key 'pth'; allowed: kind, path, separator, encoding, incomplete, ready, follow_links; did you mean 'path'?"),
    ("${DATA}", "${DTA}", 4, "the environment has no DTA; set it"),
    ('{kind: csv, path: "${DATA}/hour.csv"}', "{kind: sql, url: 'sqlite://', query: SELECT 1}", 4, "must use :first and :last"),
    ('{kind: csv, path: "${DATA}/hour.csv"}', "{kind: python, function: source.read}", 4, "source.py is not in the model's folder"),
    ("hour: hr}", "hour: hr, timezone: America/Sao_Paolo}", 5, "did you mean 'America/Sao_Paulo'?"),
    ("[dteday, hr]", "dteday", 6, "a list is wanted, such as [dteday]"),
    ("target: cnt", "target: hum", 9, "the target 'hum' is among the features: the answer would leak"),
    ("label_delay: 1d", "label_delay: 1", 8, "a duration is a whole number of days or weeks, such as 7d"),
    ("label_delay: 1d", "label_delay: 1 day", 8, "got '1 day'"),
    ("boolean: [holiday]", "boolean: [holiday, hum]", 9, "'hum' is named 2 times"),
    ("numeric: [temp,", "numeric: [prediction,", 9, "'prediction' is a column that esteira writes itself"),
    ("{temp: {min: 0, max: 1}", "{tmp: {min: 0, max: 1}", 10, "unknown column 'tmp'; known: dteday, hr, temp"),
    ("{min: 0, max: 1}", "{min: 2, max: 1}", 10, "impossible range: min 2 is above max 1; swap them"),
    ("{in: [1, 2, 3, 4]}", "{in: []}", 10, "'in' is empty, so no row could pass"),
    ("window: 180d\n", "windw: 180d\n", 13, "unknown key 'windw'"),
    ("window: 180d\n", "window: 3d\n", 13, "a window is at least 7d"),
    ("sklearn.linear_model", "skleran.linear_model", 16, "did you mean 'sklearn'?"),
    ("sklearn.linear_model.Ridge", "os.system", 16, "within sklearn, lightgbm, xgboost"),
    ("{log: [0.02, 0.3]}", "{log: [0, 0.3]}", 15, "a log range starts above 0"),
    ("{log: [0.02, 0.3]}", "{log: [0.3, 0.02]}", 15, "impossible range [0.3, 0.02]"),
    ("{log: [0.02, 0.3]}", "{log: [0.02, 0.3], choice: [1]}", 15, "got 2 of log, float, int, choice"),
    ("trials: 20}", "trials: 20, method: grid}", 15, "a grid needs a list: write learning_rate: {choice: [...]}"),
    ("trials: 20}", "params: {learning_rate: 1}}", 15, "'learning_rate' is both fixed and searched"),
    ("shards: 1", "shards: 400", 17, "a whole number from 1 to 64, or auto"),
    ('"0 6 * * *"', "daily", 17, "a schedule is five cron fields"),
    ('"0 6 * * *"', '"0 6 * * 1"', 17, "each day is scored once: write a minute, an hour"),
    ('"0 6 * * *"', '"@weekly"', 17, "each day is scored once: write a minute, an hour"),
    ('"0 6 * * *"', '"61 6 * * *"', 17, "a schedule is five cron fields"),
    ('"0 6 * * *"', '"@hourly"', 17, "each day is scored once"),
    ('"@monthly"', '"@fortnightly"', 12, "a schedule is five cron fields"),
    ("window: 180d\n", "window: 180d\n  cores: 0\n", 14, "got 0; a whole number from 1 to 256, or all"),
    ("half_life: 14d", "half_life: 0d", 27, "greater than or equal to 1"),
    ("- {window: 180d}", "- {window: 0d}", 26, "greater than or equal to"),
    ("label_delay: 1d", "labels: {source: {kind: csv, path: x}, key: [order]}", 8, "'order' is not part of the model's key"),
    ("target: cnt", "target: {{ cnt }}", 7, "a block stands where a key is wanted"),
    ("shards: 1", "catchup: true", 17, "give start, such as 2026-01-31"),
    ("mae_over_mean: {max", "mae_over_man: {max", 20, "for regression: mae, rmse, mape, mae_over_mean, r2, pinball_01 to pinball_99; did you mean 'mae_over_mean'?"),
    ("mae_over_mean: {max", "accuracy: {max", 20, "unknown metric 'accuracy'; for regression"),
    ("{max: 0.20}", "{min: 0.20}", 20, "mae_over_mean is better when lower: give max"),
    ("key: [dteday, hr]", "key: [dteday, dteday]", 6, "name each column of the key once"),
    ("key: [dteday, hr]", "key: [dteday, cnt]", 6, "the target 'cnt' is among them: the answer would leak"),
    ("hour: hr}", "hour: cnt}", 5, "the target 'cnt' is among them"),
    ("hour: hr}", "hour: hr, format: '%Q'}", 5, "'Q' is a bad directive"),
    ("hour: hr}", "hour: hr, format: '%H:%M'}", 5, "which holds no year"),
    ("numeric: [temp,", "numeric: [temp, TEMP,", 9, "'temp' and 'TEMP' are one column to a table"),
    ("numeric: [temp,", "numeric: [1temp,", 9, "a source.py can give it such a name"),
    ("{max: 0.20}", "{max: -1}", 20, "mae_over_mean ≤ -1 can't be reached, for its best value is 0"),
    ("{max: 0.20}}", "{max: 0.20}, r2: {min: 1.1}}", 20, "r2 ≥ 1.1 can't be reached, for its best value is 1"),
    ("{max: 0.20}", "{}", 20, "the range is empty; give min, max or both"),
    ("at_least: 2", "at_least: 4", 21, "impossible: at_least 4 of the last 3 windows"),
    ("{max: 0.20}}", "{max: 0.20}, metrics.cost: {max: 1}}", 20, "metrics.py is not in the model's folder"),
    ("slice: 14d", "slice: 14d\n  segments: {temp: {}}", 24, "a segment is a categorical or boolean feature"),
    ("slice: 14d", "slice: 14d\n  segments: {holiday: {accuracy: {min: 1}}}", 24, "unknown metric 'accuracy'"),
    ("- {window: 180d}", "- {window: 180d, features: [tmp]}", 26, "'tmp' is not a feature of the model; did you mean 'temp'?"),
    ("slice: 14d", "slice: 3d", 23, "slice is 3d, fewer than min_days 5"),
    ("max_share: 0.5", "max_share: 2", 24, "less than or equal to 1"),
    ("keep_old: 0.2", "keep_old: 20", 27, "less than or equal to 1"),
    ("trials: 40}", "trials: forty}", 28, "got 'forty'"),
    ("retrain:\n", "retrain:\n  - {window: 30d}\n", 25, "at most 3 items"),
    ("approval: none", "approval: human", 29, "approval by a person is not built yet"),
    ("confidence: 0.95", "confidence: 95", 29, "less than 1"),
    ("[demand@example.com]", "[demand]", 30, "an address looks like"),
    ("task: regression", "task: regression\ntask: binary", 4, "'task' is given twice; keep one"),
    ("label_delay: 1d", "label_delay: [1d", 9, "not valid YAML"),
    ("label_delay: 1d", "positive: UP", 8, "the task is regression"),
    ("label_delay: 1d", "folder: /etc", 8, "unknown key 'folder'"),
    ("label_delay: 1d", "label_delay: !!python/object/apply:os.system [id]", 8, "not valid YAML"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "message"), WRONG, ids=[f"{n}: {new[:40]}" for n, (_, new, _, _) in enumerate(WRONG)]
)
def test_a_wrong_spec_names_file_line_and_mend(write, old: str, new: str, line: int, message: str) -> None:
    assert old in FULL
    path = write(FULL.replace(old, new, 1))
    with pytest.raises(SpecError) as caught:
        load(path, {"DATA": "/data"})
    assert f"{path}, line {line}: " in str(caught.value)
    assert message in str(caught.value)


def test_every_mistake_is_named_at_once(write) -> None:
    path = write(FULL.replace("shards: 1", "shards: 0").replace("human", "x").replace("trials: 40", "trials: 0"))
    with pytest.raises(SpecError) as caught:
        load(path, {"DATA": "/data"})
    assert len(str(caught.value).splitlines()) == 2


def test_an_empty_file_says_how_to_start(write) -> None:
    with pytest.raises(SpecError, match="the file is empty or not a block of keys; start with name:"):
        load(write(""))


def test_a_secret_from_the_environment_is_not_shown(write) -> None:
    text = MINIMAL.replace(
        "{kind: parquet, path: rides.parquet}", "{kind: sql, url: '${URL}', query: 'x :first :last'}"
    )
    spec = load(write(text), {"URL": "postgresql://u:hunter2@db/x"})
    assert "hunter2" not in repr(spec)
    for wrong in (
        text.replace("query:", "qery:"),
        text + "labels: ${URL}\n",
        text.replace("owner: demand@example.com", "owner: ${URL}"),
    ):
        with pytest.raises(SpecError) as caught:
            load(write(wrong), {"URL": "postgresql://u:hunter2@db/x"})
        assert "hunter2" not in str(caught.value)
    assert "owner: got '${URL}'; an address looks like" in str(caught.value)


def test_a_file_that_is_not_utf8_or_absent_says_so(write) -> None:
    path = write(MINIMAL)
    path.write_bytes(MINIMAL.replace("rides", "passeio de é").encode("latin-1"))
    with pytest.raises(SpecError, match=r"is not UTF-8 .*; save the file as UTF-8"):
        load(path)
    with pytest.raises(SpecError, match=r"can't be read: No such file"):
        load(path.with_name("absent.yaml"))
    path.write_text("name: \x07")
    with pytest.raises(SpecError, match="not valid YAML"):
        load(path)


def test_an_unknown_model_names_the_nearest(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_MODELS", str(write(MINIMAL).parents[1]))
    assert specs.find("bike_demand").name == "bike_demand"
    with pytest.raises(SpecError, match="no model 'bike_demnd'; there are: bike_demand; did you mean 'bike_demand'"):
        specs.find("bike_demnd")


def test_the_json_schema_knows_every_key_of_the_example() -> None:
    schema = specs.json_schema()
    text = json.dumps(schema)
    assert {"name", "owner", "task", "source", "check", "retrain", "promote"} <= set(schema["properties"])
    assert "folder" not in schema["properties"]
    for key in ("half_life", "max_share", "at_least", "choice", '"in"', '"float"'):
        assert key in text


def test_positive_class_is_text(write) -> None:
    binary = MINIMAL.replace("regression", "binary").replace("{mae: {max: 10}}", "{accuracy: {min: 0.5}}")
    assert load(write(binary)).positive_class == "1"
    assert load(write(binary + "positive: true\n")).positive_class == "1"
    assert load(write(binary + "positive: UP\n")).positive_class == "UP"


def laughs() -> str:
    """Nine lines that stand for 9^8 values."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (laughs(), "line 5: more than 20,000 values, those counted that an alias"),
        ("a: " + "[" * 100_000, "line 1: more than 20 blocks within each other"),
        ("a: &a [*a]", "line 1: the alias *a stands within what it names; write it out"),
        (f"a: [{','.join(['1'] * 200_000)}]", "is 400,004 bytes; a model.yaml has at most 262,144"),
        (FULL.replace("window: 180d", "window: 99999999999d"), "at most a hundred years, 36500d"),
        (FULL.replace("window: 180d", "window: 36501d"), "at most a hundred years, 36500d"),
        (FULL + "timeout: 90s\n", "timeout: got '90s'; a timeout is a whole number of minutes, hours or days"),
        (FULL + "timeout: 8d\n", "timeout: got '8d'; at most 7d"),
        (FULL.replace("label_delay: 1d", "label_delay: " + "9" * 5000), "not valid YAML: Exceeds the limit"),
    ],
    ids=["laughs", "deep", "self", "long", "window", "century", "timeout", "week", "digits"],
)  # fmt: skip
def test_a_model_yaml_is_bounded(write, text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        load(write(text), {"DATA": "/data"})
    assert message in str(caught.value)
    assert len(str(caught.value)) < 3_000


def test_a_list_of_choices_is_bounded(write) -> None:
    choices = ", ".join(map(str, range(1001)))
    text = FULL.replace("{int: [15, 127]}", f"{{choice: [{choices}]}}", 1)
    with pytest.raises(SpecError, match="at most 1000 items"):
        load(write(text), {"DATA": "/data"})


def test_ordinary_aliases_are_read(write) -> None:
    text = FULL.replace("alerts: {email: [", "alerts: {email: &who [", 1)
    assert load(write(text), {"DATA": "/data"}).alerts.email


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "sales" / "model.yaml"
    path.parent.mkdir()
    {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir}[kind]()
    with pytest.raises(SpecError, match="is not a regular file"):
        load(path)


def test_a_model_that_two_folders_declare_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("one", "two"):
        models.write(tmp_path / root, "sales")
    models.write(tmp_path / "one", "other")
    monkeypatch.setenv("ESTEIRA_MODELS", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    with pytest.raises(SpecError, match=r"one/sales/model.yaml|two/sales/model.yaml") as caught:
        specs.find("sales")
    assert all(f"{tmp_path / root}/sales/model.yaml" in str(caught.value) for root in ("one", "two"))
    assert specs.find("other").name == "other"
    monkeypatch.setenv("ESTEIRA_MODELS", f"{tmp_path / 'one'}:{tmp_path / 'one'}")  # the same folder twice is one
    assert specs.find("sales").name == "sales"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("expect: {temp:", 'expect: {"a\\0b": {min: x}, temp:', r"expect.a\x00b"),
        ("expect: {temp:", 'expect: {"a\\uD800b": {min: x}, temp:', "not valid YAML"),
        ('path: "${DATA}/hour.csv"', 'path: "a\\0b.csv"', "which has a NUL"),
        ("time: {column: dteday, hour: hr}", 'time: {column: dteday, format: "%"}', "a % stands alone"),
        ("target: cnt", "target: event_time", "is a column that esteira writes itself"),
        ("target: cnt", "target: day", "is a column that esteira writes itself"),
        ("cnt: {min: 0}", "cnt: {matches: '" + "(" * 2000 + ")" * 2000 + "'}", "cnt.matches"),
        ('score: {schedule: "0 6 * * *"', 'score: {start: 9999-12-31, schedule: "0 6 * * *"', "to 2200-01-01"),
    ],
    ids=["nul", "half", "path", "format", "event_time", "day", "brackets", "start"],
)
def test_what_no_table_and_no_database_takes_is_refused_in_words_that_can_be_kept(
    write, old: str, new: str, message: str
) -> None:
    assert old in FULL
    with pytest.raises(SpecError) as caught:
        load(write(FULL.replace(old, new, 1)), {"DATA": "/data"})
    said = str(caught.value)
    assert message in said
    assert said.replace("\n", "").isprintable()


def test_a_folder_whose_name_is_no_text_is_named_in_signs_that_are(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(str(tmp_path)) + b"/bad\xff"))
    folder.mkdir()
    (folder / "model.yaml").write_text(FULL)
    with pytest.raises(SpecError) as caught:
        load(folder / "model.yaml", {"DATA": "/data"})
    assert str(caught.value).encode()  # a half character could not be
    assert r"bad\udcff/model.yaml" in str(caught.value)


def test_an_editors_lock_is_no_code_of_the_model(tmp_path: Path) -> None:
    spec = models.write(tmp_path, "sales")
    before = spec.code
    (spec.folder / ".#source.py").symlink_to("user@host.1234")  # Emacs', which leads nowhere
    (spec.folder / "folder.py").mkdir()
    os.mkfifo(spec.folder / "pipe.py")
    assert spec.code == before
    (spec.folder / "more.py").write_text("x = 1\n")
    assert spec.code != before


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (1.0, "1"), ("1", "1"), (True, "1"), (np.True_, "1"), (np.float64(2), "2"), (1.5, "1.5"), ("UP", "UP")],
)
def test_canonical(value: object, text: str) -> None:
    assert canonical(value) == text
