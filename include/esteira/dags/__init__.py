"""Airflow's DAGs: the three of each model, and those that look after all of them; with web/ all that imports airflow."""
