"""supervisord's configuration, read by supervisord itself."""

from __future__ import annotations

import shlex
from pathlib import Path

from supervisor.options import ServerOptions

from ops import processes, stack, supervision
from ops.database import Database
from ops.layout import Stack


def test_supervisord_reads_what_was_written(tmp_path: Path) -> None:
    made = Stack(tmp_path / "a 100% home", 1, 2, 3)
    stack._make_home(made)
    supervision.write_config(
        made, Database("postgresql://", ("env", "-i", "postgres", "-c", "listen_addresses="), "nobody")
    )
    options = ServerOptions()
    options.realize(["-c", str(made.home / "supervisord.conf")])
    programs = {each.name: each.process_configs[0] for each in options.process_group_configs}
    assert {name for name, each in programs.items() if not each.autostart} == set(processes.AIRFLOW)
    assert programs["postgres"].stopsignal.name == "SIGINT"
    assert programs["postgres"].priority == min(each.priority for each in programs.values())
    assert shlex.split(programs["postgres"].command)[-1] == "listen_addresses="
    assert f"sqlite:///{made.home}/mlflow/mlflow.db" in shlex.split(programs["mlflow"].command)
    assert programs["mlflow"].stdout_logfile == str(made.home / "logs" / "mlflow.log")
