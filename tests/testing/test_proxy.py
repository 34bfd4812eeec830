"""The proxy passes on what it is not told to spoil, and the clock moves when it is told to."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

import pytest

from volumetool.testing import FaultyProxy, Reply, SimulatedClock

stored: dict[str, bytes] = {}


class Shelf(BaseHTTPRequestHandler):
    """Stores what is put."""

    def do_GET(self) -> None:
        body = stored.get(self.path, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        stored[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy() -> Iterator[FaultyProxy]:
    stored.clear()
    with HTTPServer(("127.0.0.1", 0), Shelf) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        with FaultyProxy(f"http://127.0.0.1:{server.server_port}") as made:
            yield made
        server.shutdown()
        thread.join()


def ask(proxy: FaultyProxy, method: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=60)
    try:
        connection.request(method, "/key", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_requests_pass_and_are_counted(proxy: FaultyProxy) -> None:
    assert ask(proxy, "PUT", b"value", **{"If-None-Match": "*"})[0] == 200
    assert ask(proxy, "GET") == (200, b"value")
    assert [(r.number, r.method, r.conditional) for r in proxy.requests] == [(1, "PUT", True), (2, "GET", False)]


@pytest.mark.parametrize(("effect", "there"), [("before", False), ("after", True)])
@pytest.mark.parametrize("status", [403, 409, 412, 429, 503])
def test_a_refusal_comes_before_or_after_the_effect(proxy: FaultyProxy, effect: str, there: bool, status: int) -> None:  # noqa: FBT001
    proxy.reset(lambda _request: Reply(status, "after" if effect == "after" else "before"))
    code, text = ask(proxy, "PUT", b"value")
    assert code == status
    assert b"<Code>" in text
    assert ("/key" in stored) == there


def test_no_word_at_all(proxy: FaultyProxy) -> None:
    proxy.reset(lambda _request: Reply(0))
    with pytest.raises(http.client.RemoteDisconnected):
        ask(proxy, "GET")


def test_answers_are_cut_or_changed(proxy: FaultyProxy) -> None:
    ask(proxy, "PUT", b"value")
    proxy.reset(lambda _request: Reply(effect="none", body="wrong"))
    assert ask(proxy, "GET") == (200, b"vahue")
    proxy.reset(lambda _request: Reply(effect="none", body="short"))
    with pytest.raises(http.client.IncompleteRead):
        ask(proxy, "GET")


def test_a_clock_that_is_told_the_time() -> None:
    clock = SimulatedClock(seed=3, start=10.0)
    clock.sleep(2.5)
    clock.advance(-1.0)
    assert (clock(), clock.slept) == (11.5, [2.5])
    assert [SimulatedClock(seed=3).chance() for _ in range(2)] == [clock.chance()] * 2
