"""What a check sees and decides: labels, metrics of what was served, drift, and the decision."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date, timedelta

import pandas as pd

from esteira import data
from esteira.learning import drift, evaluation
from esteira.lifecycle import policy
from esteira.lifecycle.events import Drifted, Warned, run_key
from esteira.lifecycle.policy import Decision, Verdict
from esteira.lifecycle.state import ONLY_MEASURED, Serving
from esteira.spec import Limit, ModelSpec
from esteira.steps import champions, estimating, explaining, labelling
from esteira.steps.outcomes import rules, segments, served
from esteira.store import lake, ledger, measurements, runs
from esteira.store.labels import read as known_labels
from esteira.store.measurements import Drift
from esteira.store.records import Record, Role, Window

log = logging.getLogger(__name__)

PAST = 60  # days before a window that say what labels are usual
COMPLETE = 0.9  # of the past's labelled share
ACCIDENT = 0.01  # what is less probable than this was no accident


def windows(spec: ModelSpec, champion: Serving, day: date) -> list[tuple[date, date]]:
    """The last whole windows of mature days that the champion served, the latest one last.

    They follow each other from the first day that the champion served, and do not overlap.
    """
    length = spec.check.every
    whole = ((labelling.mature_through(spec, day) - champion.effective_day).days + 1) // length
    starts = [
        champion.effective_day + timedelta(days=length * n)
        for n in range(max(whole - spec.check.violated.of_last, 0), whole)
    ]
    return [(start, start + timedelta(days=length - 1)) for start in starts]


def slice_days(spec: ModelSpec, day: date) -> tuple[date, date]:
    """The held-out slice of a check: the latest mature days."""
    last = labelling.mature_through(spec, day)
    return last - timedelta(days=spec.check.slice - 1), last


def store_labels(spec: ModelSpec, day: date) -> int:
    """Read the labels that became mature since the oldest day that the check looks at; returns the days read."""
    now = ledger.champion(spec, day)
    if now is None:
        return 0
    found = 0
    for each in (*_skipped(spec, day), day):
        now = ledger.require_champion(spec, each)
        first = min([slice_days(spec, each)[0], *(start for start, _ in windows(spec, now, each))])
        found += labelling.store(spec, first, each)
    return found


def _of_metrics(
    spec: ModelSpec, rows: pd.DataFrame, limits: Mapping[str, Limit | None], about: Record
) -> Iterator[Record]:
    size = replace(about, n_rows=len(rows), n_days=rows["day"].nunique())
    for name, value in evaluation.evaluate(spec, rows, tuple(limits)).items():
        yield replace(size, metric=name, value=value).beside(limits[name])


def spans(spec: ModelSpec, rows: pd.DataFrame, of: list[tuple[date, date]], about: Record) -> list[Record]:
    """The metrics of each span of days of `rows`; `about` says whose they are, and which window the spans are."""
    found: list[Record] = []
    for first, last in of:
        part = rows[rows["day"].between(pd.Timestamp(first), pd.Timestamp(last))]
        here = replace(about, first_day=first, last_day=last)
        found += _of_metrics(spec, part, spec.check.metrics, replace(here, segment=""))
        if about.window is Window.DAY:
            continue
        for column, name, some in segments(part, spec.check.segments):
            # A segment is judged only where it has rows enough to be judged by.
            asked = spec.check.segments[column] if len(some) >= spec.check.min_rows else {}
            limits = {**dict.fromkeys((*spec.check.metrics, *spec.check.segments[column])), **asked}
            found += _of_metrics(spec, some, limits, replace(here, segment=name))
    return found


def measure(spec: ModelSpec, day: date) -> int:
    """Measure the day's champion on what it served: each new day, the last whole windows, the held-out slice, and drift.

    Days since the check before are measured first, in order, where a window became whole that the last ones do not hold: so
    a range of days is measured whole, and its last day decides. Replaces the check's rows of the metrics table; returns how
    many. Without a champion there is nothing to measure.
    """
    champions.repair_aliases(spec)
    if ledger.champion(spec, day) is None:
        return 0
    for before in _skipped(spec, day):
        _measure(spec, before)
        measurements.write_decision(
            spec, before, Verdict(Decision.KEEP, f"{ONLY_MEASURED}it is part of a range that ends on {day}")
        )
    return _measure(spec, day)


def _skipped(spec: ModelSpec, day: date) -> list[date]:
    """The days before a check's, since the newest one before it, on which a window became whole that its own last ones lack."""
    known = ledger.state(spec)
    since = max([known.changes[0].effective_day, *(each for each in measurements.days(spec) if each < day)])
    held = windows(spec, ledger.require_champion(spec, day), day)
    oldest = held[0][0] if held else date.max
    found = []
    for each in data.days(since + timedelta(days=1), day - timedelta(days=1)):
        now = known.serving(each)
        whole = windows(spec, now, each) if now else []
        if whole and whole[-1][1] == labelling.mature_through(spec, each) and whole[-1][1] < oldest:
            found.append(each)
    return found


