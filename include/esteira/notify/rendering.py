"""A mail as it goes out: as text and as HTML, by the templates beside; all that users wrote is escaped."""

from __future__ import annotations

import hashlib
from email import policy
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.message import EmailMessage
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, Template

from esteira.store.outbox import Mail
from esteira.text import printable

# As servers want it: a line ends with CR LF (a bare LF is refused by many), and every byte is ASCII.
WIRE = policy.SMTP.clone(cte_type="7bit")
TEMPLATES = Path(__file__).parent / "templates"


def message(mail: Mail, sender: str) -> EmailMessage:
    """The mail as it goes out, to be read by all its receivers."""
    found = EmailMessage(policy=WIRE)
    found["Subject"] = " ".join(printable(mail.subject).split())
    found["From"] = sender
    found["To"] = [Address(addr_spec=each) for each in mail.to if _is_address(each)]
    found["Message-ID"] = f"<{hashlib.sha256(mail.key.encode(errors='replace')).hexdigest()[:32]}@esteira>"
    found.set_content(text(mail))
    found.add_alternative(html(mail), subtype="html")
    return found


def _is_address(given: str) -> bool:
    """Whether a header can hold it: one that can't, which older model.yaml files may name, keeps no other from his mail."""
    try:
        return bool(Address(addr_spec=given))
    except (HeaderParseError, ValueError, TypeError, IndexError):  # each of what the parser raises
        return False


def text(mail: Mail) -> str:
    """The mail as plain text."""
    return _rendered("mail.txt", mail)


def html(mail: Mail) -> str:
    """The mail as a page."""
    return _rendered("mail.html", mail)


def _rendered(name: str, mail: Mail) -> str:
    # Half characters, as of a file's name that is no UTF-8, can't be sent: they are shown by their numbers.
    return printable(_template(name).render(lead=mail.lead, sections=mail.sections, links=mail.links))


@lru_cache
def _template(name: str) -> Template:
    escape = name.endswith(".html")  # plain text has nothing to escape
    environment = Environment(autoescape=escape, loader=FileSystemLoader(TEMPLATES), keep_trailing_newline=True)  # noqa: S701
    return environment.get_template(name)
