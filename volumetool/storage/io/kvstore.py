"""Places: a local path or a URL, and the keys below it.

Arrays are read and written through tensorstore drivers that get their place from `kvstore_spec`; small files (metadata,
the ledger of a job) go through `read_key` and `write_key`, so that a local disk and a bucket behave alike. Writes are
atomic and synced to disk, which is tensorstore's default for files.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import tensorstore as ts

from volumetool.errors import InputError
from volumetool.machine import usable_cores, usable_memory
from volumetool.paths import (
    AnyPlace,
    absolute_path,
    empty_leftover,
    place_text,
    refuse_special,
    refuse_unreachable,
    sync_folder,
)
from volumetool.storage.io.retries import CONCURRENCY, STORAGE, brief, unwritable
from volumetool.storage.io.s3 import s3_credentials, s3_settings
from volumetool.storage.io.stores.zip_file import zip_on, zip_spec
from volumetool.storage.io.urls import FORBIDDEN, check_url, hint_of, signed_query, without_dots

_most_open = _MANY = 2**16

# What a viewer puts around a plain URL: "zarr://..." in front (older), "|zarr3:" behind (newer).
_VIEWER_PREFIX = re.compile(r"^(zarr|zarr2|zarr3|n5|precomputed)://(?=\w+://|/)")
_VIEWER_SUFFIX = re.compile(r"\|(auto|zarr|zarr2|zarr3|n5|neuroglancer-precomputed):?.*$")
# Files that a killed writer leaves behind; they never hold data.
_LEFTOVER = ".__lock"
_cores = functools.cache(usable_cores)  # asked once: it stands in a dozen files, and every small file that is read asks
_LARGE = 2**26  # bytes from which a file is compared with the memory: shards and ledgers alone are so large

ABSENT = b"\x02"
"""Tensorstore's generation of a key that does not exist."""


def canonical_url(url: AnyPlace) -> str:
    """Return one spelling for a place: an absolute path if it is local, otherwise a URL.

    Parameters
    ----------
    url : str or path
        A path, or a URL with the scheme file, s3, gs, http or https. In URLs, what is no plain letter is percent-encoded.

    Returns
    -------
    str
        Without ``.``, ``..`` and trailing slashes.

    Raises
    ------
    InputError
        ``input.url``, ``input.url-secret``: not a path, or not a URL that volumetool reads, see `store.urls`.
        ``input.unreadable``: a folder above does not let this user pass.
    """
    text = place_text(url)
    if text.startswith("/") and _is_canonical(text):  # as nearly all are: no more is asked than whether it can be reached
        refuse_unreachable(text)
        return text
    text = _VIEWER_SUFFIX.sub("", _VIEWER_PREFIX.sub("", text))
    if is_local(text):
        refuse_unreachable(path := absolute_path(text))
        return str(path)
    parts = check_url(text)
    return f"{parts.scheme}://{parts.netloc}{without_dots(parts.path)}".rstrip("/")


@functools.lru_cache(2**12)
def _is_canonical(text: str) -> bool:
    """Return whether an absolute path is spelled as `canonical_url` spells it, whatever the disk holds."""
    return ".." not in text and "|" not in text and str(absolute_path(text)) == text


def is_local(url: str) -> bool:
    """Return whether a place lies in the local file system."""
    return "://" not in url or url.startswith(("file://", "/"))


def local_path(url: str) -> Path:
    """Return a local place as a path.

    Raises
    ------
    InputError
        ``input.not-local``: the place is in an object store or behind HTTP.
    """
    if not is_local(url):
        raise InputError("input.not-local", f"'{url}' is not a local path", hint="Copy it to a local disk.", where=url)
    return Path(canonical_url(url))


def join_url(url: str, *parts: str) -> str:
    """Return the place below `url` that the parts, which are no URLs, name; empty parts add nothing."""
    names = [part.strip("/") for part in parts if part.strip("/")]
    return "/".join([url.rstrip("/"), *(names if is_local(url) else map(quote, names))])


def parent_url(url: str) -> tuple[str, str]:
    """Split a place into the one above it and its own name; the name is empty where nothing is above."""
    head, _, name = url.rstrip("/").rpartition("/")
    if not head or head.endswith((":/", ":")):
        return "", ""
    return head, name if is_local(url) else unquote(name)


def contains(outer: str, inner: str) -> bool:
    """Return whether one place is another or lies below it, whatever links lead there."""
    places = (canonical_url(place) for place in (outer, inner))
    first, second = (f"{(os.path.realpath(place) if is_local(place) else place).rstrip('/')}/" for place in places)
    return second.startswith(first)


def kvstore_spec(url: str) -> dict[str, Any]:
    """Return tensorstore's description of a place that is used like a directory: a folder, or a zip file or a folder in one.

    It is JSON for the ``kvstore`` member of a tensorstore spec.
    """
    zipped = zip_on(url := canonical_url(url))
    return _folder_spec(url) if zipped is None else zip_spec(zipped, _folder_spec(zipped[0]), shared_context())


