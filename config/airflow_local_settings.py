"""Airflow imports this at start: what the tasks need is loaded once, before the workers are forked from this process."""

import os
import sys
import warnings


def preload() -> None:
    """Import the heavy libraries. Without it each task spends seconds on importing them anew."""
    with warnings.catch_warnings():
        # At its import skops asks every loaded module for the names of scipy's functions; Airflow's deprecated modules warn.
        warnings.simplefilter("ignore")
        import IPython
        import joblib
        import mlflow.sklearn
        import mlflow.tracing.processor.otel_metrics_mixin
        import mlflow.tracking.request_header.registry
        import optuna
        import pandas
        import pandera.pandas
        import pyarrow.acero
        import tl2cgen
        from esteira import steps
        from esteira.learning import compiled, plots
        from esteira.store import model_files
        from sklearn.compose import make_column_transformer
        from sklearn.preprocessing import OneHotEncoder

        assert all((mlflow.sklearn, mlflow.tracking.request_header.registry, optuna, joblib, tl2cgen))
        assert all((compiled, plots, model_files))
        assert all(getattr(steps, name) for name in steps.__all__)  # each is imported when it is asked for
        # Imported by MLflow's and pyarrow's first use:
        assert all((mlflow.tracing.processor.otel_metrics_mixin, pyarrow.acero))
        assert IPython  # MLflow asks it at its first request whether it is in a notebook
        # A client looks for plugins in every installed package; it asks no server before it is asked something.
        mlflow.MlflowClient("http://127.0.0.1:9")
        # scikit-learn imports what reads a frame with the first one.
        make_column_transformer((OneHotEncoder(), ["x"])).fit_transform(pandas.DataFrame({"x": ["a", "b"]}))
        # pandera loads its checks, and Hypothesis where that is installed, at its first use: a quarter of a task's time.
        pandera.pandas.DataFrameSchema({"x": pandera.pandas.Column(float)}).validate(pandas.DataFrame({"x": [0.0]}))


# The scheduler forks workers with LocalExecutor only.
if "celery" in sys.argv[1:3] or (
    "scheduler" in sys.argv[1:3] and os.environ.get("AIRFLOW__CORE__EXECUTOR") == "LocalExecutor"
):
    preload()
