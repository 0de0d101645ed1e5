"""What a walk was worth: each block's metrics, and what each promotion gained; over rows as they were first served."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from esteira.learning import evaluation
from esteira.replay.plan import Plan, spans
from esteira.spec import ModelSpec
from esteira.steps import champions, labelling, outcomes
from esteira.store import ledger, runs


def block_metrics(spec: ModelSpec, plan: Plan) -> list[dict[str, Any]]:
    """Every metric of each block, of all versions together, over rows as they were first served."""
    labelling.store(spec, plan.first, labelling.mature_on(spec, plan.last))
    found = []
    for first, last in spans(plan.first, plan.last, plan.blocks):
        rows = outcomes.served(spec, None, first, last)
        found.append(
            {
                "first": str(first),
                "last": str(last),
                "rows": len(rows),
                **evaluation.evaluate(spec, rows, tuple(spec.check.metrics)),
            }
        )
    return found


def promotion_gains(spec: ModelSpec, plan: Plan, days: int | None = None) -> list[dict[str, Any]]:
    """What each promotion was worth: how much better the new version was than the one it replaced would have been.

    Over the days that it served until the next promotion; with `days` over so many from its first on, whatever served on
    them. In the gate's metric, on the same rows, of which neither has seen any.
    """
    promotions = ledger.state(spec).changes
    ends = [each.effective_day - timedelta(days=1) for each in promotions[2:]] + [plan.last]
    found = []
    for old, new, end in zip(promotions, promotions[1:], ends, strict=False):
        last = min(new.effective_day + timedelta(days=days - 1), plan.last) if days else end
        rows = outcomes.served(spec, None if days else new.version, new.effective_day, last)
        span = {"first": str(new.effective_day), "last": str(last), "rows": len(rows)}
        about = {"version": new.version, "replaced": old.version, **span, "gain": None}
        found.append(about)
        if rows.empty:
            continue
        if days:
            rows = outcomes.as_predicted_by(spec, champions.load_judges(spec, new.version), rows)
        after, before = outcomes.paired(spec, champions.load_judges(spec, old.version), rows)
        if before.empty:
            continue
        values = [evaluation.evaluate(spec, each, (spec.check.metric,))[spec.check.metric] for each in (before, after)]
        gain = evaluation.better_by(spec, spec.check.metric, *values)
        about["gain"] = gain
    return found


def trainings(spec: ModelSpec) -> int:
    """How many pipelines were fitted to become models: candidates, what was measured, attempts, what was fitted again."""
    return sum(len(runs.search(spec, kind=kind)) for kind in ("candidate", "model", "attempt", "refit"))
