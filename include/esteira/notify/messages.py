"""What is mailed, made from what is stored: nothing here writes, and no server is asked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime

from esteira.learning.drift import STATISTIC
from esteira.lifecycle.episode import LONGEST, LOOPS
from esteira.lifecycle.events import Drifted, Recovered, Verified, Warned
from esteira.lifecycle.policy import Outcome, best_attempt, recipes_tried
from esteira.lifecycle.sequence import Promoted, RolledBack, Undone
from esteira.spec import Limit, ModelSpec, Recipe
from esteira.store import measurements
from esteira.store.measurements import Estimate, FeatureDrift
from esteira.store.outbox import Mail, Section
from esteira.text import counted, said, shown_days
from esteira.views import Check

BLEND = "a blend of what was trained before"


def _n(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "unknown"


def receivers(spec: ModelSpec) -> tuple[str, ...]:
    """Who is told: alerts.email, else the owner."""
    return spec.alerts.email or (spec.owner,)


def warning_why(spec: ModelSpec, found: Check) -> str:
    """What a loop came to that did not bring the metric back, as a sentence: what is out of range, what was tried, how it ends."""
    best = best_attempt({number: (each.outcome, each.lower) for number, each in found.attempts.items()})
    last = found.windows[-1]
    wanted = ", ".join(f"{name} {each.wanted}" for name, each in last.bad.items())
    blended = " and a blend of earlier models" if 0 in found.attempts else ""
    tries = counted(recipes_tried(found.verdict, len(spec.recipes)), "retraining attempt") + blended
    end = (
        f"{named(best)} is better, by {_n(found.attempts[best].gain)}, and is promoted, but it is out of range too"
        if best is not None
        else f"version {found.champion} stays champion"
    )
    return f"{last.out_of_range()} (wanted: {wanted}) and {tries} did not bring it back: {end}"


def _look_first(found: Check) -> str:
    """Where labels moved, and neither inputs nor predictions did, the labels may be what is wrong."""
    moved = {each.what for each in found.outcomes if each.drifted and not each.segment}
    inputs = any(each.drifted for each in found.drifts)
    return (
        "Look first whether the labels are right: they moved, and no input did. "
        if "label" in moved and not inputs
        else ""
    )


def out_of_range(metric: str, value: float, limit: Limit) -> str:
    """How far a metric is from its range, as short as a subject must be: `mae 0.87 > 0.2`."""
    if limit.max is not None and value > limit.max:
        return f"{metric} {_n(value)} > {limit.max:g}"
    if limit.min is not None and value < limit.min:
        return f"{metric} {_n(value)} < {limit.min:g}"
    return f"{metric} {_n(value)} is out of range ({limit})"


def named(attempt: int) -> str:
    """An attempt in a sentence."""
    return f"attempt {attempt}" if attempt else BLEND


def warning(
    spec: ModelSpec,
    found: Check,
    warned: Warned,
    met_by: Mapping[str, float] | None = None,
    run_url: str = "",
    noise: float = math.nan,
    *,
    can_go_back: bool = True,
) -> Mail:
    """The warning after a loop that did not bring the metric back; where it promoted an improvement it says so.

    `met_by` has, by metric, a limit that could be met, where the last loops have shown that this one can't. `noise` is the standard error
    of the metric that is out of range, in its window. `can_go_back` says whether there is an older champion.
    """
    last = found.windows[-1]
    bad, reached = next(iter(last.bad.items()))
    best = best_attempt({number: (each.outcome, each.lower) for number, each in found.attempts.items()})
    end = (
        "retraining did not help" if best is None else f"a version better by {_n(found.attempts[best].gain)} serves now"
    )
    said = [f"Model {spec.name}, check of {found.day}: {warned.why}."]
    if math.isfinite(noise):
        said.append(f"By chance such a window is off by {_n(noise)} (one standard error, over its days).")
    back = _back_in_range(spec, found)
    if back:
        said.append(f"{back} back in range, but by so few days it is not sure that it is better.")
    limits = ", ".join(f"{name} of {_n(value)}" for name, value in (met_by or {}).items())
    if limits:
        said.append(
            f"This limit can't be met with these features: the best of each of the last {LOOPS} loops was out of range. They would "
            f"have met {limits}."
        )
    said.append(
        f"`esteira limits {spec.name}` says what can be reached now, `esteira status` whether it is in range again."
    )
    said.append(
        f"The next loops wait for longer; people are told again after {counted(LONGEST, 'window')}, of an improvement after {2 * LONGEST}, "
        "or when it is much worse."
    )
    return Mail(
        key=f"{spec.name}/{warned.id}",
        to=receivers(spec),
        subject=f"{spec.name}: {out_of_range(bad, reached.value, spec.check.metrics[bad])}, {end}",
        todo=_look_first(found)
        + (
            "Change check.metrics, or add features that tell more: this limit can't be met with what there is."
            if limits
            else f"Look below at what moved, and decide: {'go back to an older version, ' if can_go_back else ''}add a feature that tells of the change, or change check.metrics."
        ),
        lead=" ".join(said),
        sections=(_history(spec, found), _tried(spec, found), *why_moved(spec, found)),
        links=_links(spec, found, run_url, can_go_back=can_go_back),
    )


def _back_in_range(spec: ModelSpec, found: Check) -> str:
    """The first attempt that was within the limit and not promoted, as the beginning of a sentence; empty where none was."""
    limit = spec.check.metrics[spec.check.metric]
    for number, each in found.attempts.items():
        if each.outcome in (Outcome.FAILS, Outcome.UNPROVEN) and each.gain > 0 and limit.holds(each.value):
            return f"{named(number).capitalize()} was, at {_n(each.value)},"
    return ""


def _history(spec: ModelSpec, found: Check) -> Section:
    rows = [
        [
            f"{window.first} to {window.last}",
            name,
            _n(reached.value),
            reached.wanted,
            f"{counted(window.days, 'day')}, {counted(window.rows, 'row')}",
            "in range" if reached.in_range else "OUT OF RANGE",
        ]
        for window in found.windows
        for name, reached in window.metrics.items()
    ]
    return "What the champion reached", ["window", "metric", "value", "range", "from", "verdict"], rows


def _tried(spec: ModelSpec, found: Check) -> Section:
    rows = []
    asked = spec.recipes[: recipes_tried(found.verdict, len(spec.recipes))]
    recipes = {number: _recipe(recipe) for number, recipe in enumerate(asked, start=1)}
    for number, shown in {**({0: BLEND} if 0 in found.attempts else {}), **recipes}.items():
        if number in found.attempts:
            tried = found.attempts[number]
            interval = f"{_n(tried.lower)} to {_n(tried.upper)}"
            size = f"{counted(tried.days, 'day')}, {counted(tried.rows, 'row')}"
            rows.append([str(number), shown, _n(tried.value), _n(tried.gain), interval, size, tried.outcome.value])
        else:
            rows.append([str(number), shown, "-", "-", "-", "-", "crashed, see the log"])
    metric = f"{spec.check.metric} on held-out days"
    head = ["attempt", "recipe", metric, "gain over the champion", "interval", "from", "outcome"]
    return "What was tried", head, rows


def _recipe(recipe: Recipe) -> str:
    given = recipe.model_dump(exclude_defaults=True).items()
    return ", ".join(f"{name} {_duration(name, value)}" for name, value in given)


def _duration(name: str, value: object) -> str:
    return f"{value}d" if name in ("window", "half_life") else str(value)


NO_INPUT = "no input moved: the relation, the target or the labels changed, unless it is chance"


def why_moved(spec: ModelSpec, found: Check) -> tuple[Section, ...]:
    """What may be behind a violation: the features that drifted, by how much they matter, what else did, the segments that got worse."""
    known = found.explanation
    if known is None:
        return (("Why it may have moved", ["note"], [["it could not be looked into: see the log of the task decide"]]),)
    worse = [[each.segment, _n(each.before), _n(each.now), str(each.rows)] for each in known.worsened]
    nothing: Section = ("Why it may have moved", ["note"], [[NO_INPUT]])
    return (
        *((_drifted(known.moved),) if known.moved else (nothing,) if found.drifts else ()),
        _outcomes(found),
        ("Segments that got worse", ["segment", f"{spec.check.metric} before", "now", "rows"], worse),
    )


def _drifted(moved: Iterable[measurements.Moved]) -> Section:
    head = [
        "feature",
        f"{STATISTIC.title} (above {STATISTIC.limit:g}, and more than chance: drift)",
        "share of importance",
        "importance × drift",
    ]
    rows = [[each.feature, _n(each.value), f"{each.importance:.0%}", _n(each.weight)] for each in list(moved)[:5]]
    return "Features that drifted, by importance × drift", head, rows


def _outcomes(found: Check) -> Section:
    """Of all rows each of labels, predictions and errors; of segments those that drifted."""
    shown = [each for each in found.outcomes if each.drifted or not each.segment]
    rows = [
        [f"{each.what}s", each.segment or "all", _n(each.value), "drifted" if each.drifted else "as it was"]
        for each in shown
    ]
    return "Labels, predictions, errors", ["what", "rows", STATISTIC.title, "beside the training"], rows


def waits(
    spec: ModelSpec,
    day: date,
    since: date,
    why: str,
    complete: date | None,
    expected: Estimate | None,
    run_url: str = "",
) -> Mail:
    """The mail that says that checks wait for longer than people should be left in the dark.

    `complete` is the newest day with all its labels, `expected` what is estimated of the days that have none.
    """
    late = (day - complete).days if complete else 0
    if complete is None:
        known = "No day has as many labels as were usual."
    elif late > spec.label_delay:
        known = (
            f"The newest day that has its labels is {complete}, {counted(late, 'day')} before. If labels still come, and always so late, "
            f"write label_delay: {late}d; they may also have stopped."
        )
    else:
        known = f"Labels came up to {complete}."
    good = (
        f"By the estimate from its inputs {spec.check.metric} is {_n(expected.value)} meanwhile."
        if expected
        else "Nobody knows how good its predictions are meanwhile."
    )
    return Mail(
        key=f"{spec.name}/waits/{since}",
        to=receivers(spec),
        subject=f"{spec.name}: nothing could be checked since {since}",
        todo="See whether labels still come, and to their source (`esteira preview` reads a day of it).",
        lead=(
            f"Model {spec.name}, check of {day}: every check since {since} has waited, which is longer than check.patience "
            f"({counted(spec.check.patience, 'window')} of {counted(spec.check.every, 'day')}): {why}. {good} {known}"
        ),
        links=_pages(spec, run_url, can_go_back=True),
    )


def why_page(spec: ModelSpec, found: Check) -> Mail:
    """What the warning says of a check, whether one is sent or not; kept beside the drift report."""
    lead = f"Model {spec.name}, check of {found.day}: why its metrics may have moved."
    return Mail(key="", to=(), subject="", lead=lead, sections=(_history(spec, found), *why_moved(spec, found)))


def _links(spec: ModelSpec, found: Check, run_url: str, *, can_go_back: bool = True) -> tuple[tuple[str, str], ...]:
    report = found.explanation.report if found.explanation else ""
    return *_pages(spec, run_url, can_go_back=can_go_back), *(
        (("The drift report in MLflow", report),) if report else ()
    )


def _pages(spec: ModelSpec, run_url: str, *, can_go_back: bool = False) -> tuple[tuple[str, str], ...]:
    """The run, the model's page, and where it is rolled back, if it can be; none where Airflow's address is not known."""
    web = run_url.partition("/dags/")[0]
    if not web:
        return ()
    page = _page(spec, run_url)
    back = (("How to roll back", f"{page}#rollback"),) if can_go_back else ()
    return ("The run in Airflow", run_url), ("The model's page", page), *back


def _page(spec: ModelSpec, run_url: str) -> str:
    return f"{run_url.partition('/dags/')[0]}/plugin/esteira/{spec.name}"


def drift_why(found: Iterable[FeatureDrift]) -> str:
    """Which features drifted, as a sentence."""
    moved = (each.feature for each in found if each.drifted)
    return f"{', '.join(moved)} drifted since the champion was trained"


def drift(spec: ModelSpec, found: Check, drifted: Drifted, run_url: str = "") -> Mail:
    """The mail that says that too many features drifted."""
    moved = sum(each.drifted for each in found.drifts)
    known = found.explanation.moved if found.explanation else ()
    return Mail(
        key=f"{spec.name}/{drifted.id}",
        to=receivers(spec),
        subject=f"{spec.name}: {moved} of {len(found.drifts)} features drifted",
        todo="See whether the source has changed on purpose; while the metric is in range nothing is urgent.",
        lead=f"Model {spec.name}, check of {found.day}: {drifted.why}. By itself this retrains nothing.",
        sections=(_drifted(known),),
        links=_links(spec, found, run_url),
    )


def worse(spec: ModelSpec, day: date, found: Verified, run_url: str = "") -> Mail:
    """The mail that says that a promotion turned out worse than what it replaced."""
    return Mail(
        key=f"{spec.name}/{found.id}",
        to=receivers(spec),
        subject=f"{spec.name}: version {found.version} is worse than version {found.replaced}, which it replaced",
        todo=f"Go back, if you agree: esteira rollback {spec.name} --to {found.replaced} (with --dry-run it says only what it would do).",
        lead=f"Model {spec.name}, check of {day}: {found.why}. It is out of range.",
        links=_pages(spec, run_url, can_go_back=True),
    )


def promoted(spec: ModelSpec, found: Promoted, run_url: str = "") -> Mail:
    """The mail that says that a version became champion: what it brings, and how to take it back."""
    version = f"version {found.version}"
    gain = found.facts.get("gain")
    better = f", better by {_n(gain)}" if gain is not None and math.isfinite(gain) else ""
    first, again = found.measured is None, ""
    if found.replaces_from is not None and found.replaces_from < found.day:
        again = f" The predictions of the days from {found.replaces_from} on are replaced; what was served stays in the table served."
    compared = (
        ""
        if first
        else (
            " Its first window of labelled days is compared with the version that it replaced, and you are told if it is worse."
        )
    )
    back = " and back in range" if found.facts.get("outcome") == Outcome.RECOVERS.value else ""
    return Mail(
        key=f"{spec.name}/promoted/{found.id}",
        to=receivers(spec),
        subject=f"{spec.name}: {version} is the champion{better}{back}",
        todo="Nothing is to be done.",
        lead=(
            f"Model {spec.name}: {version} is the champion from {found.day} on: {found.why}.{again}{compared} {_opt_out('promotions')}"
        ),
        links=_pages(spec, run_url, can_go_back=not first),
    )


def rolled_back(
    spec: ModelSpec, event: Promoted | RolledBack | Undone, done: str, plan: Iterable[str], run_url: str = ""
) -> Mail:
    """The mail that says that somebody went back to an older version, or took that back. `plan` is what was shown before, line by line."""
    undone = isinstance(event, Undone)
    what = "the roll-back was taken back" if undone else "it was rolled back"
    return Mail(
        key=f"{spec.name}/rolled-back/{event.id}",
        to=receivers(spec),
        subject=f"{spec.name}: {what}, version {event.version} serves (by {event.by})",
        todo="Nothing is to be done, if you know of it; else ask who did it."
        + ("" if undone else f" To take it back: esteira rollback {spec.name} --undo, or its page."),
        lead=f"Model {spec.name}, from {event.day} on: {event.why} (by {event.by}). Predictions: {done}. What was served stays in the table served.",
        sections=(("What was known before", ["what"], [[line.strip()] for line in plan]),),
        links=(
            *_pages(spec, run_url),
            *(() if undone or not run_url else (("How to take it back", f"{_page(spec, run_url)}#undo"),)),
        ),
    )


def recovered(spec: ModelSpec, day: date, warned: Warned, back: Recovered, found: Check, run_url: str = "") -> Mail:
    """The mail that says that the metrics of which people were warned are in range again."""
    reached = found.windows[-1].metrics[spec.check.metric]
    return Mail(
        key=f"{spec.name}/recovered/{warned.id}",
        to=receivers(spec),
        subject=f"{spec.name}: back in range, {spec.check.metric} {_n(reached.value)} ({reached.wanted})",
        todo="Nothing is to be done.",
        lead=(
            f"Model {spec.name}, check of {day}: {spec.check.metric} = {_n(reached.value)} in the window to {back.last}, which version {back.version} served. "
            f"You were warned of the window to {warned.last}. {_opt_out('recoveries')}"
        ),
        sections=(_history(spec, found),),
        links=_pages(spec, run_url),
    )


def _opt_out(which: str) -> str:
    return f"To hear of such no more: alerts: {{{which}: false}} in its model.yaml."


def late(spec: ModelSpec, days: list[date], run: str, state: str, deadline: str, run_url: str) -> Mail:
    """The mail about days that were not scored by their deadline; the run may still be at it, or have failed."""
    shown = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]} ({len(days)} days)"
    return Mail(
        key=f"{spec.name}/late/{run}",
        to=receivers(spec),
        subject=f"{spec.name}: {shown} is not scored yet",
        todo="Open the run: its log says what it waits for. When it ends well, the day is whole.",
        lead=(
            f"{shown} should have been scored by {deadline}, {_span(spec.score.deadline or 0)} after the run {run} was queued; "
            f"the run is {state}."
        ),
        links=_pages(spec, run_url),
    )


def _span(hours: int) -> str:
    return counted(hours // 24, "day") if hours % 24 == 0 and hours > 24 else counted(hours, "hour")


def of_run(run: str, began: datetime | None) -> str:
    """How the names of all mails begin that tell of the failure of a run, which is another one if it began anew."""
    return f"failed/{run}/{f'{began.astimezone(UTC):%Y%m%dT%H%M%S}' if began else 'never-began'}/"


def failure(
    spec: ModelSpec,
    task: str,
    run: str,
    began: datetime | None,
    error: object,
    log_url: str,
    cleared: int = 0,
    days: tuple[date, date] | None = None,
) -> Mail:
    """The mail about a task that failed for good, in a run that was cleared so many times; one for each. `days` are the first and the last one that the run is about.

    The number of the try would not do: a failure whose end Airflow did not hear of, as where the scheduler died, is tried again.
    """
    of = f" for {' to '.join(str(day) for day in dict.fromkeys(days))}" if days else ""
    return Mail(
        key=f"{spec.name}/{of_run(run, began)}{task}/cleared-{cleared}",
        to=receivers(spec),
        subject=f"{spec.name}: task {task}{of} failed",
        todo="Correct what the error says, in the source too, then clear the task in Airflow, and the run goes on where it was.",
        lead=f"Task {task} of run {run} failed: {said(error)[:2000]}\n\n{_again(spec, run, days)}",
        links=(*((("The log in Airflow", log_url),) if log_url else ()), *_pages(spec, log_url)[1:]),
        tasks=(task,),
    )


def _again(spec: ModelSpec, run: str, days: tuple[date, date] | None = None) -> str:
    """How what failed of a run, `dag_id/run_id`, is done again, on a page of Airflow or by hand."""
    kind = run.partition("/")[0].removeprefix(f"{spec.name}_")
    where = "In Airflow: open the run, Clear, Clear only failed tasks; of a run that somebody marked as failed, Clear all tasks."
    if days is None or kind not in ("score", "check", "train"):
        return where
    first, last = days
    asked = {"train": f"--as-of {last}", "check": f"--day {last}", "score": f"--day {first}"}[kind]
    asked += f" --last-day {last}" if kind == "score" and last > first else ""
    return f"{where} Or by hand, though the run stays red: esteira {kind} {spec.name} {asked}"


TASKS = ["task", "state", "try", "since"]
UNREPORTED = "watchdog/"  # how, after the run's, the names of such mails go on


def tasks_told(mails: Iterable[Mail]) -> frozenset[str]:
    """The tasks that mails about a run's failure tell of; one that names none tells of the run itself, which is ``."""
    return frozenset(task for mail in mails for task in mail.tasks or ("",))


