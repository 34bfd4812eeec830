"""Folders for what a process needs while it runs: they go with it, and what a killed one left goes with the next."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from volumetool.process import Process, this_process

_NAME = re.compile(r"volumetool-[a-z]+-(?P<place>[0-9a-f]{8})-(?P<pid>\d+)-(?P<born>\d+)-.*")
"""The purpose, and the process that a folder belongs to."""


@contextmanager
def scratch_folder(purpose: str, within: Path | None = None) -> Iterator[Path]:
    """Give a private folder for as long as the context lasts.

    Parameters
    ----------
    purpose : str
        A word for its name, of small letters.
    within : Path, optional
        Folder to create it in; by default among the system's temporary files. Folders of killed processes are deleted there.
    """
    place = Path(within or tempfile.gettempdir())
    own = this_process()
    _sweep(place, own)
    name = f"volumetool-{purpose}-{_mark(own)}-{own.pid}-{own.born:.0f}-"
    with tempfile.TemporaryDirectory(prefix=name, dir=place, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _mark(process: Process) -> str:
    """Return eight digits for the machine and namespace of a process: the numbers of others mean nothing here."""
    return f"{zlib.crc32(process.place.encode()):08x}"


def _sweep(place: Path, own: Process) -> None:
    """Delete this user's folders whose processes have ended without doing so."""
    with suppress(OSError):  # a place that cannot be listed, or files that others delete at the same time
        for entry in os.scandir(place):
            found = _NAME.fullmatch(entry.name)
            if found is None or found["place"] != _mark(own) or not entry.is_dir(follow_symlinks=False):
                continue
            mine = not hasattr(os, "getuid") or entry.stat(follow_symlinks=False).st_uid == os.getuid()
            if mine and Process(own.place, int(found["pid"]), float(found["born"])).lives() is False:
                shutil.rmtree(entry.path, ignore_errors=True)
