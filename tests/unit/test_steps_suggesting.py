"""Limits from past windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from esteira import steps
from esteira.__main__ import app
from esteira.spec import ModelSpec
from esteira.steps import suggesting
from esteira.steps.suggesting import Suggested
from typer.testing import CliRunner

from tests import models


def suggested(
    spec: ModelSpec, metric: str, values: Sequence[float], errors: Sequence[float], chance: float
) -> Suggested:
    measured, known = ([{metric: each} for each in every] for every in (values, errors))
    return suggesting._suggested(spec, metric, measured, known, chance, 1.25)


@pytest.mark.parametrize(
    ("metric", "values", "chance", "limit"),
    [
        ("mae_over_mean", (0.1, 0.2, 0.3), 0.9, 0.25),
        ("mae_over_mean", (0.8, 0.84, 0.9), 0.98, 0.91),  # 1.05 is more than chance reaches
        (
            "mae_over_mean",
            (0.8, 0.84, 0.9),
            0.7,
            1.05,
        ),  # chance is better than the model: nothing is to be learnt from it
        ("mae_over_mean", (0.8, 0.84, 0.9), math.nan, 1.05),
        ("r2", (0.7, 0.8, 0.9), 0.0, 0.75),
        ("r2", (0.1, 0.2, 0.3), 0.0, 0.1),
    ],
)
def test_a_limit_is_125_percent_of_the_median_windows_error_but_not_half_way_to_chance(
    tmp_path: Path, metric: str, values: tuple[float, ...], chance: float, limit: float
) -> None:
    spec = models.write(tmp_path)
    found = suggested(spec, metric, values, [0.0] * len(values), chance)
    assert found.limit == pytest.approx(limit)
    assert found.longer is None
    assert found.bad == sum(value > limit if metric == "mae_over_mean" else value < limit for value in values)


def test_where_windows_differ_by_more_by_chance_the_limit_is_wider_but_not_beyond_chance(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    rare = (0.72, 0.78, 0.68, 0.75, 0.8, 0.7, 0.77)
    found = suggested(spec, "roc_auc", rare, [0.04] * 7, chance=0.5)
    assert found.limit == pytest.approx(0.75 - 2 * 0.04)
    assert found.noise == pytest.approx(0.04)
    assert found.longer == 14, "0.08 is to be beyond the chance of a window, and 0.0625 was asked for"
    assert suggested(spec, "roc_auc", rare, [0.2] * 7, chance=0.7).limit == pytest.approx(0.7)


def test_noise_is_no_more_than_what_windows_differ_by_from_the_next_ones(tmp_path: Path) -> None:
    moving = (0.2, 0.201, 0.202, 0.203, 0.204)
    found = suggested(models.write(tmp_path), "mae_over_mean", moving, [0.05] * 5, chance=math.nan)
    assert found.noise == pytest.approx(0.001 / 0.954, rel=0.01)
    assert found.limit == pytest.approx(0.2525)


def test_it_is_said_how_many_past_windows_the_limit_would_have_violated(tmp_path: Path) -> None:
    found = suggested(models.write(tmp_path), "mae_over_mean", (0.1, 0.3, 0.1, 0.3, 0.3, 0.1, 0.1), [0.0] * 7, 9.0)
    assert found.limit == pytest.approx(0.125)
    assert (found.bad, found.violated) == (3, 2), "two of three, the latest being one, are a violation"
    barely = suggested(models.write(tmp_path), "mae_over_mean", (0.1, 0.13, 0.1, 0.13, 0.1, 0.1), [0.0] * 6, 9.0)
    assert (barely.bad, barely.violated) == (2, 0), "where their mean is in range they are none"


@pytest.mark.parametrize(
    ("limit", "best", "worse", "written"),
    [
        (0.99934, 1, -1, 0.99934),
        (0.9993416, 1, -1, 0.999341),
        (0.76437, 1, -1, 0.764),
        (0.18254, 0, 1, 0.183),
        (0.3, 0, 1, 0.3),
        (0.1 + 0.2, 0, 1, 0.3),
        (1234.5, 0, 1, 1240.0),
        (-0.25, 1, -1, -0.25),
        (0.0, 0, 1, 0.0),
    ],
)
def test_a_limit_is_written_by_the_error_that_it_allows_and_no_narrower(
    limit: float, best: float, worse: int, written: float
) -> None:
    assert suggesting._written(limit, best, worse) == pytest.approx(written, rel=1e-12)


def test_a_limit_that_only_perfection_keeps_is_never_written(tmp_path: Path) -> None:
    spec = models.write(tmp_path)
    found = suggested(spec, "r2", (0.9996, 0.9997, 0.9995, 0.9996), [0.0] * 4, chance=0.0)
    assert found.written == pytest.approx(0.9995)
    assert found.bad == 0


def test_a_window_that_is_not_known_keeps_its_place_and_is_no_evidence(tmp_path: Path) -> None:
    rule = models.write(tmp_path).check.violated
    assert suggesting._violated([-0.7, 0.1, math.nan, 0.1], rule) == 1
    assert suggesting._violated([0.1, math.nan, math.nan, 0.1], rule) == 0


def test_past_windows_are_of_calendar_days_as_the_check_s_are(tmp_path: Path) -> None:
    """Of working days a window of a week has five; one of fewer than a check takes has no value."""
    spec = models.write(tmp_path)
    days = pd.bdate_range("2026-01-01", "2026-03-31")
    days = days[(days < "2026-03-16") | (days > "2026-03-18")]
    frame = pd.DataFrame({"day": days, "label": 1.0})
    windows = [window for _, window in suggesting._origins(spec, frame)]
    assert [None if each is None else len(each) for each in windows] == [5, 5, None, None, 5]
    assert windows[-1] is not None
    assert windows[-1]["day"].max() == pd.Timestamp("2026-03-31")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"longer": 14}, "off by 0.02 by chance alone"),
        ({"longer": 14}, "with check.every: 14d, about"),
        ({"longer": 224}, "no check.every mends that"),
        ({"few": 3}, "3 past windows had fewer than 10 rows of the rarer class"),
        ({"violated": 2}, "the check would have tried to repair 2 past windows"),
        ({}, "none of 2 windows tells little: up to 100% of those to come may be out of range"),
        ({}, "that is of 14 days; what other seasons bring they don't show"),
    ],
)
def test_what_a_limit_does_not_say_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, int], said: str
) -> None:
    yaml = models.YAML.replace("  window: 28d\n", "")
    models.write(tmp_path, yaml=yaml)
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path))
    known = Suggested((0.1, 0.2), 0.2, 0.2, 0, 0, 0.02, None, 0, 0.9, ((0.15, 1),) * len(suggesting.QUANTILES))
    monkeypatch.setattr(steps, "limits", lambda *_: ("Ridge", {"mae_over_mean": replace(known, **given)}))
    found = CliRunner().invoke(app, ["limits", "sales", "--as-of", "2026-01-31"])
    assert found.exit_code == 0, found.output
    assert said in " ".join(found.stderr.split())
    plain = replace(known, **dict.fromkeys(given, 0 if "longer" not in given else None))
    monkeypatch.setattr(steps, "limits", lambda *_: ("Ridge", {"mae_over_mean": plain}))
    assert not given or said not in " ".join(
        CliRunner().invoke(app, ["limits", "sales", "--as-of", "2026-01-31"]).stderr.split()
    )
