"""What people are told: each event and its mail are one transaction, so that neither is without the other."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from datetime import date, timedelta

from esteira import views
from esteira.errors import Refused
from esteira.learning import evaluation
from esteira.lifecycle import episode
from esteira.lifecycle.events import Drifted, Recovered, Unrecovered, Verified, Warned, run_key
from esteira.lifecycle.policy import best_attempt
from esteira.notify import messages
from esteira.spec import ModelSpec
from esteira.steps import labelling, measuring, outcomes, verification
from esteira.store import ledger, measurements, outbox
from esteira.store.measurements import Attempt
from esteira.store.outbox import Mail, Weeks

log = logging.getLogger(__name__)

WEEKS = 8  # that a mail shows
SHOWN, MOST = 4, 60  # windows of them: at least where each is long, at most where each is short


def warn(spec: ModelSpec, day: date, run_url: str = "") -> Mail | None:
    """Note that the loop of a day's check did not bring the metric back; one for a champion and a window.

    Where people are to be told of it (Episode.is_told), the warning is queued with it; None where not.
    """
    found = views.check(spec, day)
    if not found.windows or found.windows[-1].healthy:
        raise Refused(
            f"model {spec.name}: the check of {day} has found nothing out of range, so there is nothing to warn of"
        )
    window, run = found.windows[-1].last, run_key(day)
    known, before = measuring.known_now(spec, day), episode.episode(ledger.state(spec), but=day)
    reached, met = measurements.reached(spec, day)
    why = messages.warning_why(spec, found)
    warned = Warned(version=found.champion, last=window, day=day, by=run, why=why)
    best = best_attempt({each.number: (each.outcome, each.lower) for each in found.attempts.values()})
    improved = best is not None
    ended = Unrecovered(
        version=found.champion,
        last=window,
        improved=improved,
        half_way=best is not None and _is_half_way(spec, found.attempts[best]),
        met=met,
        reached=reached,
        known=known,
        news=before.news(known),
        day=day,
        by=run,
        why=why,
    )
    if not before.is_told(window, spec.check.every, known, improved=improved):
        ledger.write(spec, ended)
        told = ", ".join(str(each.last) for each in before.told[-1:])
        log.warning("model %s, check of %s: %s; people were told on %s", spec.name, day, why, told)
        return None
    older = len({each.version for each in ledger.state(spec).changes}) > 1
    higher = {name: spec.higher_is_better(name) for name in spec.check.metrics}
    limits = before.cannot_be_met(ended, higher)
    mail = with_weeks(
        spec, day, messages.warning(spec, found, warned, limits, run_url, _noise(spec, found), can_go_back=older)
    )
    ledger.write(spec, ended, warned, outbox.queued(spec, mail, day, run))
    log.warning("%s", mail.lead)
    return mail


def _is_half_way(spec: ModelSpec, improved: Attempt) -> bool:
    """Whether what a training brought is at least as much as it lacks still; a blend says nothing of what training may bring."""
    metric = spec.check.metric
    return improved.number > 0 and improved.gain >= evaluation.better_by(
        spec, metric, improved.value, evaluation.bound(spec, metric)
    )


def _noise(spec: ModelSpec, found: views.Check) -> float:
    """The standard error of the metric that is out of range, in its window; NaN where it can't be told."""
    last = found.windows[-1]
    try:
        rows = outcomes.served(spec, found.champion, last.first, last.last)
        return evaluation.standard_error(spec, rows, next(iter(last.bad)))
    except Exception:  # whatever a user's metric makes of fewer days, people are to be warned
        log.exception("model %s, check of %s: the window's standard error could not be computed", spec.name, found.day)
        return math.nan


def warning_of(spec: ModelSpec, day: date) -> Mail | None:
    """The warning that a day's check has queued, in whichever run of it; None where it has not."""
    warned = next((each for each in ledger.state(spec).of(Warned) if each.by == run_key(day)), None)
    return next(iter(outbox.mails(spec, warned.id)), None) if warned else None


def queue_drift_mail(spec: ModelSpec, day: date, run_url: str = "") -> Mail | None:
    """Note that too many features drifted; the mail is queued with it where they had not in the 16 windows before. None where not."""
    found, run = measuring.drift_to_report(spec, day), run_key(day)
    if found is None:
        return None
    why = messages.drift_why(measurements.drifts(spec, day))
    drifted = Drifted(version=found.version, last=found.last, day=day, by=run, why=why)
    if not measuring.is_drift_told(spec, found):
        ledger.write(spec, drifted)
        return None
    mail = with_weeks(spec, day, messages.drift(spec, views.check(spec, day), drifted, run_url))
    ledger.write(spec, drifted, outbox.queued(spec, mail, day, run))
    return mail


