"""What a page is answered where something is wrong: a sentence, and the others go on."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from esteira import views
from esteira.errors import Damaged
from esteira.store import lake
from esteira.views import Condition
from esteira.web import app
from fastapi import HTTPException

from tests import models


def ask(answer: object, **given: object) -> object:
    return asyncio.run(app._alone(answer)(**given))  # type: ignore[arg-type]


def test_whatever_is_wrong_is_said_in_a_sentence() -> None:
    def fail() -> None:
        raise ZeroDivisionError("by nothing")

    with pytest.raises(HTTPException) as found:
        ask(fail)
    assert (found.value.status_code, found.value.detail) == (500, "ZeroDivisionError: by nothing")


def test_an_error_of_ours_is_left_as_it_is() -> None:
    def fail() -> None:
        raise Damaged("the table is gone")

    with pytest.raises(Damaged):
        ask(fail)
    assert app._refused(None, Damaged("the table is gone")).status_code == 422
    assert app._refused(None, OSError("the disk is gone")).status_code == 503


def test_where_mlflow_does_not_answer_the_page_says_so_and_others_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()

    def hang() -> None:
        over.wait(60)

    monkeypatch.setattr(app, "LIMIT", 0.05)
    monkeypatch.setattr(app, "_row", hang)
    try:
        for _ in range(3):  # more than there are threads
            with pytest.raises(HTTPException) as found:
                ask(hang)
            assert found.value.status_code == 503
            assert "has not answered within" in found.value.detail
        assert ask(lambda: "all models") == "all models"
    finally:
        over.set()


def test_what_was_not_read_yet_and_what_has_changed_is_told_as_it_was_where_there_is_no_time(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.write(tmp_path)
    path, named = spec.folder / "model.yaml", {"sales": [spec.folder / "model.yaml"]}
    app._specs.pop(path, None)
    assert app._health(path, named, 0.0) == {
        "model": "sales", "owner": "", "also": [], "trend": [], "drifting": False, **app.UNREAD,
    }  # fmt: skip
    found = app._health(path, named, float("inf"))
    assert (found["condition"], found["old"]) == (Condition.NEW, False)
    assert app._health(path, named, 0.0)["old"] is False, "nothing has changed"
    monkeypatch.setattr(views, "is_read", lambda _: False)
    again = app._health(path, named, 0.0)
    assert (again["condition"], again["old"]) == (Condition.NEW, True)


def test_a_lake_that_is_slow_is_not_taken_for_mlflow() -> None:
    def fail() -> None:
        raise TimeoutError("the bucket does not answer")

    with pytest.raises(TimeoutError, match="the bucket"):
        ask(fail)


def test_a_damaged_table_holds_no_other_model_up_where_there_is_no_time(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.write(tmp_path)
    views.health(spec)

    def damaged(*_: object) -> None:
        raise Damaged("its log is cut off")

    monkeypatch.setattr(lake, "states", damaged)
    assert not views.is_read(spec)
    assert views.as_last_read(spec) is not None
