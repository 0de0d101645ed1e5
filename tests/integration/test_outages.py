"""Storage and servers that fail: the error names what, why and the mend, nothing is half done, and a rerun completes."""

from __future__ import annotations

import contextlib
import errno
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from esteira import data, steps
from esteira.__main__ import main
from esteira.errors import NoChampion, OutOfReach
from esteira.outages import is_outage
from esteira.spec import ModelSpec
from esteira.store import lake, places, runs

from tests import models
from tests.models import AS_OF, FIRST, score_days

NEXT = FIRST + timedelta(days=1)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "volume"
    place.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let us mount a file system, so none can be full, read-only or gone")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def on_volume(home: Path, volume: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lake on the volume."""
    monkeypatch.setenv("ESTEIRA_LAKE", str(volume / "lake"))
    lake.create_lake()
    return volume / "lake"


@pytest.fixture
def served(on_volume: Path, tmp_path: Path) -> ModelSpec:
    """A model that has scored a day."""
    spec = models.write(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    score_days(spec, [FIRST])
    return spec


def require_whole(spec: ModelSpec) -> None:
    assert steps.accounted(spec, [FIRST, NEXT]) == "144 rows read = 144 published + 0 in quarantine"
    assert len(lake.read("served", spec.name)) == 144


def test_a_full_lake_is_named_and_a_rerun_completes(served: ModelSpec, volume: Path) -> None:
    filler = volume / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    with pytest.raises(
        OutOfReach, match=r"raw/sales is out of reach: .*No space left.*To mend it: free space there"
    ) as raised:
        score_days(served, [NEXT])
    assert is_outage(raised.value)
    filler.unlink()
    score_days(served, [NEXT])
    require_whole(served)


def test_a_read_only_lake_is_named_and_a_rerun_completes(served: ModelSpec, volume: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", volume], check=True)
    with pytest.raises(OutOfReach, match=r"raw/sales is out of reach: .*Read-only.*To mend it: mount it writable"):
        score_days(served, [NEXT])
    subprocess.run(["mount", "-o", "remount,rw", volume], check=True)
    score_days(served, [NEXT])
    require_whole(served)


def test_a_volume_that_is_not_mounted_is_no_empty_lake(
    served: ModelSpec, volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = tmp_path / "aside"
    aside.mkdir()
    subprocess.run(["mount", "--bind", volume, aside], check=True)
    subprocess.run(["umount", "-l", volume], check=True)
    try:
        for step in (
            lambda: steps.extract(served, [NEXT]),
            lambda: steps.score(served, [NEXT], "r"),
            lambda: steps.repair_aliases(served),
            lambda: steps.measure(served, NEXT),
            lambda: steps.maintain(served),
        ):
            with pytest.raises(OutOfReach, match="is no lake: it has no file _esteira"):
                step()
        monkeypatch.setattr("sys.argv", ["esteira", "score", "sales", "--day", str(NEXT)])
        monkeypatch.setenv("ESTEIRA_MODELS", str(served.folder.parent))
        with pytest.raises(SystemExit, match="is no lake"):
            main()
        assert list(volume.iterdir()) == []
        assert runs.aliases(served) == {"champion": 1}
    finally:
        subprocess.run(["mount", "--bind", aside, volume], check=True)
        subprocess.run(["umount", aside], check=True)
    score_days(served, [NEXT])
    require_whole(served)


def test_a_lake_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ESTEIRA_LAKE", str(tmp_path / "lake"))
    with pytest.raises(OutOfReach, match="call `esteira init` once"):
        lake.version("raw", "sales")
    monkeypatch.setattr("sys.argv", ["esteira", "init"])
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        assert capsys.readouterr().out == f"the lake is at {tmp_path / 'lake'}\n"
        assert lake.version("raw", "sales") == -1


def test_a_default_lake_that_is_gone_takes_no_alias_along(home: Path, tmp_path: Path) -> None:
    spec = models.write(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    kept = (home / "lake").rename(tmp_path / "kept")
    with pytest.raises(NoChampion):
        score_days(spec, [FIRST])
    assert runs.aliases(spec) == {"champion": 1}
    shutil.rmtree(home / "lake")
    kept.rename(home / "lake")
    score_days(spec, [FIRST])
    assert steps.accounted(spec, [FIRST]) == "72 rows read = 72 published + 0 in quarantine"


def test_mlflow_that_is_down_is_an_outage_and_a_rerun_completes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.write(tmp_path / "models")
    steps.train(spec, AS_OF, "t")
    shutil.rmtree(places.home() / "cache" / "models")  # as on another machine than the one that trained it
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as taken, monkeypatch.context() as down:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        port = taken.getsockname()[1]
        down.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(Exception, match=f"127.0.0.1:{port}.*Connection refused") as raised:
            score_days(spec, [FIRST])
    assert is_outage(raised.value)
    score_days(spec, [FIRST])
    assert steps.accounted(spec, [FIRST]) == "72 rows read = 72 published + 0 in quarantine"


def test_a_source_whose_disk_fails_is_an_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml = models.YAML.replace("{{kind: python, function: source.read}}", f"{{{{kind: csv, path: {tmp_path}/x.csv}}}}")
    spec = models.write(tmp_path / "models", yaml=yaml)
    (tmp_path / "x.csv").write_text("site,at,hour,heat,open,amount\n")
    monkeypatch.setattr(
        pd, "read_csv", lambda *_, **__: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error"))
    )
    with pytest.raises(OutOfReach, match=r"x\.csv: can't be read: .*Input/output error; see that its volume is there"):
        data.read(spec, FIRST, FIRST)


def test_an_attempt_that_meets_an_outage_is_no_attempt_that_failed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.write(tmp_path / "models", change=str(FIRST + timedelta(days=7)))
    steps.train(spec, AS_OF, "t")
    day = FIRST + timedelta(days=21)
    score_days(spec, [FIRST + timedelta(days=n) for n in range(22)])
    from esteira.steps import checking

    with monkeypatch.context() as out:
        out.setattr(checking, "retrain", lambda *_: (_ for _ in ()).throw(OutOfReach("the lake")))
        with pytest.raises(OutOfReach):
            steps.check(spec, day, keep_notebook=False)
    checked = steps.check(spec, day, keep_notebook=False)
    assert checked.promoted == 2
    assert checked.outcomes[-1].value == "recovers"


SCORED = f"""
import sys
from datetime import date
from esteira import steps
from esteira.spec import find
spec = find("sales")
print(steps.score_from_source(spec, [date.fromisoformat("{NEXT}")], "r"))
print("mlflow" in sys.modules)
"""


def _in_a_process() -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", SCORED], capture_output=True, text=True, timeout=120)


def test_a_day_is_scored_without_mlflow_from_the_copy_of_its_model(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained(own=True)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    steps.score_from_source(spec, [FIRST], "r")  # this machine has read the model once
    with monkeypatch.context() as down:
        down.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert _in_a_process().stdout.splitlines() == ["72 rows read = 72 published + 0 in quarantine", "False"]
        for path in (places.home() / "cache" / "models").iterdir():
            path.write_bytes(path.read_bytes() + b"changed")
        failed = _in_a_process()
        assert failed.returncode
        assert "127.0.0.1" in failed.stderr, "a copy that is not as it was is not loaded, and MLflow is asked"
    again = _in_a_process()
    assert again.stdout.splitlines() == ["72 rows read = 72 published + 0 in quarantine", "True"], again.stderr
