"""A mail catcher: takes every mail and keeps it in a folder, as it came (.eml), as text and as HTML."""

import argparse
import asyncio
import base64
import email
import email.policy
import os
import re
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path

from aiosmtpd.smtp import SMTP


class Keeper:
    """Writes what comes to files that a person can open."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def handle_DATA(self, server: object, session: object, envelope) -> str:  # noqa: N802  # aiosmtpd's name
        """Keep one mail; called by aiosmtpd."""
        mail = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        subject = re.sub(r"[^\w.-]+", "-", str(mail["subject"]))[:120].strip("-")
        stem = self.folder / f"{datetime.now().astimezone():%Y%m%dT%H%M%S.%f}-{subject}"
        for kind, ending in (("plain", ".txt"), ("html", ".html")):
            part = mail.get_body((kind,))
            if part:
                stem.with_name(stem.name + ending).write_text(
                    _with_pictures(part.get_content(), mail), encoding="utf-8"
                )
        # Written under another name first, so that who waits for *.eml never reads half of one.
        draft = stem.with_name(stem.name + ".part")
        draft.write_bytes(envelope.original_content)
        draft.replace(stem.with_name(stem.name + ".eml"))
        return "250 Kept"


def _with_pictures(text: str, mail: EmailMessage) -> str:
    """The page with the mail's pictures in it, as a browser can show it."""
    for part in mail.walk():
        name = (part["Content-ID"] or "").strip("<>")
        if name and part.get_content_maintype() == "image":
            held = base64.b64encode(part.get_content()).decode()
            text = text.replace(f"cid:{name}", f"data:{part.get_content_type()};base64,{held}")
    return text


async def serve(folder: Path, host: str, port: int) -> None:
    """Listen until stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(Keeper(folder)), host, port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    os.umask(0o077)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.folder, arguments.host, arguments.port))
