"""What a check sees and decides: labels, metrics of what was served, drift, and the decision."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import partial

import numpy as np
import pandas as pd

from esteira import data
from esteira.learning import drift, evaluation
from esteira.learning.metrics import METRICS, best_of
from esteira.lifecycle import episode, policy
from esteira.lifecycle.events import Drifted, Known, Recovered, Unrecovered, run_key
from esteira.lifecycle.policy import Decision, Measurement, Verdict
from esteira.lifecycle.state import ONLY_MEASURED, Serving
from esteira.spec import Limit, ModelSpec, canonical
from esteira.steps import champions, estimating, explaining, labelling
from esteira.steps.outcomes import judged, rules, segments, served
from esteira.store import lake, ledger, measurements, runs
from esteira.store.measurements import Drift
from esteira.store.records import Record, Role, Window

log = logging.getLogger(__name__)

PAST = 60  # days before a window that say what labels are usual
ACCIDENT = 0.01  # what is less probable than this was no accident
OF_CLASS = 10  # rows of the rarer of two classes that a metric made of each class's rows takes at least


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


def slice_days(spec: ModelSpec, day: date, attempt: int = 0) -> tuple[date, date]:
    """The held-out slice of a check: the latest mature days, on which its attempts are judged.

    An attempt that learns from the days since the violation began is judged on the later half of them, though on a window of
    `check.every` days at least, and on no more than the slice has.
    """
    last, length = labelling.mature_through(spec, day), spec.check.slice
    since = violation_began(spec, day) if attempt and spec.recipes[attempt - 1].since_violation else None
    if since is not None:
        length = min(length, max(spec.check.every, spec.check.min_days, ((last - since).days + 1) // 2))
    return last - timedelta(days=length - 1), last


def violation_began(spec: ModelSpec, day: date) -> date | None:
    """The first day that surely belongs to the violation that a day's check has found; None where its latest window is in range.

    Within the first window that is out of range it began at some day or other.
    """
    found = reversed(measurements.windows(spec, day))
    run = [window.first for window in itertools.takewhile(lambda window: not window.healthy, found)]
    if not run:
        return None
    before = episode.open_since(ledger.state(spec), but=day)
    return min(run[-2:][0], before or date.max)


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
            asked = _asked_of_segment(spec, spec.check.segments[column], some)
            limits = {**dict.fromkeys((*spec.check.metrics, *spec.check.segments[column])), **asked}
            found += _of_metrics(spec, some, limits, replace(here, segment=name))
    return found


def _asked_of_segment(spec: ModelSpec, limits: Mapping[str, Limit], rows: pd.DataFrame) -> dict[str, Limit]:
    """What is asked of a segment: only what it has rows enough to be judged by."""
    if len(rows) < spec.check.min_rows:
        return {}
    few = spec.task == "binary" and rarer(rows["label"]) < OF_CLASS
    return {name: limit for name, limit in limits.items() if not (few and is_by_class(name))}


def rarer(labels: pd.Series) -> int:
    """How many rows are of the rarer of two classes."""
    sizes = labels.value_counts()
    return int(sizes.min()) if len(sizes) > 1 else 0


def is_by_class(name: str) -> bool:
    """Whether a metric is made of the rows of each class by themselves."""
    return name in METRICS and METRICS[name].by_class


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
    asked = {Window.DAY: single, Window.WHOLE: whole}
    found = [each for window, of in asked.items() for each in spans(spec, rows, of, replace(about, window=window))]
    # What attempts would be judged on is of interest only where there may be some: a young champion's models are to be loaded.
    ill = any(not each.is_held for each in found if whole and (each.first_day, each.last_day) == whole[-1])
    young = ill and now.effective_day > held_out[0]
    slice_rows = judged(spec, now.version, *held_out) if young else rows
    found += spans(spec, slice_rows, [held_out], replace(about, window=Window.SLICE))
    found += _estimates(spec, now, day, whole)
    if whole:
        found += _drift_records(spec, whole[-1], rows, about)
        asked_of = [*((span, Window.WHOLE) for span in whole), (held_out, Window.SLICE)]
        found += _label_records(spec, asked_of, about)
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


def _drift_records(spec: ModelSpec, span: tuple[date, date], rows: pd.DataFrame, champion: Record) -> list[Record]:
    """The drift of each feature, and of labels, predictions and errors, all of them and by segment."""
    reference = runs.profile(runs.run_of(spec, champion.version or 0))
    counts: drift.Counts = {}
    for frame in lake.batches("features", spec.name, columns=["day", *spec.features.all], day=span):
        drift.count(reference, frame.drop(columns="day"), frame["day"], counts)
    days = [day for day in lake.sizes("features", spec.name) if span[0] <= day <= span[1]]
    about = replace(champion, role=Role.DRIFT, window=Window.WHOLE, first_day=span[0], last_day=span[1])
    about = replace(about, n_rows=lake.count("features", spec.name, days), n_days=len(days))
    values, limits = drift.measure_counts(reference, counts), drift.limits_of_counts(reference, counts)
    found = [
        replace(about, segment=name, metric=drift.STATISTIC.name, value=value).beside(Limit(max=limits[name]))
        for name, value in values.items()
    ]
    if found:
        share = sum(not each.in_range for each in found) / len(found)
        most = Limit(max=spec.check.drift.max_share)
        found.append(replace(about, segment="", metric="drift_share", value=share).beside(most))
    late = rows[rows["day"].between(pd.Timestamp(span[0]), pd.Timestamp(span[1]))]
    for name, part in [("", late), *((name, part) for _, name, part in segments(late, spec.check.segments))]:
        here = replace(_sized(about, part), role=Role.OUTCOMES, segment=name)
        moved = drift.measure_outcomes(spec, reference, part, name) if len(part) else {}
        for what, (value, most_of) in moved.items():
            one = replace(here, metric=f"{drift.STATISTIC.name}_{what}", value=value)
            found.append(one.beside(Limit(max=most_of)))
    return found


def _sized(about: Record, rows: pd.DataFrame) -> Record:
    return replace(about, n_rows=len(rows), n_days=rows["day"].nunique())


def lacking_labels(spec: ModelSpec, version: int, span: tuple[date, date], as_of: date) -> str:
    """What the labels of a span lack, as they are on a day, beside those that a version was trained on; empty where nothing."""
    about = Record(check_day=as_of, attempt=measurements.CHECK, role=Role.LABELS, version=version)
    found = _label_records(spec, [(span, Window.SLICE)], about)
    return "; ".join(measurements.lacking(each.row() for each in found))


def _label_records(spec: ModelSpec, of: list[tuple[tuple[date, date], Window]], champion: Record) -> list[Record]:
    """Whether the labels of each span look complete.

    The share of rows with a label must not fall below 0.9 of what it was of rows as old when the champion was trained, and
    where several classes were usual then, one alone must not be all that came, but where spans of one class were usual, too. Of
    a version that does not say what was usual, the days before the span do. A metric that is made of each class's rows
    takes 10 of the rarer one.
    """
    start, end = min(span[0] for span, _ in of), max(span[1] for span, _ in of)
    earliest = start - timedelta(days=PAST)
    if not any(earliest <= each <= end for each in lake.days_of("labels", spec.name)):
        return []
    reference = runs.profile(runs.run_of(spec, champion.version or 0))
    counts = labelling.label_counts(spec, start if drift.LABELLED in reference else earliest, end)
    last = labelling.mature_through(spec, champion.check_day)
    found: list[Record] = []
    for (first, until), window in of:
        now = counts[counts["day"].between(pd.Timestamp(first), pd.Timestamp(until))]
        about = replace(champion, role=Role.LABELS, segment="", window=window, first_day=first, last_day=until)
        if drift.LABELLED in reference:
            known = reference[drift.LABELLED]
            age = np.minimum((pd.Timestamp(last) - now["day"]).dt.days // spec.check.every, labelling.AGES)
            share = _mean(age.map(known["shares"].__getitem__), now["rows"])
            usual = _Usual(share, partial(drift.category_share, reference, drift.LABEL), known.get("spread", 1.0))
        else:
            past = counts[
                counts["day"].between(pd.Timestamp(first - timedelta(days=PAST)), pd.Timestamp(first), "left")
            ]
            past = past[past["day"] >= counts.loc[counts["label"].notna(), "day"].min()]
            sizes = past.groupby("label")["rows"].sum()
            usual = _Usual(labelling.labelled_share(past), partial((sizes / sizes.sum()).get, default=0.0))
        size = int(now["rows"].sum())
        found += _completeness(spec, now, usual, replace(about, n_rows=size, n_days=now["day"].nunique()))
    return found


@dataclass(frozen=True)
class _Usual:
    """What is usual of labels: the share of rows that have one, the share that a class has of them, and how many rows say as much as one."""

    labelled: float
    share_of: Callable[[str], float]
    spread: float = 1.0


def _mean(values: pd.Series, weights: pd.Series) -> float:
    """The weighted mean of the values that are there."""
    known = values.notna()
    return float(np.average(values[known], weights=weights[known])) if known.any() else math.nan


def _completeness(spec: ModelSpec, counts: pd.DataFrame, usual: _Usual, about: Record) -> Iterator[Record]:
    """Beside what is usual: what can't be known is not asked."""
    if counts.empty or math.isnan(usual.labelled):
        return
    share, least = labelling.labelled_share(counts), labelling.COMPLETE * usual.labelled
    yield replace(about, metric="labelled_share", value=share, min=least, in_range=share >= least)
    sizes = counts.groupby("label")["rows"].sum()
    if spec.task != "regression" and len(sizes):
        only = sizes.index[0] if len(sizes) == 1 else None
        # So many rows of the one class that came would be a rare accident if nothing had changed.
        is_accident = only is not None and usual.share_of(only) ** (sizes.sum() / usual.spread) < ACCIDENT
        least = 2.0 if is_accident else 1.0
        alone = f"{spec.target}={canonical(only)}" if only is not None and spec.target not in spec.personal else ""
        here = replace(about, segment=alone)
        yield replace(here, metric="classes", value=len(sizes), min=least, in_range=len(sizes) >= least)
        if spec.task == "binary" and any(is_by_class(name) for name in spec.check.metrics):
            few = int(sizes.min()) if len(sizes) > 1 else 0
            yield replace(about, metric="rarer", value=few, min=OF_CLASS, in_range=few >= OF_CLASS)


