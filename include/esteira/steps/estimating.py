"""What is to be expected of the days whose labels are not there yet, and how far the estimates of past days were off."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pandas as pd

from esteira.learning import evaluation
from esteira.learning.estimation import estimate
from esteira.lifecycle.state import Serving
from esteira.spec import ModelSpec
from esteira.steps import labelling
from esteira.steps.outcomes import known_rows, served
from esteira.store import lake, measurements
from esteira.store.records import Record, Role, Window


def records(spec: ModelSpec, champion: Serving, day: date, whole: list[tuple[date, date]]) -> list[Record]:
    """What is to be expected of the served days that have no labels yet, and of the past ones how far the estimate was off."""
    if not spec.estimates:
        return []
    return [*_pending(spec, champion, day), *(_errors(spec, champion, day, whole[-1]) if whole else [])]


def _about(champion: Serving, day: date) -> Record:
    return Record(check_day=day, attempt=measurements.CHECK, role=Role.ESTIMATED, version=champion.version, segment="")


def _pending(spec: ModelSpec, champion: Serving, day: date) -> list[Record]:
    last = labelling.mature_through(spec, day)
    span = (max(last + timedelta(days=1), champion.effective_day), day)
    names = ["day", *spec.key, "prediction", "probability"]
    given = lake.read("served", spec.name, columns=names, day=span, version=champion.version)
    if given.empty:
        return []
    known = known_rows(spec, champion.version, last)
    if known.empty or known["day"].nunique() < spec.check.min_days:
        return []
    frame = labelling.features(spec, *span)
    asked = given[names].merge(frame.drop(columns="event_time"), on=["day", *spec.key], validate="one_to_one")
    days = [moment.date() for moment in sorted(asked["day"].unique())]
    if not days:
        return []
    parts = [(each, each, Window.DAY) for each in days] + [(days[0], days[-1], Window.PENDING)]
    found = []
    for (first, end, window), values in zip(
        parts, estimate(spec, known, asked, tuple(spec.check.metrics)), strict=True
    ):
        part = asked[asked["day"].between(pd.Timestamp(first), pd.Timestamp(end))]
        about = replace(_about(champion, day), first_day=first, last_day=end, window=window)
        size = replace(about, n_rows=len(part), n_days=part["day"].nunique())
        for name, value in values.items():
            if value != value:  # one that can't be estimated
                continue
            found.append(replace(size, metric=name, value=value).beside(spec.check.metrics[name]))
    return found


def _errors(spec: ModelSpec, champion: Serving, day: date, span: tuple[date, date]) -> list[Record]:
    """Of the latest whole window: the mean of its days' estimates, and the mean distance from what those days came to.

    By days, for a metric such as AUC is no mean over them: the window's own value is another figure.
    """
    since = span[0] - timedelta(days=1)
    had = measurements.estimates(spec, champion.version, since, day)
    had = had[
        had["last_day"].between(pd.Timestamp(span[0]), pd.Timestamp(span[1])) & (had["check_day"] < pd.Timestamp(day))
    ]
    if had.empty:
        return []
    # A day is estimated by each check until its labels come; the last one knew most.
    had = had.sort_values("check_day").drop_duplicates(["last_day", "metric"], keep="last")
    came = served(spec, champion.version, *span)
    found = []
    about = replace(_about(champion, day), first_day=span[0], last_day=span[1], window=Window.WHOLE)
    for name in spec.check.metrics:
        mine = had[(had["metric"] == name) & had["value"].notna()].set_index("last_day")
        real = {
            each: evaluation.evaluate(spec, part, (name,))[name]
            for each, part in came.groupby("day")
            if each in mine.index
        }
        both = mine.assign(real=pd.Series(real, dtype="float64")).dropna(subset=["value", "real"])
        if both.empty:
            continue
        here = replace(about, n_rows=int(both["n_rows"].sum()), n_days=len(both))
        value = float((both["value"] * both["n_rows"]).sum() / both["n_rows"].sum())
        found.append(replace(here, metric=name, value=value))
        error = float((both["value"] - both["real"]).abs().mean())
        found.append(replace(here, metric=measurements.error_of(name), value=error))
    return found
