"""Prefetching: the next items are made while the one before is used."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator
from queue import Empty, Full, Queue
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.05
"""How often a stage whose neighbour is slower looks whether it was given up."""


class _End:
    """Marks the end of a stage, with the error that ended it, if any."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(items: Iterable[T], depth: int = 1) -> Iterator[T]:
    """Yield `items` in order while a thread of its own makes the next `depth` of them.

    An error in the thread is raised where its item would have come. When the consumer stops early, the thread is told, and
    waited for.

    Parameters
    ----------
    items : iterable
        The stage; iterated in the new thread alone.
    depth : int, default 1
        Items that may wait; one more is in the making.
    """
    queue: Queue[T | _End] = Queue(maxsize=depth)
    stopped = threading.Event()
    thread = threading.Thread(target=_fill, args=(items, queue, stopped), daemon=True, name="volumetool-prefetch")
    thread.start()
    try:
        while True:
            item = queue.get()
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item
    finally:
        stopped.set()
        try:
            thread.join()
        except BaseException:  # Ctrl-C, or a signal to stop: the stage is closed next, and must not be running then
            thread.join()
            raise


def _fill(items: Iterable[T], queue: Queue[T | _End], stopped: threading.Event) -> None:
    end = _End()
    try:
        for item in items:
            if not _put(queue, item, stopped):
                break
    except BaseException as error:  # noqa: BLE001  (raised again in the consumer's thread)
        end = _End(error)
    if isinstance(items, Generator):
        items.close()  # the stages before this one are told to stop, too
    _put(queue, end, stopped)


def _put(queue: Queue[T | _End], item: T | _End, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        try:
            queue.put(item, timeout=POLL_SECONDS)
        except Full:
            continue
        return True
    # Nobody will read on: let go of what waits, so that its memory does not outlive the stage.
    try:
        while True:
            queue.get_nowait()
    except Empty:
        return False
