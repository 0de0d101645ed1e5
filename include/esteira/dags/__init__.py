"""Airflow's DAGs: the three of each model, and those that look after all of them, all that imports airflow."""
