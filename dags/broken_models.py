"""An Airflow import error for each model.yaml that is wrong; the DAGs of the other models are in models.py."""

from esteira import dags

dags.raise_broken()
