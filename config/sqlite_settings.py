"""For Airflow on SQLite, as `make up` has it: a writer waits for another one longer than five seconds, then gives up."""

CONNECT_ARGS = {"timeout": 30}  # seconds
