"""What comes of mails that wait: each receiver's is delivered, refused, given up, or still queued."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path

import pytest
from esteira import steps
from esteira.lifecycle.events import Noted
from esteira.notify import delivery, messages
from esteira.notify.delivery import (
    COPIES,
    LONG,
    Barred,
    Delivery,
    Postponed,
    Send,
    Undeliverable,
    Unknown,
    Unreachable,
)
from esteira.spec import ModelSpec
from esteira.store import lake, ledger, outbox
from esteira.store.outbox import Mail

from tests import models

DAY = date(2026, 2, 1)
OPS, TEAM = "ops@example.com", "team@example.com"


class Server:
    """A mail server; `says` maps a receiver to what happens to mails for it. Keeps what it took."""

    def __init__(self, **says: Exception | type[BaseException] | Callable[[EmailMessage], None]) -> None:
        self.says = says
        self.down = False
        self.connections = 0
        self.tried: list[tuple[str, str]] = []
        self.took: list[tuple[str, str]] = []

    @contextmanager
    def connect(self) -> Iterator[Send]:
        self.connections += 1
        if self.down:
            raise Unreachable("nobody is there")
        yield self.send

    def send(self, mail: EmailMessage, receiver: str) -> None:
        given = str(mail["Subject"]), receiver
        self.tried.append(given)
        said = self.says.get(receiver.partition("@")[0])
        if isinstance(said, Exception | type):
            raise said
        if said is not None:
            said(mail)
        self.took.append(given)


class Clock:
    """The lake's clock, which goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 2, 2, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(microseconds=1)
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lake, "clock", made)
    return made


@pytest.fixture
def spec(home: Path, tmp_path: Path) -> ModelSpec:
    return models.write(tmp_path)


def mail_of(name: str = "one", to: tuple[str, ...] = (OPS,), **given: str) -> Mail:
    return Mail(**{"key": f"sales/{name}", "to": to, "subject": name, "lead": "something happened"} | given)  # type: ignore[arg-type]


def queue(spec: ModelSpec, *mails: Mail) -> None:
    for mail in mails:
        assert steps.queue(spec, mail, DAY, "r")


def tick(spec: ModelSpec, server: Server, minutes: float = 0) -> Delivery:
    return delivery.deliver(spec, minutes, server.connect, sender="esteira@localhost")


def states(spec: ModelSpec) -> list[tuple[str, str]]:
    """What became of the mails, without that they were queued and sent."""
    rows = ledger.rows(spec)
    rows = rows[~rows["to_state"].isin(("queued", "sending"))].sort_values("at")
    return [(row["to_state"], json.loads(row["evidence"])["receiver"]) for row in rows.to_dict("records")]


def waiting(spec: ModelSpec) -> list[tuple[str, str]]:
    return [(each.mail.subject, each.receiver) for each in outbox.waiting(spec)]


def test_a_mail_is_delivered_to_each_receiver_once(spec: ModelSpec) -> None:
    server = Server()
    queue(spec, mail_of(to=(OPS, TEAM, OPS)))
    assert str(tick(spec, server)) == "2 mails sent, 0 waiting"
    assert str(tick(spec, server)) == "0 mails sent, 0 waiting"
    assert server.took == [("one", OPS), ("one", TEAM)]


def test_a_receiver_that_is_postponed_is_tried_again_alone(spec: ModelSpec) -> None:
    server = Server(ops=Postponed("451 greylisted"))
    queue(spec, mail_of(to=(OPS, TEAM)))
    found = tick(spec, server)
    assert (found.sent, found.waiting, found.error) == (1, 1, "451 greylisted")
    assert waiting(spec) == [("one", OPS)]
    server.says.clear()
    assert tick(spec, server) == Delivery(sent=1)
    assert server.took == [("one", TEAM), ("one", OPS)]


