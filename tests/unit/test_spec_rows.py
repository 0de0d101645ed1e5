"""What is expected of rows and days, and can't be, is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from esteira.errors import SpecError

from tests import models


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ("{{matches: '['}}", r"got '\[', which is no regular expression"),
        ("{{type: text, min: 1}}", "min and max are of numbers, and the type is text; remove one"),
        ("{{type: word}}", "got 'word'; allowed: number, integer, text, boolean, time"),
        ("{{max_null: 1}}", "input should be less than 1"),
    ],
)
def test_impossible_expectations_are_named(tmp_path: Path, expected: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        models.write(tmp_path, yaml=models.YAML.replace("heat: {{min: -50, max: 60}}", f"heat: {expected}"))


@pytest.mark.parametrize("pattern", [r"(?=a)b", r"(?<!a)b", r"(a)\1", "a{2000}", "(?>a)b", "a++b", r"a\Z"])
def test_an_expression_that_may_not_end_is_refused_in_the_spec(tmp_path: Path, pattern: str) -> None:
    yaml = models.YAML.replace("in: [A, B, C]", "matches: '" + pattern.replace("{", "{{").replace("}", "}}") + "'")
    with pytest.raises(
        SpecError, match=r"expect\.site\.matches: got .*, which RE2 can't match: .*; it has no lookaround"
    ):
        models.write(tmp_path, yaml=yaml)


@pytest.mark.parametrize(
    ("quality", "said"),
    [
        ("{{volume: {{}}}}", "the range is empty; give min, max or both"),
        ("{{volume: {{min: 2, max: 1}}}}", "impossible range"),
        ("{{freshness: 90m}}", "a span is a whole number of hours, days or weeks"),
        ("{{max_quarantined: 2}}", "less than or equal to 1"),
        ("{{max_bad: 0.1}}", "unknown key 'max_bad'; allowed: max_quarantined, volume, freshness"),
    ],
)
def test_impossible_qualities_are_named(tmp_path: Path, quality: str, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        models.write(tmp_path, yaml=models.YAML + f"quality: {quality}\n")
