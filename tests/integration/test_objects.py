"""Sources and the lake in an object store: the corpus, what is named and read, and a store that fails."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from uuid import uuid4

import httpx
import pandas as pd
import pyarrow.fs as pafs
import pytest
from esteira import data, steps
from esteira import spec as specs
from esteira.__main__ import main
from esteira.data.sources import objects as objects_of
from esteira.errors import DataError, OutOfReach, SpecError, Unfinished
from esteira.spec import ModelSpec
from esteira.store import lake, opened

from tests import corpora, faulty, models, objects
from tests.conftest import use_object_store
from tests.corpora import Case
from tests.faulty import Faulty
from tests.soak.crashes import watched

DAY = date(2026, 1, 2)
HEADER = "at,site,hour,heat,open,amount\n"
LINES = "2026-01-02 01:00,A,1,1.5,True,10\n2026-01-02 02:00,B,2,2.5,False,20\n"
# What an object store has none of: folders, links, pipes, files that may not be read.
# And what it has not is said in other words.
LOCAL = ("no_such_file", "link", "pipe", "folder", "directory", "permission")


@pytest.fixture
def bucket(object_store: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket, as an address."""
    for name, value in {**objects.KEYS, "AWS_ENDPOINT_URL": object_store}.items():
        monkeypatch.setenv(name, value)
    name = f"source-{uuid4().hex[:12]}"
    httpx.put(f"{object_store}/{name}", timeout=10).raise_for_status()
    return f"s3://{name}"


def put(address: str, content: bytes) -> None:
    with objects_of.file_system().open_output_stream(objects_of.key(address), compression=None) as sink:
        sink.write(content)


def declared(folder: Path, source: str) -> ModelSpec:
    source = source.replace("{", "{{").replace("}", "}}")
    return models.write(
        folder, yaml=models.YAML.replace("{{kind: python, function: source.read}}", f"{{{{{source}}}}}")
    )


def moved(case: Case, spec: ModelSpec, bucket: str) -> ModelSpec:
    """The model of a case with its input in the bucket."""
    for path in (spec.folder / "in").rglob("*"):
        if path.is_file():
            put(f"{bucket}/{path.relative_to(spec.folder)}", path.read_bytes())
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("path: in/", f"path: {bucket}/in/"))
    return specs.load(yaml)


