"""Airflow's DAGs that look after all models at once: maintenance, outbox, reconcile, rollback; see esteira.dags.operations."""

from esteira.dags.operations import operations

globals().update(operations())
