"""What a check sees and decides: labels, metrics of what was served, drift, and the decision."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import pandas as pd

from esteira import data
from esteira.learning import drift, evaluation
from esteira.lifecycle.policy import Decision, Measurement, Verdict
from esteira.lifecycle.policy import decide as decide_from
from esteira.spec import Limit, ModelSpec
from esteira.steps import estimating, ingest
from esteira.steps.outcomes import segments, served
from esteira.store import lake, ledger, runs
from esteira.text import counted

log = logging.getLogger(__name__)

PAST = 60  # days before a window that say what labels are usual
COMPLETE = 0.9  # of the past's labelled share
ACCIDENT = 0.01  # what is less probable than this was no accident
# The attempt under which the metrics table keeps what a check decided; its measurements are 0, its attempts 1 and up.
DECISION = -1


def run_key(day: date) -> str:
    """What the runs of a day's check are known by in MLflow, and its predictions in the tables."""
    return f"check:{day}"


def windows(spec: ModelSpec, champion: ledger.Champion, day: date) -> list[tuple[date, date]]:
    """The last whole windows of mature days that the champion served, the latest one last.

    They follow each other from the first day that the champion served, and do not overlap.
    """
    length = spec.check.every
    whole = ((ingest.mature_through(spec, day) - champion.effective_day).days + 1) // length
    starts = [
        champion.effective_day + timedelta(days=length * n)
        for n in range(max(whole - spec.check.violated.of_last, 0), whole)
    ]
    return [(start, start + timedelta(days=length - 1)) for start in starts]


def slice_days(spec: ModelSpec, day: date) -> tuple[date, date]:
    """The held-out slice of a check: the latest mature days."""
    last = ingest.mature_through(spec, day)
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
        found += ingest.labels(spec, first, each)
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
    ledger.repair_aliases(spec)
    if ledger.champion(spec, day) is None:
        return 0
    for before in _skipped(spec, day):
        _measure(spec, before)
        _keep_decision(spec, before, Verdict(Decision.KEEP, f"only measured: it is part of a range that ends on {day}"))
    return _measure(spec, day)


def _skipped(spec: ModelSpec, day: date) -> list[date]:
    """The days before a check's, since the newest one before it, on which a window became whole that its own last ones lack."""
    known = ledger.state(spec)
    since = max([known.changes[0].effective_day, *(each for each in lake.days_of("metrics", spec.name) if each < day)])
    held = windows(spec, ledger.require_champion(spec, day), day)
    oldest = held[0][0] if held else date.max
    found = []
    for each in data.days(since + timedelta(days=1), day - timedelta(days=1)):
        now = known.serving(each)
        whole = windows(spec, now, each) if now else []
        if whole and whole[-1][1] == ingest.mature_through(spec, each) and whole[-1][1] < oldest:
            found.append(each)
    return found


def _measure(spec: ModelSpec, day: date) -> int:
    now = ledger.require_champion(spec, day)
    whole, held_out = windows(spec, now, day), slice_days(spec, day)
    first = min([held_out[0], *(start for start, _ in whole)])
    rows = served(spec, now.version, first, ingest.mature_through(spec, day))
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
    write_metrics(spec, found, day, 0)
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


def _estimates(
    spec: ModelSpec, now: ledger.Champion, day: date, whole: list[tuple[date, date]]
) -> list[dict[str, Any]]:
    try:
        return estimating.rows(spec, now, day, whole)
    except Exception:  # whatever it was: an estimate that can't be made must not keep a check from deciding
        log.exception("model %s: no estimate for the days without labels", spec.name)
        return []


def write_metrics(spec: ModelSpec, rows: list[dict[str, Any]], day: date, attempt: int) -> None:
    """Replace what the check of a day wrote for an attempt (0: the check itself)."""
    frame = pd.DataFrame(rows, columns=lake.METRICS_SCHEMA.names)
    where = {"check_day": day, "attempt": attempt}
    lake.replace("metrics", spec.name, frame, where, schema=lake.METRICS_SCHEMA, partition="check_day")