def unreported(
    spec: ModelSpec, run: str, began: datetime | None, tasks: list[list[str]], links: Iterable[tuple[str, str]]
) -> Mail:
    """The mail about a run that failed without a word: no task of it could say so itself. `tasks` are rows of TASKS."""
    name, _, number, _ = tasks[0] if tasks else ("the run itself", "", "0", "")
    what = f"task {name} failed at its try {number}" if tasks else "the run failed, though none of its tasks did"
    return Mail(
        key=f"{spec.name}/{of_run(run, began)}{UNREPORTED}{name}/{number}",
        to=receivers(spec),
        subject=f"{spec.name}: {f'task {name}' if tasks else 'a run'} failed",
        lead=(
            f"Run {run}: {what}, and could not say why. A task whose process is killed, as the kernel does where memory runs out, "
            f"or that never began, has no error to tell of. Its log says how far it came.\n\n{_again(spec, run)}"
        ),
        todo="Read the task's log, correct the cause, then clear the task in Airflow.",
        sections=(("Tasks that failed", TASKS, tasks),) if tasks else (),
        links=tuple(links),
        tasks=tuple(each[0] for each in tasks),
    )


def of_stuck(run: str) -> str:
    """How the names of all mails begin that tell of a run that hangs."""
    return f"stuck/{run}/"


