"""A promotion is verified by its first window: against the version that it replaced, on what was served."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from datetime import date, timedelta

import pandas as pd

from esteira.learning import evaluation
from esteira.lifecycle.events import Verified, run_key
from esteira.lifecycle.policy import Decision, Gate
from esteira.lifecycle.sequence import Promoted
from esteira.spec import ModelSpec
from esteira.steps import champions, labelling
from esteira.steps.measuring import lacking_labels, spans
from esteira.steps.outcomes import paired, rules, served
from esteira.store import ledger, measurements, outbox
from esteira.store.records import Record, Role, Window
from esteira.text import counted

SURE = 0.95  # at which a promotion counts as worse: people are to act on it
SMALL = 0.05  # of the error that the limit allows: what is worse by less is nothing to act on
LARGE = 0.25  # by so much it counts where it is only as sure as what is promoted

log = logging.getLogger(__name__)


def to_verify(spec: ModelSpec, day: date) -> Promoted | None:
    """The promotion whose first window is whole by the day, and was verified by no other day's check, or turned out worse, of which people are still to be told."""
    known = ledger.state(spec)
    now = known.serving(day)
    promoted = known.promotion_of(now) if now is not None else None
    if promoted is None or replaced_by(spec, promoted) is None or known.is_void(promoted, promoted.day):
        return None
    if first_window(spec, promoted)[1] > labelling.mature_through(spec, day):
        return None
    verified = _verified(spec, promoted)
    is_due = verified is None or verified.by == run_key(day) or is_to_be_told(spec, verified, day)
    return promoted if is_due else None


def is_to_be_told(spec: ModelSpec, found: Verified, day: date) -> bool:
    """Whether a day's check tells people, who do not know it yet, that a promotion turned out worse.

    Only where its version is out of range, for else nobody is to act, and not where attempts are made, one of which may replace it.
    """
    verdict = measurements.decided(spec, day)
    is_bad = found.worse and verdict is not None and verdict.decision is Decision.WATCH
    return is_bad and not outbox.mails(spec, found.id)


def _verified(spec: ModelSpec, promoted: Promoted) -> Verified | None:
    found = ledger.by_id(spec, Verified.id_of(promoted.number))
    return found if isinstance(found, Verified) else None


def replaced_by(spec: ModelSpec, promoted: Promoted) -> int | None:
    """The version that a promotion took the place of; None where there was none, or the same one."""
    before = ledger.state(spec).before(promoted)
    return before.version if before is not None and before.version != promoted.version else None


def first_window(spec: ModelSpec, promoted: Promoted) -> tuple[date, date]:
    """The first and the last day of a promotion's first window."""
    return promoted.day, promoted.day + timedelta(days=spec.check.every - 1)


def measure_promotion(spec: ModelSpec, day: date) -> Verified | None:
    """Measure the champion against the version that it replaced, on its first window; returns what was found, if anything.

    The rows are those that the champion served and neither has seen. With too few days of them, or labels that look incomplete,
    nothing is said yet. The event is returned, and not written: whoever tells of it writes both.
    """
    promoted = to_verify(spec, day)
    if promoted is None:
        return None
    before = _verified(spec, promoted)
    if before is not None and before.by != run_key(day):
        return before
    replaced = replaced_by(spec, promoted)
    assert replaced is not None, "such a promotion is not verified"
    span = first_window(spec, promoted)
    labelling.store(spec, span[0], day)  # checks far apart may not have read them
    new, old = paired(spec, champions.load_judges(spec, replaced), served(spec, promoted.version, *span))
    if not rules(spec).allow(new["day"].nunique(), len(new)) or lacking_labels(spec, promoted.version, span, day):
        return None
    metric = spec.check.metric
    seen = evaluation.gate(spec, old, new, confidence=SURE)
    if math.isnan(seen.gain):
        return None
    _write(spec, day, promoted, replaced, seen, old, new)
    worse = _is_worse(spec, seen, old, new)
    values = [evaluation.evaluate(spec, rows, (metric,))[metric] for rows in (new, old)]
    why = (
        f"version {promoted.version}, {span[0]} to {span[1]}: {metric} = {values[0]:.4g}, and version "
        f"{replaced}, which it replaced, would have had {values[1]:.4g}: {_word(seen, worse)} "
        f"by {abs(seen.gain):.4g} ({_interval(seen)}, over {counted(seen.days, 'day')}, {counted(len(new), 'row')})"
    )
    found = Verified(
        promotion=promoted.number,
        version=promoted.version,
        replaced=replaced,
        worse=worse,
        day=day,
        by=run_key(day),
        why=why,
        facts={"gain": seen.gain, "days": seen.days, "rows": len(new)},
    )
    log.info("model %s: %s", spec.name, why)
    return found


def _is_worse(spec: ModelSpec, seen: Gate, old: pd.DataFrame, new: pd.DataFrame) -> bool:
    lost = -seen.gain / evaluation.allowed(spec, spec.check.metric)
    if lost < SMALL:
        return False
    return seen.upper < 0 or (lost >= LARGE and evaluation.gate(spec, old, new).upper < 0)


def _interval(seen: Gate) -> str:
    if seen.upper < 0:
        return f"between {-seen.upper:.4g} and {-seen.lower:.4g} worse"
    return f"between {seen.lower:.4g} and {seen.upper:.4g} better"


def _word(seen: Gate, worse: bool) -> str:
    """How it did: what may be chance, or is next to nothing, is not called worse."""
    if seen.gain >= 0:
        return "better"
    if seen.upper < 0:
        return "worse" if worse else "worse, though by little:"
    return "probably worse" if worse else "not surely worse, though"


def _write(
    spec: ModelSpec, day: date, promoted: Promoted, replaced: int, seen: Gate, old: pd.DataFrame, new: pd.DataFrame
) -> None:
    found: list[Record] = []
    span = [first_window(spec, promoted)]
    about = Record(check_day=day, attempt=measurements.VERIFICATION, role=Role.CHAMPION, window=Window.VERIFICATION)
    for role, version, rows in ((Role.CHAMPION, promoted.version, new), (Role.REPLACED, replaced, old)):
        found += spans(spec, rows, span, replace(about, role=role, version=version))
    first = next(index for index, each in enumerate(found) if each.metric == spec.check.metric)
    found[first] = measurements.with_gain(found[first], seen)
    measurements.write(spec, found, day, measurements.VERIFICATION)