def _new_days(spec: ModelSpec, version: int, day: date, rows: pd.DataFrame) -> list[date]:
    """The served days that no check before this one has recorded."""
    served = sorted(moment.date() for moment in rows["day"].unique())
    if not served:
        return []
    # A day can't have been recorded before it was over.
    known = lake.read(
        "metrics",
        spec.name,
        columns=["last_day"],
        check_day=(served[0], day - timedelta(days=1)),
        window="day",
        version=version,
        role="champion",
    )
    recorded = {moment.date() for moment in known["last_day"]}
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
    known = lake.read("labels", spec.name, columns=["day", *spec.key, "label"], day=(start, end))
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


def _incomplete(labels: pd.DataFrame, unknown: list[str]) -> str:
    """Why a span's labels can't be judged by: what is missing of them, and which metrics they give no value for."""
    bad = labels[~labels["in_range"].astype(bool)] if len(labels) else labels
    reasons = {
        "labelled_share": "{value:.0%} of the rows have one, and at least {min:.0%} would be usual",
        "classes": "they hold {value:.0f} class, and several were usual",
    }
    said = [reasons[row["metric"]].format(value=row["value"], min=row["min"]) for row in bad.to_dict("records")]
    return "; ".join([*said, *(f"{name} can't be computed from them" for name in unknown)])


def limit_of(spec: ModelSpec, name: str) -> Limit:
    """The limit of a metric as a Measurement names it: `mae`, or `mae of site=A`."""
    metric, _, segment = name.partition(" of ")
    return spec.check.segments[segment.partition("=")[0]][metric] if segment else spec.check.metrics[metric]


def measured_windows(spec: ModelSpec, day: date, window: str = "window") -> list[Measurement]:
    """The champion's windows as the check recorded them, the latest one last."""
    every = lake.read("metrics", spec.name, check_day=day, attempt=0, window=window)
    rows = every[(every["role"] == "champion") & ((every["segment"] == "") | every["in_range"].notna())]
    labels = every[every["role"] == "labels"]
    found = []
    for _, part in rows.groupby(["first_day", "last_day"], sort=True):
        part = part.sort_values("segment", kind="stable")  # all rows, whose segment is empty, come first
        unknown = list(part.loc[part["in_range"].isna(), "metric"])
        first_row, part = part.iloc[0], part[part["in_range"].notna()]
        names = [
            f"{name} of {some}" if some else name for name, some in zip(part["metric"], part["segment"], strict=True)
        ]
        held = dict(zip(names, part["in_range"].astype(bool), strict=True))
        values = dict(zip(names, part["value"], strict=True))
        whole = [name for name in spec.check.metrics if name in values]
        ordered = [*whole, *(name for name in values if name not in whole)]
        found.append(
            Measurement(
                first_row["first_day"].date(),
                first_row["last_day"].date(),
                int(first_row["n_rows"]),
                int(first_row["n_days"]),
                {name: values[name] for name in ordered},
                {name: held[name] for name in ordered},
                _incomplete(labels[labels["last_day"] == first_row["last_day"]], unknown),
            )
        )
    return found


def decide(spec: ModelSpec, day: date) -> Verdict:
    """What the check of a day decides, from its rows of the metrics table, which keeps the decision beside them."""
    verdict = _decided(spec, day)
    if ledger.champion(spec, day) is not None and not _acted(spec, day):  # without a champion it was no check
        _keep_decision(spec, day, verdict)
    return verdict


def _keep_decision(spec: ModelSpec, day: date, verdict: Verdict) -> None:
    about = {"check_day": day, "attempt": DECISION, "role": "decision"}
    write_metrics(spec, [{**about, "outcome": verdict.decision, "why": verdict.why}], day, DECISION)


