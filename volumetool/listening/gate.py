"""Who may ask: the Host header against DNS rebinding, the Origin header against other websites in the same browser, a token."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field

LOOPBACK = "127.0.0.1"
_LOCAL_NAMES = (LOOPBACK, "localhost", "[::1]")
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104  (recognised, so that it can be warned of)
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


@dataclass(frozen=True)
class Gate:
    """The rules by which requests are answered.

    Attributes
    ----------
    hosts : frozenset of str
        Accepted Host headers, with the port.
    origins : frozenset of str
        Accepted Origin headers. A request without one comes from no web page, and needs the token alone.
    token : str
        Part of every path.
    """

    hosts: frozenset[str]
    origins: frozenset[str] = frozenset()
    token: str = field(default_factory=secrets.token_urlsafe)

    def refusal(self, hosts: Sequence[str], origins: Sequence[str]) -> tuple[int, str] | None:
        """Return status and reason for a request that may not be made, None where it may.

        Parameters
        ----------
        hosts, origins : sequence of str
            Values of all Host and of all Origin headers of the request.
        """
        if len(hosts) != 1 or hosts[0].lower() not in self.hosts:
            return 421, f"this server is not {', '.join(hosts) or 'without a name'}"
        if origins and (len(origins) > 1 or origins[0] not in self.origins):
            return 403, f"pages of {', '.join(origins)} may not read here"
        return None

    def knows(self, token: str) -> bool:
        """Return whether a part of a path is the token."""
        return secrets.compare_digest(token.encode(), self.token.encode())


def is_loopback(host: str) -> bool:
    """Return whether only programs on this machine reach an address."""
    return host in ("localhost", "::1") or re.fullmatch(r"127\.\d+\.\d+\.\d+", host) is not None


def accepted_hosts(host: str, port: int) -> frozenset[str]:
    """Return the Host headers of requests that were really meant for this server.

    Parameters
    ----------
    host : str
        Address that the server listens on. Beside the names of loopback it is accepted; for a wildcard, every address and
        the name of this machine.
    port : int
        The port that it listens on.
    """
    names = set(_LOCAL_NAMES)
    if host in _WILDCARDS:
        import psutil

        names |= {socket.gethostname(), socket.getfqdn()}
        names |= {_in_url(each.address) for of in psutil.net_if_addrs().values() for each in of if each.family in _FAMILIES}
    else:
        names.add(_in_url(host))
    return frozenset(f"{name.lower()}:{port}" for name in names)


def base_url(host: str, port: int) -> str:
    """Return the URL, without path, under which a browser finds a server that listens on `host`."""
    return f"http://{socket.getfqdn() if host in _WILDCARDS else _in_url(host)}:{port}"


def _in_url(address: str) -> str:
    return f"[{address.partition('%')[0]}]" if ":" in address else address
