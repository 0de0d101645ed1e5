from __future__ import annotations

from email.message import EmailMessage

from esteira.notify import rendering
from esteira.store.outbox import Mail

NASTY = "<script>alert(1)</script>"
MAIL = Mail(
    key="sales/warned:1:2026-01-08",
    to=("ops@example.com", "team@example.com"),
    subject=f"out of range {NASTY}\r\nBcc: thief@example.com",
    lead=f"Model sales: {NASTY}",
    sections=(("What was tried", ["attempt", "gain"], [["1", NASTY]]),),
    links=(
        ("The run", "http://127.0.0.1/x?a=1&b=2"),
        ("The table", "/lake/metrics/sales"),
        ("Not a link", "javascript:alert(1)"),
    ),
)


def part(mail: EmailMessage, kind: str) -> str:
    body = mail.get_body((kind,))
    assert body is not None
    return str(body.get_content())


def test_a_mail_is_text_and_html() -> None:
    mail = rendering.message(MAIL, "esteira@localhost")
    assert mail.get_content_type() == "multipart/alternative"
    assert mail["To"] == "ops@example.com, team@example.com"
    assert "attempt: 1, gain: <script>" in part(mail, "plain")
    assert "The run: http://127.0.0.1/x?a=1&b=2" in part(mail, "plain")
    assert '<a href="http://127.0.0.1/x?a=1&amp;b=2">The run</a>' in part(mail, "html")


def test_what_users_wrote_is_escaped_in_html() -> None:
    text = part(rendering.message(MAIL, "esteira@localhost"), "html")
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert 'href="javascript' not in text


def test_a_line_break_in_the_subject_is_no_new_header() -> None:
    mail = rendering.message(MAIL, "esteira@localhost")
    assert mail["Bcc"] is None
    assert b"\nBcc:" not in mail.as_bytes()


def test_the_same_mail_has_the_same_message_id() -> None:
    first, again = (rendering.message(MAIL, "esteira@localhost")["Message-ID"] for _ in range(2))
    assert first == again
    other = Mail(key="sales/warned:1:2026-01-15", to=MAIL.to, subject="x", lead="x")
    assert rendering.message(other, "esteira@localhost")["Message-ID"] != first


def test_half_a_character_is_shown_by_its_number() -> None:
    mail = Mail(key="sales/\udcff", to=MAIL.to, subject="no file \udcff.csv", lead="no file \udcff.csv")
    sent = rendering.message(mail, "esteira@localhost")
    assert sent["Subject"] == "no file \\udcff.csv"
    assert "no file \\udcff.csv" in part(sent, "plain")
    assert sent.as_bytes().decode("ascii")
