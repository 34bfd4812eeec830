"""Zip files that are read like folders, as the .ozx files of OME-Zarr are: their entries are looked at before any is read.

tensorstore reads the bytes of an entry where they stand in the file. Entries that it cannot read it leaves out without a word,
and chunks among them would count as blank. So the list of entries is looked at first, once for every state of the file.
"""

from __future__ import annotations

import functools
import io
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import tensorstore as ts

from volumetool.errors import InputError
from volumetool.storage.io.retries import STORAGE, brief

ZIP_ENDINGS = (".zip", ".ozx")

MOST_LISTED = 2**26
"""Bytes of a list of entries: half a million of them."""

MOST_ENTRY = 2**31
"""Bytes of an entry that tensorstore reads."""

MOST_UNPACKED = 2**26
"""Bytes of an entry that is compressed: all of it is unpacked for every chunk in it."""

MOST_RATIO = 1000
"""How many times longer an entry may be than it is compressed."""

_RATIO_FROM = 2**20
"""Bytes from which the ratio is looked at."""

_ON_THE_WAY = re.compile(r"\.(?:zip|ozx)(?=/|$)", re.IGNORECASE)
_ENCRYPTED = 1


def zip_on(url: str) -> tuple[str, str] | None:
    """Return the zip file that a place is or lies in, and what follows it; None if there is none.

    Parameters
    ----------
    url : str
        A place. A local folder may be named like a zip file; in a bucket or behind HTTP, what is named so is one.
    """
    for match in _ON_THE_WAY.finditer(url):
        file = url[: match.end()]
        inside = url[match.end() :].strip("/")
        if "://" in url:
            return file, unquote(inside)
        if Path(file).is_file():
            return file, inside
    return None


def zip_spec(zipped: tuple[str, str], folder: dict[str, Any], context: ts.Context) -> dict[str, Any]:
    """Return tensorstore's description of a place inside of a zip file.

    Parameters
    ----------
    zipped : tuple of str
        From `zip_on`.
    folder : dict
        That of the file, as if it were a folder.
    context : tensorstore.Context
        Thread pools that it will be read with.

    Raises
    ------
    InputError
        ``input.not-found``. ``input.unreadable``: it is damaged or cut off. ``input.unsupported``: it is encrypted, names an
        entry twice or outside of itself, or has entries that are not read or unpack to much more than is stored.
    """
    file, inside = zipped
    base = {**folder, "path": folder["path"].rstrip("/")}
    try:
        store = STORAGE.call(lambda _: ts.KvStore.open(base, context=context).result())
        found = STORAGE.call(lambda _: store.read("", byte_range=slice(0, 0)).result(), patient=False)
    except (ValueError, OSError) as error:
        raise _unreadable(file, f"cannot be read: {brief(error)}", _READ) from error
    if found.state != "value":
        raise InputError("input.not-found", f"nothing to read at {file}", hint="Check the spelling.", where=file)
    _looked_at(file, json.dumps(base), context, bytes(found.stamp.generation))
    return {"driver": "zip", "base": base, "path": f"{inside}/" if inside else ""}


@functools.lru_cache(maxsize=8)
def _looked_at(file: str, base: str, context: ts.Context, _generation: bytes) -> ts.KvStore:
    """Look at the entries of a file, anew in each generation; tensorstore keeps the list of them as long as this is kept."""
    spec = json.loads(base)
    for refused in _refused(_entries(file, ts.KvStore.open(spec, context=context).result())):
        raise InputError("input.unsupported", f"{file} {refused}", hint=_MAKE, where=file)
    opened = ts.KvStore.open({"driver": "zip", "base": spec}, context=context).result()
    try:
        opened.read("").result()
    except ValueError as error:
        raise _unreadable(file, f"is no zip file that can be read: {brief(error)}", _READ) from error
    return opened


def _entries(file: str, store: ts.KvStore) -> Sequence[zipfile.ZipInfo]:
    """Return the entries that a zip file lists at its end, of which as little is read as it takes."""
    length = 2**16
    while True:
        end, whole = _end(file, store, length)
        try:
            with zipfile.ZipFile(io.BytesIO(end)) as found:
                return found.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            if whole or length >= MOST_LISTED:
                why = "is damaged or cut off" if whole else f"lists more entries than {MOST_LISTED} bytes hold, or is damaged"
                raise _unreadable(file, f"{why}: {error}", "Copy it again; or unpack it, and give the folder.") from error
        length = min(8 * length, MOST_LISTED)


def _end(file: str, store: ts.KvStore, length: int) -> tuple[bytes, bool]:
    """Return the last bytes of a file, and whether they are all."""

    def read(part: slice | None) -> bytes:
        return bytes(STORAGE.call(lambda _: store.read("", byte_range=part).result()).value)

    try:
        return read(slice(-length, None)), False
    except ValueError as error:
        if "OUT_OF_RANGE" not in str(error):
            raise _unreadable(file, f"cannot be read: {brief(error)}", _READ) from error
    return read(None), True


def _refused(entries: Sequence[zipfile.ZipInfo]) -> Iterator[str]:
    """Yield in words why entries are not read."""
    seen: set[str] = set()
    for entry in entries:
        name, stored, size = entry.orig_filename, entry.compress_size, entry.file_size
        if name.startswith("/") or ".." in name.split("/") or "\\" in name or "\0" in name:
            yield f"names an entry {name!r}, which is no path below a folder"
        if name in seen:
            yield f"holds {name!r} twice"
        seen.add(name)
        if entry.flag_bits & _ENCRYPTED:
            yield f"is encrypted: {name!r}"
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            yield f"holds {name!r} compressed by method {entry.compress_type}; read are 0 (stored) and 8 (deflated)"
        packed = entry.compress_type != zipfile.ZIP_STORED
        most = min(MOST_UNPACKED, max(_RATIO_FROM, MOST_RATIO * stored)) if packed else MOST_ENTRY
        if size > most:
            yield f"holds {name!r}, {stored} bytes that are {size} unpacked; read are at most {most}"


_MAKE = "Unpack it, and give the folder. Without compression it could be read: `cd NAME.zarr && zip -0 -r ../NAME.ozx .`"


_READ = "Copy it again. A server must be able to give out parts of files, as nginx, Apache, Caddy and object stores do."


def _unreadable(file: str, what: str, hint: str) -> InputError:
    return InputError("input.unreadable", f"{file} {what}", hint=hint, where=file)
