"""A day's predictions: `predictions` are brought to what the ledger says is published, `served` keeps what was first given out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

import pandas as pd

from esteira.errors import DataError, EsteiraError, Refused, Superseded, Unaccounted
from esteira.learning import pipelines
from esteira.lifecycle import changes
from esteira.lifecycle.sequence import Released
from esteira.lifecycle.state import State
from esteira.spec import ModelSpec
from esteira.steps import champions, ingest, labelling, quality
from esteira.store import lake, ledger
from esteira.text import counted, shown_days

log = logging.getLogger(__name__)

TRIES = 20  # to write days while promotions and roll-backs go on


def score(
    spec: ModelSpec,
    days: list[date],
    run: str,
    version: int | None = None,
    *,
    by: str = "",
    champion: bool = False,
) -> int:
    """Predict the days' feature rows, each by the version that is published for its day, and replace the days' predictions.

    With `version` that one is chosen for the days, once for a run, until they are scored with `champion`, which lets it go;
    `by` names who asked, else it is the run. Returns the number of rows; they keep the `run`. Raises NoChampion where a day
    has no version, DataError where its features are not those of the model.yaml, and Damaged where a table is gone.
    """
    lake.require_all(spec.name)
    champions.repair_aliases(spec)
    ledger.settle(spec)
    if version:
        require_usable(spec, version)  # before it is chosen for good
        asked = version
        ledger.change(spec, lambda known: changes.pin(known, asked, min(days), max(days), by=by or run, run=run))
    if champion:
        release(spec, days, by or run, run)
    return _written(spec, days, run)


def release(spec: ModelSpec, days: list[date], by: str, run: str) -> None:
    """Let go the versions that were chosen by hand for the days, once for a run; for other days they stay.

    Raises NoChampion where a day would then have no version.
    """
    first, last = min(days), max(days)

    def made(known: State) -> Released | None:
        event = changes.release(known, first, last, by=by, run=run)
        if event is not None:
            ledger.require_published(spec, days, replace(known, numbered=(*known.numbered, event)))
        return event

    ledger.change(spec, made)


def _written(spec: ModelSpec, days: list[date], run: str) -> int:
    """Write the days by the state, and the features, as they are; those that changed meanwhile anew."""
    made: dict[date, int] = {}
    left = days
    for _ in range(TRIES):
        _require_features(spec, left)
        known, features = ledger.state(spec), lake.version("features", spec.name)
        chosen = ledger.require_published(spec, left, known)
        try:
            made |= _replace(spec, left, chosen, known, run)
        except Superseded:
            continue
        # A change that came before this write may have found nothing to bring along, so it is looked for after it.
        now, moved = ledger.state(spec), _moved(spec, left, features)
        left = [day for day in left if now.published(day).version != chosen[day] or day in moved]
        if not left:
            return sum(made.values())
    raise Superseded(
        f"model {spec.name}: its champion, or its features, changed {TRIES} times while {shown_days(days)} were scored; score them again"
    )


def _require_features(spec: ModelSpec, days: list[date]) -> None:
    """Refuse days whose features were made of another model.yaml, or never: a task that was run alone. Raises DataError."""
    other = lake.missing_days("features", spec.name, days, ingest.features_mark(spec))
    if other:
        raise DataError(
            f"model {spec.name}: the features of {shown_days(other)} are not those of the model.yaml as it is now; run the day as a "
            "whole, from extract on"
        )


def _moved(spec: ModelSpec, days: list[date], version: int) -> set[date]:
    """Those of the days whose feature rows are not as they were at a version of the table."""
    if lake.version("features", spec.name) == version:
        return set()
    span = (min(days), max(days))
    before, now = lake.read("features", spec.name, at=version, day=span), lake.read("features", spec.name, day=span)
    return {day for day in days if not _of_day(before, day).equals(_of_day(now, day).reindex(columns=before.columns))}


def _of_day(rows: pd.DataFrame, day: date) -> pd.DataFrame:
    return rows[rows["day"] == pd.Timestamp(day)].reset_index(drop=True)


def _replace(spec: ModelSpec, days: list[date], chosen: Mapping[date, int], known: State, run: str) -> dict[date, int]:
    """Predict and write the days, all in one transaction that carries the state's number; returns the rows of each day.

    Raises Superseded where a day was written by a later state.
    """
    rows = lake.read("features", spec.name, day=(min(days), max(days)))
    parts = [
        _predict(spec, number, rows, [day for day in days if chosen[day] == number])
        for number in sorted(set(chosen.values()))
    ]
    parts = [part for part in parts if len(part)]
    predictions = _replacing(spec, pd.concat(parts, ignore_index=True).assign(run=run)) if parts else pd.DataFrame()
    of = dict.fromkeys(map(_features_name, days), ingest.features_mark(spec))
    lake.replace_days("predictions", spec.name, predictions, days, mark=ledger.mark_of(known), newest=True, marks=of)
    versions = ", ".join(map(str, sorted(set(chosen.values()))))
    sizes = counted(len(predictions), "row"), counted(len(days), "day")
    log.info("model %s: %s of %s scored by version %s", spec.name, *sizes, versions)
    counts = predictions["day"].dt.date.value_counts().to_dict() if len(predictions) else {}
    return {day: int(counts.get(day, 0)) for day in days}


def _features_name(day: date) -> str:
    """The name of the mark that says of which features a day's predictions are."""
    return f"features:{day}"


