"""Attempts: which region a process was busy with when it ended without a message.

A worker notes each region before it begins it, and takes the note away when the region has ended, well or badly. A note that is
left belongs to a process that died. Notes are small files of the job's folder, so that any later worker, of this run or of
another one, knows how often a region was begun and not finished. They are hints: losing one costs another attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from volumetool.errors import VolumetoolError
from volumetool.jobs.job_dir import ATTEMPTS
from volumetool.sealed import decode, encode
from volumetool.storage.io.kvstore import list_keys, open_unsynced
from volumetool.storage.io.retries import STORAGE


class Attempts:
    """The notes of one job.

    Parameters
    ----------
    url : str
        Path or URL of the job's folder.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        # A power loss takes the process with it anyway: the note is for processes that die alone.
        self._store = open_unsynced(url)

    def begin(self, region: int, worker: str) -> tuple[str, ...]:
        """Note that a worker begins a region.

        Returns
        -------
        tuple of str
            For each earlier attempt that did not end, the reason: an empty string where it is not known.
        """
        earlier = self._read(region)
        self._write(region, [*earlier, {"worker": worker, "why": ""}])
        return tuple(attempt["why"] for attempt in earlier)

    def explain(self, region: int, why: str) -> None:
        """Note why the attempt that goes on will never end."""
        attempts = self._read(region)
        if attempts:
            attempts[-1]["why"] = why
            self._write(region, attempts)

    def end(self, region: int) -> None:
        """Note that a region has ended: all attempts at it are forgotten."""
        self._write(region, [])

    def discard_last(self, region: int) -> None:
        """Forget the last attempt, which was given up in order, unless it has an explanation."""
        attempts = self._read(region)
        if attempts and not attempts[-1]["why"]:
            self._write(region, attempts[:-1])

    def _read(self, region: int) -> list[dict[str, Any]]:
        with suppress(ValueError, OSError, KeyError):
            found = STORAGE.call(lambda _: self._store.read(_key(region)).result())
            return list(decode(found.value)["attempts"]) if found.state == "value" else []
        return []

    def _write(self, region: int, attempts: list[dict[str, Any]]) -> None:
        stored = encode({"attempts": attempts}) if attempts else None
        # A storage that refuses this note will refuse the region's shards, and those are the ones that must be heard.
        with suppress(ValueError, OSError):
            STORAGE.call(lambda _: self._store.write(_key(region), stored).result())


@contextmanager
def discard_unfinished_on_exit(url: str) -> Iterator[None]:
    """Forget, when a run ends in order, the attempts that it cut short itself."""
    try:
        yield
    finally:
        attempts = Attempts(url)
        with suppress(VolumetoolError):  # a storage that refuses to list them would hide what ended the run
            for key in list_keys(url, ATTEMPTS + "/"):
                attempts.discard_last(int(key.rpartition("/")[2].partition(".")[0]))


def _key(region: int) -> str:
    return f"{ATTEMPTS}/{region}.json"
