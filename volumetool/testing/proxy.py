"""An object store that stumbles: a proxy on loopback in front of a server that speaks S3, or any HTTP."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import urlsplit

REASONS = {
    400: "BadRequest",
    403: "AccessDenied",
    404: "NoSuchBucket",
    408: "RequestTimeout",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    429: "TooManyRequests",
    500: "InternalError",
    502: "BadGateway",
    503: "SlowDown",
    504: "GatewayTimeout",
    507: "InsufficientStorage",
}
"""S3's words for a status."""

_HOP = {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}


@dataclass(frozen=True)
class ProxyRequest:
    """One request, as it came.

    Attributes
    ----------
    number : int
        Number of the request, from 1, over all connections.
    method, path : str
        Method of HTTP, and the path with its query.
    conditional : bool
        Whether it asks that a key is absent or unchanged.
    """

    number: int
    method: str
    path: str
    conditional: bool = False


@dataclass(frozen=True)
class Reply:
    """The reply to a request instead of its answer.

    Parameters
    ----------
    status : int
        HTTP status of the reply; 0 closes the connection without one.
    effect : {"before", "after", "none"}
        ``before`` it takes effect it fails, so that it never does; ``after``, its effect stays and only the answer is lost.
        ``none`` passes the true answer on.
    seconds : float
        Seconds to wait before the reply.
    body : {"whole", "short", "wrong"}
        Body of a true answer: as it is, cut in the middle, or with one bit that is another one.
    word : str
        S3's word for the status where there are several, such as ``InvalidAccessKeyId``.
    """

    status: int = 503
    effect: Literal["before", "after", "none"] = "before"
    seconds: float = 0.0
    body: Literal["whole", "short", "wrong"] = "whole"
    word: str = ""


Decide = Callable[[ProxyRequest], Reply | None]
"""Chooses the reply to a request; None for the true answer. Called by one thread at a time."""


class FaultyProxy:
    """Stands between a client and a server while its context lasts.

    Parameters
    ----------
    server : str
        ``http://host:port`` of the true server.
    decide : callable
        Chooses the reply to each request; it may be replaced at any time.

    Attributes
    ----------
    url : str
        URL to which clients send their requests, such as the value of ``AWS_ENDPOINT_URL``.
    requests : list of ProxyRequest
        Requests that have come.
    """

    def __init__(self, server: str, decide: Decide | None = None) -> None:
        self.server = server
        self.decide: Decide = decide or (lambda _request: None)
        self.requests: list[ProxyRequest] = []
        self._lock = threading.Lock()
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True, name="faulty-proxy")

    def __enter__(self) -> FaultyProxy:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def reset(self, decide: Decide | None = None) -> None:
        """Count from 1 again, with other faults."""
        with self._lock:
            self.requests = []
            self.decide = decide or (lambda _request: None)

    def reply(self, method: str, path: str, *, conditional: bool) -> Reply | None:
        """Count a request and return what becomes of it.

        Parameters
        ----------
        method : str
            Method of HTTP, such as ``PUT``.
        path : str
            Path with the query.
        conditional : bool
            Whether it asks that a key is absent or unchanged.

        Returns
        -------
        Reply or None
            The reply to give instead of the server's; None passes the request on.
        """
        with self._lock:
            self.requests.append(ProxyRequest(len(self.requests) + 1, method, path, conditional))
            return self.decide(self.requests[-1])


class _Handler(BaseHTTPRequestHandler):
    owner: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        """Do nothing."""

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        conditional = "If-Match" in self.headers or "If-None-Match" in self.headers
        reply = self.owner.reply(self.command, self.path, conditional=conditional and self.command == "PUT")
        time.sleep(reply.seconds if reply else 0)
        if reply is None or reply.effect == "none":
            self._answer(*self._ask(body), reply or Reply(effect="none"))
            return
        if reply.effect == "after":
            self._ask(body)
        self._refuse(reply.status, reply.word or REASONS.get(reply.status, "Error"))

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815  (the base class looks for these names)

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        place = urlsplit(self.owner.server)
        connection = http.client.HTTPConnection(place.hostname or "127.0.0.1", place.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP}
            connection.request(self.command, self.path, body or None, headers | {"Content-Length": str(len(body))})
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: dict[str, str], body: bytes, reply: Reply) -> None:
        if reply.body == "wrong" and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 4]) + body[middle + 1 :]
        self.send_response(status)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        for name, value in headers.items():
            if name.lower() not in _HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if reply.body == "short":
            body, self.close_connection = body[: len(body) // 2], True
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status: int, word: str) -> None:
        if not status:
            self.close_connection = True
            return
        text = f'<?xml version="1.0"?><Error><Code>{word}</Code><Message>on purpose</Message></Error>'
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text.encode())
