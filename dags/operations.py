"""Airflow's DAGs that look after all models at once: maintenance and outbox; see esteira.dags."""

from esteira.dags.operations import operations

globals().update(operations())