def decide(spec: ModelSpec, day: date) -> Verdict:
    """What the check of a day decides, from its rows of the metrics table, which keeps the decision beside them.

    Where it is to retrain, or people are told that too much drifted, it is looked into why.
    """
    verdict = _decided(spec, day)
    if ledger.champion(spec, day) is None:  # it was no check
        return verdict
    if not _acted(spec, day):
        measurements.write_decision(spec, day, verdict)
    _close_episode(spec, day, verdict)
    drifted = drift_to_report(spec, day)
    if verdict.decision.trains or (drifted is not None and is_drift_told(spec, drifted)):
        _explain(spec, day)
    return verdict


def _acted(spec: ModelSpec, day: date) -> bool:
    """Whether the day's check has promoted or warned: what it decided before stays as it is."""
    known, run = ledger.state(spec), run_key(day)
    return any(each.by == run for each in (*known.promotions, *known.of(Unrecovered)))


def _close_episode(spec: ModelSpec, day: date, verdict: Verdict) -> None:
    """Note that the metrics are in range again, where loops before had not brought them back."""
    if verdict.decision is not Decision.KEEP or verdict.why.startswith(ONLY_MEASURED):
        return
    found = measurements.windows(spec, day)
    if policy.is_violated(found, rules(spec)):
        return
    known = ledger.state(spec)
    loops = episode.episode(known).loops
    # One window may be in range by chance; so many are as it takes for a violation.
    healed = bool(loops) and len(found) == spec.check.violated.of_last and all(each.healthy for each in found)
    if not healed and episode.open_since(known) is None:
        return
    now, last = ledger.require_champion(spec, day), found[-1].last
    why = verdict.why + (f"; loops had not helped since {loops[0].last}" if loops else "")
    ledger.write(spec, Recovered(version=now.version, last=last, healed=healed, day=day, by=run_key(day), why=why))


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
    held_out = next(iter(measurements.windows(spec, day, Window.SLICE)), None)
    # While a violation goes on, one window is enough: those of a champion before were out of range as well.
    goes_on = episode.open_since(known) is not None
    asked = replace(rules(spec), at_least=1) if goes_on else rules(spec)
    verdict = policy.decide(found, held_out, asked, only_measured=only_measured(spec, day))
    if verdict.decision is not Decision.RETRAIN:
        return verdict
    row, last, now_known = episode.episode(known), found[-1].last, known_now(spec, day)
    held_back = row.held_back(last, spec.check.every, now_known)
    if not held_back and row.is_probe(last, spec.check.every, now_known, _tries(spec, day)):
        return Verdict(Decision.PROBE, f"{verdict.why}; loops before did not help, so that one training is tried")
    if not held_back:
        return verdict
    only = Decision.BLEND if spec.retrain_first == "blend" and not _blended(spec, day, found[-1]) else Decision.WATCH
    return Verdict(only, f"{verdict.why}; {held_back}")


