"""The demo: two simulated models are trained, scored, checked and, after the world changes, retrained, on a real Airflow.

One of them (toll_traffic) recovers by its second attempt; the other (queue_time) can't, and ends in a warning by e-mail.
Everything goes through Airflow's REST API, as a person's clicks in the web UI would.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from esteira.settings import isolate
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from ops import stack as stacks
from ops.api import Airflow, RunTimeout
from ops.layout import PROJECT, Stack
from ops.progress import heartbeat

MODELS = ("toll_traffic", "queue_time")
AS_OF = date(2026, 1, 31)
HEALTHY = (date(2026, 2, 1), date(2026, 2, 14))
CHANGED = (date(2026, 2, 15), date(2026, 3, 1))
WORLD = {"toll_traffic": "a parallel motorway opens", "queue_time": "the sensors fail: readings turn to noise"}


@dataclass
class Story:
    """What happened so far, and what should have and did not."""

    airflow: Airflow
    progress: Progress
    rows: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def run(self, title: str, kind: str, **conf: object) -> dict[str, str]:
        """Run a DAG of both models at once and wait; returns the runs by model."""
        with self.step(title):
            runs = {model: self.airflow.trigger(f"{model}_{kind}", **conf) for model in MODELS}
            for model, run_id in runs.items():
                state = self.airflow.wait(f"{model}_{kind}", run_id, seconds=240)
                self.expect(state == "success", f"{title}: {model}_{kind} ended as {state}, not success")
        return runs

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show that something goes on: a spinner on a terminal, lines elsewhere."""
        if not self.progress.console.is_terminal:
            with heartbeat(title):
                yield
            return
        task = self.progress.add_task(title, total=None)
        yield
        self.progress.update(task, total=1, completed=1, description=f"{title} [green]done")

    def expect(self, held: bool, otherwise: str) -> None:
        """Note what should be so and is not."""
        if not held:
            self.broken.append(otherwise)

    def tell(self, day: date, model: str, what: str) -> None:
        """Add a row to the summary: what happened, the version that serves next, the metric of the latest window."""
        from esteira import spec as specs
        from esteira import views

        found = views.status(specs.find(model))
        now, last = found.champion, found.last_window
        metric = f"{found.metric} {last.value:.3f}" if last else "-"
        self.rows.append((str(day), model, what, f"v{now.version}" if now else "none", metric))


def main() -> int:
    """Run the demo; 0 if the whole story happened."""
    console = Console()
    # A folder, models and tables of its own: what the demo deletes at its start is never anything else.
    home = Path(os.environ.get("ESTEIRA_HOME") or PROJECT / ".esteira").absolute() / "demo"
    isolate(home, ESTEIRA_MODELS=str(PROJECT / "include" / "models"))
    stack = Stack.from_environment()
    began = time.monotonic()
    if stacks.is_up(stack):
        with heartbeat("stopping the demo that is up"):
            stacks.down(stack)
    shutil.rmtree(stack.home, ignore_errors=True)
    stacks.up(stack)
    os.environ["MLFLOW_TRACKING_URI"] = stack.mlflow
    airflow = Airflow(stack.web, "admin", stack.password.read_text())
    with Progress(SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(), console=console) as progress:
        story = Story(airflow, progress)
        try:
            for step in (_ready, _train, _healthy, _change, _aftermath):
                if not story.broken:
                    step(story)
            if not story.broken:
                _warned(story, stack)
        except RunTimeout as error:
            story.broken.append(str(error))
    _summary(console, story, stack, time.monotonic() - began)
    return 1 if story.broken else 0


def _ready(story: Story) -> None:
    dag_ids = [f"{model}_{kind}" for model in MODELS for kind in ("train", "score", "check")]
    with story.step("wait until Airflow has read the models"):
        story.airflow.wait_for_dags(dag_ids)
        for dag_id in dag_ids:
            story.airflow.unpause(dag_id)


def _train(story: Story) -> None:
    story.run(f"train both models as of {AS_OF}", "train", day=str(AS_OF))
    for model in MODELS:
        story.tell(AS_OF, model, "trained; better than the naive baseline, promoted")


def _score(story: Story, days: tuple[date, date], title: str) -> None:
    story.run(title, "score", day=str(days[0]), last_day=str(days[1]), check=False)