def queue_wait_mail(spec: ModelSpec, day: date, run_url: str = "") -> Mail | None:
    """Queue the mail that says that checks have waited for longer than `check.patience`, once; None where they have not.

    A champion's first window is whole, and its labels known, only after a while: until then it is no wait.
    """
    since, verdict = measurements.waiting_since(spec, day), measurements.decided(spec, day)
    if since is None or verdict is None:
        return None
    serving = ledger.champion(spec, since)
    first = (
        labelling.mature_on(spec, serving.effective_day + timedelta(days=spec.check.every - 1)) if serving else since
    )
    told = outbox.mails(spec, f"waits/{since}")
    if told or (day - max(since, first)).days <= spec.check.patience * spec.check.every:
        return None
    # A check that waits reads the labels of its own windows only: those of days before may have come since.
    oldest = min(since, day - timedelta(days=spec.train.window))
    labelling.store(spec, oldest, day)
    complete = labelling.complete_through(spec, oldest, day)
    expected = measurements.estimate(spec, day)
    mail = with_weeks(spec, day, messages.waits(spec, day, since, verdict.why, complete, expected, run_url))
    return _queued(spec, mail, day, run_key(day))


def queue_promotion_mail(spec: ModelSpec, day: date, run: str, run_url: str = "") -> Mail | None:
    """Queue the mail that says that a run (of a check its run_key) has promoted a version, once; None where it has not, or it is told in a warning."""
    known = ledger.state(spec)
    found = next((each for each in reversed(known.standing()) if each.by == run), None)
    if not spec.alerts.promotions or found is None or any(each.by == run for each in known.of(Warned)):
        return None
    return _queued(spec, with_weeks(spec, day, messages.promoted(spec, found, run_url)), day, run)


def queue_recovery_mail(spec: ModelSpec, day: date, run_url: str = "") -> Mail | None:
    """Queue the mail that says that the metrics of which people were warned last are in range again, in the first such window; else None."""
    known = ledger.state(spec)
    warned = next(iter(reversed(known.of(Warned))), None)
    if not spec.alerts.recoveries or warned is None:
        return None
    back = min(
        (each for each in known.of(Recovered) if each.last > warned.last), key=lambda each: each.last, default=None
    )
    if back is None or back.by != run_key(day):
        return None
    mail = messages.recovered(spec, day, warned, back, views.check(spec, day), run_url)
    return _queued(spec, with_weeks(spec, day, mail), day, run_key(day))


def _queued(spec: ModelSpec, mail: Mail, day: date, by: str) -> Mail | None:
    return mail if queue(spec, mail, day, by) else None


def with_weeks(spec: ModelSpec, day: date, mail: Mail) -> Mail:
    """The mail with how the metric went in the weeks before."""
    since = day - timedelta(days=max(WEEKS * 7, SHOWN * spec.check.every))
    windows = measurements.history(spec, spec.check.metric, since=since)
    shown = [each for each in windows if each.check_day <= day and math.isfinite(each.value)][-MOST:]
    limit = spec.check.metrics[spec.check.metric]
    values = tuple((str(each.last), each.value, each.version) for each in shown)
    return replace(mail, weeks=Weeks(spec.check.metric, limit.min, limit.max, values))


@dataclass(frozen=True)
class Found:
    """What the verification of a promotion found, and the mail that was queued with it where it turned out worse."""

    verified: Verified
    mail: Mail | None


def verify(spec: ModelSpec, day: date, run_url: str = "") -> Found | None:
    """Verify the promotion that is due; where it turned out worse, the mail about it is queued with the finding.

    Where this check is not the one to tell of it (is_to_be_told), a later one is, if its version serves still.
    """
    found = verification.measure_promotion(spec, day)
    if found is None:
        return None
    told = verification.is_to_be_told(spec, found, day)
    mail = with_weeks(spec, day, messages.worse(spec, day, found, run_url)) if told else None
    ledger.write(spec, found, *([outbox.queued(spec, mail, day, run_key(day))] if mail else []))
    return Found(found, mail)


def queue(spec: ModelSpec, mail: Mail, day: date, by: str) -> bool:
    """Queue a mail that tells of no event of the model's life; returns whether it was not queued before."""
    return ledger.write(spec, outbox.queued(spec, mail, day, by)) > 0
