"""Read-only answers to people's questions, as frozen values: the command line, pages, mails, the notebook and reports ask nothing else."""

from esteira.store.measurements import Measured
from esteira.views.checks import Check, CheckOf, attempt_days, attempt_runs, check, checks, drift, windows
from esteira.views.explaining import Explained, Predicted, explain
from esteira.views.health import Condition, Finding, Health, as_last_read, health, is_read
from esteira.views.life import (
    ChampionAt,
    Event,
    Served,
    Status,
    Version,
    champion_at,
    history,
    status,
    versions,
)
from esteira.views.mails import MailOf, mails
from esteira.views.overview import Overview, overview
from esteira.views.plain import plain
from esteira.views.rows import BadRow, LabelsOf, Quarantined, TableOf, bad_rows, labels, predicted, quarantine, tables
from esteira.views.telling import check_title, score_title, told

__all__ = [
    "BadRow",
    "ChampionAt",
    "Check",
    "CheckOf",
    "Condition",
    "Event",
    "Explained",
    "Finding",
    "Health",
    "LabelsOf",
    "MailOf",
    "Measured",
    "Overview",
    "Predicted",
    "Quarantined",
    "Served",
    "Status",
    "TableOf",
    "Version",
    "as_last_read",
    "attempt_days",
    "attempt_runs",
    "bad_rows",
    "champion_at",
    "check",
    "check_title",
    "checks",
    "drift",
    "explain",
    "health",
    "history",
    "is_read",
    "labels",
    "mails",
    "overview",
    "plain",
    "predicted",
    "quarantine",
    "score_title",
    "status",
    "tables",
    "told",
    "versions",
    "windows",
]
