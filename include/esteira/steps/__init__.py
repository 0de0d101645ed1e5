"""What each task does: it performs one action. Every step may die anywhere and run again."""

from esteira.steps.alerting import queue, report_drift, verify, warn
from esteira.steps.champions import repair_aliases
from esteira.steps.checking import (
    begin,
    check,
    commit_notebook,
    drift_report,
    evidence,
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
from esteira.steps.measuring import decide, measure, read_labels
from esteira.steps.preparing import lacking, prepare
from esteira.steps.previewing import preview
from esteira.steps.quality import accounted, left_over, require_fit
from esteira.steps.registering import promote, register
from esteira.steps.scoring import publish, reconcile, requeue, score
from esteira.steps.suggesting import limits
from esteira.steps.training import train

__all__ = [
    "accounted",
    "begin",
    "candidate",
    "check",
    "commit_notebook",
    "decide",
    "drift_report",
    "evaluate",
    "evidence",
    "extract",
    "features",
    "lacking",
    "left_over",
    "limits",
    "maintain",
    "measure",
    "prepare",
    "preview",
    "promote",
    "promote_chosen",
    "publish",
    "queue",
    "read_labels",
    "recheck",
    "reconcile",
    "register",
    "register_chosen",
    "repair_aliases",
    "report_drift",
    "requeue",
    "require_fit",
    "rescore",
    "retrain",
    "score",
    "select",
    "train",
    "validate",
    "verify",
    "warn",
]
