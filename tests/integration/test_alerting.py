"""Steps of `steps/alerting.py`, on real tables and a real registry."""

from __future__ import annotations

import logging
import re
from datetime import date, timedelta
from pathlib import Path

import pandas as pd
import pytest
from deltalake import DeltaTable
from esteira import data, steps, views
from esteira.__main__ import app
from esteira.cli import answers
from esteira.errors import Refused
from esteira.learning import drift, evaluation
from esteira.lifecycle import changes
from esteira.lifecycle.changes import Proposal
from esteira.lifecycle.events import Recovered, Warned, run_key
from esteira.lifecycle.policy import Decision
from esteira.notify import rendering
from esteira.spec import ModelSpec, load
from esteira.steps import explaining
from esteira.store import lake, ledger, measurements, outbox, runs
from esteira.store.outbox import Mail
from typer.testing import CliRunner

from tests import corpora, models
from tests.conftest import use_home
from tests.models import AS_OF, CHANGE, FIRST, score_days
from tests.worlds import lived


def test_too_much_drift_is_mailed_and_retrains_nothing(trained, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = trained()
    real = data.read

    def warmer(spec: ModelSpec, first: date, last: date) -> pd.DataFrame:
        rows = real(spec, first, last)
        return rows.assign(heat=rows["heat"] + 20, hour=23, open=False)

    monkeypatch.setattr(data, "batches", lambda *asked: [warmer(*asked[:3])])
    day = FIRST + timedelta(days=7)
    score_days(spec, data.days(FIRST, day))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    steps.decide(spec, day)
    mail = steps.queue_drift_mail(spec, day)
    assert mail is not None
    assert mail.subject == "sales: 3 of 4 features drifted"
    assert "By itself this retrains nothing" in mail.lead
    again = steps.queue_drift_mail(spec, day)
    assert again is not None
    assert again.key == mail.key
    next_day = day + timedelta(days=1)
    steps.measure(spec, next_day)
    assert steps.queue_drift_mail(spec, next_day) is None
    assert (lake.read("ledger", spec.name)["to_state"] == "drifted").sum() == 1


def test_status_says_what_a_person_wants_to_know(trained) -> None:
    spec = trained()
    score_days(spec, data.days(FIRST, FIRST + timedelta(days=7)))
    steps.check(spec, FIRST + timedelta(days=7), keep_notebook=False)
    found = answers.shown(views.status(spec))
    assert found["champion"] == f"version 1, serving from {FIRST}"
    assert found["last day scored"] == str(FIRST + timedelta(days=7))
    assert "in range (≤ 0.3)" in found["last window's mae_over_mean"]


def test_why_it_moved_names_the_segment_and_where_no_input_moved_says_so(trained) -> None:
    """The world has exchanged the sites' sizes: not one feature is spread as it was not."""
    spec, day = lived(trained, change=str(CHANGE))
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    worse = explaining.worsened(spec, day)
    assert worse[0].segment.startswith("site=")
    assert all(each.now > each.before for each in worse)
    assert explaining.moved(spec, day) == []
    steps.decide(spec, day)
    text = rendering.text(steps.warn(spec, day))
    assert "no input moved: the relation, the target or the labels changed" in text
    assert "Features that drifted" not in text
    assert re.search(r"what: errors, rows: all, PSI: [\d.]+, beside the training: drifted", text)
    assert re.search(r"what: labels, rows: all, PSI: [\d.]+, beside the training: as it was", text)
    assert "Segments that got worse" in text
    assert worse[0].segment in text


def test_of_the_features_those_are_named_that_drifted(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    features = spec.folder / "features.py"
    features.write_text("def build(frame):\n    return frame\n")
    source = spec.folder / "source.py"
    source.write_text(source.read_text().replace("random.normal(20, 5,", "random.normal(20 + 15 * (day >= CHANGE), 5,"))
    score_days(load(spec.folder / "model.yaml"), data.days(FIRST, day), "again")
    spec = load(spec.folder / "model.yaml")
    steps.store_labels(spec, day)
    steps.measure(spec, day)
    steps.decide(spec, day)
    (moved,) = explaining.moved(spec, day)
    assert moved.feature == "heat"
    text = rendering.text(steps.warn(spec, day))
    assert "Features that drifted, by importance × drift" in text
    assert "no input moved" not in text
    assert "feature: heat," in text
    assert "feature: open," not in text


def test_personal_values_are_in_the_tables_and_nowhere_else(
    home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    people = ["Maria da Silva", "João Souza", "Ana Lima"]
    yaml = models.YAML.replace("in: [A, B, C]", f"in: [{', '.join(people)}]").replace("[site, at]", "[plaza, at]")
    spec = models.write(tmp_path / "models", noise=str(CHANGE), yaml=yaml + "personal: [site, heat]\n")
    source = tmp_path / "models" / "sales" / "source.py"
    source.write_text(
        source.read_text().replace('"site": np.array(["A", "B", "C"])', f'"plaza": site, "site": np.array({people!r})')
    )
    steps.train(spec, AS_OF, "t")
    day = CHANGE + timedelta(days=14)
    score_days(spec, data.days(FIRST, day))
    assert steps.check(spec, day, keep_notebook=False).verdict.decision is Decision.RETRAIN
    steps.keep_drift_report(spec, day)
    text = [caplog.text, rendering.text(steps.warn(spec, day)), str(answers.shown(views.status(spec)))]
    files = [*home.glob("mlflow/artifacts/**/*"), *home.glob("lake/**/_delta_log/*.json")]
    text += [
        path.read_bytes().decode("utf-8", "replace") for path in files if path.suffix in (".json", ".html", ".yaml")
    ]
    assert len(text) > 30
    assert len(caplog.text) > 1000
    for word in ("Maria", "Souza", "Jo\\u00e3o", "Ana Lima"):
        assert not [part[max(part.find(word) - 100, 0) :][:200] for part in text if word in part]
    assert "Maria da Silva" in set(lake.read("features", spec.name)["site"])
    found = runs.profile(runs.run_of(spec, 1))["site"]
    assert found["hidden"]
    now = lake.read("features", spec.name, day=(FIRST, day))
    assert drift.measure(runs.profile(runs.run_of(spec, 1)), now)["site"] == pytest.approx(0, abs=1e-6)


@pytest.fixture(scope="module")
def hopeless(trained_once, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, date]:
    """A state folder in which a model's check has tried every attempt in vain, and has not warned yet."""
    place = tmp_path_factory.mktemp("hopeless")
    corpora.copy_home(trained_once(noise=str(CHANGE)), place)
    with pytest.MonkeyPatch.context() as patch:
        use_home(place, patch)
        spec = models.write(place / "models", noise=str(CHANGE))
        day = CHANGE + timedelta(days=14)
        score_days(spec, data.days(FIRST, day))
        steps.store_labels(spec, day)
        steps.measure(spec, day)
        assert steps.decide(spec, day).decision is Decision.RETRAIN
        for number in range(1, len(spec.recipes) + 1):
            steps.recheck(spec, day, number, steps.retrain(spec, day, number))
    return place, day


@pytest.fixture
def tried(hopeless: tuple[Path, date], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelSpec, date]:
    """That folder, the test's own."""
    corpora.copy_home(hopeless[0], tmp_path / "home")
    use_home(tmp_path / "home", monkeypatch)
    monkeypatch.setenv("ESTEIRA_MODELS", str(tmp_path / "models"))
    return models.write(tmp_path / "models", noise=str(CHANGE)), hopeless[1]


def queued(spec: ModelSpec) -> list[Mail]:
    return [each.mail for each in outbox.waiting(spec)]  # each has one receiver here


class NoServer:
    """MLflow, where it can't be reached."""

    def __getattr__(self, name: str) -> object:
        raise ConnectionRefusedError(f"MLflow was asked to {name}")


def test_a_warning_is_queued_without_any_server(tried: tuple[ModelSpec, date]) -> None:
    spec, day = tried
    with runs.using(NoServer()):  # type: ignore[arg-type]
        with pytest.raises(ConnectionRefusedError):
            runs.versions(spec)
        mail = steps.warn(spec, day)
    assert queued(spec) == [mail]
    assert "What was tried" in rendering.text(mail)
    assert re.search(r"By chance such a window is off by 0\.\d+ \(one standard error", mail.lead)


def test_a_metric_that_fails_on_fewer_days_keeps_no_warning_from_being_sent(
    tried: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "standard_error", lambda *_: 1 / 0)
    mail = steps.warn(*tried)
    assert mail is not None
    assert "By chance" not in mail.lead


def test_where_nothing_is_out_of_range_there_is_nothing_to_warn_of(trained) -> None:
    spec, day = trained(), FIRST + timedelta(days=8)
    score_days(spec, data.days(FIRST, day))
    steps.check(spec, day, keep_notebook=False)
    with pytest.raises(Refused, match="has found nothing out of range"):
        steps.warn(spec, day)


def test_a_warning_and_its_mail_are_one_commit(tried: tuple[ModelSpec, date], monkeypatch: pytest.MonkeyPatch) -> None:
    spec, day = tried
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "queued", lambda *_: 1 / 0)  # it dies while the mail is made
        with pytest.raises(ZeroDivisionError):
            steps.warn(spec, day)
    assert "warned" not in set(ledger.rows(spec)["to_state"])
    before = lake.version("ledger", spec.name)
    steps.warn(spec, day)
    assert lake.version("ledger", spec.name) == before + 1
    table = DeltaTable(lake.path("ledger", spec.name), version=before + 1).to_pandas()
    assert {"warned", "queued"} <= set(table["to_state"])
    steps.warn(spec, day)
    assert lake.version("ledger", spec.name) == before + 1


def test_a_check_by_hand_queues_the_mail_of_the_window(tried: tuple[ModelSpec, date]) -> None:
    spec, day = tried
    said = CliRunner().invoke(app, ["check", spec.name, "--day", str(day)])
    assert said.exit_code == 3, said.output
    (by_hand,) = queued(spec)
    assert by_hand.subject in said.output or by_hand.lead in said.output
    by_dag = steps.warn(spec, day, "http://airflow/run")  # that of the DAG, for the same window
    assert by_dag.key == by_hand.key
    assert queued(spec) == [by_hand]


def test_a_check_that_finds_its_window_warned_of_by_another_says_so_too(tried: tuple[ModelSpec, date]) -> None:
    """As where another day's check ran whole between this one's attempts and its warning."""
    spec, day = tried
    found = steps.evidence(spec, day, len(spec.recipes))
    other = Warned(version=1, last=measurements.windows(spec, day)[-1].last, day=day, by="check/another", why="x")
    ledger.write(spec, other)
    assert steps.act(spec, day, found).warning is not None  # by which the command line ends with 3


def test_a_promotion_is_told_once_and_can_be_left_out(trained) -> None:
    spec, day = lived(trained, change=str(CHANGE))
    steps.check(spec, day, keep_notebook=False)
    assert steps.queue_promotion_mail(_with(spec, promotions=False), day, run_key(day)) is None
    mail = steps.queue_promotion_mail(spec, day, run_key(day), "http://airflow/dags/sales_check/runs/1")
    assert mail is not None
    assert re.fullmatch(r"sales: version \d is the champion, better by 0\.\d+ and back in range", mail.subject)
    assert mail.todo == "Nothing is to be done."
    assert ("How to roll back", "http://airflow/plugin/esteira/sales#rollback") in mail.links
    assert steps.queue_promotion_mail(spec, day, run_key(day)) is None, "it waits already"
    assert queued(spec) == [mail]
    assert steps.queue_promotion_mail(spec, day, run_key(day - timedelta(days=1))) is None, (
        "that check has promoted nothing"
    )


def test_a_promotion_that_a_warning_tells_of_is_not_told_twice(tried: tuple[ModelSpec, date]) -> None:
    spec, day = tried
    steps.warn(spec, day)
    ledger.change(spec, lambda known: changes.promote(known, Proposal(1, day, measured=None, why="x", by=run_key(day))))
    assert steps.queue_promotion_mail(spec, day, run_key(day)) is None


def test_a_recovery_after_a_warning_is_told_by_the_check_that_sees_it_first(tried: tuple[ModelSpec, date]) -> None:
    spec, day = tried
    assert steps.queue_recovery_mail(spec, day) is None, "nobody was warned"
    steps.warn(spec, day)
    assert steps.queue_recovery_mail(spec, day) is None
    warned = ledger.state(spec).of(Warned)[-1]
    for days in (1, 2):
        back = {"last": warned.last + timedelta(days=days), "day": day, "why": "in range"}
        ledger.write(spec, Recovered(version=1, by=run_key(day + timedelta(days=days)), **back))
    assert steps.queue_recovery_mail(spec, day + timedelta(days=2)) is None, "an earlier check has seen it"
    later = day + timedelta(days=1)
    assert steps.queue_recovery_mail(_with(spec, recoveries=False), later) is None
    steps.measure(spec, later)
    mail = steps.queue_recovery_mail(spec, later)
    assert mail is not None
    assert mail.subject.startswith("sales: back in range, mae_over_mean ")
    assert f"You were warned of the window to {warned.last}" in mail.lead
    assert steps.queue_recovery_mail(spec, later) is None, "it waits already"


def _with(spec: ModelSpec, **given: bool) -> ModelSpec:
    return spec.model_copy(update={"alerts": spec.alerts.model_copy(update=given)})