def _folder_spec(url: str) -> dict[str, Any]:
    if is_local(url):
        return {"driver": "file", "path": f"{url.rstrip('/')}/"}
    parts = urlsplit(url)
    path = f"{unquote(parts.path).strip('/')}/".lstrip("/")
    if parts.scheme == "s3":
        return {"driver": "s3", "bucket": parts.netloc, "path": path, **s3_settings()}
    if parts.scheme == "gs":
        return {"driver": "gcs", "bucket": parts.netloc, "path": path}
    query = signed_query(url)
    base = f"{parts.scheme}://{parts.netloc}{f'?{query}' if query else ''}"
    return {"driver": "http", "base_url": base, "path": f"/{path}"}


def shared_context(concurrency: int = 0, *, local: bool = False) -> ts.Context:
    """Return this process's tensorstore context: one pool of I/O and copy threads, no cache.

    Parameters
    ----------
    concurrency : int, optional
        Upper bound of threads for files, for copies and codecs, and of requests in flight; 0 means the number of cores,
        at most 16. Several workers on one machine should each be given their share.
    local : bool, default False
        It is for local files alone: credentials are not looked for.
    """
    limit = min(concurrency or min(CONCURRENCY, _cores()), _most_open)
    return _context(limit, "" if local else json.dumps(s3_credentials()))


def limit_open_files(most: int | None) -> None:
    """Bound the files that this process has open for voxels at once, and its requests in flight; None takes the bound away."""
    global _most_open  # noqa: PLW0603  (of the process, as its threads for files are)
    _most_open = most or _MANY


@functools.cache
def _context(limit: int, credentials: str = "") -> ts.Context:
    if credentials:
        return ts.Context(json.loads(credentials), _context(limit))
    pools = ("file_io", "data_copy", "http_request", "gcs_request", "s3_request")
    bounds: dict[str, Any] = {f"{pool}_concurrency": {"limit": limit} for pool in pools}
    # Whether to try again is decided in one place, `volumetool.storage.io.retries`.
    bounds |= {f"{pool}_retries": {"max_retries": 0} for pool in ("http_request", "gcs_request", "s3_request")}
    # Each voxel is read once or twice, by design; a cache would hold memory that the plan has given to something else.
    return ts.Context({**bounds, "cache_pool": {"total_bytes_limit": 0}})


def open_unsynced(url: str) -> ts.KvStore:
    """Open a place for files that may be lost: writes are atomic, but do not wait for the disk."""
    return ts.KvStore.open(kvstore_spec(url), context=ts.Context({"file_io_sync": False}, shared_context())).result()


def _open(url: str, written: str = "") -> ts.KvStore:
    if written and is_local(url):
        empty_leftover(local_path(url) / f"{written}{_LEFTOVER}")
    spec = kvstore_spec(url)  # a zip file has been looked at with the context that has credentials
    return ts.KvStore.open(spec, context=shared_context(local=spec["driver"] == "file")).result()


def read_key(url: str, key: str) -> bytes | None:
    """Return the bytes of a small file, or None if it does not exist.

    Parameters
    ----------
    url : str
        The place that holds the file.
    key : str
        Its name, parts separated by slashes.

    Raises
    ------
    InputError
        ``input.forbidden``: the server does not let it be read, or does not say that it is missing. ``input.unreadable``: the
        place exists but cannot be read, or the server does not answer.
    """
    return read_version(url, key)[0]


def write_key(url: str, key: str, data: bytes) -> None:
    """Write a small file: atomic and synced, so that a reader sees either the old bytes or the new ones.

    Parameters
    ----------
    url : str
        The place that holds the file.
    key : str
        Its name, parts separated by slashes.
    data : bytes
        The whole content of the file.

    Raises
    ------
    OutputError
        ``output.unwritable``: no permission, no space, or a store that cannot be written.
    """
    try:
        STORAGE.call(lambda _: _open(url, key).write(key, data).result())
    except (ValueError, OSError) as error:
        raise unwritable(join_url(url, key), error) from error


def read_version(url: str, key: str) -> tuple[bytes | None, bytes]:
    """Return the bytes of a small file, None if it does not exist, and the generation that :func:`replace_key` asks for.

    Returns
    -------
    bytes or None
        Content of the file.
    bytes
        Its generation; `ABSENT` if it does not exist.

    Raises
    ------
    InputError
        As :func:`read_key`.
    """
    if is_local(url):
        _check_size(url, key)
    try:
        found = STORAGE.call(lambda _: _open(url).read(key).result(), patient=False, server=urlsplit(url).netloc)
    except (ValueError, OSError) as error:
        forbidden = not is_local(url) and "PERMISSION_DENIED" in str(error)
        raise InputError(
            "input.forbidden" if forbidden else "input.unreadable",
            f"{join_url(url, key)} {'is forbidden' if forbidden else 'cannot be read'}: {brief(error)}",
            hint=FORBIDDEN if forbidden and url.startswith("http") else hint_of(url, error),
            where=url,
        ) from error
    return bytes(found.value) if found.state == "value" else None, bytes(found.stamp.generation)


