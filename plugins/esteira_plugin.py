"""What Esteira adds to Airflow: a link to MLflow in the navigation, and what the score DAG's deadline counts from.

It has no route of its own, so there is nothing to guard.
"""

import os
import re

from airflow.plugins_manager import AirflowPlugin
from esteira.deadlines import SinceQueued


class EsteiraPlugin(AirflowPlugin):
    """The plugin; scheduler, API server and DAG processor all load it."""

    name = "esteira"
    deadline_references = (SinceQueued,)
    # A password in the address (user:password@host) is for the tasks, not for every user's page.
    mlflow = re.sub(r"//[^/@]*@", "//", os.environ.get("ESTEIRA_MLFLOW_URL", os.environ.get("MLFLOW_TRACKING_URI", "")))
    external_views = (
        [{"name": "MLflow", "href": mlflow, "destination": "nav", "category": "browse"}]
        if mlflow.startswith("http")
        else []
    )
