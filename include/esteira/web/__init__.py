"""Pages inside Airflow, over views: routes that answer with JSON, and the modules that draw it. Nothing here writes."""
