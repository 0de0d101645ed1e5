"""Every path of the check's loop, run by Airflow itself (dag.test): which tasks succeed and which are skipped."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from esteira import data, steps
from esteira.lifecycle.actions import Evidence
from esteira.lifecycle.policy import Decision, Outcome, Verdict
from esteira.spec import ModelSpec
from esteira.steps.scoring import Reconciled
from esteira.store import lake, ledger, measurements

from tests import models
from tests.models import AS_OF, CHANGE, FIRST, score_days

pytestmark = pytest.mark.usefixtures("airflow_db")

R, I, F, CRASH = Outcome.RECOVERS, Outcome.IMPROVES, Outcome.FAILS, "crash"  # noqa: E741
PROMOTED = {"commit_notebook", "register", "promote", "rescore"}
THREE = models.YAML.replace("[{{window: 28d}}, {{window: 7d}}]", "[{{window: 28d}}, {{window: 7d}}, {{window: 14d}}]")


BLENDS = THREE.replace("retrain_first: none", "retrain_first: blend")


def attempt(number: int) -> set[str]:
    return {f"attempt_{number}.{task}" for task in ("retrain", "recheck", "verdict")}


def blend(later: str = "") -> set[str]:
    return {f"attempt_0{later}.{task}" for task in ("blend", "verdict")}


@pytest.fixture
def run(dag_bag, monkeypatch: pytest.MonkeyPatch, sent: list) -> Iterator[Callable[..., dict[str, str]]]:
    """Run a DAG of the model in this process; returns each task's state, and the run's under ''."""

    nap = time.sleep

    def run(spec: ModelSpec, kind: str, **conf: object) -> dict[str, str]:
        dag = dag_bag(spec.folder.parent).dags[f"{spec.name}_{kind}"]
        dag.deadline = None  # with one, DAG.test of Airflow 3.3 can't end a run; a live test has it
        with warnings.catch_warnings(), monkeypatch.context() as patch:
            warnings.simplefilter("ignore")  # Airflow's own
            patch.setattr(time, "sleep", lambda seconds: nap(0.01))  # it sleeps a second wherever tasks are skipped
            ended = dag.test(run_conf=conf)
            states = {task.task_id: str(task.state) for task in ended.get_task_instances()}
        return {**states, "": str(ended.state)}

    return run


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list:
    """The mails that were sent."""
    from esteira.dags import alerts

    mails: list = []
    monkeypatch.setattr(alerts, "deliver_now", lambda spec, mail: mails.append(mail))
    return mails


def begun(spec: ModelSpec, decision: Decision, unverified: bool = False, drifted: bool = False) -> Evidence:
    verdict = Verdict(decision, "pretended")
    return Evidence.decided(verdict, (1, 2, 3), unverified=unverified, drifted=drifted)


def pretend(
    monkeypatch: pytest.MonkeyPatch, decision: Decision, outcomes: list[object], order: tuple[int, ...] = (1, 2, 3)
) -> None:
    """Replace what the steps find by a scenario: the decision, and each attempt's outcome in order, which may be a crash."""
    found: dict[int, Outcome] = {}

    def recheck(spec: ModelSpec, day: object, number: int, run_id: str) -> Outcome:
        found[number] = outcomes[order.index(number)]  # type: ignore[assignment]
        return found[number]

    def retrain(spec: ModelSpec, day: object, number: int) -> str:
        if outcomes[order.index(number)] == CRASH:
            raise MemoryError("the attempt crashed")
        return f"run-{number}"

    def blend(spec: ModelSpec, day: object) -> Outcome:
        return recheck(spec, day, 0, retrain(spec, day, 0))

    def evidence(spec: ModelSpec, day: object, tried: int) -> Evidence:
        ended = {number: (found.get(number, F), 0.1) for number in order[: order.index(tried) + 1]}
        return Evidence(Verdict(decision, "pretended"), order, ended)

    scenario = {
        "store_labels": lambda *_: 1,
        "measure": lambda *_: 1,
        "begin": lambda *_: Evidence.decided(Verdict(decision, "pretended"), order, unverified=False, drifted=False),
        "keep_drift_report": lambda *_: "run-drift",
        "queue_drift_mail": lambda *_: None,
        "retrain": retrain,
        "recheck": recheck,
        "blend": blend,
        "evidence": evidence,
        "queue_wait_mail": lambda *_: None,
        "commit_notebook": lambda *_: "commit",
        "register_chosen": lambda *_: 2,
        "promote_chosen": lambda *_: 2,
        "rescore": lambda *_: Reconciled(),
        "warn": lambda *_: SimpleNamespace(subject="the warning", key="k", to=("ops@example.com",)),
    }
    for name, function in scenario.items():
        monkeypatch.setattr(steps, name, function)


