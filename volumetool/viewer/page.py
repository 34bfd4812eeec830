"""The client's page: neuroglancer's own bundled one, with its state on this side."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any

import neuroglancer
import neuroglancer.server
import neuroglancer.viewer_base

from volumetool.listening.gate import LOOPBACK, Gate, accepted_hosts, base_url, is_loopback
from volumetool.listening.of_tornado import close_to_strangers
from volumetool.viewer.server import bind

MAX_BODY = 2**26
"""Bytes of what the page may send: its state, and pictures."""


class Page(neuroglancer.viewer_base.ViewerBase):  # type: ignore[misc]  # neuroglancer is annotated in parts
    """A viewer with a server of its own, which ends with it: neuroglancer's shared one would stay.

    Parameters
    ----------
    host : str
        Address to listen on.
    port : int
        0 chooses a free one.

    Attributes
    ----------
    is_private : bool
        Whether only this machine reaches it.

    Raises
    ------
    ConfigError
        ``config.address``: no such address here, or the port is taken.
    """

    def __init__(self, host: str = LOOPBACK, port: int = 0) -> None:
        # Nobody who reaches the page is given this user's credentials.
        super().__init__(allow_credentials=False)
        # Tornado would leave an open socket behind where it cannot listen.
        bind(host, port).close()
        self._server = neuroglancer.server.Server(bind_address=host, bind_port=port)
        self._server.viewers[self.token] = self
        self.port: int = self._server.port
        self.origin = base_url(host, self.port)
        self.is_private = is_loopback(host)
        hosts = accepted_hosts(host, self.port)
        gate = Gate(hosts, frozenset(f"http://{each}" for each in hosts), self.token)

        async def close() -> None:
            close_to_strangers(self._server.http_server, gate, tokens=True, max_body=MAX_BODY)

        asyncio.run_coroutine_threadsafe(close(), self._server.loop).result()  # before anybody knows the link

    @property
    def link(self) -> str:
        """URL that a browser opens."""
        return f"{self.origin}/v/{self.token}/"

    def get_viewer_url(self) -> str:
        """Return the link, as neuroglancer's own tools ask for it."""
        return self.link

    def show(self, state: dict[str, Any]) -> None:
        """Replace what is shown."""
        self.set_state(neuroglancer.ViewerState(state))

    def __enter__(self) -> Page:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.stop()