def in_bucket(home: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Put the lake of a state folder into a new bucket, and use it there."""
    use_object_store(address, monkeypatch)
    target = objects_of.key(lake.root())
    pafs.copy_files(str(home / "lake"), target, destination_filesystem=objects_of.file_system())
    lake.create_lake()


QUICK = {"plain", "out_of_range", "latin1_declared"}
# A few in `make test`, all in `make test-objects`: each takes four seconds.
CASES = [
    pytest.param(
        case,
        id=case.name,
        marks=[] if case.name in QUICK else pytest.mark.objects,
    )
    for case in corpora.cases()
    if not any(word in case.name for word in LOCAL) and (case.model or {}).get("source", {}).get("kind") != "python"
]


@pytest.mark.parametrize("case", CASES)
def test_case(
    case: Case,
    corpus_home: Path,
    object_store: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The whole corpus, its files and its lake in an object store."""
    in_bucket(corpus_home, monkeypatch, object_store)
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    spec = moved(case, corpora.declare(case, tmp_path / "models"), bucket)
    said = ""
    for day in (*case.before, case.day):
        monkeypatch.setattr(sys, "argv", ["esteira", "score", "corpus", "--day", day])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capfd.readouterr()
        said = told.out + told.err + ("" if isinstance(ended.value.code, int) else str(ended.value.code))
    corpora.require_outcome(case, spec, ended.value.code in (0, None), said)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_of_days_and_patterns(bucket: str, tmp_path: Path, kind: str) -> None:
    rows = pd.read_csv(io.StringIO(HEADER + LINES))
    content = (HEADER + LINES).encode() if kind == "csv" else rows.to_parquet()
    put(f"{bucket}/a/site-1/{DAY}.{kind}", content)
    put(f"{bucket}/a/site-2/{DAY}.{kind}", content)
    put(f"{bucket}/a/site-2/deeper/{DAY}.{kind}", content)
    put(f"{bucket}/a/.hidden/{DAY}.{kind}", content)
    spec = declared(tmp_path, f'kind: {kind}, path: "{bucket}/a/site-*/{{day}}.{kind}"')
    assert len(data.read(spec, DAY, DAY)) == 4
    reader = data.reader_of(spec.source, spec)
    assert reader.last_day() == DAY
    path, columns = reader.columns() or ("", [])
    assert (path, columns) == (f"{bucket}/a/site-2/{DAY}.{kind}", HEADER.strip().split(","))
    before = reader.state(DAY, DAY)
    put(f"{bucket}/a/site-2/{DAY}.{kind}", content[:-1] + b" ")
    assert reader.state(DAY, DAY) != before
    assert data.read(declared(tmp_path, f'kind: {kind}, path: "{bucket}/a/{{day}}.{kind}"'), DAY, DAY).empty
    with pytest.raises(OutOfReach, match=f"there is nothing under {bucket}/b/"):
        data.read(declared(tmp_path, f'kind: {kind}, path: "{bucket}/b/{{day}}.{kind}"'), DAY, DAY)


def test_a_day_without_its_marker_is_not_ready(bucket: str, tmp_path: Path) -> None:
    put(f"{bucket}/{DAY}.csv", (HEADER + LINES).encode())
    spec = declared(tmp_path, f'kind: csv, path: "{bucket}/{{day}}.csv", ready: "{{day}}.done"')
    with pytest.raises(Unfinished, match=f"waits for the marker {bucket}/{DAY}.done"):
        data.read(spec, DAY, DAY)
    put(f"{bucket}/{DAY}.done", b"")
    assert len(data.read(spec, DAY, DAY)) == 2


def test_an_object_that_is_replaced_while_it_is_read_is_read_again(bucket: str) -> None:
    put(f"{bucket}/x.csv", b"a,b\n")

    def replaced() -> None:
        with objects_of.opened(f"{bucket}/x.csv") as handle:
            assert handle.read(1) == b"a"
            put(f"{bucket}/x.csv", b"a,c\n")

    with pytest.raises(Unfinished, match="changed while it was read"):
        replaced()
    with pytest.raises(Unfinished, match="was there and is gone"), objects_of.opened(f"{bucket}/y.csv"):
        pass


def test_what_is_not_there_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(OutOfReach, match=r"there is no bucket|no such bucket"):
        data.read(declared(tmp_path, 'kind: csv, path: "s3://nobody-has-it/x-{day}.csv"'), DAY, DAY)
    with pytest.raises(OutOfReach, match="no such bucket"):
        data.read(declared(tmp_path, 'kind: csv, path: "s3://nobody-has-it/*.csv"'), DAY, DAY)
    with pytest.raises(DataError, match="no object matches"):
        data.read(declared(tmp_path, f'kind: csv, path: "{bucket}/*.csv"'), DAY, DAY)
    with pytest.raises(SpecError, match="or objects: s3://bucket/path"):
        declared(tmp_path, 'kind: csv, path: "gs://b/x.csv"')


def test_a_copy_of_the_logs_and_then_of_the_rest_is_a_lake_of_that_moment(
    corpus_home: Path, object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backup while days are scored: what is written meanwhile is not in it, and nothing is half in it."""
    in_bucket(corpus_home, monkeypatch, object_store)
    case = next(case for case in corpora.cases() if case.name == "plain")
    spec = corpora.declare(case, tmp_path / "models")
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    day, later = corpora.DAY, corpora.DAY + timedelta(days=1)
    steps.score_from_source(spec, [day], "r")
    kept, store, root = tmp_path / "backup", objects_of.file_system(), objects_of.key(lake.root())

    def copied(logs: bool) -> None:
        for each in store.get_file_info(pafs.FileSelector(root, recursive=True)):
            if each.type == pafs.FileType.File and ("/_delta_log/" in each.path) is logs:
                target = kept / Path(each.path).relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                with store.open_input_stream(each.path) as source:
                    target.write_bytes(source.read())

    copied(logs=True)
    text = (spec.folder / "in" / f"{day}.csv").read_text()
    (spec.folder / "in" / f"{later}.csv").write_text(text.replace(str(day), str(later)))
    steps.score_from_source(spec, [later], "r2")
    copied(logs=False)
    use_object_store(object_store, monkeypatch)
    pafs.copy_files(str(kept), objects_of.key(lake.root()), destination_filesystem=store)
    assert steps.accounted(spec, [day]).startswith("6 rows read = 6 published")
    assert lake.unwritten_days("predictions", spec.name, [day, later]) == [later]
    assert steps.score_from_source(spec, [later], "r3").endswith(WHOLE)


def test_models_and_reports_may_be_in_an_object_store(
    home: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ESTEIRA_ARTIFACTS", f"{bucket}/artifacts")
    spec = models.write(tmp_path / "models")
    steps.train(spec, models.AS_OF, "t")
    selector = pafs.FileSelector(f"{objects_of.key(bucket)}/artifacts", recursive=True)
    kept = [each.path for each in objects_of.file_system().get_file_info(selector)]
    assert any(path.endswith("model.skops") for path in kept)
    assert not (home / "mlflow" / "artifacts").exists()
    assert steps.score_from_source(spec, [models.FIRST], "r").startswith("72 rows read = 72 published")


def test_a_folder_that_was_never_there_is_no_day_without_rows(
    corpus_home: Path, object_store: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = next(case for case in corpora.cases() if case.name == "plain")
    in_bucket(corpus_home, monkeypatch, object_store)
    spec = moved(case, corpora.declare(case, tmp_path / "models"), bucket)
    yaml = spec.folder / "model.yaml"
    yaml.write_text(yaml.read_text().replace("{day}.csv", "nope/{day}.csv"))
    with pytest.raises(OutOfReach, match=r"there is nothing under s3://.*/nope/; correct source.path in model.yaml"):
        steps.score_from_source(specs.load(yaml), [corpora.DAY], "r")


def test_a_bucket_that_is_not_there_is_told_when_the_lake_is_made(
    home: Path, object_store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_object_store(object_store, monkeypatch)
    assert lake.create_lake() == lake.root()
    monkeypatch.setattr(opened, "PATIENCE", {**opened.PATIENCE, "max_retries": "0"})
    monkeypatch.setenv("ESTEIRA_LAKE", "s3://no-such-bucket/x")
    monkeypatch.setattr(sys, "argv", ["esteira", "init"])
    with pytest.raises(SystemExit, match=r"s3://no-such-bucket/x is out of reach.*NoSuchBucket"):
        main()


# ----------------------------------------------------------------------------------------------------------- outages


@pytest.fixture
def failing(
    corpus_home: Path, object_store: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[ModelSpec, Faulty]]:
    """A model with a champion, whose source and lake are in a store that can be told to fail."""
    patience = {**opened.PATIENCE, "max_retries": "3", "retry_timeout": "5s", "timeout": "10s"}
    monkeypatch.setattr(opened, "PATIENCE", patience)
    monkeypatch.setattr(objects_of, "TRIES", 3)
    case = next(case for case in corpora.cases() if case.name == "plain")
    in_bucket(corpus_home, monkeypatch, object_store)
    spec = moved(case, corpora.declare(case, tmp_path / "models"), bucket)
    with faulty.before(object_store) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
        yield spec, server


def scored(spec: ModelSpec) -> str:
    return steps.score_from_source(spec, [corpora.DAY], "r")


WHOLE = "6 rows read = 6 published + 0 in quarantine"


@pytest.mark.parametrize("fault", ["busy", "broken", "cut", "slow"])
def test_a_store_that_fails_for_a_moment_is_asked_again(failing: tuple[ModelSpec, Faulty], fault: str) -> None:
    spec, server = failing
    server.set(fault, most=2)
    assert scored(spec).endswith(WHOLE)
    assert server.failed == 2


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        pytest.param("busy", "Please reduce your request rate|SLOW_DOWN|SlowDown", marks=pytest.mark.slow),
        pytest.param("broken", "InternalError|internal error", marks=pytest.mark.objects),
        pytest.param("cut", "out of reach|be reached|refuses", marks=pytest.mark.objects),
        pytest.param("half", "out of reach|be reached|refuses", marks=pytest.mark.objects),
        ("keys", "InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|key is not known"),
        pytest.param("token", "ExpiredToken|EXPIRED_TOKEN|token has expired", marks=pytest.mark.objects),
    ],
)
def test_a_store_that_keeps_failing_is_out_of_reach_and_a_rerun_completes(
    failing: tuple[ModelSpec, Faulty], fault: str, says: str
) -> None:
    spec, server = failing
    server.set(fault)
    began = time.monotonic()
    with pytest.raises(OutOfReach, match=says):
        scored(spec)
    assert time.monotonic() - began < 120
    server.set("")
    assert lake.unwritten_days("predictions", spec.name, [corpora.DAY]) == [corpora.DAY]
    assert scored(spec).endswith(WHOLE)
    assert scored(spec).endswith(WHOLE)
    assert len(lake.read("served", spec.name)) == 6


@pytest.mark.parametrize(
    "after", [pytest.param(n, marks=[] if n % 18 == 6 else pytest.mark.objects) for n in range(0, 60, 6)]
)
@pytest.mark.parametrize("fault", [pytest.param("cut", marks=pytest.mark.objects), "keys"])
def test_a_store_that_fails_in_the_middle_of_a_day_leaves_nothing_half(
    failing: tuple[ModelSpec, Faulty], object_store: str, fault: str, after: int
) -> None:
    """Whatever request is the first that fails, all that follow do, too; a reader beside it, to whom nothing fails, sees no part."""
    spec, server = failing
    options = {**opened.PATIENCE, "endpoint": object_store, "allow_http": "true"}
    with watched(lake.path("predictions", spec.name), options) as seen:
        server.set(fault, after=after)
        with suppress(OutOfReach):
            scored(spec)
        server.set("")
        assert lake.count("predictions", spec.name, [corpora.DAY]) in (0, 6)
        assert scored(spec).endswith(WHOLE)
    assert seen == {str(corpora.DAY): {6}}
    assert len(lake.read("served", spec.name)) == len(lake.read("predictions", spec.name)) == 6
