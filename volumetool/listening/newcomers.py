"""Connections that have not shown yet that they may ask."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Hashable
from typing import Any

MOST = 64
"""Newcomers of one socket: a browser opens six connections."""

SECONDS = 10.0
"""Seconds that a newcomer may take until its first request is there."""

CROWD = 1024
"""Newcomers of a socket that many people come to at once, as a class does."""

BACKLOG = 1024
"""Connections that may wait to be accepted, as far as the system lets so many."""


class Newcomers:
    """Bounds how many connections wait to be trusted, and for how long: a new one pushes the oldest out.

    So strangers who open connections and say nothing take neither memory nor descriptors, and do not keep anybody else out.
    Used from the event loop of one server.

    Parameters
    ----------
    most : int
        How many wait at most: fewer where the process may have few descriptors.
    """

    def __init__(self, most: int = MOST) -> None:
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = most if descriptors == resource.RLIM_INFINITY else max(1, min(most, descriptors // 8))
        self._waiting: dict[Hashable, tuple[Callable[[], None], asyncio.TimerHandle]] = {}

    def admit(self, connection: Hashable, end: Callable[[], None]) -> None:
        """Register a new connection; `end` closes it at once, and does nothing where it is closed."""
        if len(self._waiting) >= self._most:
            self._end(next(iter(self._waiting)))
        self._waiting[connection] = end, asyncio.get_running_loop().call_later(SECONDS, self._end, connection)

    def trust(self, connection: Hashable) -> None:
        """Let a connection stay, which has shown that it may."""
        if connection in self._waiting:
            self._waiting.pop(connection)[1].cancel()

    def _end(self, connection: Hashable) -> None:
        end, timer = self._waiting.pop(connection)
        timer.cancel()
        end()


def pass_over_broken_connections(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Handle the exceptions of a server's event loop: a connection that fails as it begins is no news.

    Nor are descriptors that are used up: a line for each time that no connection was accepted fills the disk.
    """
    of_a_task = context.keys() & {"task", "future"}
    if of_a_task or not isinstance(context.get("exception"), OSError):
        loop.default_exception_handler(context)
