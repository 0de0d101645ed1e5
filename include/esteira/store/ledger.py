"""The ledger is the truth about champions; MLflow's aliases are repaired from it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from datetime import date
from typing import Any

import pandas as pd

from esteira.errors import EsteiraError, NoChampion, PromotionRefused, Refused, UnknownEvent, UnknownVersion
from esteira.learning.pipelines import Model
from esteira.lifecycle import changes
from esteira.lifecycle.events import Event, Registered, effective_day, from_row
from esteira.lifecycle.state import Serving, State, fold
from esteira.spec import ModelSpec
from esteira.store import lake, runs

Champion = Serving  # the version that serves, and since when
MAILS = ("queued", "delivered")

log = logging.getLogger(__name__)


def state(spec: ModelSpec) -> State:
    """What the events of the model's life come to. A step asks several times, and the ledger seldom changes."""
    place, written = lake.path("ledger", spec.name), lake.state("ledger", spec.name)
    if place not in _folded or _folded[place][0] != written:
        _folded[place] = (written, fold(_events(spec)))
    return _folded[place][1]


_folded: dict[str, tuple[tuple[str, int], State]] = {}


def _events(spec: ModelSpec) -> list[Event]:
    """The events of the ledger, without those of mails, which are no part of the state."""
    rows = lake.read("ledger", spec.name)
    rows = rows[~rows["to_state"].isin(MAILS)]
    version = rows["version"].astype("Int64").astype(object).where(rows["version"].notna(), None)
    texts = rows[["from_state", "why", "evidence", "by"]].astype(object).fillna("")
    rows = rows.assign(effective_day=rows["effective_day"].dt.date, version=version, **texts)
    try:
        return [from_row({str(name): value for name, value in row.items()}) for row in rows.to_dict("records")]
    except UnknownEvent as error:
        raise EsteiraError(f"model {spec.name}: {error}") from None


def promotions(spec: ModelSpec) -> list[Champion]:
    """Every change of who serves, in the order in which they were made: promotions, roll-backs and their undoing."""
    return list(state(spec).changes)


def champion(spec: ModelSpec, day: date = date.max) -> Champion | None:
    """The champion of a day: the last promotion effective on it or before; None before the first."""
    return state(spec).serving(day)


def require_champions(spec: ModelSpec, days: Iterable[date]) -> dict[date, Champion]:
    """The champion of each day. Raises NoChampion that says what to do where a day has none."""
    known, found = state(spec), {}
    for day in days:
        now = known.serving(day)
        if now is None:
            every = known.changes
            since = f"the first serves from {every[0].effective_day}" if every else "none was promoted yet"
            raise NoChampion(
                f"model {spec.name} has no champion for {day}: {since}. "
                "Train and promote one as of an earlier day, or say which version is to score (`--version 1`, or *Version* in the form)"
            )
        found[day] = now
    return found


def require_champion(spec: ModelSpec, day: date) -> Champion:
    """The champion of a day. Raises NoChampion that says what to do."""
    return require_champions(spec, [day])[day]


def promoted_by(spec: ModelSpec, by: str) -> int | None:
    """The version that a run, or a day's check, made champion; None where it made none."""
    return next((each.version for each in state(spec).promotions if each.by == by), None)


def evaluated(spec: ModelSpec, version: int) -> int | None:
    """The version that was evaluated in place of a champion that was fitted again (`promote.refit`); else its own number."""
    made = [each for each in state(spec).promotions if each.version == version]
    return made[-1].facts.get("evaluated") if made else None


def record(
    spec: ModelSpec,
    key: str,
    *,
    to_state: str,
    why: str,
    by: str,
    effective: date,
    version: int | None = None,
    from_state: str = "",
    evidence: Mapping[str, Any] | None = None,
) -> bool:
    """Write a change of state under an id of its own; returns False where it was there already."""
    row = {
        "id": key,
        "at": lake.clock(),
        "effective_day": effective,
        "version": version,
        "from_state": from_state,
        "to_state": to_state,
        "why": why,
        "evidence": json.dumps(evidence or {}, sort_keys=True),
        "by": by,
    }
    return lake.append_once(spec.name, row)


