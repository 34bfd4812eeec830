"""A mail server on loopback that keeps what it gets."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.controller import Controller


class Letterbox:
    """Keeps what a mail server gets; refuses all while it is full."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.full = False

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: ARG002, N802  (the server's name for it)
        """Take a mail."""
        if self.full:
            return "452 no room"
        found = message_from_bytes(envelope.content, policy=default)
        assert isinstance(found, EmailMessage)
        self.mails.append(found)
        return "250 taken"


@contextmanager
def serve_letterbox() -> Iterator[tuple[Letterbox, dict[str, str]]]:
    """Serve a mail server while the block runs; give what it gets, and the setting that names it."""
    box = Letterbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Controller(box, hostname="127.0.0.1", port=port)
    server.start()
    try:
        yield box, {"sender": "em@example.org", "server": f"smtp://127.0.0.1:{port}"}
    finally:
        server.stop()
