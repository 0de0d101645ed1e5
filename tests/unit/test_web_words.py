"""What the pages say has its Portuguese words."""

from __future__ import annotations

import re
from pathlib import Path

import esteira.web
from esteira.lifecycle.policy import Outcome
from esteira.views import Condition

STATIC = Path(esteira.web.__file__).parent / "static"
OWN = ("actions", "esteira", "model", "models", "parts", "plot", "row", "run")
SAID = re.compile(
    r"""say\(\s*"([^"]+)"|say\([^()"]*\? "([^"]+)" : "([^"]+)"|name: "([^"]+)"|title="([^"]+)"|button\("([^"]+)"|^    \[\["([^"]+)"|^          \["([^"]+)\"""",
    re.M,
)
COLOURS = re.compile(r"COLOURS = \{(.*)\}")


def test_every_word_has_its_portuguese_one() -> None:
    known = set(re.findall(r'^  "([^"]+)":', (STATIC / "words.js").read_text(), re.M))
    modules = "".join((STATIC / f"{name}.js").read_text() for name in OWN)
    said = {word for found in SAID.findall(modules) for word in found if word}
    said |= {str(each) for each in (*Condition, *Outcome)}
    said |= set(re.findall(r'"([^"]+)": "#', COLOURS.search(modules)[1]))  # type: ignore[index]
    assert len(said) > 100
    assert sorted(said - known) == []