def make_champion(
    spec: ModelSpec,
    version: int,
    as_of: date,
    *,
    measured: int | None,
    why: str,
    by: str,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Promote a version. `measured` is the champion that it was compared with, None where there was none.

    The promotion takes the next number as its id: of two that follow the same champion only one is written. Raises
    PromotionRefused where another champion came in between, serves from a later day, or took the place of what the same
    run had promoted before.
    """
    try:
        event = changes.promote(state(spec), version, as_of, measured=measured, why=why, by=by, facts=evidence)
    except Refused as error:
        raise PromotionRefused(f"model {spec.name}: {error}") from None
    if event is not None:
        write(spec, event)
        now = champion(spec)
        if now is None or now.version != version:
            raise PromotionRefused(
                f"model {spec.name}: {changes.named(now.version if now else None)} was promoted at the same time; train or check again"
            )
        log.info(
            "model %s: version %d is champion from %s on: %s%s", spec.name, version, event.day, why, _shown(evidence)
        )
    repair_aliases(spec)


def write(spec: ModelSpec, event: Event) -> bool:
    """Write an event; returns False where its id was taken already."""
    return lake.append_once(spec.name, {**event.row(), "at": lake.clock()})


def _shown(evidence: Mapping[str, Any] | None) -> str:
    """The numbers behind a promotion, and the commit of its notebook, for the log."""
    given = evidence or {}
    parts = []
    if given.get("gain") is not None:
        bounds = [given.get(name) for name in ("gain_lower", "gain_upper")]
        shown = " to ".join("unknown" if bound is None else f"{bound:.4g}" for bound in bounds)
        parts.append(f"gain {given['gain']:.4g} (interval {shown})")
    parts += [f"commit {given['commit']}"] if given.get("commit") else []
    return "".join(f"; {part}" for part in parts)


def registered(spec: ModelSpec, run_id: str, as_of: date) -> int:
    """Register a run's model; returns the version, whose model file's digest the ledger keeps."""
    version = runs.register(spec, run_id)
    digest = runs.model_digest(run_id)
    write(spec, Registered(version=version, sha256=digest, day=effective_day(as_of), why="registered", by=run_id))
    return version


def load_version(spec: ModelSpec, version: int) -> Model:
    """The model of a version. Raises ModelRefused where its file is not the one that was registered."""
    rows = lake.read("ledger", spec.name, columns=["evidence"], id=f"challenger:{version}")
    digest = json.loads(rows["evidence"].iloc[0]).get("sha256", "") if len(rows) else ""
    return runs.load_version(spec, version, digest)


def repair_aliases(spec: ModelSpec) -> None:
    """Point MLflow's alias `champion` at the ledger's champion; a challenger that became champion is none any more."""
    now = champion(spec)
    known = runs.aliases(spec)
    if now is None:
        if "champion" in known and lake.version("ledger", spec.name) >= 0:  # a lake that is gone takes no alias along
            log.warning(
                "model %s: removing the alias champion from version %d: the ledger has no champion",
                spec.name,
                known["champion"],
            )
            runs.alias(spec, "champion", None)
        return
    if known.get("champion") != now.version:
        try:
            runs.alias(spec, "champion", now.version)
        except UnknownVersion as error:  # a new training must still be able to replace it
            log.error("%s", error)
            return
    if known.get("challenger") == now.version:
        runs.alias(spec, "challenger", None)


def status(spec: ModelSpec) -> dict[str, Any]:
    """What a person wants to know first: champion, last scored and checked day, last metric, last change of state."""
    now = champion(spec)
    checks = lake.read(
        "metrics",
        spec.name,
        columns=["check_day", "attempt", "role", "segment", "window", "metric", "value", "in_range", "last_day"],
    )
    events = lake.read("ledger", spec.name, columns=["at", "to_state", "why", "version"])
    mine = (checks["role"] == "champion") & (checks["segment"] == "") & (checks["attempt"] == 0)
    latest = checks[mine & (checks["metric"] == spec.check.metric) & (checks["window"] == "window")]
    latest = latest.sort_values(["check_day", "last_day"]).tail(1)
    last = events.sort_values("at").tail(1)
    guessed = checks[(checks["role"] == "estimated") & (checks["check_day"] == checks["check_day"].max())]
    return {
        "model": spec.name,
        "champion": f"version {now.version}, serving from {now.effective_day}" if now else "none yet",
        "versions": ", ".join(map(str, sorted(events.loc[events["to_state"] == "challenger", "version"].astype(int))))
        or "none",
        "last day scored": str(max(lake.days_of("predictions", spec.name), default="never")),
        "last check": str(max(lake.days_of("metrics", spec.name), default="never")),
        f"last window's {spec.check.metric}": "not measured yet" if latest.empty else _measured(spec, latest.iloc[0]),
        **_estimated(spec, guessed),
        "last change": "none" if last.empty else f"{last.iloc[0]['to_state']}: {last.iloc[0]['why']}",
    }


def _estimated(spec: ModelSpec, rows: pd.DataFrame) -> dict[str, str]:
    """What is expected of the days without labels, and how far such estimates were off; nothing where none are made."""
    metric = spec.check.metric
    pending = rows[(rows["window"] == "pending") & (rows["metric"] == metric)]
    error = rows[rows["metric"] == f"{metric}_error"]
    if pending.empty:
        return {}
    held = "in range" if pending["in_range"].iloc[0] else "OUT OF RANGE"
    off = "" if error.empty else f"; estimates were off by {error['value'].iloc[0]:.4g} on average"
    value = pending["value"].iloc[0]
    return {f"estimated {metric}": f"{value:.4g}, {held}, of the days without labels{off}"}


def _measured(spec: ModelSpec, row: Any) -> str:
    held = {True: "in range", False: "OUT OF RANGE"}.get(row["in_range"], "can't be judged")
    return f"{row['value']:.4g}, {held} ({spec.check.metrics[spec.check.metric]}), window to {row['last_day'].date()}"