def _acted(spec: ModelSpec, day: date) -> bool:
    """Whether the day's check has promoted, or has delivered its warning: what it decided before stays as it is."""
    known = lake.read("ledger", spec.name, columns=["to_state"], by=run_key(day))
    return bool(known["to_state"].isin(["champion", "delivered"]).any())


def decided(spec: ModelSpec, day: date) -> Verdict | None:
    """What the check of a day has decided; None where it has not."""
    rows = lake.read("metrics", spec.name, check_day=day, role="decision")
    return Verdict(Decision(rows["outcome"].iloc[0]), str(rows["why"].iloc[0])) if len(rows) else None


def _decided(spec: ModelSpec, day: date) -> Verdict:
    now = ledger.champion(spec, day)
    if now is None:
        return Verdict(Decision.WAIT, f"no champion for {day} yet: train and promote one first")
    why = only_measured(spec, day)
    if why:
        return Verdict(Decision.KEEP, why)
    found = measured_windows(spec, day)
    verdict = decide_from(
        found, min_days=spec.check.min_days, at_least=spec.check.violated.at_least, min_rows=spec.check.min_rows
    )
    if verdict.decision is not Decision.RETRAIN:
        return verdict
    held_out = measured_windows(spec, day, "slice")[0]
    if not held_out.is_evidence(spec.check.min_days, spec.check.min_rows):
        size = f"{counted(held_out.days, 'day')} and {counted(held_out.rows, 'row')}"
        wanted = f"{spec.check.min_days} and {spec.check.min_rows} are needed"
        why = f"the labels of the slice look incomplete: {held_out.incomplete}" if held_out.incomplete else ""
        return Verdict(Decision.WAIT, f"{verdict.why}, but {why or f'the slice has {size}, and {wanted}'}")
    warned = warning_id(now.version, found[-1].last)
    if _done_by_another_day(spec, warned, day) or len(lake.read("ledger", spec.name, id=f"delivered:{warned}")):
        return Verdict(
            Decision.WATCH,
            f"{verdict.why}, and the loop failed on this window: it waits for one more window of mature days",
        )
    return verdict


def only_measured(spec: ModelSpec, day: date) -> str:
    """Why the check of a day only measures: a later one has decided, or another champion serves since; else empty."""
    newest = max([day, *lake.days_of("metrics", spec.name)])
    if newest > day:
        return f"only measured: {newest} was checked already"
    now, latest = ledger.champion(spec, day), ledger.champion(spec)
    if now is not None and latest is not None and latest.number != now.number:
        return f"only measured: version {latest.version} serves from {latest.effective_day} on"
    return ""


def warning_id(version: int, window_end: date) -> str:
    """The ledger's id of a warning: one for a champion and a window."""
    return f"warned:{version}:{window_end}"


def drifts(spec: ModelSpec, day: date) -> dict[str, float]:
    """Each feature's PSI in the latest window of a day's check, the largest first."""
    rows = lake.read("metrics", spec.name, check_day=day, attempt=0, role="drift", metric="psi")
    found = rows.sort_values("value", ascending=False)
    return dict(zip(found["segment"], found["value"], strict=True))


def drift_to_report(spec: ModelSpec, day: date) -> str | None:
    """The ledger's id of a report that too many features drifted; None where they did not, or it was reported before."""
    rows = lake.read("metrics", spec.name, check_day=day, attempt=0, role="drift", metric="drift_share")
    if rows.empty or rows["in_range"].iloc[0] or only_measured(spec, day):
        return None
    key = f"drifted:{int(rows['version'].iloc[0])}:{rows['last_day'].iloc[0].date()}"
    return None if _done_by_another_day(spec, key, day) else key


def _done_by_another_day(spec: ModelSpec, key: str, day: date) -> bool:
    """Whether the check of another day has written this id into the ledger."""
    rows = lake.read("ledger", spec.name, id=key)
    return bool(len(rows)) and bool(rows.iloc[0]["by"] != run_key(day))
