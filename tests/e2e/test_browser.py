"""Airflow's pages in a real browser: log in, the grid and graph of the three DAGs, the trigger form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.api import Airflow
from ops.stack import Stack
from tests.e2e import browser
from tests.models import AS_OF

pytestmark = [pytest.mark.live, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def page(stack: Stack, airflow: Airflow) -> Iterator[object]:
    """A logged-in browser page."""
    chromium = browser.found()
    if not chromium:
        pytest.skip("no Chromium on this machine; install Debian's package chromium to run the browser tests")
    with browser.signed_in(chromium, stack.web, stack.password.read_text()) as page:
        yield page


@pytest.mark.parametrize("kind", ["train", "score", "check"])
def test_grid_and_graph(page, stack: Stack, airflow: Airflow, screenshots: Path, kind: str) -> None:
    conf = {
        "train": {"day": str(AS_OF)},
        "score": {"day": "2026-02-01", "last_day": "2026-02-08", "check": False},
        "check": {"day": "2026-02-08"},
    }[kind]
    dag_id = f"toll_traffic_{kind}"
    airflow.unpause(dag_id)
    run_id = airflow.trigger(dag_id, **conf)
    assert airflow.wait(dag_id, run_id) == "success"
    page.goto(f"{stack.web}/dags/toll_traffic_{kind}/runs/{run_id}")
    last = {"train": "promote", "score": "publish", "check": "decide"}[kind]
    page.get_by_label(re.compile("Show Grid")).click()
    page.get_by_text(last, exact=True).first.wait_for(timeout=30_000)
    page.screenshot(path=screenshots / f"{kind}-grid.png")
    page.get_by_label(re.compile("Show Graph")).click()
    nodes = page.locator(".react-flow__node")
    nodes.filter(has_text=last).first.wait_for(timeout=30_000)
    page.wait_for_timeout(1500)  # the graph glides into its place; only the picture waits for it
    page.screenshot(path=screenshots / f"{kind}-graph.png")
    assert nodes.count() >= {"train": 9, "score": 2, "check": 10}[kind]


def test_the_trigger_form_shows_every_param(page, stack: Stack, screenshots: Path) -> None:
    page.goto(f"{stack.web}/dags/toll_traffic_train")
    page.get_by_role("button", name=re.compile("^Trigger", re.I)).first.click()
    for title in ("As-of day", "Window", "Candidates", "Promote"):
        field = page.get_by_text(re.compile(f"^{title}")).first
        field.wait_for(timeout=30_000)
        assert field.is_visible(), title
    page.screenshot(path=screenshots / "trigger-form.png")


def test_the_broken_model_is_told_on_the_first_page(page, stack: Stack, screenshots: Path) -> None:
    page.goto(f"{stack.web}/")
    page.get_by_text(re.compile("import error", re.I)).first.click(timeout=30_000)
    shown = page.get_by_text(re.compile("broken_models.py")).first
    shown.wait_for(timeout=30_000)
    assert shown.is_visible()
    page.screenshot(path=screenshots / "import-error.png")
