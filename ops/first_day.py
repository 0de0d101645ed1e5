"""In a container of the stack: a model's first scored day, by triggers like those of Airflow's web UI."""

import os
import sys
from datetime import date, timedelta

from ops.api import Airflow, RunTimeout

ADDRESS = "http://airflow-apiserver:8080"
LIMIT = 900  # seconds for a run


def main() -> None:
    """Train as of the day before, score the day, print its first rows."""
    model, day = sys.argv[1], date.fromisoformat(sys.argv[2])
    airflow = Airflow(ADDRESS, "admin", os.environ["AIRFLOW_ADMIN_PASSWORD"])
    runs: dict[str, dict[str, object]] = {
        f"{model}_train": {"day": str(day - timedelta(days=1))},
        f"{model}_score": {"day": str(day), "check": False},
    }
    airflow.wait_for_dags(list(runs))
    for dag_id, conf in runs.items():
        airflow.unpause(dag_id)
        run_id = airflow.trigger(dag_id, **conf)
        print(f"{dag_id} {run_id} …", flush=True)
        state = airflow.wait(dag_id, run_id, seconds=LIMIT, poll=1)
        print(f"{dag_id} {run_id}: {state}")
        if state != "success":
            sys.exit(f"esteira: {dag_id} ended as {state}; its log is in Airflow's web UI")

    from esteira.store import lake

    rows = lake.read("predictions", model, day=(day, day))
    print(f"\npredictions/{model} of {day}, rows: {len(rows)}\n{rows.head().to_string(index=False)}")


if __name__ == "__main__":
    try:
        main()
    except RunTimeout as error:
        sys.exit(f"esteira: {error}")