def _rebuilt(spec: ModelSpec, days: Iterable[date] | None) -> set[date]:
    """The days whose features were built anew, by another model.yaml, since they were predicted: by a training that needs them.

    Predictions of version 0.1 do not say of which features they are.
    """
    every = lake.days_of("predictions", spec.name)
    asked = every if days is None else sorted(set(every) & set(days))
    of = lake.named_marks("predictions", spec.name, [_features_name(day) for day in asked])
    now = lake.marks("features", spec.name, asked)
    return {day for day in asked if of[_features_name(day)] not in (None, now[day])}


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
    model = champions.load_version(spec, version)
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


# --------------------------------------------------------------------------------------------------------- reconcile


@dataclass(frozen=True)
class Reconciled:
    """What bringing predictions to what is published came to: the days written again, and those that could not be, with why."""

    days: tuple[date, ...] = ()
    rows: int = 0
    kept: Mapping[date, str] = field(default_factory=dict)

    def require_whole(self, spec: ModelSpec) -> str:
        """What was done, in words. Raises DataError where days are left that are not as published."""
        if self.kept:
            raise DataError(f"model {spec.name}: {self}")
        return str(self)

    def __str__(self) -> str:
        said = f"{counted(len(self.days), 'day')} scored again" + (
            f", {self.days[0]} to {self.days[-1]}" if self.days else ""
        )
        if self.kept:
            days = sorted(self.kept)
            said += f"; {shown_days(days)} left as {'it is' if len(days) == 1 else 'they are'}: {self.kept[days[0]]}"
        return said


def reconcile(spec: ModelSpec, run: str, days: Iterable[date] | None = None) -> Reconciled:
    """Bring the predictions of the days (none given: of all) to the version that is published for each.

    A day that is so is not touched, unless its features were built anew since: then rows may have left quarantine, or come to
    it, and the day is made whole. Where features are gone or of another model.yaml they are built anew, as for a training. A
    day that can't be computed again keeps its rows, and is told, unless it is as published and no row of it is missing.
    """
    champions.repair_aliases(spec)
    ledger.settle(spec)
    asked = None if days is None else list(days)
    done: list[date] = []
    kept: dict[date, str] = {}
    # Days as published, of which no row is missing, whose new features their version can't score.
    whole: set[date] = set()
    rows = 0
    while True:
        known, rebuilt = ledger.state(spec), _rebuilt(spec, asked)
        outdated = ledger.outdated(spec, known, asked)
        left = sorted(day for day in {*outdated, *rebuilt} if day not in {*kept, *whole})
        gone = lacking(spec, left)
        rebuilt |= set(gone)
        kept |= _built_anew(spec, gone)
        by_version: dict[int, list[date]] = {}
        for day in left:
            version = known.published(day).version
            if day not in kept and version is None:
                kept[day] = "no version is published for it any more"
            elif day not in kept and version is not None:
                by_version.setdefault(version, []).append(day)
        if not by_version:
            break
        for some in by_version.values():  # by themselves: a version that is not to be had keeps none of the other days
            try:
                rows += _written(spec, some, run)
                publish(spec, sorted(rebuilt & set(some)), run)
                done += some
            except (EsteiraError, Unaccounted) as error:
                whole |= {day for day in some if day not in outdated and _adds_up(spec, day)}
                kept |= {day: str(error) for day in some if day not in whole}
    if kept:
        log.warning("model %s: %s", spec.name, Reconciled((), 0, kept))
    return Reconciled(tuple(sorted(set(done))), rows, kept)


