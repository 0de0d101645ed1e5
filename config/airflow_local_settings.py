"""Airflow imports this at start: what the tasks need is loaded once, before the workers are forked from this process."""

import os
import sys
import warnings


def preload() -> None:
    """Import the heavy libraries. Without it each task spends seconds on importing them anew."""
    with warnings.catch_warnings():
        # At its import skops asks every loaded module for the names of scipy's functions; Airflow's deprecated modules warn.
        warnings.simplefilter("ignore")
        import esteira.steps
        import mlflow.sklearn
        import optuna
        from esteira import plots

        assert all((mlflow.sklearn, optuna, esteira.steps, plots))


# The scheduler forks workers with LocalExecutor only.
if "celery" in sys.argv[1:3] or (
    "scheduler" in sys.argv[1:3] and os.environ.get("AIRFLOW__CORE__EXECUTOR") == "LocalExecutor"
):
    preload()
