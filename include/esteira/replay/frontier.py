"""A handful of policies beside a model's own, each tried on its past: what the metric, the trainings, the mails would have been."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from esteira.learning.metrics import METRICS
from esteira.spec import Limit, ModelSpec


def _rescaled(spec: ModelSpec, factor: float) -> ModelSpec:
    """The same with limits that allow so many times the error; of a metric whose best is 1 that is what it lacks to that."""

    def wider(name: str, limit: Limit) -> Limit:
        best = METRICS[name].best if name in METRICS else 0
        side = "min" if spec.higher_is_better(name) else "max"
        bound = getattr(limit, side)
        return limit.model_copy(update={side: best + factor * (bound - best)})

    limits = {name: wider(name, limit) for name, limit in spec.check.metrics.items()}
    return spec.model_copy(update={"check": spec.check.model_copy(update={"metrics": limits})})


def _violated(spec: ModelSpec, at_least: int, of_last: int) -> ModelSpec:
    rule = spec.check.violated.model_copy(update={"at_least": at_least, "of_last": of_last})
    return spec.model_copy(update={"check": spec.check.model_copy(update={"violated": rule})})


# By the name of its folder: what it is, and how it comes from the model's own.
POLICIES: Mapping[str, tuple[str, Callable[[ModelSpec], ModelSpec]]] = {
    "policy": ("as it is", lambda spec: spec),
    "tighter": ("limits 10 % tighter", lambda spec: _rescaled(spec, 0.9)),
    "wider": ("limits 10 % wider", lambda spec: _rescaled(spec, 1.1)),
    "wide": ("limits 25 % wider", lambda spec: _rescaled(spec, 1.25)),
    "at-once": ("violated: 1 of the last 1", lambda spec: _violated(spec, 1, 1)),
    "patient": ("violated: 3 of the last 4", lambda spec: _violated(spec, 3, 4)),
}


@dataclass(frozen=True)
class Tried:
    """A policy on the past: the metric's mean over blocks, and what it cost; `best`: no other is better in one and worse in none."""

    name: str
    value: float
    trainings: int
    mails: int
    promotions: int
    best: bool


def frontier(found: Mapping[str, tuple[float, int, int, int]], *, higher_is_better: bool) -> list[Tried]:
    """The policies tried, by name with their metric, trainings, mails and promotions: which of them nothing speaks against."""
    costs = {
        name: (-value if higher_is_better else value, made, sent) for name, (value, made, sent, _) in found.items()
    }

    def is_best(mine: Sequence[float]) -> bool:
        return not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in costs.values()
        )

    return [Tried(POLICIES[name][0], *found[name], is_best(costs[name])) for name in found]