def _measure(spec: ModelSpec, day: date) -> int:
    now = ledger.require_champion(spec, day)
    whole, held_out = windows(spec, now, day), slice_days(spec, day)
    first = min([held_out[0], *(start for start, _ in whole)])
    rows = served(spec, now.version, first, labelling.mature_through(spec, day))
    about = Record(check_day=day, attempt=measurements.CHECK, role=Role.CHAMPION, version=now.version)
    single = [(each, each) for each in _new_days(spec, now.version, day, rows)]
    asked = {Window.DAY: single, Window.WHOLE: whole, Window.SLICE: [held_out]}
    found = [each for window, of in asked.items() for each in spans(spec, rows, of, replace(about, window=window))]
    found += _estimates(spec, now, day, whole)
    if whole:
        found += _drift_records(spec, whole[-1], about)
        judged = [*((span, Window.WHOLE) for span in whole), (held_out, Window.SLICE)]
        found += _label_records(spec, judged, about)
    measurements.write(spec, found, day, measurements.CHECK)
    for each in found:
        if each.window is Window.WHOLE and each.role is Role.CHAMPION:
            span = each.first_day, each.last_day
            log.info("model %s: check %s: %s to %s: %s = %.4g", spec.name, day, *span, each.metric, each.value)
    return len(found)


def _estimates(spec: ModelSpec, now: Serving, day: date, whole: list[tuple[date, date]]) -> list[Record]:
    try:
        return estimating.records(spec, now, day, whole)
    except Exception:  # whatever it was: an estimate that can't be made must not keep a check from deciding
        log.exception("model %s: no estimate for the days without labels", spec.name)
        return []


def _new_days(spec: ModelSpec, version: int, day: date, rows: pd.DataFrame) -> list[date]:
    """The served days that no check before this one has recorded."""
    served = sorted(moment.date() for moment in rows["day"].unique())
    if not served:
        return []
    # A day can't have been recorded before it was over.
    recorded = measurements.recorded(spec, version, served[0], day - timedelta(days=1))
    return [each for each in served if each not in recorded]


def _drift_records(spec: ModelSpec, span: tuple[date, date], champion: Record) -> list[Record]:
    frame = lake.read("features", spec.name, columns=["day", *spec.features.all], day=span)
    found = drift.measure(runs.profile(runs.run_of(spec, champion.version or 0)), frame)
    if not found:
        return []
    about = replace(champion, role=Role.DRIFT, window=Window.WHOLE, first_day=span[0], last_day=span[1])
    about = replace(about, n_rows=len(frame), n_days=frame["day"].nunique())
    limit = Limit(max=drift.STATISTIC.limit)
    each = [
        replace(about, segment=name, metric=drift.STATISTIC.name, value=value).beside(limit)
        for name, value in found.items()
    ]
    share = sum(not one.in_range for one in each) / len(found)
    most = Limit(max=spec.check.drift.max_share)
    return [*each, replace(about, segment="", metric="drift_share", value=share).beside(most)]


