"""The command line: the same steps that the DAGs run, without Airflow."""

from __future__ import annotations

import sys

from esteira.cli import answers, days, models, operations
from esteira.cli.common import app
from esteira.errors import EsteiraError, OutOfReach

__all__ = ["answers", "app", "days", "models", "operations"]


def main() -> None:
    """Run a command; what a user can mend is shown as a sentence, not as a traceback."""
    try:
        app()
    except (EsteiraError, OutOfReach) as error:
        sys.exit(f"esteira: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:  # a folder that can't be written, a disk that is full
        sys.exit(f"esteira: {error}")
    except Exception as error:  # of whatever library: an outage is a sentence, all else is raised as it is
        from esteira.notebooks.hosts import without_passwords
        from esteira.outages import is_outage

        if not is_outage(error):
            raise
        said = without_passwords(str(error))[:400]
        sys.exit(
            f"esteira: a server can't be reached: {said}; start it (MLflow of this project: `make up`), or correct its address "
            "(MLFLOW_TRACKING_URI); then say the command again: it goes on where it was"
        )


if __name__ == "__main__":
    main()
