"""An Airflow import error for each model.yaml that is wrong; the DAGs of the other models are in models.py."""

from esteira.dags import building

building.raise_broken()
