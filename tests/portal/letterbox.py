"""A mail server on loopback that keeps what it gets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from ports import lasting_ports

from volumetool import notification

PATIENCE = 120


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
    """Serve a mail server while the block runs; give what it gets, and the setting that names it.

    Who sends waits for it longer than usual: both have the cores of a busy machine.
    """
    box, (port,) = Letterbox(), lasting_ports(1)
    server = Controller(box, hostname="127.0.0.1", port=port, ready_timeout=PATIENCE)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(notification, "SECONDS", PATIENCE)
        try:
            yield box, {"sender": "em@example.org", "server": f"smtp://127.0.0.1:{port}"}
        finally:
            server.stop()
