"""Ports for servers that do not choose their own."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# Whoever asks for any port, and whoever connects, gets one above; so nobody else comes between choosing, binding, and binding
# again after a death, but for a test beside this one that draws the same number.
_BELOW = range(10_000, 30_000)


def lasting_ports(count: int) -> list[int]:
    """Return so many free ports of loopback that the system gives to nobody of its own accord."""
    draw = random.SystemRandom()
    found = list[int]()
    with ExitStack() as stack:
        while len(found) < count:
            port, tried = draw.choice(_BELOW), stack.enter_context(socket.socket())
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    return found
