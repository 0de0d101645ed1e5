"""What a check sees and decides: labels, metrics of what was served, drift, and the decision."""

from __future__ import annotations

import logging
from datetime import date, timedelta
from typing import Any

import pandas as pd

from esteira import drift, learn, registry, tables
from esteira.decide import Decision, Measurement, Verdict
from esteira.decide import decide as decide_from
from esteira.spec import ModelSpec
from esteira.steps import ingest, ledger

log = logging.getLogger(__name__)

DECISION = (
    -1
)  # the number under which the metrics table keeps a check's decision, beside 0 (the check) and its attempts


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
    first = min([slice_days(spec, day)[0], *(start for start, _ in windows(spec, now, day))])
    return ingest.labels(spec, first, day)


def served(spec: ModelSpec, version: int | None, first: date, last: date) -> pd.DataFrame:
    """The rows that a version (None: any) served on the days, with their label: out of sample only."""
    rows = tables.read("served", spec.name, day=(first, last), **({"version": version} if version else {}))
    known = tables.read("labels", spec.name, columns=["day", *spec.key, "label"], day=(first, last))
    if rows.empty or known.empty:
        return pd.DataFrame(columns=["day", *spec.key, "prediction", "probability", "label"])
    joined = rows[rows["day"] > rows["trained_through"]].merge(known, on=["day", *spec.key], validate="one_to_one")
    return joined.sort_values(["day", *spec.key], kind="stable", ignore_index=True)


def _metric_rows(spec: ModelSpec, rows: pd.DataFrame, names: tuple[str, ...], **about: object) -> list[dict[str, Any]]:
    values = learn.evaluate(spec, rows, names)
    found = []
    for name, value in values.items():
        limit = spec.check.metrics[name]
        found.append(
            {
                **about,
                "segment": "",
                "metric": name,
                "value": value,
                "min": limit.min,
                "max": limit.max,
                "in_range": limit.holds(value),
                "n_rows": len(rows),
                "n_days": rows["day"].nunique(),
            }
        )
    return found


def spans(
    spec: ModelSpec, rows: pd.DataFrame, of: list[tuple[date, date]], window: str, **about: object
) -> list[dict[str, Any]]:
    """The metrics of each span of days of `rows`, as rows of the metrics table."""
    found = []
    for first, last in of:
        part = rows[rows["day"].between(pd.Timestamp(first), pd.Timestamp(last))]
        found += _metric_rows(
            spec, part, tuple(spec.check.metrics), window=window, first_day=first, last_day=last, **about
        )
    return found


def measure(spec: ModelSpec, day: date) -> int:
    """Measure the day's champion on what it served: each new day, the last whole windows, the held-out slice, and drift.

    Replaces the check's rows of the metrics table; returns how many. Without a champion there is nothing to measure.
    """
    ledger.repair_aliases(spec)
    now = ledger.champion(spec, day)
    if now is None:
        return 0
    whole, held_out = windows(spec, now, day), slice_days(spec, day)
    first = min([held_out[0], *(start for start, _ in whole)])
    rows = served(spec, now.version, first, ingest.mature_through(spec, day))
    about = {"check_day": day, "attempt": 0, "role": "champion", "version": now.version}
    single = [(each, each) for each in _new_days(spec, now.version, day, rows)]
    found = spans(spec, rows, single, "day", **about)
    found += spans(spec, rows, whole, "window", **about)
    found += spans(spec, rows, [held_out], "slice", **about)
    found += _drift_rows(spec, now.version, whole[-1], day) if whole else []
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


def write_metrics(spec: ModelSpec, rows: list[dict[str, Any]], day: date, attempt: int) -> None:
    """Replace what the check of a day wrote for an attempt (0: the check itself)."""
    frame = pd.DataFrame(rows, columns=tables.METRICS_SCHEMA.names)
    where = {"check_day": day, "attempt": attempt}
    tables.replace("metrics", spec.name, frame, where, schema=tables.METRICS_SCHEMA, partition="check_day")


def _new_days(spec: ModelSpec, version: int, day: date, rows: pd.DataFrame) -> list[date]:
    """The served days that no check before this one has recorded."""
    known = tables.read(
        "metrics", spec.name, columns=["check_day", "last_day"], window="day", version=version, role="champion"
    )
    recorded = set(known.loc[known["check_day"] < pd.Timestamp(day), "last_day"]) if len(known) else set()
    return [moment.date() for moment in sorted(rows["day"].unique()) if moment not in recorded]


def _drift_rows(spec: ModelSpec, version: int, span: tuple[date, date], day: date) -> list[dict[str, Any]]:
    frame = tables.read("features", spec.name, columns=["day", *spec.features.all], day=span)
    found = drift.psi(registry.profile(registry.run_of(spec, version)), frame)
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


