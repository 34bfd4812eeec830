"""What a portal measures of itself: a line for each request in its log, and all of them together for Prometheus."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from volumetool.errors import ConfigError
from volumetool.machine import byte_limits, existing_folder
from volumetool.portal.queries import Database, now
from volumetool.portal.settings import PortalSettings
from volumetool.version import __version__

_log = logging.getLogger(__name__)

EDGES = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: upper edges of the bins of how long requests take."""

SHORTEST_TOKEN = 16

LOGIN = ("POST", "/login", 403)
"""Method, route and status of a login that is refused."""


Sample = tuple[str, Mapping[str, str], float]
"""End of a metric's name, labels, value."""


class PortalTraffic:
    """Counts requests by method, route and status, and by how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._bins: Counter[float] = Counter()
        self._seconds = 0.0

    def count(self, key: tuple[str, str, int], seconds: float) -> None:
        """Count a request by method, route and status, and the seconds that it took."""
        with self._lock:
            self._requests[key] += 1
            self._bins[next((edge for edge in EDGES if seconds <= edge), float("inf"))] += 1
            self._seconds += seconds

    def families(self) -> Iterator[tuple[str, str, str, list[Sample]]]:
        """Yield name, kind, help and samples of what was counted."""
        with self._lock:
            requests, bins, seconds = dict(self._requests), dict(self._bins), self._seconds
        told: list[Sample] = [
            ("", {"method": method, "route": route, "status": str(status)}, float(count))
            for (method, route, status), count in sorted(requests.items())
        ]
        yield "requests_total", "counter", "Requests that were answered.", told
        refused: list[Sample] = [("", {}, float(requests.get(LOGIN, 0)))]
        yield "logins_refused_total", "counter", "Logins with a wrong name or password, or after too many tries.", refused
        below = 0
        rows: list[Sample] = []
        for edge in (*EDGES, float("inf")):
            below += bins.get(edge, 0)
            rows.append(("_bucket", {"le": "+Inf" if edge == float("inf") else f"{edge:g}"}, float(below)))
        rows += [("_sum", {}, seconds), ("_count", {}, float(below))]
        yield "request_seconds", "histogram", "How long requests took.", rows


def watched(app: Any, traffic: PortalTraffic, routes: Mapping[Any, str]) -> Any:
    """Return an ASGI application whose requests are counted, and logged one line each, without what stands in their paths.

    Parameters
    ----------
    app : ASGI application
        What answers. It leaves the account's name and the address in the scope.
    traffic : PortalTraffic
        Counts them.
    routes : mapping
        Paths as the table of routes has them, by endpoint: that of a request holds no token.
    """

    async def timed(scope: Any, receive: Any, send: Any) -> None:
        began, status = time.perf_counter(), 500

        async def send_seen(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, send_seen)
        finally:
            seconds = time.perf_counter() - began
            route = routes.get(scope.get("endpoint"), "-")
            method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS") else "-"
            traffic.count((method, route, status), seconds)
            client = scope.get("address") or (scope.get("client") or ("",))[0]
            facts = {"account": scope.get("account"), "method": method, "route": route, "status": status}
            facts |= {"ms": round(1000 * seconds, 1), "address": client}
            line = "{method} {route} {status} {ms} ms, {account} at {address}".format(**facts)
            _log.info("%s", line, extra={"facts": facts})

    return timed


def read_token(file: Path) -> str:
    """Return the token that Prometheus shows, from its file.

    Raises
    ------
    ConfigError
        ``config.metrics``: there is none, it is short, or others may read it.
    """
    try:
        mode, token = file.stat().st_mode & 0o077, file.read_text().strip()
    except (OSError, ValueError) as error:
        raise ConfigError(
            "config.metrics", f"the token of /metrics cannot be read: {error}", hint=f"openssl rand -hex 32 > {file}"
        ) from error
    if mode:
        raise ConfigError(
            "config.metrics",
            f"the token in {file} is open to others (mode {mode:03o} beyond its user)",
            hint=f"chmod 600 {file}",
        )
    if len(token) < SHORTEST_TOKEN or not token.isascii():
        raise ConfigError(
            "config.metrics",
            f"the token in {file} has {len(token)} characters; {SHORTEST_TOKEN} of ASCII are the fewest",
            hint=f"openssl rand -hex 32 > {file}",
        )
    return token


def metrics_text(database: Database, settings: PortalSettings, traffic: PortalTraffic) -> str:
    """Return all that is measured, in the text format of Prometheus, version 0.0.4.

    Parameters
    ----------
    database : Database
        Jobs and accounts.
    settings : PortalSettings
        Where the folder is.
    traffic : PortalTraffic
        Requests.
    """
    queue, process = database.queue(), psutil.Process()
    left, _ = min(byte_limits(existing_folder(settings.data)), default=(0, ""))
    waited = 0.0 if queue.oldest is None else max(0.0, (now() - queue.oldest).total_seconds())
    gauges: tuple[tuple[str, str, list[tuple[dict[str, str], float]]], ...] = (
        ("info", "The version that runs.", [({"version": __version__}, 1)]),
        ("jobs", "Jobs by state.", [({"state": state}, count) for state, count in queue.states.items()]),
        ("queue_age_seconds", "How long the first job of the queue has waited.", [({}, waited)]),
        ("accounts", "Accounts that may log in.", [({}, queue.accounts)]),
        ("bytes_taken", "Bytes of results that accounts have asked for.", [({}, queue.bytes)]),
        ("bytes_left", "Bytes that may still be written into the folder.", [({}, left)]),
    )
    lines: list[str] = []
    for name, said, rows in gauges:
        lines += _family(f"volumetool_portal_{name}", "gauge", said, [("", labels, float(value)) for labels, value in rows])
    for name, kind, said, samples in traffic.families():
        lines += _family(f"volumetool_portal_{name}", kind, said, samples)
    memory, began = float(process.memory_info().rss), process.create_time()
    lines += _family("process_resident_memory_bytes", "gauge", "Memory of the server.", [("", {}, memory)])
    lines += _family("process_start_time_seconds", "gauge", "When it was started, in Unix time.", [("", {}, began)])
    return "\n".join(lines) + "\n"


def _family(name: str, kind: str, said: str, samples: list[Sample]) -> list[str]:
    told = [f"# HELP {name} {said}", f"# TYPE {name} {kind}"]
    for end, labels, value in samples:
        shown = ",".join(f'{label}="{_escape(text)}"' for label, text in labels.items())
        told.append(f"{name}{end}{{{shown}}} {value:.17g}" if shown else f"{name}{end} {value:.17g}")
    return told


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