def _label_records(spec: ModelSpec, of: list[tuple[tuple[date, date], Window]], champion: Record) -> list[Record]:
    """Whether the labels of each span look complete, beside those of the days before it.

    The share of rows with a label must not fall below 0.9 of the past's, and where several classes were usual, one alone
    must not be all that came.
    """
    start, end = min(span[0] for span, _ in of) - timedelta(days=PAST), max(span[1] for span, _ in of)
    rows = lake.read("features", spec.name, columns=list(dict.fromkeys(["day", *spec.key])), day=(start, end))
    known = known_labels(spec, start, end)
    if rows.empty or known.empty:
        return []
    rows = rows.merge(known, on=["day", *spec.key], how="left")
    rows = rows[rows["day"] >= known["day"].min()]
    found: list[Record] = []
    for (first, last), window in of:
        now = rows[rows["day"].between(pd.Timestamp(first), pd.Timestamp(last))]
        past = rows[rows["day"].between(pd.Timestamp(first - timedelta(days=PAST)), pd.Timestamp(first), "left")]
        about = replace(champion, role=Role.LABELS, segment="", window=window, first_day=first, last_day=last)
        found += _completeness(spec, now, past, replace(about, n_rows=len(now), n_days=now["day"].nunique()))
    return found


def _completeness(spec: ModelSpec, now: pd.DataFrame, past: pd.DataFrame, about: Record) -> Iterator[Record]:
    if now.empty or past.empty:
        return
    share, least = float(now["label"].notna().mean()), COMPLETE * float(past["label"].notna().mean())
    yield replace(about, metric="labelled_share", value=share, min=least, in_range=share >= least)
    here = now["label"].dropna()
    if spec.task != "regression" and len(here):
        most = past["label"].value_counts(normalize=True).max()
        # So many rows of the past's most frequent class alone would be a rare accident if nothing had changed.
        least = 2.0 if most ** len(here) < ACCIDENT else 1.0
        classes = int(here.nunique())
        yield replace(about, metric="classes", value=classes, min=least, in_range=classes >= least)


def decide(spec: ModelSpec, day: date) -> Verdict:
    """What the check of a day decides, from its rows of the metrics table, which keeps the decision beside them.

    Where it is to retrain, or too much drifted, it is looked into why.
    """
    verdict = _decided(spec, day)
    if ledger.champion(spec, day) is None:  # it was no check
        return verdict
    if not _acted(spec, day):
        measurements.write_decision(spec, day, verdict)
    if verdict.decision is Decision.RETRAIN or drift_to_report(spec, day) is not None:
        _explain(spec, day)
    return verdict


def _acted(spec: ModelSpec, day: date) -> bool:
    """Whether the day's check has promoted or warned: what it decided before stays as it is."""
    known, run = ledger.state(spec), run_key(day)
    return any(each.by == run for each in (*known.promotions, *known.of(Warned)))


def _explain(spec: ModelSpec, day: date) -> None:
    try:
        explaining.explain(spec, day)
    except (
        Exception
    ):  # whatever it was, MLflow's outage among them: that it can't be said why keeps no one from retraining
        log.exception("model %s: why the metrics moved could not be looked into", spec.name)


def _decided(spec: ModelSpec, day: date) -> Verdict:
    known = ledger.state(spec)
    now = known.serving(day)
    if now is None:
        return Verdict(Decision.WAIT, f"no champion for {day} yet: train and promote one first")
    found = measurements.windows(spec, day)
    return policy.decide(
        found,
        next(iter(measurements.windows(spec, day, Window.SLICE)), None),
        rules(spec),
        only_measured=only_measured(spec, day),
        warned=bool(found) and known.was_warned(now.version, found[-1].last),
    )


def only_measured(spec: ModelSpec, day: date) -> str:
    """Why the check of a day only measures; empty where it decides."""
    return ledger.state(spec).only_measured(day, _decided_later(spec, day))


def _decided_later(spec: ModelSpec, day: date) -> date | None:
    """The newest day after a check's on which a check has decided something: one that knew too little moves nothing on."""
    later = (each for each in reversed(measurements.days(spec)) if each > day)
    return next((each for each in later if _moves_on(measurements.decided(spec, each))), None)


def _moves_on(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.decision is not Decision.WAIT and not verdict.why.startswith(ONLY_MEASURED)


def drift_to_report(spec: ModelSpec, day: date) -> Drift | None:
    """The drift of too many features that a day's check has found; None where there is none, or it was reported before."""
    found = measurements.drift(spec, day)
    if found is None or not found.too_much or only_measured(spec, day):
        return None
    known = ledger.state(spec).of(Drifted)
    before = any((each.version, each.last) == (found.version, found.last) and each.by != run_key(day) for each in known)
    return None if before else found