PATHS = {
    "in range": (Decision.KEEP, [], {"keep"}),
    "watch": (Decision.WATCH, [], {"keep"}),
    "too little is known": (Decision.WAIT, [], {"wait"}),
    "recovers at 1": (Decision.RETRAIN, [R], attempt(1) | PROMOTED),
    "recovers at 2": (Decision.RETRAIN, [F, R], attempt(1) | attempt(2) | PROMOTED),
    "recovers at 3": (Decision.RETRAIN, [F, I, R], attempt(1) | attempt(2) | attempt(3) | PROMOTED),
    "improves only": (Decision.RETRAIN, [F, I, F], attempt(1) | attempt(2) | attempt(3) | PROMOTED | {"warn"}),
    "none": (Decision.RETRAIN, [F, F, Outcome.UNKNOWN], attempt(1) | attempt(2) | attempt(3) | {"warn"}),
}


FIRST_BLEND, LATE_BLEND = (0, 1, 2, 3), (1, 0, 2, 3)
WITH_BLENDS = {
    "in range": (Decision.KEEP, FIRST_BLEND, [], {"keep"}),
    "the blend recovers": (Decision.RETRAIN, FIRST_BLEND, [R], blend() | PROMOTED),
    "recovers at 1": (Decision.RETRAIN, FIRST_BLEND, [F, R], blend() | attempt(1) | PROMOTED),
    "recovers at 2": (Decision.RETRAIN, FIRST_BLEND, [I, F, R], blend() | attempt(1) | attempt(2) | PROMOTED),
    "the blend improves only": (
        *(Decision.RETRAIN, FIRST_BLEND, [I, F, F, F]),
        blend() | attempt(1) | attempt(2) | attempt(3) | PROMOTED | {"warn"},
    ),
    "none": (Decision.RETRAIN, FIRST_BLEND, [F] * 4, blend() | attempt(1) | attempt(2) | attempt(3) | {"warn"}),
    "recovers before a late blend": (Decision.RETRAIN, LATE_BLEND, [R], attempt(1) | PROMOTED),
    "the late blend recovers": (Decision.RETRAIN, LATE_BLEND, [F, R], attempt(1) | blend("_later") | PROMOTED),
    "recovers after a late blend": (
        *(Decision.RETRAIN, LATE_BLEND, [F, F, R]),
        attempt(1) | blend("_later") | attempt(2) | PROMOTED,
    ),
    "none, the blend being late": (
        *(Decision.RETRAIN, LATE_BLEND, [F] * 4),
        attempt(1) | blend("_later") | attempt(2) | attempt(3) | {"warn"},
    ),
    "a probe": (Decision.PROBE, (0, 1), [F, F], blend() | attempt(1) | {"warn"}),
    "a probe that improves only": (Decision.PROBE, (0, 1), [F, I], blend() | attempt(1) | PROMOTED | {"warn"}),
    "a probe, the blend being late": (Decision.PROBE, (1, 0), [F, F], attempt(1) | blend("_later") | {"warn"}),
}