def _check_size(url: str, key: str) -> None:
    """Refuse a local file that memory does not hold twice: it may take no room on the disk. Servers tell no size before."""
    found = refuse_special(f"{canonical_url(url)}/{key}")
    if found is not None and (size := found.st_size) > _LARGE and 2 * size > usable_memory():
        raise InputError(
            "input.too-large",
            f"{join_url(url, key)} has {size} bytes, more than half of the memory that is free",
            hint="It may be damaged, or made to fill the memory of whoever reads it.",
            where=url,
        )


def replace_key(url: str, key: str, data: bytes, generation: bytes) -> bytes | None:
    """Write a small file, atomic and synced, if it was not written since `generation` was read.

    A write may take effect though its answer is lost; the next try is then refused. So what a refusal left is read back: the
    same bytes are this write's, wherever they name their writer.

    Parameters
    ----------
    url, key, data
        As for :func:`write_key`.
    generation : bytes
        Version of the file, from :func:`read_version` or from the write before; `ABSENT` if it must not exist.

    Returns
    -------
    bytes or None
        The new generation; None if another process was first, and nothing was written.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    try:
        stamp = STORAGE.call(lambda _: _open(url, key).write(key, data, if_equal=generation).result())
        if stamp.generation:
            return bytes(stamp.generation)
        found = STORAGE.call(lambda _: _open(url).read(key).result())
    except (ValueError, OSError) as error:
        raise unwritable(join_url(url, key), error) from error
    return bytes(found.stamp.generation) if data and found.value == data else None


def create_key(url: str, key: str, data: bytes) -> bool:
    """Write a small file, atomic and synced, if there is none; return whether it was written.

    Parameters
    ----------
    url, key, data
        As for :func:`write_key`.

    Raises
    ------
    OutputError
        ``output.unwritable``.
    """
    return replace_key(url, key, data, ABSENT) is not None


def encode_json(value: dict[str, Any]) -> bytes:
    """Return a metadata document as bytes."""
    return json.dumps(value, indent=2, allow_nan=False).encode()


def list_keys(url: str, prefix: str = "") -> list[str]:
    """Return the sorted keys below a place that start with a prefix; lock files of killed writers are left out.

    Raises
    ------
    InputError
        ``input.unlistable``: the store (plain HTTP) has no listing.
    """
    end = prefix[:-1] + chr(ord(prefix[-1]) + 1) if prefix else ""
    try:
        keys = STORAGE.call(
            lambda _: _open(url).list(ts.KvStore.KeyRange(prefix, end)).result(), patient=False, server=urlsplit(url).netloc
        )
    except (ValueError, OSError, NotImplementedError) as error:
        raise InputError(
            "input.unlistable",
            f"{url} cannot be listed: {brief(error)}",
            hint="Plain HTTP servers have no listing." if url.startswith("http") else hint_of(url, error),
            where=url,
        ) from error
    return sorted(key for key in (key.decode() for key in keys) if not key.endswith(_LEFTOVER))


def delete_prefix(url: str, last: str = "") -> None:
    """Delete everything below a place, and the place itself if it is a local directory.

    Parameters
    ----------
    url : str
        Path or URL of the place.
    last : str
        A key right below it that is deleted after all others, because it tells whose they are if the deletion is cut short.

    Raises
    ------
    OutputError
        ``output.unwritable``: something cannot be deleted.
    """
    try:
        if is_local(url):
            for folder in list(local_path(url).iterdir()) if last else ():
                if folder.name != last and folder.is_dir() and not folder.is_symlink():
                    shutil.rmtree(folder)
            shutil.rmtree(local_path(url))
            sync_folder(local_path(url).parent)
        else:
            ranges = [("", last), (last + "\0", "")] if last else []
            STORAGE.call(lambda _: [_open(url).delete_range(ts.KvStore.KeyRange(*keys)).result() for keys in [*ranges, ()]])
    except FileNotFoundError:
        return
    except (ValueError, OSError) as error:
        raise unwritable(url, error) from error


def delete_key(url: str, key: str) -> None:
    """Delete one file; nothing happens if it does not exist.

    Raises
    ------
    OutputError
        ``output.unwritable``: it cannot be deleted.
    """
    try:
        STORAGE.call(lambda _: _open(url).write(key, None).result())
    except (ValueError, OSError) as error:
        raise unwritable(join_url(url, key), error) from error