def test_a_receiver_that_is_refused_for_good_becomes_a_row_and_a_notice_to_the_owner(spec: ModelSpec) -> None:
    server = Server(ops=Undeliverable("550 no such user"))
    queue(spec, mail_of())
    assert tick(spec, server) == Delivery(refused=1)
    assert states(spec) == [("refused", OPS)]
    assert waiting(spec) == [("sales: ops@example.com gets no mail", TEAM)]
    (notice,) = outbox.waiting(spec)
    assert "does not take 'one' for ops@example.com: 550 no such user" in notice.mail.lead
    tick(spec, server)
    tick(spec, server)
    assert [receiver for _, receiver in server.tried] == [OPS, TEAM]


def test_no_notice_is_sent_about_a_notice_or_to_the_refused_address(spec: ModelSpec) -> None:
    server = Server(ops=Undeliverable("550"), team=Undeliverable("550"))
    queue(spec, mail_of(to=(OPS, "Team@example.com")))
    server.says["Team"] = Undeliverable("550")
    for _ in range(4):
        tick(spec, server)
    assert [receiver for _, receiver in server.tried] == [OPS, "Team@example.com", TEAM]
    assert waiting(spec) == []


def test_a_text_that_is_no_utf8_is_sent_escaped_and_stops_no_other(spec: ModelSpec) -> None:
    seen: list[EmailMessage] = []
    server = Server(ops=seen.append)
    broken = "can't read \udcff.csv\0"
    mail = messages.failure(spec, "extract", "sales_score/1", None, broken, "")
    queue(spec, mail_of("before", subject=broken), mail, mail_of("after"))
    assert tick(spec, server) == Delivery(sent=3)
    assert seen[0]["Subject"] == "can't read \\udcff.csv\\x00"
    body = seen[1].get_body(("plain",))
    assert body is not None
    assert "can't read \\udcff.csv\\x00" in body.get_content()
    assert seen[1].as_bytes().isascii()


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


@pytest.mark.parametrize(
    "error", [ValueError("what is this"), Speechless(), Undeliverable("\udcff"), Postponed("\udcff"), Unknown("\udcff")]
)
def test_a_mail_that_can_not_be_sent_stops_no_other(spec: ModelSpec, error: Exception) -> None:
    server = Server(ops=error)
    queue(spec, mail_of("poison"), mail_of("sound", to=("sound@example.com",)))
    assert tick(spec, server).sent == 1
    assert server.took == [("sound", "sound@example.com")]


def test_a_row_that_can_not_be_read_stops_no_other(spec: ModelSpec, caplog: pytest.LogCaptureFixture) -> None:
    ledger.write(spec, Noted(name="queued:odd", to_state="queued", day=DAY, by="r", why="", facts={"post": {}}))
    queue(spec, mail_of())
    assert tick(spec, Server()) == Delivery(sent=1)
    assert "the mail of row 'queued:odd' can't be read" in caplog.text


def test_a_server_that_never_answers_gets_three_copies_at_growing_pauses(spec: ModelSpec, clock: Clock) -> None:
    server = Server(ops=Unknown("timed out"))
    queue(spec, mail_of())
    began, at, errors, minutes = clock.now, [], [], 15
    for _ in range(6 * 24 * 3):  # three days of ticks
        before = len(server.tried)
        found = tick(spec, server, minutes)
        errors += [found.error] if found.lost else []
        if len(server.tried) > before:
            at.append(round((clock.now - began) / timedelta(minutes=1)))
        clock.now += timedelta(minutes=10)
    assert len(server.tried) == COPIES == 3
    assert at == [20, 50, 110]  # 15 minutes, 30, an hour, as seen at each tenth
    assert found == Delivery()
    assert states(spec) == [("lost", OPS)]
    assert errors == [ledger.rows(spec, to_state="lost")["why"].item()]  # which makes the task red, once
    why = ledger.rows(spec, to_state="lost")["why"].item()
    assert why == "nobody knows whether ops@example.com has it: 3 copies were sent, and the server never answered"
    assert len(waiting(spec)) == 0


