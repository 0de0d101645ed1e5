from .alerting import (
    queue,
    queue_drift_mail,
    queue_promotion_mail,
    queue_recovery_mail,
    queue_wait_mail,
    verify,
    warn,
)
from .champions import repair_aliases
from .checking import (
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
from .evaluating import evaluate
from .fitting import candidate, select
from .ingest import extract, features, validate
from .maintenance import maintain
from .measuring import decide, measure, store_labels
from .preparing import lacking, prepare
from .previewing import preview
from .quality import accounted, left_over, require_fit
from .registering import promote, register
from .scoring import choose, publish, reconcile, score
from .streaming import leave, publish_left, requeue, score_from_source, shares, spans
from .suggesting import limits
from .training import train

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
