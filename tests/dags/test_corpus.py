"""Every input of the corpus through the score DAG: the run succeeds or fails, and the tables hold what its case.yaml says."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from esteira.notify import rendering

from tests import corpora
from tests.corpora import Case

pytestmark = pytest.mark.usefixtures("airflow_db")

# One of each outcome at each change; all of them in `make test-slow` (and each by its steps, in tests/integration).
QUICK = {"plain", "out_of_range", "missing_column", "cut_in_its_last_value"}
CASES = [
    pytest.param(case, id=case.name, marks=[] if case.name in QUICK else pytest.mark.slow) for case in corpora.cases()
]


@pytest.mark.parametrize("case", CASES)
def test_case(case: Case, corpus_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dag_bag) -> None:
    from esteira.dags import alerts

    mails: list = []
    monkeypatch.setattr(alerts, "deliver_now", lambda spec, mail: mails.append(mail))
    spec = corpora.declare(case, tmp_path / "models")
    dag = dag_bag(tmp_path / "models").dags["corpus_score"]
    dag.deadline = None  # with one, DAG.test of Airflow 3.3 can't end a run; a live test has it
    for task in dag.tasks:
        task.retries = 0  # DAG.test would wait for the pauses: an hour and a half where a file is not whole

    def run(day: str) -> tuple[bool, str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Airflow's own
            ended = dag.test(run_conf={"day": day})
            states = {task.task_id: str(task.state) for task in ended.get_task_instances()}
            said = next(
                (task.xcom_pull("publish") for task in ended.get_task_instances() if task.task_id == "publish"), ""
            )
        failed = [name for name, state in states.items() if state == "failed"]
        assert len(failed) == (0 if ended.state == "success" else 1), states
        return ended.state == "success", str(said) if not failed else rendering.text(mails[-1])

    for day in case.before:
        assert run(day)[0]
    corpora.require_outcome(case, spec, *run(case.day))
    assert len(mails) == (case.outcome == "refused")  # who is responsible is told why, and at once


def test_a_day_in_shards(corpus_home: Path, tmp_path: Path, dag_bag) -> None:
    """The task plan, a task score for each shard, and what they come to together."""
    case = next(case for case in corpora.cases() if case.name == "out_of_range")
    spec = corpora.declare(case, tmp_path / "models")
    yaml = spec.folder / "model.yaml"
    yaml.write_text(f"{yaml.read_text().rstrip()}\nscore: {{schedule: null, shards: 3}}\n")
    dag = dag_bag(tmp_path / "models").dags["corpus_score"]
    dag.deadline = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's own
        ended = dag.test(run_conf={"day": case.day})
        tasks = sorted((task.task_id, task.map_index, str(task.state)) for task in ended.get_task_instances())
        said = next(task.xcom_pull("publish") for task in ended.get_task_instances() if task.task_id == "publish")
    scores = [("score", number, "success") for number in range(3)]
    assert tasks == [
        ("earlier.publish_span", -1, "skipped"),
        ("earlier.score_span", -1, "skipped"),
        ("plan", -1, "success"),
        ("publish", -1, "success"),
        *scores,
        ("spans", -1, "success"),
    ]
    corpora.require_outcome(case, spec, True, str(said))
