"""What is read from the cache is what would be read without it, and the cache is never more than that."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import pytest
import yaml
from esteira.errors import SpecError
from esteira.spec import cache, load, load_cached, prune, reading
from esteira.spec import model as spec_model
from esteira.spec.sources import CsvSource, SqlSource

from tests import corpora, models
from tests.conftest import PROJECT
from tests.models import FULL, MINIMAL

SHIPPED = sorted(
    path.parent for root in ("include/models", "examples") for path in (PROJECT / root).glob("*/model.yaml")
)
SQL = MINIMAL.replace("{kind: parquet, path: rides.parquet}", "{kind: sql, url: '%s', query: 'x :first :last'}")
OWN_METRIC = MINIMAL.replace("mae: {max: 10}", "own.loss: {max: 10}")
TEXTS = {
    "full": FULL,
    "minimal": MINIMAL,
    "loop": models.YAML.format(name="bike_demand"),
    "binary": models.BINARY.format(name="bike_demand"),
    "sql": SQL % "${URL}",
    "labels": MINIMAL + "labels: {source: {kind: delta, path: 's3://lake/labels'}, key: [at]}\n",
    "settle": MINIMAL + "labels: {settle: 7d}\n",
    "days": MINIMAL + "score: {start: 2026-01-31, catchup: true}\n",
    "aliases": MINIMAL + "personal: &names [temp]\nexpect: {temp: {in: &one [1, 2.0, a, true]}, rides: {in: *one}}\n",
}


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ESTEIRA_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("ESTEIRA_DATA", "/data")
    monkeypatch.setenv("URL", "postgresql://me:hunter22@db/rides")
    return tmp_path / "state"


def write(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "models" / "bike_demand"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "source.py").write_text("def read(first, last): ...\n")
    (folder / "model.yaml").write_text(text)
    return folder / "model.yaml"


def entries() -> list[Path]:
    return sorted(cache.folder().iterdir()) if cache.folder().is_dir() else []


def cached(path: Path) -> object:
    """What load_cached() gives where nothing may be parsed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_read", lambda *_: pytest.fail("the YAML was parsed"))
        patch.setattr(spec_model.ast, "parse", lambda *_: pytest.fail("code was parsed"))
        return load_cached(path)


def require_equal(path: Path) -> None:
    loaded, first, second = load(path), load_cached(path), cached(path)
    assert loaded == first == second
    assert repr(loaded) == repr(second)
    assert loaded.model_dump_json() == second.model_dump_json()
    assert _given(loaded) == _given(second)
    assert (second.folder, second.code) == (path.parent, loaded.code)


def _given(block: object) -> object:
    """Which keys were given, in every block."""
    if isinstance(block, tuple):
        return [_given(each) for each in block]
    if isinstance(block, dict):
        return {key: _given(value) for key, value in block.items()}
    given = getattr(block, "model_fields_set", None)
    return None if given is None else (type(block), given, {key: _given(getattr(block, key)) for key in given})


@pytest.mark.parametrize("folder", SHIPPED, ids=lambda folder: folder.name)
def test_every_model_is_read_as_without_the_cache(folder: Path) -> None:
    require_equal(folder / "model.yaml")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_every_kind_of_model_is_read_as_without_the_cache(text: str, tmp_path: Path) -> None:
    require_equal(write(tmp_path, text))


@pytest.mark.parametrize("case", corpora.cases(), ids=lambda case: case.name)
def test_every_model_of_the_corpus_is_read_as_without_the_cache(case: corpora.Case, tmp_path: Path) -> None:
    require_equal(corpora.declare(case, tmp_path).folder / "model.yaml")


def test_a_variable_is_filled_in_at_each_read_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, SQL % "${URL}")
    load_cached(path)
    (entry,) = entries()
    assert "${URL}" in entry.read_text()
    assert "hunter22" not in entry.read_text()
    monkeypatch.setenv("URL", "postgresql://other")
    source = cached(path).source
    assert isinstance(source, SqlSource)
    assert source.url.get_secret_value() == "postgresql://other"


def test_a_variable_that_is_gone_or_wrong_is_said_as_without_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINIMAL.replace("at}", "at, timezone: '${ZONE}'}"))
    monkeypatch.setenv("ZONE", "America/Sao_Paulo")
    load_cached(path)
    assert len(entries()) == 1
    monkeypatch.setenv("ZONE", "America/Nowhere")
    require_same_mistake(path, "line 5: time.timezone: unknown time zone '${ZONE}'")
    monkeypatch.delenv("ZONE")
    require_same_mistake(path, "line 5: time.timezone: the environment has no ZONE")


