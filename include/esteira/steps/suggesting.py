"""What limits the past suggests, and whether they find anything."""

from __future__ import annotations

import math
from datetime import date

from esteira import data
from esteira.learning import evaluation, pipelines, tuning
from esteira.spec import ModelSpec
from esteira.steps import preparing


def limits(spec: ModelSpec, as_of: date, factor: float = 1.25) -> tuple[str, dict[str, tuple[float, float, float]]]:
    """What limits the past suggests: the best candidate, and of each metric of the check its value, a limit, and chance.

    The value is cross-validated. The limit lets the error grow by `factor`; the error of a metric whose best is 1 is what it
    lacks to that. Chance is what the naive baseline reaches on the last 15 % of the days.
    """
    frame = preparing.rows(spec, as_of, None, preparing.prepare_all(spec, as_of, None))
    half_life = spec.train.half_life
    index, best = tuning.best(spec, frame, half_life)
    chosen = spec.train.candidates[index]
    values = {
        name: tuning.cross_validate(spec, chosen, best.params, frame, half_life, name) for name in spec.check.metrics
    }
    parts = data.split_days(spec, frame)
    past, test = parts.before_test, parts.test
    chance = evaluation.evaluate(spec, pipelines.scored(spec, pipelines.baseline(spec, past), test), tuple(values))
    return chosen.name, {
        name: (value, 1 - factor * (1 - value) if spec.higher_is_better(name) else factor * value, chance[name])
        for name, value in values.items()
    }


def better(spec: ModelSpec, metric: str, value: float, chance: float) -> bool:
    """Whether a value of a metric is better than what chance reaches; where that is not known, it is."""
    return math.isnan(chance) or evaluation.better_by(spec, metric, chance, value) > 0
