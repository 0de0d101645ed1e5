"""A mail as it goes out: as text and as HTML, by the templates beside; all that users wrote is escaped."""

from __future__ import annotations

import hashlib
import logging
from email import policy
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from functools import lru_cache
from pathlib import Path
from typing import cast

from jinja2 import Environment, FileSystemLoader, Template

from esteira.notify import picture
from esteira.store.outbox import Mail
from esteira.text import printable

log = logging.getLogger(__name__)

# As servers want it: a line ends with CR LF (a bare LF is refused by many), and every byte is ASCII.
WIRE = policy.SMTP.clone(cte_type="7bit")
PICTURE = "metric@esteira"  # by what the page calls its picture
TEMPLATES = Path(__file__).parent / "templates"


def message(mail: Mail, sender: str) -> EmailMessage:
    """The mail as it goes out, to be read by all its receivers."""
    found = EmailMessage(policy=WIRE)
    found["Subject"] = " ".join(printable(mail.subject).split())
    found["From"] = sender
    found["To"] = [Address(addr_spec=each) for each in mail.to if _is_address(each)]
    found["Message-ID"] = f"<{hashlib.sha256(mail.key.encode(errors='replace')).hexdigest()[:32]}@esteira>"
    found["Auto-Submitted"] = "auto-generated"  # no answer by a machine, as of one who is away (RFC 3834)
    found["X-Esteira-Model"] = printable(mail.key.partition("/")[0])  # for a filter
    found.set_content(text(mail))
    drawn = _drawn(mail)
    found.add_alternative(html(mail, f"cid:{PICTURE}" if drawn else ""), subtype="html")
    if drawn:
        page = cast("EmailMessage", found.get_payload(1))
        page.add_related(drawn, "image", "png", cid=f"<{PICTURE}>", disposition="inline", filename="metric.png")
    return found


def _drawn(mail: Mail) -> bytes:
    """The picture of the metric's last weeks; without it where it can't be drawn, for the mail says the same in words."""
    if mail.weeks is None or not mail.weeks.windows:
        return b""
    try:
        return picture.drawn(mail.weeks)
    except Exception:  # people are to be told, whatever this was
        log.exception("%r goes out without its picture", mail.subject)
        return b""


def _is_address(given: str) -> bool:
    """Whether a header can hold it: one that can't, which older model.yaml files may name, keeps no other from his mail."""
    try:
        return bool(Address(addr_spec=given))
    except (HeaderParseError, ValueError, TypeError, IndexError):  # each of what the parser raises
        return False


def text(mail: Mail) -> str:
    """The mail as plain text."""
    return _rendered("mail.txt", mail)


def html(mail: Mail, source: str = "") -> str:
    """The mail as a page; `source` is where its picture is, empty where there is none."""
    return _rendered("mail.html", mail, source)


def _rendered(name: str, mail: Mail, source: str = "") -> str:
    # Half characters, as of a file's name that is no UTF-8, can't be sent: they are shown by their numbers.
    weeks = picture.told(mail.weeks) if mail.weeks and mail.weeks.windows else ""
    return printable(_template(name).render(mail=mail, weeks=weeks, source=source))


@lru_cache
def _template(name: str) -> Template:
    escape = name.endswith(".html")  # plain text has nothing to escape
    places = FileSystemLoader(TEMPLATES)
    environment = Environment(autoescape=escape, loader=places, keep_trailing_newline=True, trim_blocks=True)  # noqa: S701
    return environment.get_template(name)
