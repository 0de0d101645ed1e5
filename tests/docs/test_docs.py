"""Every command and every snippet of README.md and docs/*.md is run as it is written, in the order of the pages.

The commands share one state folder. What needs a live Airflow or Docker is run elsewhere, and listed in ELSEWHERE with the
place; a command that is neither run here nor listed fails.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
import yaml
from esteira.__main__ import app

from tests import models
from tests.docs import pages
from tests.docs.pages import CLI, PROJECT, TARGETS, Snippet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

STACK = "make test-compose"
LIVE = "tests/e2e/conftest.py::stack"
DEMO = "tests/docs/test_demo.py::test_the_demo_runs_and_stops"
# A command, as far as it goes without its arguments: what runs it.
ELSEWHERE = {
    "make demo": DEMO,
    "make down": DEMO,
    "make up": LIVE,
    "make clean": "tests/unit/test_stack.py::test_clean_removes_what_the_set_up_wrote_and_nothing_else",
    "make help": "tests/docs/test_docs.py::test_make_help_lists_every_target",
    "make setup": ".ci/run",  # each target makes .venv
    "make lint": ".ci/run",
    "make test": ".ci/run",
    "make test-slow": ".ci/run",
    "make audit": ".github/workflows/ci.yml",
    "make scan": ".github/workflows/ci.yml",
    "make test-compose": ".github/workflows/compose.yml",
    "make bench-parse": "by hand: it takes ten minutes",
    "make test-objects": "by hand: it takes ten minutes",
    "make bench-alternatives": "by hand: it takes 20 minutes, and makes three environments",
    "make bench-scale": "by hand: it takes an hour",
    "make bench-loop": "by hand: it takes hours",
    "make bench-web": "by hand: it takes ten minutes",
    "make mails": "by hand: it makes pictures to look at",
    "make screenshots": "by hand: it makes pictures to look at",
    "make bench-start": "by hand: it takes a quarter of an hour",
    "make simulate": "tests/unit/test_lifecycle_state.py::test_a_thousand_histories_keep_every_rule",
    "make simulate-broken": "tests/unit/test_simulation.py::test_a_rule_that_is_broken_is_found",
    "make soak": "by hand: it takes an hour and a half",
    "make secrets": STACK,
    "make image": STACK,
    "make first-day": STACK,
    "make backup": STACK,
    "make restore": STACK,
    "make deploy": STACK,
    "docker compose": STACK,
    "docker stats": "by hand: a program of Docker's that only shows",
    "docker system df": "by hand: a program of Docker's that only shows",
    "git pull": STACK,  # as make image
    "esteira replay <model> --from 2011-07-01 --to 2012-12-31": "make bench-loop",
    "source .venv/bin/activate": "tests/docs/test_docs.py::test_the_commands_of_the_pages_do_what_they_say",
}
# What a reader puts in the place of <…>; the day of a training is one before the first that is scored.
PLACEHOLDERS = {
    "--as-of <day>": "--as-of 2026-01-31",
    "<day>": "2026-02-01",
    "<model>": "toll_traffic",
    "<name>": "toll_traffic",
}
# What must have happened before a command that a sentence names.
BEFORE = {
    "esteira init": "export ESTEIRA_LAKE=$ESTEIRA_HOME/another-lake",
    "esteira rollback toll_traffic": "esteira score toll_traffic --day 2026-02-15 --last-day 2026-03-01\n"
    "esteira check toll_traffic --day 2026-03-01",
}
# What the output of a command must have.
SAYS = {
    "esteira validate": "toll_traffic/model.yaml: ok",
    "esteira replay toll_traffic": "retrained every block",
    "esteira limits toll_traffic": "suggested: mae_over_mean: {max:",
    "esteira rollback toll_traffic": "version 2 becomes the champion in place of version 4",
    "esteira rollback toll_traffic --yes": "version 2 is the champion; 15 days scored again, 2026-02-15 to 2026-03-01",
    "esteira requeue toll_traffic": "240 rows read = 240 published + 0 in quarantine",
    "esteira status": "toll_traffic",
    "esteira init": "another-lake",
    "esteira maintain": "toll_traffic",
    "esteira check bike_demand": "retrain: mae_over_mean",
}
# A check that ends in a warning exits with 3; `esteira check --help` says so. A roll-back that can't ask does nothing.
ENDS = {"esteira check bike_demand": 3, "esteira rollback toll_traffic": 1, "esteira rollback toll_traffic --yes": 0}


@dataclass(frozen=True)
class World:
    """A folder that looks like the project's, and a home and a state of its own."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / "home"

    def run(self, script: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run lines of shell as a reader would who has activated .venv in the project's folder."""
        env = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ESTEIRA_", "AIRFLOW", "MLFLOW_TR"))
        }
        env |= {"HOME": str(self.home), "ESTEIRA_HOME": str(self.folder / "state"), "COLUMNS": "200", **environment}
        command = ["bash", "-euo", "pipefail", "-c", f"source .venv/bin/activate\n{script}"]
        return subprocess.run(
            command, cwd=self.folder / "project", env=env, capture_output=True, text=True, timeout=1000
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> World:
    """As after `make setup`: the project's files are links, so that what a command writes beside them is not in the project."""
    if not (PROJECT / ".venv" / "bin" / "activate").exists():
        pytest.skip("the pages are run in .venv of the project's folder, and there is none: run make setup")
    folder = tmp_path_factory.mktemp("docs")
    for name in ("home", "project", "state/mlflow"):
        (folder / name).mkdir(parents=True)
    shutil.copy(mlflow_template, folder / "state" / "mlflow" / "mlflow.db")
    for each in PROJECT.iterdir():
        if each.name not in (".git", ".esteira"):
            (folder / "project" / each.name).symlink_to(each)
    return World(folder)


@pytest.fixture
def with_data(world: World, request: pytest.FixtureRequest) -> None:
    """The public data sets where README.md puts them, in ~/data."""
    data = request.getfixturevalue("esteira_data")
    if not (world.home / "data").exists():
        (world.home / "data").symlink_to(data)


def filled(text: str) -> str:
    """A command without placeholders, and without what is optional."""
    text = re.sub(r" \[[^]]*\]", "", text)
    for placeholder, value in PLACEHOLDERS.items():
        text = text.replace(placeholder, value)
    return text


def is_listed(line: str) -> bool:
    short = line.removeprefix(".venv/bin/")
    return any(short == each or short.startswith(f"{each} ") for each in ELSEWHERE)


def is_mention(text: str) -> bool:
    """Whether a sentence only names a command: it lacks what the command needs."""
    name, *words = text.removeprefix(".venv/bin/").split()[1:]
    needed = [each for each in CLI.commands[name].params if each.required]  # type: ignore[attr-defined]
    values = [word for word in words if not word.startswith("-")]
    return any(not set(each.opts) & set(words) if each.opts[0].startswith("-") else not values for each in needed)


def first_day() -> Snippet:
    """What `esteira --help` says of a first day."""
    text = str(app.info.help).partition("A first day:")[2]
    lines = (" ".join(line.split()) for line in re.findall(r"`([^`]+)`", text))
    return Snippet("esteira --help", 0, "\n".join(lines), "shell")


def scripts() -> Iterator[Snippet]:
    """What is to be run, each once: whole blocks, and the commands of sentences that are complete."""
    seen = set()
    for path in pages.PAGES:
        fenced = [each for each in pages.blocks(path) if each.kind == "shell"]
        for each in sorted([*fenced, *pages.named(path)], key=lambda snippet: snippet.line):
            lines = pages.shell_lines(each)
            one = each.kind == "inline" and "esteira " in each.text.split("exec")[0]
            if all(map(is_listed, lines)) or (one and (" | " in each.text or is_mention(filled(each.text)))):
                continue
            text = filled("\n".join(lines))
            if text not in seen:
                seen.add(text)
                yield Snippet(each.page, each.line, text, each.kind)


def run_and_compare(snippet: Snippet, world: World) -> None:
    """A command must end as it should, and say what it should."""
    unlisted = [line for line in snippet.text.splitlines() if not re.match(r"(\.venv/bin/)?esteira |export ", line)]
    assert not unlisted, f"{snippet.page}:{snippet.line}: say in ELSEWHERE what runs {unlisted}"
    done = world.run("\n".join([*(BEFORE[key] for key in BEFORE if key in snippet.text), snippet.text]))
    said = f"{snippet.text}\nended with {done.returncode}:\n{done.stdout}{done.stderr}"
    known = [key for key in ENDS if key in snippet.text]
    assert done.returncode == (ENDS[max(known, key=len)] if known else 0), said
    assert "Traceback" not in done.stderr, said
    assert all(word in done.stdout for key, word in SAYS.items() if key in snippet.text), said
    made = re.search(r"> (\S+)$", snippet.text)
    assert made is None or (world.folder / "project" / made[1]).stat().st_size > 0


def test_the_commands_of_the_pages_do_what_they_say(
    world: World, request: pytest.FixtureRequest, subtests: pytest.Subtests
) -> None:
    """One test: each command finds what those before it have left, in whatever process the tests run."""
    for snippet in [first_day(), *scripts()]:
        with subtests.test(str(snippet)):
            if "ESTEIRA_DATA" in snippet.text:
                request.getfixturevalue("with_data")
            run_and_compare(snippet, world)


def test_what_runs_elsewhere_is_there() -> None:
    for command, place in ELSEWHERE.items():
        file, _, test = place.partition("::")
        if place.startswith("make "):
            assert place.removeprefix("make ") in TARGETS, f"{command}: there is no {place}"
        elif not place.startswith("by hand: "):
            assert f"def {test}" in (PROJECT / file).read_text() if test else (PROJECT / file).is_file(), place


def test_what_is_listed_is_still_on_a_page() -> None:
    named = [snippet.text for path in pages.PAGES for snippet in pages.commands(path)]
    assert not [each for each in ELSEWHERE if not any(each in text for text in named)]


def test_each_block_is_of_a_kind_that_is_tried() -> None:
    blocks = [each for path in pages.PAGES for each in pages.blocks(path)]
    strange = [str(each) for each in blocks if each.kind not in ("shell", "yaml", "python", "figure")]
    assert not strange, f"name the language of these blocks, or write what tries them: {strange}"


def test_make_help_lists_every_target() -> None:
    done = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  ([a-z-]+) ", done.stdout, re.M))
    assert listed == TARGETS


def yaml_blocks(key: str) -> list[Snippet]:
    return [each for each in pages.of_kind("yaml") if key in yaml.safe_load(each.text)]


def test_each_yaml_block_is_tried() -> None:
    tried = yaml_blocks("name") + yaml_blocks("services")
    assert {str(each) for each in tried} == {str(each) for each in pages.of_kind("yaml")}


@pytest.mark.parametrize("snippet", yaml_blocks("name"), ids=str)
def test_a_model_yaml_of_a_page_is_right_and_trains(snippet: Snippet, world: World, with_data: None) -> None:
    name = yaml.safe_load(snippet.text)["name"]
    place = world.folder / "models" / name
    place.mkdir(parents=True)
    (place / "model.yaml").write_text(snippet.text)
    given = {"ESTEIRA_MODELS": str(place.parent), "ESTEIRA_DATA": str(world.home / "data")}
    given["ESTEIRA_HOME"] = str(world.folder / "state-of-the-page")
    done = world.run(f"esteira validate\nesteira train {name} --as-of 2011-06-30", **given)
    assert done.returncode == 0, done.stderr
    assert f"{name}/model.yaml: ok: regression" in done.stdout
    assert "version 2 is the champion" in done.stdout


@pytest.mark.parametrize("snippet", yaml_blocks("services"), ids=str)
def test_an_override_of_a_page_fits_the_stack(snippet: Snippet, tmp_path: Path) -> None:
    (tmp_path / "docker-compose.override.yaml").write_text(snippet.text)
    check = Path(sys.executable).with_name("check-jsonschema")
    arguments = ["--builtin-schema", "vendor.compose-spec", "docker-compose.override.yaml"]
    done = subprocess.run([check, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    stack = yaml.safe_load((PROJECT / "docker-compose.yaml").read_text())
    for name, service in yaml.safe_load(snippet.text)["services"].items():
        assert name in stack["services"]
        assert set(service.get("networks", [])) <= set(stack["networks"])


METRICS = "metrics: {mae_over_mean: {max: 0.3}, r2: {min: 0.1}}"


def braced(text: str) -> str:
    """A text as str.format gives it back."""
    return text.replace("{", "{{").replace("}", "}}")


def run_with(world: World, file: str, snippet: Snippet, model: str) -> str:
    """Train, score and measure a model that has the snippet as `file`; what was printed."""
    folder = world.folder / f"models-with-{file}"
    (folder / "sales").mkdir(parents=True)
    (folder / "sales" / file).write_text(snippet.text)
    models.write(folder, yaml=model)
    source = folder / "sales" / "source.py"
    if file == "features.py":
        source.write_text(source.read_text().replace('        "hour": hour,\n', ""))
    done = world.run(
        "esteira validate\nesteira train sales --as-of 2026-01-31\nesteira score sales --day 2026-02-01\n"
        "esteira limits sales --as-of 2026-01-31",
        ESTEIRA_MODELS=str(folder),
        ESTEIRA_HOME=str(world.folder / f"state-with-{file}"),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_python_block_is_tried() -> None:
    firsts = sorted(re.findall(r"^def (\w+)", each.text, re.M) for each in pages.of_kind("python"))
    assert firsts == [["build"], ["cost"], ["read"]]


@pytest.mark.parametrize("snippet", [each for each in pages.of_kind("python") if "def read(" in each.text], ids=str)
def test_a_read_of_the_docs_reads_its_days(snippet: Snippet, tmp_path: Path) -> None:
    lines = ["year;month;day;store;price", "2026;1;2;A;13,22", "2026;1;3;A;14,5"]
    (tmp_path / "sales.csv").write_text("\n".join(lines) + "\n", encoding="latin-1")
    space: dict = {}
    exec(snippet.text.replace("/data", str(tmp_path)), space)
    rows = space["read"](date(2026, 1, 2), date(2026, 1, 2))
    assert rows[["price", "at"]].to_numpy().tolist() == [[13.22, pd.Timestamp("2026-01-02")]]
    assert "day" not in rows


@pytest.mark.parametrize("snippet", [each for each in pages.of_kind("python") if "def build(" in each.text], ids=str)
def test_features_of_a_page_build_what_the_source_lacks(snippet: Snippet, world: World) -> None:
    said = run_with(world, "features.py", snippet, models.YAML)
    assert "72 rows read = 72 published" in said


@pytest.mark.parametrize("snippet", [each for each in pages.of_kind("python") if "def cost(" in each.text], ids=str)
def test_a_metric_of_a_page_is_measured(snippet: Snippet, world: World) -> None:
    limits = re.search(r"\{metrics\.cost: \{max: \d+\}\}", snippet.text)
    assert limits is not None, "the snippet says what to write into model.yaml"
    model = models.YAML.replace(braced(METRICS), braced(f"metrics: {limits[0]}"))
    said = run_with(world, "metrics.py", snippet, model)
    assert "metrics.cost: " in said
    assert "mae_over_mean" not in said
