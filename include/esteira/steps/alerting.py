"""What people are told: each event and its mail are one transaction, so that neither is without the other."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import date

from esteira import views
from esteira.errors import Refused
from esteira.lifecycle.events import Drifted, Verified, Warned, run_key
from esteira.notify import messages
from esteira.spec import ModelSpec
from esteira.steps import measuring, verification
from esteira.store import ledger, outbox
from esteira.store.outbox import Mail

log = logging.getLogger(__name__)


def warn(spec: ModelSpec, day: date, run_url: str = "") -> Mail:
    """Note that the loop of a day's check did not bring the metric back, and queue the warning; one for a champion and a window."""
    found = views.check(spec, day)
    if not found.windows or found.windows[-1].healthy:
        raise Refused(
            f"model {spec.name}: the check of {day} has found nothing out of range, so there is nothing to warn of"
        )
    warned = Warned(
        version=found.champion,
        last=found.windows[-1].last,
        day=day,
        by=run_key(day),
        why=messages.warning_why(spec, found),
    )
    mail = messages.warning(spec, found, warned, run_url)
    ledger.write(spec, warned, outbox.queued(spec, mail, day, run_key(day)))
    log.warning("%s", mail.lead)
    return mail


def warning_of(spec: ModelSpec, day: date) -> Mail | None:
    """The warning that a day's check has queued, in whichever run of it; None where it has not."""
    warned = next((each for each in ledger.state(spec).of(Warned) if each.by == run_key(day)), None)
    return next(iter(outbox.mails(spec, warned.id)), None) if warned else None


def queue_drift_mail(spec: ModelSpec, day: date, run_url: str = "") -> Mail | None:
    """Note that too many features drifted, and queue the mail, one a window; None where they did not."""
    if measuring.drift_to_report(spec, day) is None:
        return None
    found = views.check(spec, day)
    assert found.drift is not None, "it was asked for above"
    why = messages.drift_why(found)
    drifted = Drifted(version=found.drift.version, last=found.drift.last, day=day, by=run_key(day), why=why)
    mail = messages.drift(spec, found, drifted, run_url)
    ledger.write(spec, drifted, outbox.queued(spec, mail, day, run_key(day)))
    return mail


@dataclass(frozen=True)
class Found:
    """What the verification of a promotion found, and the mail that was queued with it where it turned out worse."""

    verified: Verified
    mail: Mail | None


def verify(spec: ModelSpec, day: date, run_url: str = "") -> Found | None:
    """Verify the promotion that is due; where it turned out worse, the mail about it is queued with the finding."""
    found = verification.measure_promotion(spec, day)
    if found is None:
        return None
    mail = messages.worse(spec, day, found, run_url) if found.worse else None
    ledger.write(spec, found, *([outbox.queued(spec, mail, day, run_key(day))] if mail else []))
    return Found(found, mail)


def queue(spec: ModelSpec, mail: Mail, day: date, by: str) -> bool:
    """Queue a mail that tells of no event of the model's life; returns whether it was not queued before."""
    return ledger.write(spec, outbox.queued(spec, mail, day, by)) > 0