@pytest.mark.parametrize("path", WITH_BLENDS)
def test_a_path_of_the_loop_with_a_blend(
    path: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    decision, order, outcomes, walked = WITH_BLENDS[path]
    pretend(monkeypatch, decision, outcomes, order)
    walks(run(models.write(tmp_path, yaml=BLENDS), "check", day=str(FIRST)), walked, decision, sent)


@pytest.mark.parametrize(("order", "last"), [((0, 1), attempt(1)), ((1, 0), blend("_later"))])
def test_with_one_recipe_the_warning_follows_whatever_comes_last(
    order: tuple[int, ...], last: set[str], run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    pretend(monkeypatch, Decision.RETRAIN, [F, F], order)
    one = models.YAML.replace("[{{window: 28d}}, {{window: 7d}}]\nretrain_first: none", "[{{window: 28d}}]")
    walked = (blend() if order[0] == 0 else set()) | attempt(1) | last | {"warn"}
    walks(run(models.write(tmp_path, yaml=one), "check", day=str(FIRST)), walked, Decision.RETRAIN, sent)


def test_a_blend_that_crashes_counts_as_not_improved(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    pretend(monkeypatch, Decision.RETRAIN, [CRASH, R], FIRST_BLEND)
    states = run(models.write(tmp_path, yaml=BLENDS), "check", day=str(FIRST))
    assert (states["attempt_0.blend"], states["attempt_1.verdict"], states["promote"]) == (
        "failed",
        "success",
        "success",
    )
    assert sent == []


@pytest.mark.parametrize("path", PATHS)
def test_a_path_of_the_loop(path: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list) -> None:
    decision, outcomes, walked = PATHS[path]
    spec = models.write(tmp_path, yaml=THREE)
    pretend(monkeypatch, decision, outcomes)
    walks(run(spec, "check", day=str(FIRST)), walked, decision, sent)


def test_a_probe_without_a_blend_warns_after_the_first_retraining(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    pretend(monkeypatch, Decision.PROBE, [F], (1,))
    states = run(models.write(tmp_path, yaml=THREE), "check", day=str(FIRST))
    walks(states, attempt(1) | {"warn"}, Decision.PROBE, sent)


def walks(states: dict[str, str], walked: set[str], decision: Decision, sent: list) -> None:
    """These tasks have succeeded, and all others were skipped."""
    walked = (
        walked
        | {"labels", "measure", "decide"}
        | ({"drift_report"} if decision in (Decision.PROBE, Decision.RETRAIN) else set())
    )
    assert {task for task, state in states.items() if task and state == "success"} == walked
    assert {state for task, state in states.items() if task not in walked and task} == {"skipped"}
    assert states[""] == "success"
    assert [mail.subject for mail in sent] == (["the warning"] if "warn" in walked else [])


@pytest.mark.parametrize(
    ("kind", "task", "conf"),
    [
        ("score", "score", {"Day": str(FIRST)}),
        ("train", "extract", {"day": str(FIRST), "windw": 7}),
        ("check", "labels", {"day": str(FIRST), "version": 1}),
    ],
)
def test_an_unknown_key_of_the_configuration_fails_the_run(
    run, tmp_path: Path, sent: list, kind: str, task: str, conf: dict[str, object]
) -> None:
    states = run(models.write(tmp_path, yaml=THREE), kind, **conf)
    assert (states[task], states[""]) == ("failed", "failed")
    unknown = next(key for key in conf if key != "day")
    assert f"unknown key '{unknown}' in the run's configuration; allowed: day" in sent[0].lead


def test_a_crash_in_an_attempt_counts_as_not_improved(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    spec = models.write(tmp_path, yaml=THREE)
    pretend(monkeypatch, Decision.RETRAIN, [CRASH, R])
    states = run(spec, "check", day=str(FIRST))
    assert states["attempt_1.retrain"] == "failed"
    assert states["attempt_1.recheck"] == "upstream_failed"
    assert states["attempt_1.verdict"] == states["attempt_2.verdict"] == states["rescore"] == "success"
    assert states["attempt_3.retrain"] == states["warn"] == "skipped"
    assert states[""] == "success"
    assert sent == []


def test_when_every_attempt_crashes_the_warning_is_sent(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    spec = models.write(tmp_path, yaml=THREE)
    pretend(monkeypatch, Decision.RETRAIN, [CRASH, CRASH, CRASH])
    states = run(spec, "check", day=str(FIRST))
    assert states["warn"] == "success"
    assert states["promote"] == "skipped"
    assert [mail.subject for mail in sent] == ["the warning"]


def test_drift_alone_is_reported_and_retrains_nothing(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    pretend(monkeypatch, Decision.KEEP, [])
    monkeypatch.setattr(steps, "begin", lambda spec, _: begun(spec, Decision.KEEP, drifted=True))
    monkeypatch.setattr(steps, "queue_drift_mail", lambda *_: SimpleNamespace(subject="drift"))
    states = run(models.write(tmp_path), "check", day=str(FIRST))
    assert states["drift_report"] == states["keep"] == "success"
    assert states["attempt_1.retrain"] == "skipped"
    assert [mail.subject for mail in sent] == ["drift"]


def test_a_new_champion_is_verified_beside_what_the_check_decides(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list
) -> None:
    pretend(monkeypatch, Decision.KEEP, [])
    monkeypatch.setattr(steps, "begin", lambda spec, _: begun(spec, Decision.KEEP, unverified=True))
    found = SimpleNamespace(
        verified=SimpleNamespace(why="worse"), mail=SimpleNamespace(subject="worse than it replaced")
    )
    monkeypatch.setattr(steps, "verify", lambda *_: found)
    states = run(models.write(tmp_path), "check", day=str(FIRST))
    assert states["verify"] == states["keep"] == "success"
    assert states["attempt_1.retrain"] == states["drift_report"] == "skipped"
    assert [mail.subject for mail in sent] == ["worse than it replaced"]  # its own task tries it at once


def test_a_task_that_fails_for_good_is_mailed(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    def fail(*_: object) -> int:
        raise AirflowFailException("the lake is gone")

    pretend(monkeypatch, Decision.KEEP, [])
    monkeypatch.setattr(steps, "measure", fail)
    states = run(models.write(tmp_path), "check", day=str(FIRST))
    assert (states["measure"], states["decide"], states[""]) == ("failed", "upstream_failed", "failed")
    assert [mail.subject for mail in sent] == [f"sales: task measure for {FIRST} failed"]
    assert "the lake is gone" in sent[0].lead
    assert f"esteira check sales --day {FIRST}" in sent[0].lead


@pytest.mark.slow
@pytest.mark.parametrize(("world", "champion"), [({"change": str(CHANGE)}, 2), ({"noise": str(CHANGE)}, 1)])
def test_the_three_dags_live_through_a_change_for_real(
    home: Path, run, tmp_path: Path, sent: list, world: dict[str, str], champion: int
) -> None:
    """Nothing is pretended: a model is trained, scored, and its world changes; one recovers, the other is warned about."""
    spec = models.write(tmp_path / "models", **world)
    assert run(spec, "train", day=str(AS_OF))[""] == "success"
    day = CHANGE + timedelta(days=14)
    states = run(spec, "score", day=str(FIRST), last_day=str(day))
    assert states["score"] == states["publish"] == states[""] == "success"
    assert len(lake.read("predictions", spec.name)) == len(data.days(FIRST, day)) * 72
    states = run(spec, "check", day=str(day))
    assert states[""] == "success"
    now = ledger.champion(spec)
    assert now is not None
    if "change" in world:
        assert states["attempt_2.verdict"] == states["rescore"] == "success"
        assert now.version == champion
        assert [mail.subject.partition(", better by")[0] for mail in sent] == [
            "sales: version 1 is the champion",
            "sales: version 2 is the champion",
        ]
        assert sent[1].subject.endswith("and back in range")
        notebook = home / "notebooks" / spec.name / f"{day}.ipynb"
        assert "recovers" in notebook.read_text()
        assert '"image/png"' in notebook.read_text()
    else:
        assert now.version == champion
        assert states["warn"] == "success"
        assert sent[1].subject.endswith(", retraining did not help")


@pytest.mark.slow
@pytest.mark.parametrize("world", [{"change": str(CHANGE)}, {"noise": str(CHANGE)}])
def test_the_command_line_decides_as_the_dag_does(
    home: Path, run, tmp_path: Path, world: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = models.write(tmp_path / "models", **world)
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    steps.train(spec, AS_OF, "t")
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    import shutil

    shutil.copytree(home, tmp_path / "copy")
    states = run(spec, "check", day=str(day))
    by_dag = [outcome.outcome for outcome in measurements.attempts(spec, day).values()]

    from tests.conftest import use_home

    use_home(tmp_path / "copy", monkeypatch)
    checked = steps.check(spec, day)
    assert list(checked.outcomes) == by_dag
    assert (checked.promoted is not None) == (states["promote"] == "success")


def decisions(spec: ModelSpec) -> list[tuple[object, ...]]:
    """What the checks of a model decided and did, as the tables keep it."""
    known = lake.read("metrics", spec.name, role="decision").sort_values("check_day")
    tried = lake.read("metrics", spec.name, role="challenger", window="slice").sort_values(["check_day", "attempt"])
    events = ledger.rows(spec).sort_values(["effective_day", "id"])
    return [
        *known[["check_day", "outcome", "why"]].itertuples(index=False, name=None),
        *tried[["check_day", "attempt", "metric", "value", "n_rows"]].itertuples(index=False, name=None),
        *tried[["gain", "gain_lower", "gain_upper"]].dropna().itertuples(index=False, name=None),
        *events.loc[
            ~events["to_state"].isin([*ledger.MAILS, "challenger"]), ["id", "effective_day", "to_state"]
        ].itertuples(index=False, name=None),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("world", [{"change": str(CHANGE)}, {"noise": str(CHANGE)}])
def test_a_replay_decides_as_the_dags_do(
    home: Path, run, tmp_path: Path, sent: list, world: dict[str, str], monkeypatch: pytest.MonkeyPatch, mlflow_template
) -> None:
    """The same days by the DAGs and by a replay: the same decisions, attempts, gains to the last digit, and ledger."""
    import shutil

    from esteira import replay

    from tests.conftest import use_home

    spec = models.write(tmp_path / "models", **world)
    plan = replay.Plan(spec.name, FIRST, CHANGE + timedelta(days=20), "week", "week")
    assert run(spec, "train", day=str(AS_OF))[""] == "success"
    for first, last in replay.spans(plan.first, plan.last, plan.every):
        assert run(spec, "score", day=str(first), last_day=str(last))[""] == "success"
        assert run(spec, "check", day=str(last))[""] == "success"
    by_dags = decisions(spec)
    assert "retrain" in {row[1] for row in by_dags}

    (tmp_path / "replay" / "mlflow").mkdir(parents=True)
    shutil.copy(mlflow_template, tmp_path / "replay" / "mlflow" / "mlflow.db")
    use_home(tmp_path / "replay", monkeypatch)
    replay.walk(spec, plan, "policy")
    assert decisions(spec) == by_dags


@pytest.mark.parametrize("kept", [{}, {FIRST: "its features are gone"}])
def test_a_check_that_has_promoted_before_does_only_what_it_has_left(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list, kept: dict[date, str]
) -> None:
    """As where a person clears `decide` with all that follows it: no branch leads from there to the warning."""
    spec = models.write(tmp_path, yaml=THREE)
    pretend(monkeypatch, Decision.RETRAIN, [])
    verdict = Verdict(Decision.RETRAIN, "pretended")
    monkeypatch.setattr(steps, "begin", lambda *_: Evidence(verdict, (1, 2, 3), {}, promoted=True))
    warning = SimpleNamespace(subject="the warning", key="k", to=("ops@example.com",))
    monkeypatch.setattr(steps, "act", lambda *_: SimpleNamespace(warning=warning, rescored=Reconciled(kept=kept)))
    states = run(spec, "check", day=str(FIRST))
    done = {task for task, state in states.items() if task and state == "success"}
    assert done == {"labels", "measure", *(() if kept else ("decide",))}  # red over days that are not as published
    assert [mail.subject for mail in sent] == [
        "the warning",
        *([f"sales: task decide for {FIRST} failed"] if kept else []),
    ]
