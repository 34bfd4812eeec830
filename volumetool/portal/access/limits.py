"""How often something may be done: what takes the portal's time, and what could be guessed."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque

LIMITS = {
    "plan": (60, 3600),
    "page": (60, 3600),
    "box": (60, 900),
    "token": (20, 3600),
    "api": (600, 60),
    "mail": (10, 3600),
    "institution": (300, 900),
    "absent": (60, 900),
}
"""Times, within so many seconds: by account plans, pages that are made, new tokens, mails that confirm an address, and requests
of programs; boxes that are cut out by account, or by address where nobody is logged in; by address logins at the institution,
and links and tokens that nobody has."""

_MOST = 100_000
"""Who is remembered; of more, the one that was quiet longest is forgotten."""


class Limits:
    """Counts what was done in the last minutes, by whom."""

    def __init__(self) -> None:
        self._done: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, kind: str, who: str) -> int:
        """Count a deed, and return 0; or return after how many seconds it may be done again.

        Parameters
        ----------
        kind : str
            One of `LIMITS`.
        who : str
            Account or address.
        """
        most, seconds = LIMITS[kind]
        at = time.monotonic()
        with self._lock:
            done = self._done.get((kind, who), deque())
            while done and done[0] <= at - seconds:
                done.popleft()
            if len(done) >= most:
                return math.ceil(done[0] + seconds - at)
            done.append(at)
            self._done[kind, who] = done
            self._done.move_to_end((kind, who))
            if len(self._done) > _MOST:
                self._done.popitem(last=False)
        return 0


def place_of(address: str) -> str:
    """Return what is counted of an address: of IPv6 the network that one customer has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
