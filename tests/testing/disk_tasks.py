"""What the tests of the harness run in processes of their own: plain things that are done to files."""

from __future__ import annotations

import os
from pathlib import Path


def save(folder: str, text: str, *, sync: bool = True) -> None:
    """Write a file as one should: beside its place, synced, moved there, and the folder synced."""
    fresh, place = Path(folder, "new"), Path(folder, "file")
    with fresh.open("wb", buffering=0) as file:
        file.write(text.encode())
        if sync:
            os.fsync(file.fileno())
    fresh.replace(place)
    opened = os.open(folder, os.O_RDONLY)
    os.fsync(opened)
    os.close(opened)


def save_unsynced(folder: str, text: str) -> None:
    """Write a file as one should not."""
    save(folder, text, sync=False)


def read(folder: str) -> tuple[str, str]:
    """Return what two readings of one open file give, and of the file opened again."""
    with Path(folder, "file").open("rb", buffering=0) as file:
        first = file.read(100)
    return first.decode(), Path(folder, "file").read_text()