def _adds_up(spec: ModelSpec, day: date) -> bool:
    try:
        quality.accounted(spec, [day])
    except (EsteiraError, Unaccounted):
        return False
    return True


def _built_anew(spec: ModelSpec, days: list[date]) -> dict[date, str]:
    """Build the features of days, as for a training; returns those that can't be built, with why."""
    kept = {}
    for day in days:
        try:
            ingest.ensure_features(spec, [day])
        except EsteiraError as error:
            kept[day] = f"its features are gone, or of another model.yaml, and can't be built anew: {error}"
    return kept


def lacking(spec: ModelSpec, days: list[date]) -> list[date]:
    """The days whose features can't be scored as they are: they are gone, or of another model.yaml."""
    return lake.missing_days("features", spec.name, days, ingest.features_mark(spec)) if days else []


def require_usable(spec: ModelSpec, version: int) -> None:
    """Refuse a version that can't score any more: its model is gone, or needs features that the model.yaml has not. Raises EsteiraError."""
    model = champions.load_version(spec, version)
    gone = [name for name in model.columns if name not in spec.features.all]
    if gone:
        raise Refused(
            f"model {spec.name}: version {version} was trained on {gone}, which model.yaml no longer has among its features; put "
            "them back, or train and promote a new version"
        )


# ----------------------------------------------------------------------------------------------------------- publish


def publish(spec: ModelSpec, days: list[date], run: str) -> int:
    """Keep what is predicted for the days as served, row by row where nothing was served before; returns the rows of the run.

    What was served never changes: a later scoring adds the rows that were not there yet, such as those that were mended
    since. Raises Unaccounted where rows read are missing.
    """
    if not days:
        return 0
    rows = lake.read("predictions", spec.name, day=(min(days), max(days)))
    rows = rows[rows["day"].isin(pd.to_datetime(days))] if len(rows) else rows
    if len(rows):
        # What was served first replaces nothing; and what another run scored before this one could serve, is served too.
        scored = rows.drop(columns="replaces", errors="ignore")

        def with_served(had: pd.DataFrame) -> pd.DataFrame | None:
            known = had.set_index(["day", *spec.key]).index
            new = scored[~scored.set_index(["day", *spec.key]).index.isin(known)]
            return pd.concat([had, new], ignore_index=True) if len(new) else None

        lake.replace_days("served", spec.name, scored, set(scored["day"].dt.date), merge=with_served)
    labelling.store_again(spec, days)
    log.info("model %s: %s to %s: %s", spec.name, min(days), max(days), quality.accounted(spec, days))
    return int((rows["run"] == run).sum()) if len(rows) else 0


def requeue(spec: ModelSpec, days: list[date], run: str, when_gone: ingest.WhenGone = "refuse") -> str:
    """Read the days anew and score them, each by the version that is published for it.

    Their labels are read again, too, where they were read before. Returns what was read, published and is left in
    quarantine, as a sentence. Raises DataError where the days are not fit to be scored yet.
    """
    if spec.labels and spec.labels.source:  # which may have them, though the source of the rows has let go the days
        labelling.store_again(spec, days)
    ingest.extract(spec, days, when_gone)
    ingest.validate(spec, days)
    quality.require_fit(spec, days)
    ingest.features(spec, days)
    score(spec, days, run)
    publish(spec, days, run)
    return quality.accounted(spec, days)