def _healthy(story: Story) -> None:
    _score(story, HEALTHY, f"score two weeks, {HEALTHY[0]} to {HEALTHY[1]}")
    runs = story.run(f"check {HEALTHY[1]}", "check", day=str(HEALTHY[1]))
    for model, run_id in runs.items():
        tasks = story.airflow.tasks(f"{model}_check", run_id)
        story.expect(tasks["keep"] == "success", f"the check of {model} on {HEALTHY[1]} should have found it healthy")
        story.tell(HEALTHY[1], model, "checked: in range, nothing to do")


def _change(story: Story) -> None:
    _score(story, CHANGED, f"the world changes; score {CHANGED[0]} to {CHANGED[1]}")
    for model in MODELS:
        story.rows.append((str(CHANGED[0]), model, WORLD[model], "", ""))


def _aftermath(story: Story) -> None:
    day = CHANGED[1]
    runs = story.run(f"check {day}: retrain up to three times", "check", day=str(day))
    traffic = story.airflow.tasks("toll_traffic_check", runs["toll_traffic"])
    _expect_states(
        story,
        "toll_traffic",
        traffic,
        success=("attempt_1.recheck", "attempt_2.recheck", "promote", "rescore"),
        skipped=("attempt_3.retrain", "warn"),
    )
    queue = story.airflow.tasks("queue_time_check", runs["queue_time"])
    _expect_states(story, "queue_time", queue, success=("attempt_3.recheck", "warn"), skipped=("promote", "keep"))
    if not story.broken:
        story.tell(
            day,
            "toll_traffic",
            "out of range; attempt 1 did not bring it back, attempt 2 did: promoted, days scored again",
        )
        story.tell(day, "queue_time", "out of range; three attempts failed: champion kept, warning mailed")
        _expect_versions(story)


def _expect_states(
    story: Story, model: str, tasks: dict[str, str | None], success: tuple[str, ...], skipped: tuple[str, ...]
) -> None:
    for state, names in (("success", success), ("skipped", skipped)):
        for name in names:
            story.expect(tasks[name] == state, f"the check of {model}: {name} is {tasks[name]}, not {state}")


def _expect_versions(story: Story) -> None:
    from esteira import spec as specs
    from esteira.store import lake
    from esteira.store.ledger import champion

    # Of each training there are two: as it was measured, and refitted, which serves.
    for model, version in (("toll_traffic", 4), ("queue_time", 2)):
        now = champion(specs.find(model))
        story.expect(now is not None and now.version == version, f"{model}: version {version} should serve, not {now}")
    again = lake.read("predictions", "toll_traffic", columns=["version"], day=CHANGED)
    story.expect(
        set(again["version"]) == {3, 4},
        "toll_traffic: the days since the change should be scored by version 4, and those that it has seen by version 3",
    )
    first = lake.read("served", "toll_traffic", columns=["version"], day=CHANGED)
    story.expect(set(first["version"]) == {2}, "toll_traffic: what was served first should have stayed")


def _warned(story: Story, stack: Stack) -> None:
    def arrived() -> bool:
        return any("queue_time" in mail.name and "did-not-help" in mail.name for mail in stack.mails.glob("*.eml"))

    with story.step("wait for the warning e-mail"):
        story.airflow.until(arrived, 20, "the warning e-mail")


def _summary(console: Console, story: Story, stack: Stack, seconds: float) -> None:
    table = Table(title="What happened", title_justify="left")
    for name in ("day", "model", "what", "serves next", "last whole window"):
        table.add_column(name, overflow="fold")
    for row in story.rows:
        table.add_row(*row)
    console.print(table)
    for problem in story.broken:
        console.print(f"[red]did not happen:[/red] {problem}", soft_wrap=True)
    mail = next(iter(sorted(stack.mails.glob("*did-not-help.html"))), None)
    console.print(f"{seconds:.0f} s. Now look:", soft_wrap=True)
    places: dict[str, object] = {
        "Airflow": f"{stack.web}/dags/toll_traffic_check (user admin, password in {stack.password})",
        "MLflow": stack.mlflow,
        "warning": mail or "none came",
        "notebook": stack.home / "notebooks" / "toll_traffic" / f"{CHANGED[1]}.ipynb",
        "tables": stack.home / "lake",
        "commands": f"export ESTEIRA_HOME={stack.home} MLFLOW_TRACKING_URI={stack.mlflow}; .venv/bin/esteira status",
        "stop": "make down",
    }
    for name, place in places.items():
        console.print(f"  {name:<9} {place}", soft_wrap=True, highlight=False)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except stacks.FAULTS as error:
        sys.exit(f"esteira: {error}")
    except KeyboardInterrupt:
        sys.exit(f"esteira: {stacks.INTERRUPTED}")
