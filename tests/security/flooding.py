"""A stranger at a socket: connections that say nothing, heads that never end, bodies that nobody asked for."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import psutil

BLOCK = bytes(2**16)
QUESTIONS = 10


@dataclass(frozen=True)
class Flood:
    """How much comes.

    Attributes
    ----------
    connections : int
        Half of them say nothing, half begin a head and drip.
    bodies : int
        POSTs.
    body : int
        Bytes that each of them has.
    """

    connections: int
    bodies: int
    body: int


@dataclass
class Borne:
    """What a process did meanwhile.

    Attributes
    ----------
    grown : int
        Bytes of memory at most, beyond what it had before.
    served : list of float
        Seconds that each question of the owner's took.
    """

    grown: int = 0
    served: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.grown / 2**20:.1f} MiB more, {len(self.served)} questions answered within {max(self.served):.2f} s each"


def bear(port: int, flood: Flood, process: psutil.Process, ask: Callable[[], object]) -> Borne:
    """Flood a port of a process on loopback; meanwhile its owner asks. Return how it bore that."""
    ask()
    before, borne, over = process.memory_info().rss, Borne(), threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            borne.grown = max(borne.grown, process.memory_info().rss - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        with _open(port, flood.connections):
            posting = [threading.Thread(target=_post, args=(port, each)) for each in _shares(flood)]
            for thread in posting:
                thread.start()
            while len(borne.served) < QUESTIONS or any(thread.is_alive() for thread in posting):
                began = time.monotonic()
                ask()
                borne.served.append(time.monotonic() - began)
                time.sleep(0.05)
    finally:
        over.set()
        watching.join()
    return borne


def _shares(flood: Flood, threads: int = 6) -> Iterator[list[int]]:
    for first in range(threads):
        yield [flood.body] * len(range(first, flood.bodies, threads))


@contextmanager
def _open(port: int, count: int) -> Iterator[None]:
    """Keep connections open, and add a byte to each second head now and then."""
    over = threading.Event()
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(("127.0.0.1", port), 60)) for _ in range(count)]
        dripping = opened[::2]

        def drip() -> None:
            text = b"POST / HTTP/1.1\r\nX: "
            while True:
                for each in dripping:
                    with suppress(OSError):  # it was closed
                        each.sendall(text)
                text = b"x"
                if over.wait(0.2):
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        stack.callback(thread.join)
        stack.callback(over.set)
        yield


def _post(port: int, bodies: list[int]) -> None:
    for body in bodies:
        with socket.create_connection(("127.0.0.1", port), 60) as one, suppress(OSError):  # it was closed
            one.sendall(f"POST / HTTP/1.1\r\nHost: elsewhere.example\r\nContent-Length: {body}\r\n\r\n".encode())
            for _ in range(0, body, len(BLOCK)):
                one.sendall(BLOCK)
