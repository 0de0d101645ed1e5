"""Pictures of the plugin's pages, of every kind that a user may meet: `make screenshots`.

Two models go through the loop on disk, Airflow's API server shows them, and a browser looks: light and dark, wide and as narrow as a phone, with no
model, one, and 500, an ill one, and a lake that is out of reach.
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from PIL import Image

from ops import serving
from ops.layout import PROJECT
from tests.pictures import mails

if TYPE_CHECKING:
    from playwright.sync_api import Page

AS_OF, LAST = date(2026, 1, 31), date(2026, 3, 8)
WELL, ILL = "toll_traffic", "queue_time"
MANY = 500
MAILS = ("warning", "promotion", "failure")
WIDE, NARROW = (1400, 900), (360, 740)
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
LIMIT = 60_000  # milliseconds


def main() -> int:
    """Write the pictures into a folder, which is its argument."""
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images").resolve()
    place.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="esteira-screenshots-"))
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR", "ESTEIRA_HOME": str(home / "state")}
    logging.disable(logging.CRITICAL)
    try:
        models = home / "models"
        for name in (WELL, ILL):
            shutil.copytree(PROJECT / "include" / "models" / name, models / name)
            _live(name)
        environment = serving.settings(home, models)
        serving.prepare(environment)
        with serving.serving(environment, home / "server.log") as (web, _), _browser(web) as page:
            _all(page, web, place, home)
        for picture in mails.write(home / "mails"):
            if picture.stem.partition("-")[0] in MAILS:
                shutil.copy(picture, place / f"mail-{picture.name}")
        for path in place.glob("*.png"):  # a page has few colours: with a palette a picture is a third as large
            Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)
        return 0
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _live(name: str) -> None:
    from esteira import data, steps
    from esteira import spec as specs

    (Path(os.environ["ESTEIRA_HOME"]) / "mlflow").mkdir(parents=True, exist_ok=True)
    spec = specs.find(name)
    steps.train(spec, AS_OF, f"{name}_train/{AS_OF}")
    days = data.days(AS_OF + timedelta(days=1), LAST)
    steps.extract(spec, days)
    steps.validate(spec, days)
    steps.features(spec, days)
    steps.score(spec, days, f"{name}_score/{LAST}")
    steps.publish(spec, days, f"{name}_score/{LAST}")
    for day in days[6:]:
        steps.check(spec, day, keep_notebook=False)


@contextmanager
def _browser(web: str) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise RuntimeError("no Chromium on this machine; install Debian's package chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
        page.set_default_timeout(LIMIT)
        page.goto(web)
        yield page
        browser.close()


def _all(page: Page, web: str, place: Path, home: Path) -> None:
    row = f"{web}/plugin/esteira/{WELL}"
    for colours in ("light", "dark"):
        page.evaluate(f"localStorage.setItem('theme', '{colours}')")
        for name, path, there in (
            ("card", "", "[data-esteira=card] a[href*=queue_time]"),
            ("models", "plugin/esteira", "[data-esteira=models] tbody tr"),
            ("model", f"plugin/esteira/{WELL}", "[data-esteira=model] canvas"),
            ("ill", f"plugin/esteira/{ILL}", "[data-esteira=model] canvas"),
            ("run", f"dags/{ILL}_check/runs/{_run(web)}/plugin/esteira-run", "[data-esteira=run] h2"),
        ):
            for size, suffix in ((WIDE, ""), (NARROW, "-narrow")):
                page.set_viewport_size({"width": size[0], "height": size[1]})
                page.goto(f"{web}/{path}")
                page.locator(there).first.wait_for()
                _shoot(page, place / f"{name}-{colours}{suffix}.png")
    page.evaluate("localStorage.setItem('theme', 'light')")
    page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    page.goto(f"{row}#rollback")
    page.get_by_role("button", name="Do it").wait_for()
    _shoot(page, place / "rollback.png")
    _explained(page, row)
    _shoot(page, place / "row.png")
    models = home / "models"
    for name, change, there in (
        ("one", lambda: shutil.rmtree(models / ILL), "[data-esteira=models] tbody tr"),
        ("many", lambda: _many(models), "text=of 501"),
        ("error", lambda: _break(home), "tbody >> text=broken"),
        ("empty", lambda: (shutil.rmtree(models), models.mkdir()), "text=No model yet"),
    ):
        change()
        page.goto(f"{web}/plugin/esteira")
        page.locator(there).first.wait_for()
        page.get_by_text("loading", exact=True).first.wait_for(state="detached", timeout=5 * LIMIT)
        _shoot(page, place / f"{name}.png")


def _shoot(page: Page, path: Path) -> None:
    page.screenshot(path=path)
    print(path.name, flush=True)


def _run(web: str) -> str:
    """A run of the ill model's check, which waits, for nothing runs here: what it is about was done."""
    token = httpx.get(f"{web}/auth/token", timeout=60).json()["access_token"]
    run = f"{LAST}__shown"
    answer = httpx.post(
        f"{web}/api/v2/dags/{ILL}_check/dagRuns",
        headers={"Authorization": f"Bearer {token}"},
        json={"logical_date": None, "conf": {"day": str(LAST)}, "dag_run_id": run},
        timeout=60,
    )
    if answer.status_code != httpx.codes.CONFLICT:  # it is there already at the second call
        answer.raise_for_status()
    return run


def _explained(page: Page, row: str) -> None:
    page.goto(row)
    page.get_by_label("plaza", exact=True).fill("P01")
    page.get_by_label("at", exact=True).fill("2026-02-20 08:00:00")
    page.get_by_label("Day").nth(1).fill("2026-02-20")
    page.get_by_role("button", name="Explain a row").click()
    page.get_by_text("served first").wait_for()


def _many(models: Path) -> None:
    """Copies of one, which have no tables yet but for a third of them."""
    lake = models.parent / "state" / "lake"
    for number in range(MANY):
        name = f"model_{number:03}"
        shutil.copytree(models / WELL, models / name)
        text = (models / name / "model.yaml").read_text()
        (models / name / "model.yaml").write_text(text.replace(f"name: {WELL}", f"name: {name}"))
        if number % 3 == 0:
            for table in lake.glob(f"*/{WELL}"):
                shutil.copytree(table, table.with_name(name), copy_function=os.link)


def _break(home: Path) -> None:
    """The ledger of one is damaged, and another one's model.yaml is wrong."""
    log = sorted((home / "state" / "lake" / "ledger" / WELL / "_delta_log").glob("*.json"))[-1]
    log.unlink()
    log.write_text("{")
    path = home / "models" / "model_001" / "model.yaml"
    path.write_text(path.read_text().replace("task: regression", "task: regresion"))


if __name__ == "__main__":
    sys.exit(main())
