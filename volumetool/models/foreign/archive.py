"""Zip files of networks: looked at as a whole before an entry is read, and never unpacked onto a disk."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from volumetool.machine import usable_memory
from volumetool.models.foreign.program import unusable

Archive = zipfile.ZipFile


@contextmanager
def open_archive(path: Path, content: bytes, kind: str, hint: str) -> Iterator[Archive]:
    """Open an archive for reading.

    Parameters
    ----------
    path : Path
        Its file, for messages.
    content : bytes
        What the file holds.
    kind : str
        What it ought to be, such as ``archive of torch.export``.
    hint : str
        What to do if it is none.

    Raises
    ------
    ModelError
        ``model.broken``: it is none, has one name twice, or unpacks to more than a quarter of the memory that is free.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            if len({entry.filename for entry in entries}) < len(entries):
                raise unusable(path, "its archive has one name twice")
            if 4 * sum(entry.file_size for entry in entries) > usable_memory():
                raise unusable(path, "its archive unpacks to more than a quarter of the memory that is free")
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise unusable(path, f"it is no {kind} ({str(error)[:200]})", hint) from error


def write_archive(entries: Mapping[str, bytes]) -> bytes:
    """Return an archive of some entries: of the same ones always the same bytes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()