def require_same_mistake(path: Path, text: str) -> None:
    with pytest.raises(SpecError) as plain:
        load(path)
    with pytest.raises(SpecError) as with_cache:
        load_cached(path)
    assert str(with_cache.value) == str(plain.value)
    assert text in str(plain.value)


@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter22@db/rides", "postgresql://me:${URL}@db", "sqlite:///rides.db"]
)
@pytest.mark.parametrize("place", ["source", "labels"])
def test_a_url_that_stands_in_the_file_itself_is_not_copied(url: str, place: str, tmp_path: Path) -> None:
    text = SQL % url
    if place == "labels":
        text = MINIMAL + f"labels: {{source: {{kind: sql, url: '{url}', query: 'x :first :last'}}}}\n"
    load_cached(write(tmp_path, text))
    assert entries() == []


def test_another_text_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    load_cached(path)
    write(tmp_path, MINIMAL.replace("max: 10", "max: 11"))
    assert load_cached(path).check.metrics["mae"].max == 11
    assert cached(path).check.metrics["mae"].max == 11
    assert len(entries()) == 1


def test_other_code_is_looked_into_anew(tmp_path: Path) -> None:
    path = write(tmp_path, OWN_METRIC)
    own = path.parent / "own.py"
    own.write_text("def loss(labels, predictions, rows): ...\n")
    load_cached(path)
    own.write_text("def los(labels, predictions, rows): ...\n")
    require_same_mistake(path, "line 10: check.metrics.own.loss: own.py has no function 'loss'; it has: ['los']")
    own.write_text("def loss(\n")
    require_same_mistake(path, "own.py, line 1: '(' was never closed")
    own.write_bytes(b"\xff")
    require_same_mistake(path, "can't decode byte 0xff")
    own.unlink()
    require_same_mistake(path, "own.py is not in the model's folder; found: ['source']")
    own.write_text("def first(): ...\n\n\ndef loss(labels, predictions, rows): ...\n")
    load_cached(path)
    assert cached(path) == load(path)


def test_a_features_py_that_comes_later_must_say_whether_shards_are_safe(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "score: {shards: 2}\n")
    assert load_cached(path).score.shards == 2
    (path.parent / "features.py").write_text("def build(rows): ...\n")
    require_same_mistake(path, "score.shards: each shard gives features.py a part of a day")
    for said in ("true", "false"):
        path.write_text(path.read_text().replace("features: {", f"features: {{whole_day: {said}, ", 1))
        assert load_cached(path).has_features_code
        assert cached(path) == load(path)
        path.write_text(path.read_text().replace(f"whole_day: {said}, ", ""))


