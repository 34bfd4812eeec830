"""Threads of the portal: pages do not wait for passwords, and a crowd is told to come again."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest
from browsing import House, Visitor

from volumetool.listening import newcomers
from volumetool.portal import pools
from volumetool.portal.pages import accounts


def test_pages_are_answered_while_a_crowd_logs_in(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(accounts, "check_password", lambda *_: go_on.wait(120) and None)
    monkeypatch.setattr(pools, "MOST_WAITING", 3)
    most = pools.THREADS["passwords"] + 3
    with ThreadPoolExecutor(most) as crowd:
        asked = [crowd.submit(Visitor(house.url).log_in, f"nobody{number}") for number in range(most)]
        try:
            for _ in range(3000):
                if pools._asked["passwords"] == most:
                    break
                time.sleep(0.02)
            turned_away = Visitor(house.url).log_in("nobody")
            assert (turned_away.status_code, turned_away.headers["retry-after"]) == (503, "30")
            assert house.admin.get("/").status_code == 200
            assert house.admin.get("/api/jobs").status_code == 200
        finally:
            go_on.set()
        assert [done.result().status_code for done in asked] == [403] * most


def test_of_three_hundred_connections_that_come_at_once_each_is_answered(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many browsers come when a class begins: none is taken for a stranger who keeps others out."""
    monkeypatch.setattr(newcomers, "SECONDS", 600.0)  # it is their number that counts: a busy machine may be slow to ask
    parts = urlsplit(house.url)
    asked = f"GET /login HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n".encode()
    opened = [socket.create_connection((parts.hostname, parts.port), 60) for _ in range(300)]
    for each in opened:
        each.sendall(asked)
    answers = [each.makefile("rb").readline() for each in opened]
    for each in opened:
        each.close()
    assert set(answers) == {b"HTTP/1.1 200 OK\r\n"}
