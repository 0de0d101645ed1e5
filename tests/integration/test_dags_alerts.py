"""Mails leave through Airflow's SMTP connection: to a real server, and to one that behaves oddly at a step that a test names."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP
from esteira import steps
from esteira.dags import alerts
from esteira.notify import delivery, rendering
from esteira.notify.delivery import Barred, Delivery, Postponed, Undeliverable, Unknown, Unreachable
from esteira.spec import ModelSpec
from esteira.store import lake, outbox
from esteira.store.outbox import Mail

from tests import models

OPS, TEAM = "ops@example.com", "team@example.com"
MAIL = Mail("sales/one", (OPS, TEAM), "Subject", "a line\n.a line that begins with a dot\n" + "long " * 400 + "café")
HANG, HANG_UP = "hang", "hang up"


@dataclass
class Odd:
    """An SMTP server of its own thread, that answers as it should but for the steps in `says`: an answer, HANG or HANG_UP."""

    says: dict[str, str] = field(default_factory=dict)
    took: list[bytes] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    connections: int = 0

    def __enter__(self) -> Odd:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.ended = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:  # it is closed
                return
            self.connections += 1
            with connection, connection.makefile("rb") as file:
                self.talk(connection, file)

    def talk(self, connection: socket.socket, file: Any) -> None:
        self.heard.append("a connection")
        go_on = self.answer(connection, "GREETING", "220 odd")
        while go_on and (line := file.readline()):
            verb = line.decode(errors="replace").split(":")[0].split()[0].upper()
            self.heard.append(line.decode(errors="replace").strip())
            go_on = self.answer(connection, verb, "354 go on" if verb == "DATA" else "250 fine")
            if go_on and verb == "DATA" and "DATA" not in self.says:
                lines = iter(file.readline, b".\r\n")
                self.took.append(b"".join(lines))
                go_on = self.answer(connection, "END", "250 taken")

    def answer(self, connection: socket.socket, step: str, usual: str) -> bool:
        said = self.says.get(self.heard[-1], self.says.get(step, usual))
        if said == HANG:
            self.ended.wait(20)
        if said in (HANG, HANG_UP):
            return False
        connection.sendall(f"{said}\r\n".encode())
        return True


def use(monkeypatch: pytest.MonkeyPatch, port: int, timeout: int = 1) -> None:
    extra = {"from_email": "Esteira <robot@example.com>", "disable_ssl": True, "disable_tls": True}
    extra |= {"timeout": timeout, "retry_limit": 0}
    known = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(known))


@pytest.fixture
def odd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Odd]:
    with Odd() as server:
        use(monkeypatch, server.port)
        monkeypatch.setattr(alerts, "PATIENCE", 0.3)
        yield server


@pytest.fixture
def spec(home: Path, tmp_path: Path) -> ModelSpec:
    spec = models.write(tmp_path)
    assert steps.queue(spec, MAIL, date(2026, 2, 1), "r")
    return spec


class Kept:
    """What a real server keeps; `refuses` has its answers to receivers."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.refuses: dict[str, str] = {}

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802  # aiosmtpd's name
        if address in self.refuses:
            return self.refuses[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  # aiosmtpd's name
        self.mails.append(envelope)
        return "250 OK"


class OnAnyPort(Controller):
    """A controller whose port the kernel has chosen."""

    def _create_server(self) -> Any:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        return self.loop.create_server(self._factory_invoker, sock=listener)

    def factory(self) -> SMTP:
        return SMTP(self.handler, enable_SMTPUTF8=False, loop=self.loop)


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    found = Kept()
    controller = OnAnyPort(found, hostname="127.0.0.1")
    controller.start()
    use(monkeypatch, controller.port)
    yield found
    controller.stop()


def tick(spec: ModelSpec) -> Delivery:
    return delivery.deliver(spec, 0, alerts.connected, sender=alerts.SENDER)


def test_each_receiver_gets_the_mail_as_it_was_written(spec: ModelSpec, kept: Kept) -> None:
    import email
    import email.policy

    assert tick(spec) == Delivery(sent=2)
    assert [each.rcpt_tos for each in kept.mails] == [[OPS], [TEAM]]
    assert {each.mail_from for each in kept.mails} == {"robot@example.com"}
    mail = email.message_from_bytes(kept.mails[0].original_content, policy=email.policy.default)
    assert mail["To"] == f"{OPS}, {TEAM}"
    assert mail["From"] == "Esteira <robot@example.com>"
    assert len(mail.get_all("From")) == 1
    body = mail.get_body(("plain",))
    assert body is not None
    assert MAIL.lead.split("\n")[1] in body.get_content()
    assert "café" in body.get_content()


def test_a_receiver_that_is_refused_keeps_the_mail_from_no_other(spec: ModelSpec, kept: Kept) -> None:
    kept.refuses = {OPS: "451 greylisted"}
    found = tick(spec)
    assert (found.sent, found.waiting) == (1, 1)
    kept.refuses = {OPS: "550 5.1.1 no such user"}
    assert tick(spec) == Delivery(refused=1)
    assert tick(spec) == Delivery(sent=1)
    assert [each.rcpt_tos for each in kept.mails] == [[TEAM], [TEAM]]
    assert b"ops@example.com gets no mail" in kept.mails[1].original_content


def test_what_goes_over_the_wire_has_whole_line_ends_ascii_and_short_lines(odd: Odd) -> None:
    alerts.send(rendering.message(MAIL, alerts.SENDER), OPS)
    (sent,) = odd.took
    assert sent.count(b"\n") == sent.count(b"\r\n")
    assert sent.isascii()
    assert max(map(len, sent.split(b"\r\n"))) < 998


@pytest.mark.parametrize(
    ("step", "said", "error"),
    [
        ("GREETING", HANG_UP, Unreachable),
        ("GREETING", HANG, Unreachable),
        ("GREETING", "554 go away", Unreachable),
        ("MAIL", "530 authentication required", Unreachable),
        ("MAIL", "421 closing", Unreachable),
        ("MAIL", HANG_UP, Unreachable),
        ("RCPT", "451 greylisted", Postponed),
        ("RCPT", "550 no such user", Undeliverable),
        ("RCPT", "550 5.7.1 recipient restricted", Barred),
        ("RCPT", "550 5.1.1 no such user", Undeliverable),
        ("RCPT", "550 Relaying denied", Barred),
        ("RCPT", "550 5.4.5 Daily user sending limit exceeded", Barred),
        ("RCPT", "530 Authentication required", Barred),
        ("RCPT", "550 5.2.2 mailbox full", Undeliverable),
        ("RCPT", HANG_UP, Postponed),
        ("RCPT", HANG, Postponed),
        ("DATA", "451 not now", Postponed),
        ("DATA", "554 no valid recipients", Undeliverable),
        ("DATA", "250 what?", Postponed),
        ("DATA", HANG_UP, Postponed),
        ("END", "451 local error", Postponed),
        ("END", "552 too large", Undeliverable),
        ("END", "554 5.7.1 looks like spam", Barred),
        ("END", "554 5.3.2 System not accepting network messages", Barred),
        ("END", "552 5.3.4 too big", Undeliverable),
        ("END", "354 go on", Unknown),
        ("END", HANG_UP, Unknown),
        ("END", HANG, Unknown),
        ("END", "what?", Unknown),
    ],
)
def test_it_is_known_how_far_a_mail_came(odd: Odd, step: str, said: str, error: type[Exception]) -> None:
    odd.says = {step: said}
    with pytest.raises(error) as raised:
        alerts.send(rendering.message(MAIL, alerts.SENDER), OPS)
    assert type(raised.value) is error
    if said[:3].isdigit():
        assert said.partition(" ")[2] in str(raised.value)


def test_a_server_gets_a_minute_to_answer_once_it_has_the_mail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert alerts.PATIENCE >= 60
    monkeypatch.setattr(alerts, "PATIENCE", 5.0)
    with Odd() as server:
        use(monkeypatch, server.port, timeout=1)
        usual = server.answer

        def slow(connection: socket.socket, step: str, said: str) -> bool:
            time.sleep(1.2 if step == "END" else 0)  # longer than the connection's own timeout
            return usual(connection, step, said)

        monkeypatch.setattr(server, "answer", slow)
        alerts.send(rendering.message(MAIL, alerts.SENDER), OPS)
    assert len(server.took) == 1


def test_a_server_that_never_says_what_it_did_gets_three_copies(spec: ModelSpec, odd: Odd) -> None:
    odd.says = {"END": HANG_UP}
    for _ in range(4):
        found = tick(spec)
    assert (found.lost, found.waiting) == (2, 0)
    assert len(odd.took) == 2 * delivery.COPIES
    assert outbox.waiting(spec) == []


@pytest.mark.parametrize("said", [HANG_UP, "421 too busy"])
def test_a_server_that_is_down_is_not_tried_for_every_mail(spec: ModelSpec, odd: Odd, said: str) -> None:
    odd.says = {"GREETING": said}
    found = tick(spec)
    assert (found.sent, found.waiting, odd.connections) == (0, 2, 1)
    assert "no mail server (smtp_default): " in found.error
    odd.says = {}
    assert tick(spec).sent == 2


def test_without_a_connection_the_mail_waits(spec: ModelSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_SMTP_DEFAULT", raising=False)
    monkeypatch.setattr(alerts, "SMTP", "nowhere")
    assert "no mail server (nowhere): " in tick(spec).error
    assert len(outbox.waiting(spec)) == 2


def test_a_server_that_hangs_up_at_one_receiver_gets_the_others(spec: ModelSpec, odd: Odd) -> None:
    odd.says = {f"rcpt TO:<{OPS}>": HANG_UP}
    found = tick(spec)
    assert (found.sent, found.waiting) == (1, 1)


def test_an_address_that_the_server_can_not_be_told_is_refused(odd: Odd) -> None:
    with pytest.raises(Undeliverable, match="is no address that the server can be told"):
        alerts.send(rendering.message(MAIL, alerts.SENDER), "josé@example.com")


def test_the_password_is_in_no_error(odd: Odd, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"disable_ssl": True, "disable_tls": True, "timeout": 1, "retry_limit": 0}
    known = {"conn_type": "smtp", "host": "127.0.0.1", "port": odd.port, "login": "me", "password": "hunter2"}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(known | {"extra": extra}))
    with pytest.raises(Unreachable) as raised:
        alerts.send(rendering.message(MAIL, alerts.SENDER), OPS)
    assert "hunter2" not in str(raised.value)


def test_where_the_lake_failed_each_receiver_is_sent_the_mail(
    home: Path, tmp_path: Path, kept: Kept, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spec = models.write(tmp_path)
    kept.refuses = {OPS: "550 no such user"}

    def fails(*_: object, **__: object) -> None:
        raise OSError("the lake is not mounted")

    monkeypatch.setattr(lake, "append_once", fails)
    alerts.queue(spec, MAIL, date(2026, 2, 1), "r")
    assert [each.rcpt_tos for each in kept.mails] == [[TEAM]]
    assert "was not sent to ops@example.com" in caplog.text
