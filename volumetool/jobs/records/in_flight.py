"""Which regions are being computed: a note in the job's folder for the viewer. Resuming never reads it.

A region that waits for its worker is not in it. The driver rewrites ``running.json`` at most once a second and deletes it at
the end. A killed driver leaves it behind; the note names the process, so that a reader on the same machine knows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from types import TracebackType

from volumetool.errors import OutputError
from volumetool.jobs.job_dir import RUNNING
from volumetool.jobs.records.segments import prefix_of, read_cut
from volumetool.process import Process, this_process
from volumetool.sealed import decode, encode
from volumetool.storage.io.kvstore import delete_key, read_key, write_key

SECONDS = 1.0


class InFlight:
    """Keeps the note while a run goes on.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._regions: set[int] = set()
        self._driver = asdict(this_process())
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._timer: threading.Timer | None = None
        self._over = False

    def __enter__(self) -> InFlight:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._lock:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
        # A run whose store fails says so by its ledger; this note is nobody's loss.
        with self._writing, suppress(OutputError):
            delete_key(self._url, RUNNING)

    def beginning(self, regions: Iterator[int]) -> Iterator[int]:
        """Pass regions on, and note each as it begins."""
        for index in regions:
            self.began(index)
            yield index

    def began(self, region: int) -> None:
        """Take a region in; returns at once, also where the job's folder is far away."""
        with self._lock:
            self._regions.add(region)
            self._changed()

    def ended(self, region: int) -> None:
        """Take a region out."""
        with self._lock:
            self._regions.discard(region)
            self._changed()

    def _changed(self) -> None:
        if self._timer is None and not self._over:
            self._timer = threading.Timer(SECONDS, self._write)
            self._timer.daemon = True
            self._timer.start()

    def _write(self) -> None:
        with self._writing:
            with self._lock:
                self._timer = None
                note = {**self._driver, "regions": sorted(self._regions)}
                if self._over:
                    return
            with suppress(OutputError):
                write_key(self._url, RUNNING, encode(note))


def read_in_flight(url: str) -> frozenset[int]:
    """Return the regions that the drivers of a job say are being computed; none of a process that is known to be gone."""
    cut = read_cut(url)
    parts = range(cut.count if cut else 0)
    return frozenset().union(*(_regions(url, f"{prefix_of(part)}{RUNNING}") for part in (None, *parts)))


def _regions(url: str, key: str) -> frozenset[int]:
    """Return the regions of one driver's note."""
    try:
        note = decode(read_key(url, key) or b"{}")
        regions = frozenset(map(int, note["regions"]))
        driver = Process(str(note["place"]), int(note["pid"]), float(note["born"]))
        return frozenset() if driver.lives() is False else regions
    except (KeyError, ValueError, TypeError):
        return frozenset()
