"""What Esteira adds to Airflow: a link to MLflow, what the score DAG's deadline counts from, and a format of its forms.

It has no route of its own, so there is nothing to guard.
"""

import os
import re
import sys

from airflow.plugins_manager import AirflowPlugin
from esteira.dags import forms
from esteira.dags.deadlines import SinceQueued
from esteira.settings import settings

if "airflow.api_fastapi.app" in sys.modules:  # only the API server checks forms, and every task loads this
    forms.register()


class EsteiraPlugin(AirflowPlugin):
    """The plugin; scheduler, API server and DAG processor all load it."""

    name = "esteira"
    deadline_references = (SinceQueued,)
    # A password in the address (user:password@host) is for the tasks, not for every user's page.
    told = settings().mlflow_url
    mlflow = re.sub(r"//[^/@]*@", "//", os.environ.get("MLFLOW_TRACKING_URI", "") if told is None else told)
    external_views = (
        [{"name": "MLflow", "href": mlflow, "destination": "nav", "category": "browse"}]
        if mlflow.startswith("http")
        else []
    )