@pytest.mark.slow
def test_a_mail_that_is_postponed_is_not_given_up_and_the_owner_is_told(spec: ModelSpec, clock: Clock) -> None:
    server = Server(ops=Postponed("450 4.1.2 Domain not found"))
    queue(spec, mail_of())
    for _ in range(100):  # which is beyond what a pause that doubled each time could be computed for
        tick(spec, server, 15)
        clock.now += delivery.LONGEST
    assert len([to for _, to in server.tried if to == OPS]) == 99
    (left,) = outbox.waiting(spec)
    assert (left.tries, left.unknown) == (99, 0)
    (told,) = server.took
    assert told[1] == spec.owner
    assert "ops@example.com: 450 4.1.2 Domain not found" in ledger.rows(spec, to_state="queued")["evidence"].str.cat()
    server.says = {"ops": Undeliverable("550 no such user")}
    clock.now += delivery.LONGEST
    assert tick(spec, server, 15).refused == 1
    clock.now += delivery.LONGEST
    tick(spec, server, 15)
    assert [to for _, to in server.took] == [spec.owner] * 2  # of that, too
    queue(spec, mail_of("two", (TEAM,)))
    clock.now += delivery.LONGEST
    tick(spec, server, 15)
    assert server.took[-1] == ("two", TEAM)


def test_a_young_mail_is_left_to_who_queued_it(spec: ModelSpec, clock: Clock) -> None:
    server = Server()
    queue(spec, mail_of())
    assert tick(spec, server, 15) == Delivery(waiting=1)
    delivery.deliver_now(spec, mail_of(), server.connect, sender="a@b")
    assert server.took == [("one", OPS)]


def test_a_process_that_dies_while_it_sends_has_sent_a_copy(spec: ModelSpec) -> None:
    server = Server(ops=KeyboardInterrupt)  # which nothing catches, as little as it does a SIGKILL
    queue(spec, mail_of())
    for _ in range(COPIES):
        with pytest.raises(KeyboardInterrupt):
            tick(spec, server)
    assert [each.unknown for each in outbox.waiting(spec)] == [3]
    assert tick(spec, server).lost == 1
    assert len(server.tried) == COPIES


def test_two_processes_do_not_make_the_same_try(spec: ModelSpec) -> None:
    server, other = Server(), Server()
    queue(spec, mail_of())

    def meanwhile(_: EmailMessage) -> None:
        stale[0] = delivery._sent(spec, before, other.send, "a@b", Delivery())

    (before,) = outbox.waiting(spec)
    stale: list[Delivery] = [Delivery()]
    server.says["ops"] = meanwhile
    assert tick(spec, server) == Delivery(sent=1)
    assert stale[0] == Delivery(waiting=1)
    assert (len(server.took), len(other.took)) == (1, 0)


def test_a_server_that_is_down_is_asked_once_and_nothing_is_written(spec: ModelSpec, clock: Clock) -> None:
    server = Server()
    server.down = True
    queue(spec, *(mail_of(str(number)) for number in range(5)))
    for _ in range(6 * 24):  # a day of ticks
        clock.now += timedelta(minutes=10)
        found = tick(spec, server, 15)
    assert (found.sent, found.waiting, found.error) == (0, 5, "nobody is there")
    assert server.connections == 6 * 24 - 1
    assert len(ledger.rows(spec)) == 5
    server.down = False
    assert tick(spec, server, 15) == Delivery(sent=5)  # an outage makes no pause longer


def test_a_server_that_is_down_is_asked_once_for_all_models(home: Path, tmp_path: Path) -> None:
    server = Server()
    server.down = True
    connect = delivery.once(server.connect)
    for name in ("sales", "costs", "stock"):
        spec = models.write(tmp_path, name)
        queue(spec, mail_of())
        assert delivery.deliver(spec, 0, connect, sender="a@b").error == "nobody is there"
    assert server.connections == 1


def test_the_clock_of_another_machine_makes_no_second_copy(spec: ModelSpec, clock: Clock) -> None:
    queue(spec, mail_of())
    clock.now -= timedelta(hours=1)
    tick(spec, Server(), -120)
    assert waiting(spec) == []


@pytest.mark.parametrize("evidence", [{}, {"to": 2}])
def test_a_mail_that_version_0_1_has_delivered_is_delivered_to_all(spec: ModelSpec, evidence: dict[str, int]) -> None:
    queue(spec, mail_of("warned:1:2026-01-08", to=(OPS, TEAM)), mail_of("warned:1:2026-01-15", to=(OPS, TEAM)))
    old = Noted(name="delivered:warned:1:2026-01-08", to_state="delivered", day=DAY, by="r", why="", facts=evidence)
    ledger.write(spec, old)
    assert waiting(spec) == [("warned:1:2026-01-15", OPS), ("warned:1:2026-01-15", TEAM)]


