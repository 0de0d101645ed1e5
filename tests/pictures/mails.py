"""What each mail looks like, as pages and as pictures: `make mails`.

Two models go through the loop in memory, and of what happened mails are made as they would be. What the others tell of (drift, failures, a
worse version) is made up. A picture is as wide as a phone, in dark, and as a desk, in light.
"""

from __future__ import annotations

import base64
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from esteira import spec as specs
    from esteira import views
    from esteira.store.outbox import Mail

AS_OF, LAST = date(2026, 1, 31), date(2026, 3, 1)
RUN = "http://127.0.0.1:8080/dags/{model}_{kind}/runs/2026-03-01"
LOOKS = {"phone-dark": (360, "dark"), "desk-light": (700, "light")}
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")


def main() -> int:
    """Write all of them into a folder, which is its argument."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".esteira/mails").resolve()
    written = write(folder)
    print(f"in {folder}")
    if not written:
        print("no Chromium on this machine, so no pictures; install Debian's package chromium", file=sys.stderr)
    return 0 if written else 1


def write(folder: Path) -> list[Path]:
    """Each mail as a page, as text, and as pictures, of which the paths are returned; none without a browser."""
    folder.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)
    os.environ |= {"OMP_NUM_THREADS": "1", "MLFLOW_LOGGING_LEVEL": "ERROR"}
    from esteira.notify import picture, rendering

    pages = []
    for name, mail in _mails():
        drawn = picture.drawn(mail.weeks) if mail.weeks and mail.weeks.windows else b""
        source = f"data:image/png;base64,{base64.b64encode(drawn).decode()}" if drawn else ""
        page = folder / f"{name}.html"
        page.write_text(rendering.html(mail, source), encoding="utf-8")
        page.with_suffix(".txt").write_text(f"Subject: {mail.subject}\n\n{rendering.text(mail)}", encoding="utf-8")
        pages.append(page)
        print(f"{name:<16} {mail.subject}", flush=True)
    return list(_photographed(pages))


def _mails() -> Iterator[tuple[str, Mail]]:
    from esteira import spec as specs
    from esteira import views
    from esteira.lifecycle.events import Drifted, Verified, run_key
    from esteira.notify import messages
    from esteira.steps import alerting
    from esteira.store import lake, runs
    from esteira.store.measurements import Explanation, FeatureDrift, Moved
    from esteira.store.memory import MemoryLake
    from esteira.store.memory_tracking import MemoryTracking

    os.environ["ESTEIRA_HOME"] = tempfile.mkdtemp(prefix="esteira-mails-")
    with lake.using(MemoryLake()), runs.using(MemoryTracking()):
        bad, good = specs.find("queue_time"), specs.find("toll_traffic")
        warning = _loop(bad)
        if warning is None:
            raise RuntimeError("the check of queue_time has not warned")
        yield "warning", warning
        _loop(good)
        run = RUN.format(model=good.name, kind="check")
        promoted = alerting.queue_promotion_mail(good, LAST, run_key(LAST), run)
        if promoted is None:
            raise RuntimeError("the check of toll_traffic has not promoted")
        yield "promotion", promoted
        found = views.check(bad, LAST)
        moved = tuple(
            Moved(each.feature, 0.4 - 0.1 * place, 0.5 - 0.2 * place) for place, each in enumerate(found.drifts)
        )
        drifts = tuple(FeatureDrift(each.feature, each.value, drifted=True) for each in moved)
        found = replace(found, drifts=drifts, explanation=Explanation(moved))
        drifted = Drifted(version=1, last=LAST, day=LAST, by="check", why=messages.drift_why(drifts))
        run = RUN.format(model=bad.name, kind="check")
        yield "drift", alerting.with_weeks(bad, LAST, messages.drift(bad, found, drifted, run))
        why = "version 4 reached 0.31 in its first window, and version 2 would have reached 0.24: worse by 0.07 (0.02 to 0.11)"
        worse = Verified(promotion=4, version=4, replaced=2, worse=True, day=LAST, by="check", why=why)
        yield "worse", alerting.with_weeks(good, LAST, messages.worse(good, LAST, worse, run))
        waits = messages.waits(
            bad, LAST, LAST - timedelta(days=35), "only 3 of 7 days have labels", LAST - timedelta(days=40), None, run
        )
        yield "waits", alerting.with_weeks(bad, LAST, waits)
        run, name, began = (
            RUN.format(model=good.name, kind="score"),
            f"{good.name}_score/2026-03-01",
            datetime(2026, 3, 2, 6, tzinfo=UTC),
        )
        error = ValueError(
            "source tolls.csv: column axles has 'three' in 12 rows; allowed: whole numbers. Mend the source, or declare the column as text"
        )
        yield "late", messages.late(good, [LAST], name, "running", "2026-03-02 12:00 UTC", run)
        yield "failure", messages.failure(good, "validate", name, began, error, run, 0, (LAST, LAST))
        rows = [["score", "failed", "4", "2026-03-02 06:10"]]
        yield "killed", messages.unreported(good, name, began, rows, [("The run in Airflow", run)])
        yield (
            "hangs",
            messages.stuck(good, name, [["extract", "queued", "1", "2026-03-02 06:10"]], [("The run in Airflow", run)]),
        )
        yield (
            "left-behind",
            messages.left_behind(good, {LAST: "its features were erased, and the source has that day no more"}, run),
        )
        yield "not-reconciled", messages.not_reconciled(good, LAST, error, run)
        yield "recovery", _recovery(good, views.check(good, LAST))
        yield "refused", messages.refused(good, promoted, "ops@example.com", "550 no such user")


def _recovery(spec: specs.ModelSpec, found: views.Check) -> Mail:
    """Of a week that this model has not had."""
    from esteira.lifecycle.events import Recovered, Warned
    from esteira.notify import messages
    from esteira.steps import alerting

    last, day, metric = found.windows[-1].last + timedelta(days=7), LAST + timedelta(days=7), spec.check.metric
    reached = replace(found.windows[-1].metrics[metric], value=0.1, beyond=-0.08)
    window = replace(found.windows[-1], first=last - timedelta(days=6), last=last, metrics={metric: reached})
    warned = Warned(version=2, last=LAST - timedelta(days=1), day=LAST, by="check", why="out of range")
    back = Recovered(version=4, last=last, day=day, by="check", why="in range")
    run = RUN.format(model=spec.name, kind="check")
    mail = alerting.with_weeks(
        spec, day, messages.recovered(spec, day, warned, back, replace(found, windows=(*found.windows, window)), run)
    )
    assert mail.weeks is not None
    return replace(
        mail, weeks=replace(mail.weeks, windows=(*mail.weeks.windows, (str(last), reached.value, back.version)))
    )


def _loop(spec: specs.ModelSpec) -> Mail | None:
    """A model's first days, and the check of the last one."""
    from esteira import data, steps

    steps.train(spec, AS_OF, "mails")
    days = data.days(AS_OF + timedelta(days=1), LAST)
    steps.extract(spec, days)
    steps.validate(spec, days)
    steps.features(spec, days)
    steps.score(spec, days, "mails")
    steps.publish(spec, days, "mails")
    for day in (day for day in days if (day - AS_OF).days % 7 == 1 and day < LAST):
        steps.check(spec, day, keep_notebook=False)
    return steps.check(spec, LAST, keep_notebook=False).warning


def _photographed(pages: list[Path]) -> Iterator[Path]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        for look, (width, colours) in LOOKS.items():
            view = browser.new_page(viewport={"width": width, "height": 400}, color_scheme=colours, offline=True)
            for page in pages:
                view.goto(page.as_uri())
                if view.evaluate("document.documentElement.scrollWidth") > width:
                    raise RuntimeError(f"{page.name} is wider than {width} pixels")
                picture = page.with_name(f"{page.stem}-{look}.png")
                view.screenshot(path=picture, full_page=True)
                yield picture
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
