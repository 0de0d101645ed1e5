from __future__ import annotations

import os
import subprocess
from datetime import date
from pathlib import Path

import nbformat
import pytest
from esteira.errors import EsteiraError
from esteira.notebooks import execute, git

DAY = date(2026, 3, 1)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTEIRA_GIT", str(tmp_path / "notebooks"))
    contents = iter(["first", "first", "second", "third"])
    monkeypatch.setattr(execute, "execute", lambda target, parameters: target.write_text(next(contents)))


def log(place: Path) -> list[str]:
    done = subprocess.run(["git", "-C", str(place), "log", "--format=%s"], capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[:-1]


def test_a_notebook_is_committed_once_for_the_same_content(tmp_path: Path) -> None:
    first, again, changed = (git.commit("sales", DAY, {}) for _ in range(3))
    assert first == again != changed
    assert log(tmp_path / "notebooks") == ["sales: retraining of 2026-03-01"] * 2
    assert (tmp_path / "notebooks" / "sales" / "2026-03-01.ipynb").read_text() == "second"


def test_other_changes_in_the_repository_are_left_alone(tmp_path: Path) -> None:
    git.commit("sales", DAY, {})
    (tmp_path / "notebooks" / "mine.txt").write_text("a draft")
    subprocess.run(["git", "-C", str(tmp_path / "notebooks"), "add", "mine.txt"], check=True)
    git.commit("sales", date(2026, 3, 8), {})
    status = subprocess.run(
        ["git", "-C", str(tmp_path / "notebooks"), "status", "--porcelain"], capture_output=True, text=True, check=True
    )
    assert status.stdout == "A  mine.txt\n"


def test_it_is_pushed_where_there_is_a_remote(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "remote.git")], check=True)
    git.commit("sales", DAY, {})
    subprocess.run(
        ["git", "-C", str(tmp_path / "notebooks"), "remote", "add", "origin", str(tmp_path / "remote.git")], check=True
    )
    commit = git.commit("sales", date(2026, 3, 8), {})
    pushed = subprocess.run(
        ["git", "-C", str(tmp_path / "remote.git"), "rev-parse", "main"], capture_output=True, text=True, check=True
    )
    assert pushed.stdout.strip() == commit


def test_a_failed_push_warns_and_blocks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    git.commit("sales", DAY, {})
    subprocess.run(
        ["git", "-C", str(tmp_path / "notebooks"), "remote", "add", "origin", str(tmp_path / "absent.git")], check=True
    )
    assert len(git.commit("sales", date(2026, 3, 8), {})) == 40
    assert "the notebook is committed, but git push failed" in caplog.text


def test_a_lock_that_a_killed_git_left_does_not_stop_the_next(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    git.commit("sales", DAY, {})
    lock = tmp_path / "notebooks" / ".git" / "index.lock"
    lock.touch()
    os.utime(lock, (0, 0))
    assert len(git.commit("sales", date(2026, 3, 8), {})) == 40
    assert "was left by a git that died" in caplog.text


def test_the_same_cells_have_the_same_names(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell("1"), nbformat.v4.new_markdown_cell("x")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "a.ipynb")
    execute._strip(tmp_path / "a.ipynb")
    assert [cell["id"] for cell in nbformat.read(tmp_path / "a.ipynb", as_version=4).cells] == ["cell-0", "cell-1"]


@pytest.mark.parametrize("hook", ["pre-commit", "post-commit", "prepare-commit-msg"])
def test_a_hook_of_the_repository_is_not_run(tmp_path: Path, hook: str) -> None:
    git.commit("sales", DAY, {})
    path = tmp_path / "notebooks" / ".git" / "hooks" / hook
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    path.chmod(0o755)
    git.commit("sales", date(2026, 3, 8), {})
    assert not (tmp_path / "ran").exists()
    assert len(log(tmp_path / "notebooks")) == 2


def test_a_monitor_that_the_repository_names_is_not_run(tmp_path: Path) -> None:
    git.commit("sales", DAY, {})
    monitor = tmp_path / "monitor"
    monitor.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    monitor.chmod(0o755)
    command = ["git", "-C", str(tmp_path / "notebooks")]
    subprocess.run([*command, "config", "core.fsmonitor", str(monitor)], check=True)
    git.commit("sales", date(2026, 3, 8), {})
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("where", ["sales", "sales/2026-03-01.ipynb"])
def test_a_link_in_the_repository_is_not_followed(tmp_path: Path, where: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_text("mine")
    link = tmp_path / "notebooks" / where
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere if where == "sales" else elsewhere / "file")
    with pytest.raises(EsteiraError, match="is a link, and notebooks are not written through links"):
        git.commit("sales", DAY, {})
    assert [path.name for path in elsewhere.iterdir()] == ["file"]
    assert (elsewhere / "file").read_text() == "mine"
