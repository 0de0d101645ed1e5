"""What each task does: pure code meets the tables and the registry. Every step may die anywhere and run again."""

from esteira.errors import NoChampion, PromotionRefused, Unaccounted
from esteira.steps.checking import (
    check,
    chosen_version,
    commit_notebook,
    drift_report,
    promote_chosen,
    recheck,
    rescore,
    retrain,
    standing,
)
from esteira.steps.ingest import extract, features, validate
from esteira.steps.mails import (
    drift_mail,
    failure_mail,
    late_mail,
    report_why,
    verification_mail,
    warning,
)
from esteira.steps.maintenance import maintain
from esteira.steps.measuring import decide, drift_to_report, measure, run_key
from esteira.steps.measuring import labels as labels_for_check
from esteira.steps.outages import is_outage
from esteira.steps.outbox import deliver, post
from esteira.steps.previewing import preview
from esteira.steps.promotions import rollback, to_verify, verify
from esteira.steps.quality import accounted, left_over, require_fit
from esteira.steps.scoring import publish, requeue, score
from esteira.steps.training import candidate, evaluate, lacking, limits, prepare, promote, register, select, train
from esteira.store.ledger import champion, repair_aliases, require_champions, status

__all__ = [
    "NoChampion",
    "PromotionRefused",
    "Unaccounted",
    "accounted",
    "candidate",
    "champion",
    "check",
    "chosen_version",
    "commit_notebook",
    "decide",
    "deliver",
    "drift_mail",
    "drift_report",
    "drift_to_report",
    "evaluate",
    "extract",
    "failure_mail",
    "features",
    "is_outage",
    "labels_for_check",
    "lacking",
    "late_mail",
    "left_over",
    "limits",
    "maintain",
    "measure",
    "post",
    "prepare",
    "preview",
    "promote",
    "promote_chosen",
    "publish",
    "recheck",
    "register",
    "repair_aliases",
    "report_why",
    "requeue",
    "require_champions",
    "require_fit",
    "rescore",
    "retrain",
    "rollback",
    "run_key",
    "score",
    "select",
    "standing",
    "status",
    "to_verify",
    "train",
    "validate",
    "verification_mail",
    "verify",
    "warning",
]