def stuck(spec: ModelSpec, run: str, tasks: list[list[str]], links: Iterable[tuple[str, str]]) -> Mail:
    """The mail about a run whose tasks wait, or run, for too long. `tasks` are rows of TASKS."""
    name, state, number, since = tasks[0]
    return Mail(
        key=f"{spec.name}/{of_stuck(run)}{name}/{number}/{state}/{since.replace(' ', '-')}",
        to=receivers(spec),
        subject=f"{spec.name}: task {name} hangs",
        lead=(
            f"Run {run}: task {name} is {state} since {since}. Nothing was changed. A task that is scheduled waits for a slot, "
            "one that is queued for a worker, and one that runs should have been ended by its timeout."
        ),
        todo="See whether the scheduler and the workers are well, and what else is running.",
        sections=(("Tasks that hang", TASKS, tasks),),
        links=tuple(links),
        tasks=tuple(each[0] for each in tasks),
    )


def left_behind(spec: ModelSpec, kept: Mapping[date, str], run_url: str) -> Mail:
    """The mail about days whose predictions are not of the version that is published for them, and can't be scored again."""
    days = sorted(kept)
    return Mail(
        key=f"{spec.name}/left-behind/{days[0]}/{days[-1]}/{len(days)}",
        to=receivers(spec),
        subject=f"{spec.name}: {counted(len(days), 'day')} could not be scored again",
        lead=(
            f"Model {spec.name}: the predictions of {shown_days(days)} are not of the version that is published for them: "
            f"{kept[days[0]]}."
        ),
        todo=f"Mend what it says; it is tried again every hour, and by `esteira reconcile {spec.name}` at once.",
        links=_pages(spec, run_url),
    )


