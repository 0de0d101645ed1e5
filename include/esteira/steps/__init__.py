"""What each task does: it performs one action. Every step may die anywhere and run again."""

from esteira.steps.alerting import (
    queue,
    queue_drift_mail,
    queue_promotion_mail,
    queue_recovery_mail,
    queue_wait_mail,
    verify,
    warn,
)
from esteira.steps.champions import repair_aliases
from esteira.steps.checking import (
    act,
    begin,
    blend,
    check,
    commit_notebook,
    evidence,
    keep_drift_report,
    promote_chosen,
    recheck,
    register_chosen,
    rescore,
    retrain,
)
from esteira.steps.evaluating import evaluate
from esteira.steps.fitting import candidate, select
from esteira.steps.ingest import extract, features, validate
from esteira.steps.maintenance import maintain
from esteira.steps.measuring import decide, measure, store_labels
from esteira.steps.preparing import lacking, prepare
from esteira.steps.previewing import preview
from esteira.steps.quality import accounted, left_over, require_fit
from esteira.steps.registering import promote, register
from esteira.steps.scoring import choose, publish, reconcile, score
from esteira.steps.streaming import leave, publish_left, requeue, score_from_source, shares, spans
from esteira.steps.suggesting import limits
from esteira.steps.training import train

__all__ = [
    "accounted",
    "act",
    "begin",
    "blend",
    "candidate",
    "check",
    "choose",
    "commit_notebook",
    "decide",
    "evaluate",
    "evidence",
    "extract",
    "features",
    "keep_drift_report",
    "lacking",
    "leave",
    "left_over",
    "limits",
    "maintain",
    "measure",
    "prepare",
    "preview",
    "promote",
    "promote_chosen",
    "publish",
    "publish_left",
    "queue",
    "queue_drift_mail",
    "queue_promotion_mail",
    "queue_recovery_mail",
    "queue_wait_mail",
    "recheck",
    "reconcile",
    "register",
    "register_chosen",
    "repair_aliases",
    "requeue",
    "require_fit",
    "rescore",
    "retrain",
    "score",
    "score_from_source",
    "select",
    "shares",
    "spans",
    "store_labels",
    "train",
    "validate",
    "verify",
    "warn",
]