def test_a_features_py_that_comes_later_is_looked_into(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert not load_cached(path).has_features_code
    (path.parent / "features.py").write_text("def make(rows): ...\n")
    require_same_mistake(path, "features.py has no function 'build'")
    (path.parent / "features.py").write_text("def build(rows): ...\n")
    assert load_cached(path).has_features_code
    assert cached(path) == load(path)


def test_what_is_wrong_is_not_cached(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("mae", "mea"))
    for _ in range(2):
        require_same_mistake(path, "unknown metric 'mea'")
    assert entries() == []


@pytest.mark.parametrize(
    "garble",
    [
        lambda entry: entry.write_bytes(b""),
        lambda entry: entry.write_bytes(entry.read_bytes()[:-20]),
        lambda entry: entry.write_bytes(b"\xff\xfe" + entry.read_bytes()),
        lambda entry: entry.write_text(entry.read_text().replace('"max": 10', '"max": 99')),
        lambda entry: (entry.unlink(), entry.mkdir()),
        lambda entry: (entry.unlink(), entry.symlink_to("nowhere")),
    ],
    ids=["empty", "cut off", "no text", "changed", "a folder", "a link to nothing"],
)
def test_an_entry_that_is_garbled_counts_as_none(garble, tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    load_cached(path)
    (entry,) = entries()
    garble(entry)
    assert cache.read(path, MINIMAL) is None
    assert load_cached(path) == load(path)
    if not entry.is_dir():
        assert cached(path) == load(path)


def test_an_entry_of_other_code_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, MINIMAL)
    load_cached(path)
    assert cache.read(path, MINIMAL)
    monkeypatch.setattr(cache, "_version", lambda: b"the next one")
    assert cache.read(path, MINIMAL) is None


def test_an_entry_is_of_one_path(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    load_cached(path)
    (entry,) = entries()
    other = tmp_path / "copied" / "bike_demand"
    shutil.copytree(path.parent, other)
    shutil.copy(entry, cache.folder() / cache._name(other / "model.yaml"))
    assert cache.read(other / "model.yaml", MINIMAL) is None
    assert load_cached(other / "model.yaml").folder == other


NOT_JSON = (
    *("{1: a}", "{null: a}", "{true: a}", "{2026-01-31: a}", "2026-01-31 10:00:00", ".nan", ".inf"),
    *("{$day: '2026-01-31'}", "{$day: x}", "{$day: 1}", "{$day: 2026-01-31}"),
    *("!!set {a}", "!!binary aGk=", "!!pairs [a: 1]"),
)


@pytest.mark.parametrize("value", NOT_JSON)
def test_what_json_does_not_hold_is_not_cached(value: str, tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("Ridge}", f"Ridge, params: {{a: {value}}}}}"))
    for _ in range(2):
        assert repr(load_cached(path)) == repr(load(path))
    assert entries() == []


@pytest.mark.parametrize(
    "value", ["2026-01-31", "1", "1.0", "true", "'1'", "-0.0", "1.0e+300", '"\\U0001F600\\u2028\\u00e9"', "[{}, []]"]
)
def test_what_json_holds_keeps_its_type(value: str, tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL.replace("Ridge}", f"Ridge, params: {{a: {value}}}}}"))
    load_cached(path)
    expected = yaml.safe_load(value)
    found = cached(path).train.candidates[0].params["a"]
    assert (type(found), repr(found)) == (type(expected), repr(expected))


def test_what_aliases_make_large_is_not_cached(tmp_path: Path) -> None:
    repeated = ", ".join(["*long"] * 10_000)
    path = write(tmp_path, MINIMAL.replace("Ridge}", f"Ridge, params: {{a: &long {'x' * 100_000}, b: [{repeated}]}}}}"))
    assert load_cached(path) == load(path)  # a gigabyte, were it written out
    assert entries() == []


def test_a_day_is_a_day(tmp_path: Path) -> None:
    path = write(tmp_path, TEXTS["days"])
    load_cached(path)
    assert cached(path).score.start == date(2026, 1, 31)


def test_only_its_user_can_read_it(tmp_path: Path, state: Path) -> None:
    load_cached(write(tmp_path, MINIMAL))
    for place in (state, state / "cache", state / "cache" / "specs"):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700, place
    (entry,) = entries()
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "error", [PermissionError(13, "denied"), OSError(30, "read-only"), OSError(28, "full")], ids=str
)
def test_a_folder_that_cant_be_written_only_means_no_cache(
    error: OSError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, MINIMAL)

    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cache.tempfile, "mkstemp", refuse)
    assert load_cached(path) == load(path)
    assert entries() == []


def test_a_state_folder_that_is_none_only_means_no_cache(tmp_path: Path, state: Path) -> None:
    path = write(tmp_path, MINIMAL)
    state.write_text("a file")
    assert load_cached(path) == load(path)
    prune([path])


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "full")

    path = write(tmp_path, MINIMAL)
    monkeypatch.setattr(Path, "replace", full)
    assert load_cached(path) == load(path)
    assert entries() == []


def test_many_may_write_and_read_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    expected = load(path)
    with ThreadPoolExecutor(8) as pool:
        found = [*pool.map(lambda _: load_cached(path), range(40))]
        entry = cache.read(path, FULL)
        assert entry

        def write_or_read(number: int) -> object:
            return cache.write(path, FULL, entry) if number % 2 else cache.read(path, FULL)

        seen = list(pool.map(write_or_read, range(400)))[::2]
    assert all(each == expected for each in found)
    assert all(each == entry for each in seen)
    assert len(entries()) == 1


def test_processes_share_it(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    code = f"from pathlib import Path; from esteira.spec import load_cached; load_cached(Path({str(path)!r}))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    assert cached(path) == load(path)


def test_entries_of_models_that_are_gone_are_removed_once_they_are_old(tmp_path: Path) -> None:
    stays = write(tmp_path, MINIMAL)
    gone = tmp_path / "other" / "bike_demand"
    shutil.copytree(stays.parent, gone)
    left = cache.folder() / "killed.new"
    for path in (stays, gone / "model.yaml"):
        load_cached(path)
    left.write_text("half")
    prune([stays])
    assert len(entries()) == 3  # another process may still be at work with them
    for entry in entries():
        os.utime(entry, (time.time() - 2 * cache.YOUNG,) * 2)
    prune([stays])
    assert [entry.name for entry in entries()] == [cache._name(stays)]
    assert cached(stays) == load(stays)


def test_the_source_of_a_model_may_change_its_kind(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    load_cached(path)
    write(tmp_path, MINIMAL.replace("kind: parquet, path: rides.parquet", "kind: csv, path: rides.csv"))
    for read in (load_cached, cached):
        assert isinstance(read(path).source, CsvSource)
