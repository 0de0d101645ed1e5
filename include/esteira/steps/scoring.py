"""A day's predictions: `predictions` are brought to what the ledger says is published, `served` keeps what was first given out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np
import pandas as pd

from esteira.errors import DataError, EsteiraError, Refused, Superseded, Unaccounted
from esteira.learning import predicting
from esteira.learning.predicting import Model
from esteira.lifecycle import changes
from esteira.lifecycle.sequence import Released
from esteira.lifecycle.state import State
from esteira.spec import ModelSpec
from esteira.steps import champions, ingest, keys, labelling, quality
from esteira.store import lake, ledger
from esteira.store.backend import Part
from esteira.text import counted, shown_days

log = logging.getLogger(__name__)

TRIES = 20  # to write days while promotions and roll-backs go on


@dataclass(frozen=True)
class Request:
    """What is asked of a scoring beside its days; nothing, as by the schedule.

    `version` is chosen for the days, once for a run, until they are scored with `champion`, which lets it go; `by` names who
    asked, else it is the run. `when_gone` is for days that had rows, of which the source has none any more.
    """

    version: int | None = None
    champion: bool = False
    by: str = ""
    when_gone: ingest.WhenGone = "refuse"


NOTHING = Request()


def score(spec: ModelSpec, days: list[date], run: str, asked: Request = NOTHING) -> int:
    """Predict the days' feature rows, each by the version that is published for its day, and replace the days' predictions.

    Returns the number of rows; they keep the `run`. Raises NoChampion where a day has no version, DataError where its
    features are not those of the model.yaml, and Damaged where a table is gone.
    """
    choose(spec, days, run, asked)
    return write(spec, days, run)[0]


def choose(spec: ModelSpec, days: list[date], run: str, asked: Request = NOTHING) -> None:
    """Say in the ledger which version was chosen by hand for the days, or that none is any more."""
    lake.require_all(spec.name)
    ledger.settle(spec)
    version, by = asked.version, asked.by or run
    if version:
        require_usable(spec, version)  # before it is chosen for good
        ledger.change(spec, lambda known: changes.pin(known, version, min(days), max(days), by=by, run=run))
    if asked.champion:
        release(spec, days, by, run)


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


def write(
    spec: ModelSpec, days: list[date], run: str, ready: Predicted | None = None, of: int | None = None
) -> tuple[int, bool]:
    """Write the days by the state, and the features, as they are; those that changed meanwhile anew.

    `ready` are predictions of the features as they are at their version `of`, which are taken where no version changed since
    they were made. Returns the number of rows, and whether those of all days are of them.
    """
    made: dict[date, int] = {}
    left, taken = days, False
    for _ in range(TRIES):
        _require_features(spec, left)
        known, features = ledger.state(spec), lake.version("features", spec.name)
        chosen = ledger.require_published(spec, left, known)
        taken = ready is not None and of == features and ready.chosen == chosen and ready.is_next(spec, left)
        now_ready = ready if ready is not None and taken else _predicted(spec, left, chosen, run)
        ready = None  # a second time they would be of another state
        try:
            made |= now_ready.publish(spec, left, known)
        except Superseded:
            continue
        # A change that came before this write may have found nothing to bring along, so it is looked for after it.
        now, moved = ledger.state(spec), _moved(spec, left, features)
        left = [day for day in left if now.published(day).version != chosen[day] or day in moved]
        if not left:
            return sum(made.values()), taken
    raise Superseded(
        f"model {spec.name}: its champion, or its features, changed {TRIES} times while {shown_days(days)} were scored; score them again"
    )


def _require_features(spec: ModelSpec, days: list[date]) -> None:
    """Refuse days whose features were made of another model.yaml, or never: a task that was run alone. Raises DataError."""
    other = lake.missing_days("features", spec.name, days, ingest.features_mark(spec))
    if other:
        raise DataError(
            f"model {spec.name}: the features of {shown_days(other)} are not those of the model.yaml as it is now; read the day "
            f"anew: `esteira requeue {spec.name} --day {other[0]}`"
        )


def _moved(spec: ModelSpec, days: list[date], version: int) -> set[date]:
    """Those of the days whose feature rows are not as they were at a version of the table."""
    if lake.version("features", spec.name) == version:
        return set()
    days = lake.changed_days("features", spec.name, days, version)
    if not days:
        return set()
    span = (min(days), max(days))
    before, now = lake.read("features", spec.name, at=version, day=span), lake.read("features", spec.name, day=span)
    return {day for day in days if not _of_day(before, day).equals(_of_day(now, day).reindex(columns=before.columns))}


def _of_day(rows: pd.DataFrame, day: date) -> pd.DataFrame:
    return rows[rows["day"] == pd.Timestamp(day)].reset_index(drop=True)


class Prediction:
    """Feature rows of some days, on their way into `predictions`, each by the version chosen for its day, batch by batch."""

    def __init__(self, spec: ModelSpec, chosen: Mapping[date, int], run: str) -> None:
        self.spec, self.chosen, self.run = spec, chosen, run
        days = sorted(chosen)
        self._rows = lake.Staging("predictions", spec.name)
        self._served_at, self._at = lake.version("served", spec.name), lake.version("predictions", spec.name)
        self._served = None if lake.count("served", spec.name, days) else lake.Staging("served", spec.name)
        self._before = _Before(spec, days)
        self._models: dict[int, tuple[Model, float]] = {}

    @property
    def stagings(self) -> tuple[lake.Staging | None, ...]:
        """What it writes."""
        return self._rows, self._served

    def take(self, rows: pd.DataFrame) -> None:
        """Predict a batch."""
        if rows.empty:
            return
        numbers = rows["day"].map({pd.Timestamp(day): number for day, number in self.chosen.items()})
        for number in sorted(numbers.unique()):
            wanted = rows if len(numbers.unique()) == 1 else rows[numbers == number]
            predicted = self._predict(int(number), wanted).assign(run=self.run)
            self._rows.write(self._before.with_replaced(predicted))
            if self._served is not None:
                self._served.write(predicted)

    def _predict(self, version: int, rows: pd.DataFrame) -> pd.DataFrame:
        model, load_seconds = self._model(version)
        began = time.perf_counter()
        predicted = predicting.predict(self.spec, model, rows)
        done = time.perf_counter()
        return (
            rows[[*self.spec.key, "event_time", "day"]]
            .join(predicted)
            .assign(
                version=version,
                trained_through=pd.Timestamp(model.trained_through),
                load_seconds=load_seconds,
                predict_seconds=done - began,
            )
        )

    def _model(self, version: int) -> tuple[Model, float]:
        if version not in self._models:
            began = time.perf_counter()
            model = champions.load_scorer(self.spec, version)
            self._models[version] = model, time.perf_counter() - began
        return self._models[version]

    def done(self) -> Predicted:
        """What was predicted, written and not published yet."""
        served = None if self._served is None else tuple(self._served.done())
        return Predicted(self.chosen, tuple(self._rows.done()), served, self._served_at, self._at)


@dataclass(frozen=True)
class Predicted:
    """Parts of `predictions` by the versions `chosen` for their days, and where nothing of the days was served, of `served`.

    `served_at` is the version of that table by which it was so, and `at` that of `predictions` whose place these take.
    """

    chosen: Mapping[date, int]
    parts: tuple[Part, ...]
    served: tuple[Part, ...] | None
    served_at: int
    at: int

    def publish(self, spec: ModelSpec, days: list[date], known: State) -> dict[date, int]:
        """Replace the days' predictions, all in one transaction that carries the state's number; returns the rows of each day.

        Raises Superseded where a day was written by a later state.
        """
        of = dict.fromkeys(map(_features_name, days), ingest.features_mark(spec))
        lake.publish("predictions", spec.name, self.parts, days, mark=ledger.mark_of(known), newest=True, marks=of)
        counts = {day: sum(part.rows for part in self.parts if part.day == day) for day in days}
        versions = ", ".join(map(str, sorted(set(self.chosen.values()))))
        sizes = counted(sum(counts.values()), "row"), counted(len(days), "day")
        log.info("model %s: %s of %s scored by version %s", spec.name, *sizes, versions)
        return counts

    def is_next(self, spec: ModelSpec, days: list[date]) -> bool:
        """Whether the predictions whose place these take are those that they were compared with."""
        return lake.untouched("predictions", spec.name, days, self.at, self.parts)

    def serve(self, spec: ModelSpec) -> bool:
        """Add the predictions to `served`, where nothing of their days was; returns whether that is still so."""
        if self.served is None:
            return False
        days = sorted({part.day for part in self.served})
        try:
            if days:
                lake.publish("served", spec.name, self.served, days, add_to=self.served_at)
        except Superseded:
            return False
        return True


def _predicted(spec: ModelSpec, days: list[date], chosen: Mapping[date, int], run: str) -> Predicted:
    """What the chosen versions make of the days' features, written and not published yet."""
    made, wanted = Prediction(spec, chosen, run), pd.to_datetime(days)
    for rows in lake.batches("features", spec.name, day=(min(days), max(days))):
        own = rows["day"].isin(wanted)
        made.take(rows if own.all() else rows[own].reset_index(drop=True))
    return made.done()


