from __future__ import annotations

from dataclasses import replace
from email.message import EmailMessage

import pytest
from esteira.notify import rendering
from esteira.store.outbox import Mail, Weeks

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


WEEKS = Weeks("mae", None, 0.2, (("2026-02-07", 0.1, 1), ("2026-02-14", 0.9, 1), ("2026-02-21", 0.11, 2)))


def test_the_metric_is_a_picture_in_the_page_and_words_beside_it() -> None:
    mail = rendering.message(replace(MAIL, todo="Do <this>.", weeks=WEEKS), "esteira@localhost")
    plain, page = part(mail, "plain"), part(mail, "html")
    assert plain.startswith("Do <this>.\n")
    assert "mae by window, the last day of each: 02-07 0.1, 02-14 0.9 (!), 02-21 0.11" in plain
    assert "Do &lt;this&gt;." in page
    assert f'src="cid:{rendering.PICTURE}"' in page
    pictures = [each for each in mail.walk() if each.get_content_type() == "image/png"]
    assert [each["Content-ID"] for each in pictures] == [f"<{rendering.PICTURE}>"]
    assert pictures[0].get_content().startswith(b"\x89PNG")
    assert len(mail.as_bytes()) < 102_000, "Gmail cuts longer ones off"


def test_a_picture_that_can_t_be_drawn_keeps_no_mail_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Weeks) -> bytes:
        raise RuntimeError("no font")

    monkeypatch.setattr(rendering.picture, "drawn", fail)
    mail = rendering.message(replace(MAIL, weeks=WEEKS), "esteira@localhost")
    assert "cid:" not in part(mail, "html")
    assert "02-14 0.9 (!)" in part(mail, "html")


def test_a_filter_can_tell_the_model_and_no_machine_answers() -> None:
    mail = rendering.message(MAIL, "esteira@localhost")
    assert (mail["X-Esteira-Model"], mail["Auto-Submitted"]) == ("sales", "auto-generated")


def test_a_table_of_many_columns_is_told_row_by_row() -> None:
    """On a phone seven columns can't be beside each other."""
    wide = ("Tried", ["attempt", "recipe", "gain", "from", "outcome"], [["1", "window 90d", "0.1", "7 days", "fails"]])
    page = part(rendering.message(replace(MAIL, sections=(wide,)), "esteira@localhost"), "html")
    assert "<th" not in page
    assert "<b>attempt 1</b>, outcome: <b>fails</b>" in page
    assert "recipe: window 90d; gain: 0.1; from: 7 days" in page
