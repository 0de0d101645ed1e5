"""What Esteira adds to Airflow: pages of its models, a link to MLflow, what the score DAG's deadline counts from, a format of its forms.

The pages' routes are in esteira/web/app.py, where each asks who is there.
"""

import sys

from airflow.plugins_manager import AirflowPlugin
from esteira.dags import forms
from esteira.dags.deadlines import SinceQueued
from esteira.web.lazy import Pages
from esteira.web.links import mlflow_pages

if "airflow.api_fastapi.app" in sys.modules:  # only the API server checks forms, and every task loads this
    forms.register()

BUNDLE = "/esteira/static/esteira.js"


class EsteiraPlugin(AirflowPlugin):
    """The plugin; scheduler, API server and DAG processor all load it."""

    name = "esteira"
    deadline_references = (SinceQueued,)
    fastapi_apps = ({"app": Pages(), "url_prefix": "/esteira", "name": "esteira"},)
    # A name is that of the component in web/static/esteira.js.
    react_apps = (
        {"name": "Models", "bundle_url": BUNDLE, "destination": "nav", "url_route": "esteira", "nav_top_level": True},
        {"name": "Models, worst first", "bundle_url": BUNDLE, "destination": "dashboard", "url_route": "esteira-card"},
        {"name": "Model", "bundle_url": BUNDLE, "destination": "dag", "url_route": "esteira-model"},
        {"name": "In words", "bundle_url": BUNDLE, "destination": "dag_run", "url_route": "esteira-run"},
    )
    mlflow = mlflow_pages()
    external_views = [{"name": "MLflow", "href": mlflow, "destination": "nav", "category": "browse"}] if mlflow else []
