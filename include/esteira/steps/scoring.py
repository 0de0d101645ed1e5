"""A day's predictions: score writes what consumers read, publish keeps what was first given out."""

from __future__ import annotations

import logging
import time
from datetime import date, timedelta

import pandas as pd

from esteira.learning import pipelines
from esteira.spec import ModelSpec
from esteira.steps import ingest, quality
from esteira.store import lake, ledger
from esteira.text import counted

log = logging.getLogger(__name__)


def score(spec: ModelSpec, days: list[date], run: str, version: int | None = None) -> int:
    """Predict the days' feature rows, each with its day's champion or with `version`, and replace the days' predictions.

    Returns the number of rows. `run` names who asked; the rows keep it. Raises NoChampion where a day has none.
    """
    ledger.repair_aliases(spec)
    if version:
        chosen = dict.fromkeys(days, version)
    else:
        chosen = {day: now.version for day, now in ledger.require_champions(spec, days).items()}
    rows = lake.read("features", spec.name, day=(min(days), max(days)))
    parts = [
        _predict(spec, number, rows, [day for day in days if chosen[day] == number])
        for number in sorted(set(chosen.values()))
    ]
    parts = [part for part in parts if len(part)]
    predictions = _replacing(spec, pd.concat(parts, ignore_index=True).assign(run=run)) if parts else pd.DataFrame()
    lake.replace_days("predictions", spec.name, predictions, days)
    made = ", ".join(map(str, sorted(set(chosen.values()))))
    sizes = counted(len(predictions), "row"), counted(len(days), "day")
    log.info("model %s: %s of %s scored by version %s", spec.name, *sizes, made)
    return len(predictions)


def _replacing(spec: ModelSpec, predictions: pd.DataFrame) -> pd.DataFrame:
    """The predictions with `replaces`: the version whose prediction of the row each takes the place of, if it is another."""
    span = (predictions["day"].min().date(), predictions["day"].max().date())
    had = lake.read("predictions", spec.name, columns=["day", *spec.key, "version", "replaces"], day=span)
    if had.empty:
        return predictions.assign(replaces=pd.Series(pd.NA, index=predictions.index, dtype="Int64"))
    had = had.reindex(columns=["day", *spec.key, "version", "replaces"])
    before = predictions[["day", *spec.key]].merge(had, on=["day", *spec.key], how="left", validate="one_to_one")
    same = before["version"].to_numpy() == predictions["version"].to_numpy()
    # The same version again, as a retry does, replaces what that version did.
    replaced = before["version"].where(~same, before["replaces"])
    return predictions.assign(replaces=replaced.astype("Int64").array)


def _predict(spec: ModelSpec, version: int, rows: pd.DataFrame, days: list[date]) -> pd.DataFrame:
    wanted = rows[rows["day"].isin(pd.to_datetime(days))] if len(rows) else rows
    if wanted.empty:
        return wanted
    began = time.perf_counter()
    model = ledger.load_version(spec, version)
    loaded = time.perf_counter()
    predicted = pipelines.predict(spec, model, wanted)
    done = time.perf_counter()
    return (
        wanted[[*spec.key, "event_time", "day"]]
        .join(predicted)
        .assign(
            version=version,
            trained_through=pd.Timestamp(model.trained_through),
            load_seconds=loaded - began,
            predict_seconds=done - loaded,
        )
    )


def publish(spec: ModelSpec, days: list[date], run: str) -> int:
    """Keep what the run predicted for the days as served, row by row where nothing was served before; returns the rows.

    A retry of the run that served a row rewrites it; a later scoring leaves it untouched, and adds the rows that were not
    there yet, such as those that were mended since. Raises Unaccounted where rows read are missing.
    """
    rows = lake.read("predictions", spec.name, day=(min(days), max(days)))
    rows = rows[rows["day"].isin(pd.to_datetime(days))] if len(rows) else rows
    if len(rows):
        # What was served first replaces nothing; and what another run scored before this one could serve, is served too.
        scored = rows.drop(columns="replaces", errors="ignore")

        def with_served(had: pd.DataFrame) -> pd.DataFrame | None:
            others = had[had["run"] != run]
            known = others.set_index(["day", *spec.key]).index
            new = scored[~scored.set_index(["day", *spec.key]).index.isin(known)]
            return pd.concat([others, new], ignore_index=True) if len(new) or len(others) < len(had) else None

        lake.replace_days("served", spec.name, scored, set(scored["day"].dt.date), merge=with_served)
    log.info("model %s: %s to %s: %s", spec.name, min(days), max(days), quality.accounted(spec, days))
    return int((rows["run"] == run).sum()) if len(rows) else 0


def requeue(spec: ModelSpec, days: list[date], run: str, when_gone: ingest.WhenGone = "refuse") -> str:
    """Read the days anew and score them, by the version that made their predictions, or else each day's champion.

    Their quarantined labels are read again, too. Returns what was read, published and is left in quarantine, as a
    sentence. Raises DataError where the days are not fit to be scored yet.
    """
    ingest.extract(spec, days, when_gone)
    ingest.validate(spec, days)
    quality.require_fit(spec, days)
    ingest.features(spec, days)
    had = lake.read("predictions", spec.name, columns=["day", "version"], day=(min(days), max(days)))
    made = dict(zip(had["day"].dt.date, had["version"].astype(int), strict=True)) if len(had) else {}
    for version in sorted({made.get(day, 0) for day in days}):
        score(spec, [day for day in days if made.get(day, 0) == version], run, version or None)
    publish(spec, days, run)
    checked = lake.days_of("metrics", spec.name)
    if checked and len(lake.read("quarantine", spec.name, columns=["day"], stage="labels", day=(min(days), max(days)))):
        as_of = min(max(days) + timedelta(days=spec.label_delay), checked[-1])
        ingest.labels(spec, min(days), as_of)  # those only that a check has looked at: others are not mature
    return quality.accounted(spec, days)
