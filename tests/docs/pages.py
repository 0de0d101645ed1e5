"""README.md and docs/*.md as they are read: their fenced blocks, and the code within their sentences and tables."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import typer
from esteira.__main__ import app

PROJECT = Path(__file__).resolve().parents[2]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
REFERENCES = [*PAGES, PROJECT / "CONTRIBUTING.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
PROGRAMS = ("esteira", ".venv/bin/esteira", "make", "docker", "export", "git", "source")
PROGRAM = re.compile(rf"({'|'.join(map(re.escape, PROGRAMS))}) ")


@dataclass(frozen=True)
class Snippet:
    """A piece of code of a page: a fenced block, or one between backticks."""

    page: str
    line: int
    text: str
    kind: str  # python, yaml, shell, figure, other; or inline

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text.strip().splitlines()[0]}"


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def kind_of(language: str, text: str) -> str:
    """What a block is: what its fence says, else what its first word says."""
    if language:
        return {"sh": "shell", "bash": "shell", "yml": "yaml"}.get(language, language)
    if "→" in text:
        return "figure"
    return "shell" if PROGRAM.match(text) else "other"


@cache
def blocks(path: Path) -> list[Snippet]:
    """The fenced blocks of a page."""
    text = path.read_text(encoding="utf-8")
    return [
        Snippet(name_of(path), text.count("\n", 0, found.start()) + 1, found[2], kind_of(found[1], found[2]))
        for found in FENCE.finditer(text)
    ]


@cache
def inline(path: Path) -> list[Snippet]:
    """What stands between backticks outside of the fenced blocks; a line break within is a blank."""
    text = FENCE.sub(lambda found: "\n" * found[0].count("\n"), path.read_text(encoding="utf-8"))
    return [
        Snippet(name_of(path), text.count("\n", 0, found.start()) + 1, " ".join(found[1].split()), "inline")
        for found in re.finditer(r"`([^`]+)`", text)
    ]


def shell_lines(snippet: Snippet) -> list[str]:
    """The commands of a shell block, without comments."""
    lines = (re.sub(r"\s+#\s.*", "", line).strip() for line in snippet.text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def named(path: Path) -> list[Snippet]:
    """The commands that stand in sentences and tables; `esteira …` is none."""
    return [each for each in inline(path) if PROGRAM.match(each.text) and "…" not in each.text]


def of_kind(kind: str) -> list[Snippet]:
    """The fenced blocks of a kind, of all pages."""
    return [each for path in PAGES for each in blocks(path) if each.kind == kind]


def commands(path: Path) -> list[Snippet]:
    """Every command that a page names, each on its own: of blocks, and between backticks."""
    of_blocks = [
        Snippet(each.page, each.line, line, "shell")
        for each in blocks(path)
        if each.kind == "shell"
        for line in shell_lines(each)
    ]
    return [*of_blocks, *named(path)]


def headings(path: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


CLI = typer.main.get_command(app)
MAKEFILE = (PROJECT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M))
