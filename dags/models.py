"""Three Airflow DAGs for each model.yaml: <name>_train, <name>_score, <name>_check."""

from esteira import dags

globals().update(dags.build())