class _Before:
    """What `predictions` have of some days: the version of each row, and the one whose place it took (0: of none)."""

    def __init__(self, spec: ModelSpec, days: list[date]) -> None:
        self.names = ["day", *spec.key]
        self.digests = keys.NONE
        self.told = np.zeros((0, 2), dtype="int64")
        if days and lake.count("predictions", spec.name, days):
            self._read(spec, days)

    def _read(self, spec: ModelSpec, days: list[date]) -> None:
        columns, found, told = ["version", "replaces"], [], []
        for rows in lake.batches("predictions", spec.name, columns=[*self.names, *columns], day=(days[0], days[-1])):
            found.append(keys.digests(rows, self.names))
            pairs = rows.reindex(columns=columns).fillna(0).to_numpy(dtype="int64")
            told.append(pairs[:1] if (pairs == pairs[:1]).all() else pairs)
        same = all((pairs == told[0]).all() for pairs in told)
        self.digests = np.concatenate(found)
        if same:  # all rows are of one version, as they nearly always are: of millions of rows one pair is kept
            self.digests.sort()
            self.told = np.broadcast_to(told[0], (len(self.digests), 2))
            return
        order = np.argsort(self.digests)
        self.digests = self.digests[order]
        spread = [
            np.broadcast_to(pairs, (len(rows), 2)) if len(pairs) == 1 else pairs
            for pairs, rows in zip(told, found, strict=True)
        ]
        self.told = np.concatenate(spread)[order]

    def with_replaced(self, predictions: pd.DataFrame) -> pd.DataFrame:
        """The predictions with `replaces`: the version whose prediction of the row each takes the place of, if it is another."""
        if not len(self.digests):
            return predictions.assign(replaces=pd.Series(pd.NA, index=predictions.index, dtype="Int64"))
        at, had = keys.placed(keys.digests(predictions, self.names), self.digests)
        replaced = np.zeros(len(predictions), dtype="int64")
        version, replaces = self.told[at[had]].T
        # The same version again, as a retry does, replaces what that version did.
        replaced[had] = np.where(version == predictions["version"].to_numpy()[had], replaces, version)
        values = pd.Series(replaced, predictions.index, dtype="Int64")
        return predictions.assign(replaces=values.mask(replaced == 0))


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
                rows += write(spec, some, run)[0]
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
    rows = add_to_served(spec, days, run)
    account(spec, days)
    return rows


