"""The plugin's pages in a real browser: what they show, that they ask no other host, and what a user may start from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from axe_playwright_python.sync_playwright import Axe
from esteira import spec as specs
from esteira import views
from esteira.__main__ import app
from esteira.store import lake
from typer.testing import CliRunner

from ops.api import Airflow
from ops.stack import Stack
from tests.e2e import browser
from tests.models import AS_OF

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(600)]

MODEL, LAST = "toll_traffic", "2026-03-01"
SLOW = 60_000  # milliseconds


@pytest.fixture(scope="module")
def check_run(stack: Stack, airflow: Airflow) -> str:
    """The run of a check that has promoted, of the model that the pages show."""
    for kind, conf in (
        ("train", {"day": str(AS_OF)}),
        ("score", {"day": "2026-02-01", "last_day": LAST, "check": False}),
        ("check", {"day": LAST}),
    ):
        airflow.unpause(f"{MODEL}_{kind}")
        run = airflow.trigger(f"{MODEL}_{kind}", **conf)
        assert airflow.wait(f"{MODEL}_{kind}", run) == "success", kind
    return run


@pytest.fixture
def page(stack: Stack, check_run: str) -> Iterator[Any]:
    """A page of the user admin."""
    with _signed_in(stack, "admin") as page:
        yield page


OWN_WORKER = "Creating a worker from 'blob:"  # an editor of Airflow's, which a strict policy keeps from starting


@contextmanager
def _signed_in(stack: Stack, user: str) -> Iterator[Any]:
    """A signed-in page; at its end nothing may have been wrong in it, and no other host asked."""
    chromium = browser.found()
    if not chromium:
        pytest.skip("no Chromium on this machine; install Debian's package chromium to run the browser tests")
    wrong: list[str] = []
    password = json.loads((stack.home / "airflow-users.json").read_text())[user]
    with browser.signed_in(chromium, stack.web, password, user) as page:
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on("request", lambda asked: wrong.append(asked.url) if not _is_own(asked.url, stack.web) else None)
        yield page
    assert [each for each in wrong if not each.startswith(OWN_WORKER)] == []


def _is_own(url: str, web: str) -> bool:
    return url.startswith((f"{web}/", "data:", f"blob:{web}/"))


def test_the_first_page_has_a_card_of_the_models_which_leads_to_all(page: Any, stack: Stack, screenshots: Path) -> None:
    page.goto(stack.web)
    page.get_by_role("link", name="All models").wait_for(timeout=SLOW)
    page.get_by_role("link", name="broken", exact=True).wait_for(timeout=SLOW)
    page.screenshot(path=screenshots / "card.png")
    page.get_by_role("link", name="All models").click()
    page.get_by_role("heading", name="Models").wait_for(timeout=SLOW)
    assert page.url.endswith("/plugin/esteira")


def test_all_models_the_worst_first_and_a_search(page: Any, stack: Stack, screenshots: Path) -> None:
    page.goto(f"{stack.web}/plugin/esteira")
    rows = page.locator("table tbody tr")
    rows.first.wait_for(timeout=SLOW)
    shown = rows.all_inner_texts()
    assert shown[0].startswith("broken"), "its model.yaml is wrong, and the row says so"
    assert "model.yaml" in shown[0], "and why"
    assert any(MODEL in each for each in shown)
    page.screenshot(path=screenshots / "models.png")
    page.get_by_label("Search").fill("toll_tr")
    assert rows.count() == 1
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    lines = Path(download.value.path()).read_text().splitlines()
    assert lines[0].startswith("Model,State,Metric")
    assert lines[1].startswith(f'{MODEL},"late; recovered, not verified yet",0.')  # its days are of the past
    page.get_by_role("link", name=MODEL).click()
    page.get_by_role("heading", name=MODEL, exact=True).wait_for(timeout=SLOW)


def test_the_page_of_a_model(page: Any, stack: Stack, screenshots: Path) -> None:
    page.goto(f"{stack.web}/dags/{MODEL}_check/plugin/esteira-model")
    page.locator(".uplot canvas").first.wait_for(timeout=SLOW)
    for title in (
        "Drift by feature and week (PSI)",
        "Versions",
        "Attempts",
        "What happened",
        "Quarantine",
        "Mails",
        "Labels",
        "Tables",
    ):
        assert page.get_by_role("heading", name=title).is_visible(), title
    page.screenshot(path=screenshots / "model.png", full_page=True)
    page.get_by_text("Windows", exact=True).first.click()
    windows = page.locator("details", has=page.get_by_text("Windows", exact=True)).first
    assert windows.get_by_text("out of range", exact=True).count() == 2
    run = page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first
    assert "workflowType=machine_learning" in run.get_attribute("href")


def test_a_run_in_words_and_its_note(
    page: Any, stack: Stack, airflow: Airflow, check_run: str, screenshots: Path
) -> None:
    note = airflow.call("GET", f"/dags/{MODEL}_check/dagRuns/{check_run}")["note"]
    assert note.startswith(f"check {LAST}: promoted version 4, mae_over_mean ")
    page.goto(f"{stack.web}/dags/{MODEL}_check/runs/{check_run}/plugin/esteira-run")
    page.get_by_role("heading", name=note).wait_for(timeout=SLOW)
    assert page.get_by_text(re.compile("^Attempt 2 is back in range")).is_visible()
    page.screenshot(path=screenshots / "run.png")


def test_a_row_is_explained(page: Any, stack: Stack, screenshots: Path) -> None:
    page.goto(f"{stack.web}/plugin/esteira/{MODEL}")
    page.get_by_label("plaza", exact=True).fill("P01", timeout=SLOW)
    page.get_by_label("at", exact=True).fill("2026-02-20 08:00:00")
    page.get_by_label("Day").nth(1).fill("2026-02-20")
    page.get_by_role("button", name="Explain a row").click()
    page.get_by_text("served first").wait_for(timeout=SLOW)
    assert page.get_by_text("mean of the four weeks before").is_visible()
    page.screenshot(path=screenshots / "row.png")


def test_a_check_and_a_roll_back_are_started_and_say_who_did(
    page: Any, stack: Stack, airflow: Airflow, screenshots: Path
) -> None:
    page.goto(f"{stack.web}/plugin/esteira/{MODEL}")
    page.get_by_label("Day").first.fill("2026-02-07", timeout=SLOW)
    page.get_by_role("button", name="Check now").click()
    link = page.get_by_role("status").get_by_role("link")
    link.wait_for(timeout=SLOW)
    run = link.get_attribute("href").rpartition("/")[2]
    assert airflow.wait(f"{MODEL}_check", run) == "success"
    page.get_by_role("button", name="Roll back", exact=True).click()
    page.get_by_text("version 2 becomes the champion in place of version 4").wait_for(timeout=SLOW)
    page.screenshot(path=screenshots / "rollback.png")
    page.get_by_label("Reason").fill("a look at <b>it</b>")
    page.get_by_role("button", name="Do it").click()
    link = page.get_by_role("status").get_by_role("link", name="esteira_rollback")
    link.wait_for(timeout=SLOW)
    assert airflow.wait("esteira_rollback", link.get_attribute("href").rpartition("/")[2]) == "success"
    page.goto(f"{stack.web}/plugin/esteira/{MODEL}")
    said = page.get_by_text("rolled back from version 4: a look at <b>it</b>").first
    said.wait_for(timeout=SLOW)
    assert page.locator("tr", has=said).get_by_text("admin", exact=True).count() == 1
    page.get_by_role("button", name="Undo the roll-back").click()
    page.get_by_text("version 4 becomes the champion in place of version 2").wait_for(timeout=SLOW)
    page.get_by_role("button", name="Do it").click()
    link.wait_for(timeout=SLOW)
    assert airflow.wait("esteira_rollback", link.get_attribute("href").rpartition("/")[2]) == "success"


def test_the_pages_speak_portuguese_where_airflow_does(page: Any, stack: Stack, screenshots: Path) -> None:
    page.goto(stack.web)
    page.evaluate("localStorage.setItem('i18nextLng', 'pt')")
    page.goto(f"{stack.web}/plugin/esteira")
    page.get_by_role("heading", name="Modelos").wait_for(timeout=SLOW)
    state = page.locator("table").get_by_text("recuperado, ainda não verificado").first
    state.wait_for(timeout=SLOW)
    assert page.locator("thead").inner_text().split("\n")[0].startswith("Modelo")
    page.screenshot(path=screenshots / "models-pt.png")
    page.evaluate("localStorage.setItem('i18nextLng', 'en')")


def test_they_work_where_a_proxy_allows_scripts_of_the_same_host_only(page: Any, stack: Stack) -> None:
    def strict(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, headers={**answer.headers, "content-security-policy": "script-src 'self'"})

    page.route(lambda url: url.startswith(f"{stack.web}/plugin/"), strict)
    page.goto(f"{stack.web}/plugin/esteira/{MODEL}")
    page.locator(".uplot canvas").first.wait_for(timeout=SLOW)
    assert page.get_by_role("heading", name=MODEL, exact=True).is_visible()


def test_a_viewer_sees_all_and_may_start_nothing(stack: Stack, check_run: str, screenshots: Path) -> None:
    with _signed_in(stack, "viewer") as page:
        page.goto(f"{stack.web}/plugin/esteira/{MODEL}#rollback")
        page.get_by_text("With your role you may look, and start nothing here.").wait_for(timeout=SLOW)
        for name in ("Check now", "Score again", "Roll back", "Undo the roll-back"):
            assert page.get_by_role("button", name=name, exact=True).count() == 0, name
        page.screenshot(path=screenshots / "viewer.png")
        path = f"{stack.web}/api/v2/dags/esteira_rollback/dagRuns"
        assert page.request.post(path, data={"logical_date": None}).status == 403, "the page is not what guards it"
        assert page.request.get(f"{stack.web}/esteira/models/{MODEL}_check/rollback").status == 403


def test_an_operator_rolls_back_and_undoes_it_and_the_tables_follow(
    stack: Stack, airflow: Airflow, check_run: str
) -> None:
    published = _published()
    with _signed_in(stack, "operator") as page:
        page.goto(f"{stack.web}/plugin/esteira/{MODEL}#rollback")  # where a mail's link leads
        page.get_by_text("version 2 becomes the champion in place of version 4").wait_for(timeout=SLOW)
        page.get_by_role("button", name="Do it").click()
        _await_rollback(page, airflow)
        assert set(_published()["version"]) == {2}, "the bad one's predictions are replaced"
        page.get_by_role("button", name="Undo the roll-back").click()
        page.get_by_role("button", name="Do it").click()
        _await_rollback(page, airflow)
    assert _published().equals(published)


def test_an_operator_scores_a_range_again(stack: Stack, airflow: Airflow, check_run: str) -> None:
    published, dag = _published(), f"{MODEL}_score"
    with _signed_in(stack, "operator") as page:
        page.goto(f"{stack.web}/plugin/esteira/{MODEL}")
        page.get_by_label("Day").first.fill("2026-02-26", timeout=SLOW)
        page.get_by_label("until", exact=True).fill("2026-02-27")
        page.get_by_role("button", name="Score again").click()
        link = page.get_by_role("status").get_by_role("link", name=dag)
        link.wait_for(timeout=SLOW)
        run = unquote(link.get_attribute("href").rpartition("/")[2])
        assert airflow.wait(dag, run) == "success"
        asked = page.request.get(f"{stack.web}/api/v2/dags/{dag}/dagRuns/{run}").json()["conf"]
    assert (asked["day"], asked["last_day"]) == ("2026-02-26", "2026-02-27")
    assert _published().equals(published)


def _await_rollback(page: Any, airflow: Airflow) -> None:
    link = page.get_by_role("status").get_by_role("link", name="esteira_rollback")
    link.wait_for(timeout=SLOW)
    run = link.get_attribute("href").rpartition("/")[2]
    assert airflow.wait("esteira_rollback", unquote(run)) == "success"
    page.reload()


def _published() -> Any:
    """What is published, but for by which run."""
    rows = lake.read("predictions", MODEL, day=(date(2026, 2, 1), date.fromisoformat(LAST)))
    columns = ["day", "plaza", "at", "prediction", "version"]
    return rows[columns].sort_values(columns[:3]).reset_index(drop=True)


@pytest.mark.parametrize("width", [1500, 360])
@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("path", ["plugin/esteira", f"plugin/esteira/{MODEL}"])
def test_nobody_is_shut_out(page: Any, stack: Stack, path: str, width: int, colours: str, screenshots: Path) -> None:
    """What axe finds serious in our part of the page, and nothing is wider than the screen but tables that scroll by themselves."""
    page.goto(stack.web)
    page.evaluate(f"localStorage.setItem('theme', '{colours}')")
    page.set_viewport_size({"width": width, "height": 800})
    page.goto(f"{stack.web}/{path}")
    page.get_by_role("button", name="CSV").first.wait_for(timeout=SLOW)
    page.screenshot(path=screenshots / f"{path.rpartition('/')[2]}-{width}-{colours}.png", full_page=True)
    found = Axe().run(page, context="[data-esteira]", options={"resultTypes": ["violations"]})
    serious = [each for each in found.response["violations"] if each["impact"] in ("serious", "critical")]
    assert [(each["id"], each["nodes"][0]["html"][:200], each["nodes"][0]["failureSummary"]) for each in serious] == []
    wide = "[...document.querySelectorAll('[data-esteira]')].some((each) => each.scrollWidth > each.clientWidth + 1)"
    assert not page.evaluate(wide), "only tables and plots scroll sideways, by themselves"


def test_by_keyboard_alone_from_the_first_page_to_an_ill_model(page: Any, stack: Stack) -> None:
    page.goto(stack.web)
    link = page.locator("[data-esteira]").get_by_role("link", name=MODEL)
    link.wait_for(timeout=SLOW)
    for _ in range(200):
        page.keyboard.press("Tab")
        if link.evaluate("(each) => each === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=MODEL, exact=True).wait_for(timeout=SLOW)
    assert page.url.endswith(f"/plugin/esteira/{MODEL}")


def test_twelve_questions_have_an_answer_in_two_clicks_and_in_one_command(
    page: Any, stack: Stack, check_run: str
) -> None:
    """The questions of who is on call; answers are those of the tables."""

    def opened(*clicks: str) -> Any:
        page.goto(stack.web)
        for name in ("card", *clicks):
            if name == "model":
                page.locator("[data-esteira=card]").get_by_role("link", name=MODEL).click(timeout=SLOW)
                page.locator(".uplot canvas").first.wait_for(timeout=SLOW)
            elif name != "card":
                page.locator("[data-esteira=model]").get_by_role("button", name=name, exact=True).click()
        return page.locator(f"[data-esteira={'model' if clicks else 'card'}]")

    def section(of: Any, title: str) -> str:
        text: str = of.locator("section", has=page.get_by_role("heading", name=title, exact=True)).inner_text()
        return text

    def said(*words: str) -> str:
        done = CliRunner().invoke(app, [*words])
        assert done.exit_code == 0, done.output
        return done.stdout

    spec = specs.find(MODEL)
    windows = views.windows(spec)
    check = views.check(spec, date.fromisoformat(LAST))
    best = check.attempts[2]
    card = opened()
    card.get_by_text(MODEL).wait_for(timeout=SLOW)
    assert "late" in card.inner_text(), "which models are ill, the worst first?"
    rows = [line.split()[:2] for line in said("status").splitlines()[1:]]
    assert rows[0] == ["broken", "broken"]
    assert [MODEL, "late;"] in rows[1:4], "beside those that other tests have left late"
    model = opened("model")
    assert "2026-02-01 – 2026-03-01" in section(model, "Versions"), "which version served yesterday, and why?"
    assert "was to be served by version 2" in said("history", MODEL, "--at", "2026-02-20")
    page.get_by_text("Windows", exact=True).first.click()
    for each in windows:  # the metric of the last eight weeks against its range?
        assert f"{each.value:.4g}" in model.inner_text()
        assert f"{each.value:.4g}" in said("metrics", MODEL)
    for of in (section(model, "Attempts"), said("attempts", MODEL)):  # what was tried, and what came of it?
        assert "recovers" in of
        assert f"{best.gain:.4g}" in of
    assert "100%" in section(model, "Labels"), "are labels late?"
    assert "100%" in said("labels", MODEL)
    assert "nothing" in section(model, "Quarantine"), "how many rows are in quarantine, by rule?"
    assert re.fullmatch(r"nothing from \S+ to \S+; --weeks looks further back\n", said("quarantine", MODEL))
    assert check_run in section(model, "Runs"), "what ran, and how long?"
    assert f"check:{LAST}" in section(model, "Versions"), "who promoted it, on what evidence?"
    assert f"check:{LAST}" in said("versions", MODEL)
    rows = len(lake.read("served", MODEL, columns=["day"]))
    assert f"{rows:,}" in section(model, "Tables"), "how much disk does it cost?"
    assert str(rows) in said("tables", MODEL)
    page.get_by_role("button", name="Explain a row").click()
    page.locator("[data-esteira=model]").get_by_role("button", name="Explain", exact=True).first.click(timeout=SLOW)
    page.get_by_text("mean of the four weeks before").wait_for(timeout=SLOW)
    assert "adds" in said("explain", MODEL, "--day", LAST, "--key", "plaza=P01", "--key", f"at={LAST} 08:00:00")
    opened("model", "Roll back").get_by_text("version 2 becomes the champion").wait_for(timeout=SLOW)  # is it safe?
    assert "version 2 becomes the champion" in said("rollback", MODEL, "--dry-run")
    opened("model").get_by_role("link", name=LAST).first.click()  # why did the metric move?
    page.get_by_role("heading", name="Why it may have moved").wait_for(timeout=SLOW)
    assert "No input moved" in page.locator("[data-esteira=run]").inner_text()
    assert "No input moved" in said("why", MODEL)
