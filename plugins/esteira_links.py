"""A link to MLflow in Airflow's navigation. It has no route of its own, so there is nothing to guard."""

import os
import re

from airflow.plugins_manager import AirflowPlugin


class EsteiraLinks(AirflowPlugin):
    """What Airflow's web UI shows of Esteira beside its DAGs."""

    name = "esteira_links"
    # A password in the address (user:password@host) is for the tasks, not for every user's page.
    mlflow = re.sub(
        r"//[^/@]*@", "//", os.environ.get("ESTEIRA_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
    )
    external_views = (
        [{"name": "MLflow", "href": mlflow, "destination": "nav", "category": "browse"}]
        if mlflow.startswith("http")
        else []
    )