def account(spec: ModelSpec, days: list[date]) -> str:
    """Read labels of the days again that were read before, and see that every row is accounted for; as a sentence."""
    labelling.store_again(spec, days)
    said = quality.accounted(spec, days)
    log.info("model %s: %s to %s: %s", spec.name, min(days), max(days), said)
    return said


def add_to_served(spec: ModelSpec, days: list[date], run: str) -> int:
    """Add to `served` what is predicted for the days and was not served yet; returns how many predictions are of the run."""
    for _ in range(TRIES):
        try:
            return _serve(spec, days, run)
        except Superseded:
            continue
    raise Superseded(f"model {spec.name}: {shown_days(days)} were served by others {TRIES} times meanwhile; try again")


def _serve(spec: ModelSpec, days: list[date], run: str) -> int:
    """Add to `served` what is predicted for the days and is not there; returns how many predictions are of the run.

    Raises Superseded where others have served meanwhile.
    """
    names, version = ["day", *spec.key], lake.version("served", spec.name)
    span, wanted = (min(days), max(days)), pd.to_datetime(days)
    known = [keys.NONE]
    if lake.count("served", spec.name, days):
        known += [keys.digests(rows, names) for rows in lake.batches("served", spec.name, columns=names, day=span)]
    had, new, count = np.sort(np.concatenate(known)), lake.Staging("served", spec.name), 0
    for rows in lake.batches("predictions", spec.name, day=span):
        own = rows[rows["day"].isin(wanted)]
        count += int((own["run"] == run).sum())
        # What was served first replaces nothing; and what another run scored before this one could serve, is served too.
        scored = own.drop(columns="replaces", errors="ignore")
        unserved = ~keys.among(keys.digests(scored, names), had)
        if unserved.any():
            new.write(scored[unserved])
    if new.counts:
        lake.publish("served", spec.name, new.done(), list(new.counts), add_to=version)
    return count
