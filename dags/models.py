"""Three Airflow DAGs for each model.yaml: <name>_train, <name>_score, <name>_check."""

from esteira.dags import building

globals().update(building.build())