def test_a_mail_about_a_run_is_found_by_the_run(spec: ModelSpec, clock: Clock) -> None:
    queue(spec, messages.failure(spec, "extract", "sales_score/run", None, "no", ""))
    soon, before = clock.now + timedelta(minutes=1), clock.now - timedelta(minutes=1)
    assert [each.key for each in outbox.mails(spec, "failed/sales_score/run/", before)] == [
        "sales/failed/sales_score/run/never-began/extract/cleared-0"
    ]
    assert outbox.mails(spec, "failed/sales_score/run/", soon) == []
    assert outbox.mails(spec, "failed/sales_score/ru/", before) == []
    assert outbox.mails(spec, "failed/sales_check/run/", before) == []


def test_a_mail_that_a_policy_bars_stops_no_other_and_is_refused_once_the_server_has_taken_one(
    spec: ModelSpec, clock: Clock
) -> None:
    server = Server(ops=Barred("550 5.7.1 recipient restricted"))
    queue(spec, mail_of(to=(OPS, TEAM)))
    found = tick(spec, server)
    assert (found.sent, found.waiting, found.error) == (1, 1, "550 5.7.1 recipient restricted")
    assert waiting(spec) == [("one", OPS), ("sales: ops@example.com gets no mail", TEAM)]
    assert tick(spec, server) == Delivery(sent=1, refused=1)
    assert states(spec) == [("postponed", OPS), ("delivered", TEAM), ("refused", OPS), ("delivered", TEAM)]
    assert waiting(spec) == []


def test_a_receiver_that_a_policy_bars_is_shown_by_the_mail_to_the_owner(spec: ModelSpec, clock: Clock) -> None:
    server = Server(ops=Barred("550 5.7.1 recipient restricted"))
    queue(spec, mail_of())
    assert tick(spec, server).waiting == 1
    tick(spec, server)
    assert tick(spec, server) == Delivery(refused=1)
    assert server.took == [("sales: ops@example.com gets no mail", TEAM)]


def test_a_mail_that_is_barred_for_days_is_refused(spec: ModelSpec, clock: Clock) -> None:
    server = Server(ops=Barred("550 5.7.1 no"), team=Barred("550 5.7.1 no"))
    queue(spec, mail_of())
    for _ in range(LONG + 2):
        tick(spec, server)
    assert [state for state, _ in states(spec)].count("refused") == 2  # the mail, and the notice of it
    assert waiting(spec) == []


def test_while_a_server_takes_nothing_of_ours_no_mail_is_refused(spec: ModelSpec, clock: Clock) -> None:
    queue(spec, mail_of("before", to=(TEAM,)))
    assert tick(spec, Server()).sent == 1  # which says nothing of what it does now
    server = Server(ops=Barred("550 5.7.1 relaying denied"), team=Barred("550 5.7.1 relaying denied"))
    queue(spec, mail_of(to=(OPS, TEAM)))
    for _ in range(5):
        assert tick(spec, server).refused == 0
    server.says.clear()
    assert tick(spec, server).sent == 3  # and the notice, which waited, too


def test_a_mail_that_was_queued_by_a_clock_that_was_ahead_does_not_wait_until_then(
    spec: ModelSpec, clock: Clock
) -> None:
    now = clock.now
    clock.now = now + timedelta(days=3650)
    queue(spec, mail_of())
    clock.now = now
    assert tick(spec, Server(), minutes=15).sent == 1


def test_what_fails_beyond_sending_leaves_the_mail_queued(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue(spec, mail_of())
    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        patch.setattr(outbox, "waiting", lambda _: 1 / 0)
        delivery.deliver_now(spec, mail_of(), Server().connect, sender="a@b")
    assert "'one' waits in the outbox" in caplog.text
    assert waiting(spec) == [("one", OPS)]
