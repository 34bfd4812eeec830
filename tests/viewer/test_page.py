"""The page's server answers who has its link, and nobody else."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import httpx
import neuroglancer
import numpy as np
import pytest

from volumetool.listening import newcomers
from volumetool.listening.gate import Gate, accepted_hosts
from volumetool.viewer.page import MAX_BODY, Page
from volumetool.viewer.server import Serving, bind, build_app


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with Page() as page:
        yield page


def state_of(page: Page, title: str) -> bytes:
    """Return what a browser sends when its user has changed something."""
    before = page.shared_state.raw_state_and_generation[1]
    return json.dumps({"pg": before, "g": "1", "c": title, "s": {"title": title}}).encode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:{port}"}, 200),
        ({"Host": "rebound.example:{port}"}, 421),
        ({"Origin": "http://127.0.0.1:{port}"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_only_its_own_page_reads_and_writes_its_state(page: Page, headers: dict[str, str], status: int) -> None:
    headers = {name: value.format(port=page.port) for name, value in headers.items()}
    assert httpx.get(page.link, headers=headers, timeout=60).status_code == status
    title = f"{status} {headers}"
    answer = httpx.post(f"{page.origin}/state/{page.token}", content=state_of(page, title), headers=headers, timeout=60)
    assert answer.status_code == status
    assert (page.state.title == title) == (status == 200)


@pytest.mark.parametrize("path", ["/", "/v/", "/v/wrong/", "/state/wrong", "/events/wrong", "/neuroglancer/info/wrong.key"])
def test_nothing_is_there_without_the_token(page: Page, path: str) -> None:
    assert httpx.get(f"{page.origin}{path}", timeout=60).status_code == 404


def test_volumes_of_the_page_itself_are_read_through_its_link(page: Page) -> None:
    space = neuroglancer.CoordinateSpace(names=["z", "y", "x"], units="nm", scales=[1, 1, 1])
    volume = neuroglancer.LocalVolume(np.zeros((2, 2, 2), np.uint8), dimensions=space)
    key = page.volume_manager.register_volume(volume).rpartition("/")[2]
    assert httpx.get(f"{page.origin}/neuroglancer/info/{key}", timeout=60).status_code == 200


def test_a_body_that_is_too_long_is_not_read(page: Page) -> None:
    with socket.create_connection(("127.0.0.1", page.port)) as raw:
        head = f"POST /state/{page.token} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        raw.sendall(head.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")


@pytest.fixture(params=["page", "volumes"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """Give the port of a page, and of a server of volumes."""
    if request.param == "page":
        with Page() as page:
            yield page.port
    else:
        bound = bind()
        port = int(bound.getsockname()[1])
        with Serving(build_app({}, Gate(accepted_hosts("127.0.0.1", port))), bound):
            yield port


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_connection_without_a_request_is_closed_in_time(port: int, said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", port), 120) as raw:
        raw.sendall(said)
        assert ended(raw)


def test_the_oldest_of_too_many_silent_connections_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newcomers, "SECONDS", 600.0)  # it is the number that counts
    opened = [socket.create_connection(("127.0.0.1", port), 120) for _ in range(newcomers.MOST + 1)]
    assert ended(opened[0])
    opened[-1].sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert opened[-1].recv(100).startswith(b"HTTP/1.1 421 ")
    for each in opened:
        each.close()


def ended(connection: socket.socket) -> bool:
    """Wait until the other side has closed a connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_only_failures_of_connections_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    passed_over: dict[str, object] = {"message": "socket.accept() out of system resource", "exception": OSError(24, "EMFILE")}
    newcomers.pass_over_broken_connections(loop, passed_over)
    assert not caplog.records
    for told in ({**passed_over, "future": loop.create_future()}, {"message": "a mistake", "exception": ValueError()}):
        newcomers.pass_over_broken_connections(loop, told)
    assert len(caplog.records) == 2
    loop.close()
