"""What a check sees and decides: labels, metrics of what was served, drift, and the decision."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import pandas as pd

from esteira import data
from esteira.learning import drift, evaluation
from esteira.lifecycle.events import Drifted, Warned
from esteira.lifecycle.policy import Decision, Verdict
from esteira.lifecycle.policy import decide as decide_from
from esteira.lifecycle.state import Serving
from esteira.spec import Limit, ModelSpec
from esteira.steps import champions, estimating, explaining, labelling
from esteira.steps.outcomes import segments, served
from esteira.store import lake, ledger, measurements, runs
from esteira.store.labels import read as read_labels
from esteira.store.measurements import Drift
from esteira.text import counted
from esteira.views import run_key

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


def labels(spec: ModelSpec, day: date) -> int:
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


def _metric_rows(
    spec: ModelSpec, rows: pd.DataFrame, limits: Mapping[str, Limit | None], segment: str, **about: object
) -> list[dict[str, Any]]:
    return [
        {
            **about,
            "segment": segment,
            "metric": name,
            "value": value,
            "min": limit.min if (limit := limits[name]) else None,
            "max": limit.max if limit else None,
            "in_range": limit.holds(value) if limit and value == value else None,
            "n_rows": len(rows),
            "n_days": rows["day"].nunique(),
        }
        for name, value in evaluation.evaluate(spec, rows, tuple(limits)).items()
    ]


def spans(
    spec: ModelSpec, rows: pd.DataFrame, of: list[tuple[date, date]], window: str, **about: object
) -> list[dict[str, Any]]:
    """The metrics of each span of days of `rows`, as rows of the metrics table."""
    found = []
    for first, last in of:
        part = rows[rows["day"].between(pd.Timestamp(first), pd.Timestamp(last))]
        here = {"window": window, "first_day": first, "last_day": last, **about}
        found += _metric_rows(spec, part, spec.check.metrics, "", **here)
        if window == "day":
            continue
        for column, name, some in segments(part, spec.check.segments):
            # A segment is judged only where it has rows enough to be judged by.
            asked = spec.check.segments[column] if len(some) >= spec.check.min_rows else {}
            limits = {**dict.fromkeys((*spec.check.metrics, *spec.check.segments[column])), **asked}
            found += _metric_rows(spec, some, limits, name, **here)
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
            spec, before, Verdict(Decision.KEEP, f"only measured: it is part of a range that ends on {day}")
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
    about = {"check_day": day, "attempt": 0, "role": "champion", "version": now.version}
    single = [(each, each) for each in _new_days(spec, now.version, day, rows)]
    found = spans(spec, rows, single, "day", **about)
    found += spans(spec, rows, whole, "window", **about)
    found += spans(spec, rows, [held_out], "slice", **about)
    found += _estimates(spec, now, day, whole)
    if whole:
        found += _drift_rows(spec, now.version, whole[-1], day)
        asked = [*((span, "window") for span in whole), (held_out, "slice")]
        found += _label_rows(spec, now.version, asked, day)
    measurements.write(spec, found, day, measurements.CHECK)
    for row in found:
        if row["window"] == "window" and row["role"] == "champion":
            log.info(
                "model %s: check %s: %s to %s: %s = %.4g",
                spec.name,
                day,
                row["first_day"],
                row["last_day"],
                row["metric"],
                row["value"],
            )
    return len(found)


def _estimates(spec: ModelSpec, now: Serving, day: date, whole: list[tuple[date, date]]) -> list[dict[str, Any]]:
    try:
        return estimating.rows(spec, now, day, whole)
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


def _drift_rows(spec: ModelSpec, version: int, span: tuple[date, date], day: date) -> list[dict[str, Any]]:
    frame = lake.read("features", spec.name, columns=["day", *spec.features.all], day=span)
    found = drift.psi(runs.profile(runs.run_of(spec, version)), frame)
    if not found:
        return []
    about = {
        "check_day": day,
        "attempt": 0,
        "role": "drift",
        "version": version,
        "first_day": span[0],
        "last_day": span[1],
        "window": "window",
        "n_rows": len(frame),
        "n_days": frame["day"].nunique(),
    }
    rows = [
        {
            **about,
            "segment": name,
            "metric": "psi",
            "value": value,
            "max": drift.LIMIT,
            "in_range": value <= drift.LIMIT,
        }
        for name, value in found.items()
    ]
    share = sum(value > drift.LIMIT for value in found.values()) / len(found)
    limit = spec.check.drift.max_share
    return [
        *rows,
        {**about, "segment": "", "metric": "drift_share", "value": share, "max": limit, "in_range": share <= limit},
    ]


def _label_rows(
    spec: ModelSpec, version: int, of: list[tuple[tuple[date, date], str]], day: date
) -> list[dict[str, Any]]:
    """Whether the labels of each span look complete, beside those of the days before it.

    The share of rows with a label must not fall below 0.9 of the past's, and where several classes were usual, one alone
    must not be all that came.
    """
    start, end = min(span[0] for span, _ in of) - timedelta(days=PAST), max(span[1] for span, _ in of)
    rows = lake.read("features", spec.name, columns=list(dict.fromkeys(["day", *spec.key])), day=(start, end))
    known = read_labels(spec, start, end)
    if rows.empty or known.empty:
        return []
    rows = rows.merge(known, on=["day", *spec.key], how="left")
    rows = rows[rows["day"] >= known["day"].min()]
    found = []
    for (first, last), window in of:
        now = rows[rows["day"].between(pd.Timestamp(first), pd.Timestamp(last))]
        past = rows[rows["day"].between(pd.Timestamp(first - timedelta(days=PAST)), pd.Timestamp(first), "left")]
        about = {"check_day": day, "attempt": 0, "role": "labels", "version": version, "segment": "", "window": window}
        size = {"first_day": first, "last_day": last, "n_rows": len(now), "n_days": now["day"].nunique()}
        found += [{**about, **size, **row} for row in _completeness(spec, now, past)]
    return found


def _completeness(spec: ModelSpec, now: pd.DataFrame, past: pd.DataFrame) -> Iterator[dict[str, Any]]:
    if now.empty or past.empty:
        return
    share, least = float(now["label"].notna().mean()), COMPLETE * float(past["label"].notna().mean())
    yield {"metric": "labelled_share", "value": share, "min": least, "in_range": share >= least}
    here = now["label"].dropna()
    if spec.task != "regression" and len(here):
        most = past["label"].value_counts(normalize=True).max()
        # So many rows of the past's most frequent class alone would be a rare accident if nothing had changed.
        least = 2.0 if most ** len(here) < ACCIDENT else 1.0
        classes = int(here.nunique())
        yield {"metric": "classes", "value": classes, "min": least, "in_range": classes >= least}


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
    return any(each.by == run for each in (*known.promotions, *(e for e in known.others if isinstance(e, Warned))))


def _explain(spec: ModelSpec, day: date) -> None:
    try:
        explaining.explain(spec, day)
    except (
        Exception
    ):  # whatever it was, MLflow's outage among them: that it can't be said why keeps no one from retraining
        log.exception("model %s: why the metrics moved could not be looked into", spec.name)


def _decided(spec: ModelSpec, day: date) -> Verdict:
    now = ledger.champion(spec, day)
    if now is None:
        return Verdict(Decision.WAIT, f"no champion for {day} yet: train and promote one first")
    why = only_measured(spec, day)
    if why:
        return Verdict(Decision.KEEP, why)
    found = measurements.windows(spec, day)
    verdict = decide_from(
        found, min_days=spec.check.min_days, at_least=spec.check.violated.at_least, min_rows=spec.check.min_rows
    )
    if verdict.decision is not Decision.RETRAIN:
        return verdict
    held_out = measurements.windows(spec, day, "slice")[0]
    if not held_out.is_evidence(spec.check.min_days, spec.check.min_rows):
        size = f"{counted(held_out.days, 'day')} and {counted(held_out.rows, 'row')}"
        wanted = f"{spec.check.min_days} and {spec.check.min_rows} are needed"
        why = f"the labels of the slice look incomplete: {held_out.incomplete}" if held_out.incomplete else ""
        return Verdict(Decision.WAIT, f"{verdict.why}, but {why or f'the slice has {size}, and {wanted}'}")
    if ledger.state(spec).was_warned(now.version, found[-1].last):
        return Verdict(
            Decision.WATCH,
            f"{verdict.why}, and the loop failed on this window: it waits for one more window of mature days",
        )
    return verdict


def only_measured(spec: ModelSpec, day: date) -> str:
    """Why the check of a day only measures: a later one has decided, or another champion serves since; else empty."""
    newest = max([day, *measurements.days(spec)])
    if newest > day:
        return f"only measured: {newest} was checked already"
    now, latest = ledger.champion(spec, day), ledger.champion(spec)
    if now is not None and latest is not None and latest.number != now.number:
        return f"only measured: version {latest.version} serves from {latest.effective_day} on"
    return ""


def drift_to_report(spec: ModelSpec, day: date) -> Drift | None:
    """The drift of too many features that a day's check has found; None where there is none, or it was reported before."""
    found = measurements.drift(spec, day)
    if found is None or not found.too_much or only_measured(spec, day):
        return None
    known = (each for each in ledger.state(spec).others if isinstance(each, Drifted))
    before = any((each.version, each.last) == (found.version, found.last) and each.by != run_key(day) for each in known)
    return None if before else found