def measured_windows(spec: ModelSpec, day: date, window: str = "window") -> list[Measurement]:
    """The champion's windows as the check recorded them, the latest one last."""
    rows = tables.read("metrics", spec.name, check_day=day, attempt=0, role="champion", window=window)
    found = []
    for _, part in rows.groupby(["first_day", "last_day"], sort=True):
        held = dict(zip(part["metric"], part["in_range"].astype(bool), strict=True))
        values = dict(zip(part["metric"], part["value"], strict=True))
        ordered = [name for name in spec.check.metrics if name in values]
        found.append(
            Measurement(
                part["first_day"].iloc[0].date(),
                part["last_day"].iloc[0].date(),
                int(part["n_rows"].iloc[0]),
                int(part["n_days"].iloc[0]),
                {name: values[name] for name in ordered},
                {name: held[name] for name in ordered},
            )
        )
    return found


def decide(spec: ModelSpec, day: date) -> Verdict:
    """What the check of a day decides, from its rows of the metrics table, which keeps the decision beside them."""
    verdict = _decided(spec, day)
    row = {"check_day": day, "attempt": DECISION, "role": "decision", "outcome": verdict.decision, "why": verdict.why}
    write_metrics(spec, [row], day, DECISION)
    return verdict


def decided(spec: ModelSpec, day: date) -> Verdict | None:
    """What the check of a day has decided; None where it has not."""
    rows = tables.read("metrics", spec.name, check_day=day, role="decision")
    return Verdict(Decision(rows["outcome"].iloc[0]), str(rows["why"].iloc[0])) if len(rows) else None


def _decided(spec: ModelSpec, day: date) -> Verdict:
    now = ledger.champion(spec, day)
    if now is None:
        return Verdict(Decision.WAIT, f"no champion for {day} yet: train and promote one first")
    why = only_measured(spec, day)
    if why:
        return Verdict(Decision.KEEP, why)
    found = measured_windows(spec, day)
    verdict = decide_from(found, min_days=spec.check.min_days, at_least=spec.check.violated.at_least)
    if verdict.decision is not Decision.RETRAIN:
        return verdict
    held_out = measured_windows(spec, day, "slice")[0]
    if held_out.days < spec.check.min_days:
        return Verdict(
            Decision.WAIT,
            f"{verdict.why}, but the slice has only {held_out.days} days, of {spec.check.min_days} needed",
        )
    warned = warning_id(now.version, found[-1].last)
    if _done_by_another_day(spec, warned, day) or len(tables.read("ledger", spec.name, id=f"delivered:{warned}")):
        return Verdict(
            Decision.WATCH,
            f"{verdict.why}, and the loop failed on this window: it waits for one more window of mature days",
        )
    return verdict


def only_measured(spec: ModelSpec, day: date) -> str:
    """Why the check of a day only measures: a later one has decided, or another champion serves since; else empty."""
    checked = tables.read("metrics", spec.name, columns=["check_day"])
    newest = checked["check_day"].max().date() if len(checked) else day
    if newest > day:
        return f"only measured: {newest} was checked already"
    now, latest = ledger.champion(spec, day), ledger.champion(spec)
    if now is not None and latest is not None and latest.version != now.version:
        return f"only measured: version {latest.version} serves from {latest.effective_day} on"
    return ""


def warning_id(version: int, window_end: date) -> str:
    """The ledger's id of a warning: one for a champion and a window."""
    return f"warned:{version}:{window_end}"


def drifts(spec: ModelSpec, day: date) -> dict[str, float]:
    """Each feature's PSI in the latest window of a day's check, the largest first."""
    rows = tables.read("metrics", spec.name, check_day=day, attempt=0, role="drift", metric="psi")
    found = rows.sort_values("value", ascending=False)
    return dict(zip(found["segment"], found["value"], strict=True))


def drift_to_report(spec: ModelSpec, day: date) -> str | None:
    """The ledger's id of a report that too many features drifted; None where they did not, or it was reported before."""
    rows = tables.read("metrics", spec.name, check_day=day, attempt=0, role="drift", metric="drift_share")
    if rows.empty or rows["in_range"].iloc[0] or only_measured(spec, day):
        return None
    key = f"drifted:{int(rows['version'].iloc[0])}:{rows['last_day'].iloc[0].date()}"
    return None if _done_by_another_day(spec, key, day) else key


def _done_by_another_day(spec: ModelSpec, key: str, day: date) -> bool:
    """Whether the check of another day has written this id into the ledger."""
    rows = tables.read("ledger", spec.name, id=key)
    return bool(len(rows)) and bool(rows.iloc[0]["by"] != run_key(day))
