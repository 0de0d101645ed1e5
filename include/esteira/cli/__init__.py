"""The command line: the same steps that the DAGs run, and views, without Airflow."""