def not_reconciled(spec: ModelSpec, day: date, error: object, run_url: str) -> Mail:
    """The mail about predictions that could not be brought to what is published; one a day."""
    return Mail(
        key=f"{spec.name}/not-reconciled/{day}",
        to=receivers(spec),
        subject=f"{spec.name}: predictions could not be reconciled",
        lead=(
            f"Model {spec.name}: it could not be seen to that every day has the predictions of the version that is published for "
            f"it: {said(error)[:2000]}."
        ),
        todo=f"Mend what it says; it is tried again every hour, and by `esteira reconcile {spec.name}` at once.",
        links=_pages(spec, run_url),
    )


REFUSED = "refused"


def refused(spec: ModelSpec, mail: Mail, receiver: str, why: str, *, waits: bool = False) -> Mail:
    """The notice to the owner that a receiver does not get this model's mails, or that one `waits` still."""
    return Mail(
        key=f"{spec.name}/{REFUSED}/{receiver}/{'waits/' if waits else ''}{mail.key}",
        to=(spec.owner,),
        subject=f"{spec.name}: {receiver} gets no mail",
        lead=(f"The mail server does not take {mail.subject!r} for {receiver}: {why}."),
        todo=f"Correct alerts.email in the model.yaml of {spec.name}, or let the server take such mails.",
    )
