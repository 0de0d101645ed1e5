"""Where MLflow's pages are, for links that people follow."""

from __future__ import annotations

import os
import re

from esteira.settings import settings


def mlflow_pages() -> str:
    """ESTEIRA_MLFLOW_URL, else the tracking server; empty where there is no server. A password in it is for tasks, not for people's pages."""
    told = settings().mlflow_url
    found = re.sub(r"//[^/@]*@", "//", os.environ.get("MLFLOW_TRACKING_URI", "") if told is None else told)
    return found.rstrip("/") if found.startswith("http") else ""
