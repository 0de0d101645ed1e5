"""What follows a promotion: its first window verifies it, and a person may roll it back."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import pandas as pd

from esteira.errors import EsteiraError, NoChampion
from esteira.learning import evaluation
from esteira.lifecycle.policy import Gate, gate
from esteira.spec import ModelSpec
from esteira.steps import ingest, scoring
from esteira.steps.measuring import run_key, spans, write_metrics
from esteira.steps.outcomes import as_predicted_by, served
from esteira.store import lake, ledger, runs
from esteira.store.ledger import Champion
from esteira.text import counted

log = logging.getLogger(__name__)

VERIFICATION = -2  # the attempt under which the metrics table keeps the verification of a promotion


@dataclass(frozen=True)
class Promotion:
    """A champion, the version that it replaced, and its first window."""

    now: Champion
    replaced: int
    first: date
    last: date

    @property
    def key(self) -> str:
        """The ledger's id of its verification."""
        return f"verified:{self.now.number}"


def to_verify(spec: ModelSpec, day: date) -> Promotion | None:
    """The promotion whose first window is whole by the day, and was verified by no other day's check."""
    promotions = ledger.promotions(spec)
    now = ledger.champion(spec, day)
    if now is None or now.number < 2:
        return None
    replaced = next(each.version for each in promotions if each.number == now.number - 1)
    found = Promotion(now, replaced, now.effective_day, now.effective_day + timedelta(days=spec.check.every - 1))
    if found.last > ingest.mature_through(spec, day) or replaced == now.version:
        return None
    known = lake.read("ledger", spec.name, id=found.key)
    return found if known.empty or known["by"].iloc[0] == run_key(day) else None


def verify(spec: ModelSpec, day: date) -> str:
    """Measure the champion against the version that it replaced, on its first window; returns verified, worse or nothing.

    The rows are those that the champion served and neither has seen. With too few days of them nothing is said yet.
    """
    promotion = to_verify(spec, day)
    if promotion is None:
        return ""
    ingest.labels(spec, promotion.first, day)  # checks far apart may not have read them
    new = served(spec, promotion.now.version, promotion.first, promotion.last)
    old = as_predicted_by(spec, promotion.replaced, new)
    new = new[new.set_index(["day", *spec.key]).index.isin(old.set_index(["day", *spec.key]).index)]
    if new["day"].nunique() < spec.check.min_days:
        return ""
    metric = spec.check.metric
    gains = evaluation.daily_gains(spec, metric, old, new)
    seen = gate(gains, min_gain=0, confidence=spec.promote.confidence, attempts=1, seed=spec.train.seed)
    if math.isnan(seen.gain):
        return ""
    _write(spec, day, promotion, seen, old, new)
    state = "worse" if seen.gain < 0 else "verified"
    values = [evaluation.evaluate(spec, rows, (metric,))[metric] for rows in (new, old)]
    why = (
        f"version {promotion.now.version}, {promotion.first} to {promotion.last}: {metric} = {values[0]:.4g}, and version "
        f"{promotion.replaced}, which it replaced, would have had {values[1]:.4g}: {'worse' if state == 'worse' else 'better'} "
        f"by {abs(seen.gain):.4g} (between {seen.lower:.4g} and {seen.upper:.4g} better, over {counted(seen.days, 'day')}, {counted(len(new), 'row')})"
    )
    ledger.record(
        spec,
        promotion.key,
        to_state=state,
        from_state="champion",
        version=promotion.now.version,
        why=why,
        by=run_key(day),
        effective=day,
        evidence={"replaced": promotion.replaced, "gain": seen.gain, "days": seen.days, "rows": len(new)},
    )
    log.info("model %s: %s", spec.name, why)
    return state


def _write(spec: ModelSpec, day: date, promotion: Promotion, seen: Gate, old: pd.DataFrame, new: pd.DataFrame) -> None:
    found: list[dict[str, Any]] = []
    span = [(promotion.first, promotion.last)]
    for role, version, rows in (("champion", promotion.now.version, new), ("replaced", promotion.replaced, old)):
        about = {"check_day": day, "attempt": VERIFICATION, "role": role, "version": version}
        found += spans(spec, rows, span, "verification", **about)
    first = next(row for row in found if row["metric"] == spec.check.metric)
    finite = {"gain_lower": seen.lower, "gain_upper": seen.upper}
    first |= {"gain": seen.gain} | {name: value for name, value in finite.items() if math.isfinite(value)}
    write_metrics(spec, found, day, VERIFICATION)


def rollback(spec: ModelSpec, as_of: date | None = None, to: int | None = None) -> tuple[int, int, list[date]]:
    """Make the version before the champion champion again, from the day after `as_of` on.

    By default that is the day after the last one served, or the champion's own first day where it has served none yet. The
    days whose predictions the champion made are scored again. Returns the version that was champion, the one that is now,
    and those days. Asked again it finishes what died, and else does nothing more: to go back further, say where `to`.
    Raises EsteiraError where there is no version to go back to.
    """
    promotions = ledger.promotions(spec)
    if not promotions:
        raise NoChampion(f"model {spec.name} has no champion yet, so there is nothing to roll back")
    begun = _rolled_back(spec, promotions) if to in (None, promotions[-1].version) else None
    bad, target = begun or (promotions[-1].version, to or _before(spec, promotions))
    if begun is None and target != bad:
        runs.run_of(spec, target)
        ledger.make_champion(
            spec,
            target,
            as_of or max(_last_served(spec), promotions[-1].effective_day - timedelta(days=1)),
            measured=bad,
            why=f"rolled back from version {bad}",
            by=f"rollback/{promotions[-1].number}",
            evidence={"rolled_back": bad},
        )
    ledger.repair_aliases(spec)
    if target == bad:
        return bad, target, []
    last = ledger.promotions(spec)[-1]
    run = f"rollback/{last.number}"
    finished = f"rolled-back:{last.number}"
    if not len(lake.read("ledger", spec.name, id=finished)):
        left = _days_of(spec, version=bad)
        if left:
            scoring.score(spec, left, run, target)
    days = _days_of(spec, run=run)
    why = f"{counted(len(days), 'day')} scored again by version {target}"
    ledger.record(spec, finished, to_state="rolled back", version=bad, why=why, by=run, effective=last.effective_day)
    return bad, target, days


def _before(spec: ModelSpec, promotions: list[Champion]) -> int:
    """The version that served before the champion was first promoted."""
    now = promotions[-1].version
    first = next(index for index, each in enumerate(promotions) if each.version == now)
    if first == 0:
        raise EsteiraError(
            f"model {spec.name}: version {now} is the first champion, so there is none to go back to; name one with --to, or "
            "train and promote a new version"
        )
    return promotions[first - 1].version


def _rolled_back(spec: ModelSpec, promotions: list[Champion]) -> tuple[int, int] | None:
    """The rollback that the last promotion is, if it is one: from and to."""
    rows = lake.read("ledger", spec.name, id=f"champion:{promotions[-1].number}")
    if not str(rows["by"].iloc[0]).startswith("rollback/"):
        return None
    return promotions[-2].version, promotions[-1].version


def _days_of(spec: ModelSpec, **where: Any) -> list[date]:
    """The days of the predictions that a version, or a run, made."""
    rows = lake.read("predictions", spec.name, columns=["day"], **where)
    return sorted({moment.date() for moment in rows["day"]}) if len(rows) else []


def _last_served(spec: ModelSpec) -> date:
    return max(lake.days_of("served", spec.name), default=date.min)