def _tries(spec: ModelSpec, day: date) -> Mapping[date, Mapping[int, policy.Outcome]]:
    return measurements.tried(spec, day - timedelta(days=episode.TRIED), day - timedelta(days=1))


def _blended(spec: ModelSpec, day: date, window: Measurement) -> bool:
    """Whether a check before has tried a blend since the window became whole: each window is one look."""
    whole = labelling.mature_on(spec, window.last)
    return bool(measurements.blends(spec, whole, day - timedelta(days=1)))


def known_now(spec: ModelSpec, day: date) -> Known:
    """What is known as a loop may begin: the spec, how much there is to learn from, how far a metric is out of range, the drift."""
    last = slice_days(spec, day)[0] - timedelta(days=1)
    first = last - timedelta(days=max(spec.train.window, *(each.window for each in spec.recipes)) - 1)
    window = measurements.windows(spec, day)[-1]
    found, since = measurements.drift(spec, day), window.last - timedelta(days=episode.LONGEST * spec.check.every)
    drifted = found is not None and found.too_much
    drifted |= any(since <= each.last <= window.last for each in ledger.state(spec).of(Drifted))
    return Known(
        spec=str(spec.mark(*(name for name in type(spec).model_fields if name != "folder"))),
        past=sum(first <= each <= last for each in lake.days_of("features", spec.name)),
        off=max(
            (_off(spec, name, window.metrics[name].value) for name in spec.check.metrics if name in window.bad),
            default=0.0,
        ),
        drifted=drifted,
    )


def _off(spec: ModelSpec, name: str, value: float) -> float:
    return policy.off_by(value, evaluation.bound(spec, name), best_of(name))


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


def is_drift_told(spec: ModelSpec, found: Drift) -> bool:
    """Whether people are told of a drift: where there was none in the 16 windows before, for it is no failure."""
    since = found.last - timedelta(days=2 * episode.LONGEST * spec.check.every)
    return not any(since <= each.last < found.last for each in ledger.state(spec).of(Drifted))
