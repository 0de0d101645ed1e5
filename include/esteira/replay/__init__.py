"""Replay: back-test a model's policy on its own history, by the steps that the DAGs call, in a lake and registry of its own."""

from esteira.replay.frontier import POLICIES
from esteira.replay.plan import Plan, spans
from esteira.replay.running import isolated, run, suggested, summary
from esteira.replay.walking import WALKS, walk
from esteira.replay.worth import block_metrics, promotion_gains, trainings

__all__ = [
    "POLICIES",
    "WALKS",
    "Plan",
    "block_metrics",
    "isolated",
    "promotion_gains",
    "run",
    "spans",
    "suggested",
    "summary",
    "trainings",
    "walk",
]
