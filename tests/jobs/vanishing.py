"""Inputs that go away while they are read, and come back: on a disk, on a mounted disk, behind HTTP, in a bucket."""

from __future__ import annotations

import http.server
import re
import subprocess
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from volumetool.storage.io.kvstore import delete_key, list_keys, read_key, write_key


class Place(Protocol):
    """Where an input lies."""

    url: str

    def vanish(self) -> None: ...

    def come_back(self) -> None: ...


class Moved:
    """A folder that is renamed."""

    def __init__(self, folder: Path) -> None:
        self.url, self._folder = str(folder), folder

    def vanish(self) -> None:
        self._folder.rename(self._folder.with_suffix(".away"))

    def come_back(self) -> None:
        self._folder.with_suffix(".away").rename(self._folder)


class Mounted:
    """A folder on a disk that is unmounted while files on it are open."""

    def __init__(self, folder: Path) -> None:
        self._disk, self._seen = folder.parent, folder.parent.with_name("mounted")
        self._seen.mkdir()
        self.url = str(self._seen / folder.name)
        self.come_back()

    def vanish(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._seen)], check=True)

    def come_back(self) -> None:
        subprocess.run(["mount", "--bind", str(self._disk), str(self._seen)], check=True)


class Refused:
    """A folder behind a server of files that answers 404 to everything."""

    def __init__(self, folder: Path) -> None:
        self._there = there = threading.Event()
        there.set()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                file = folder.parent / self.path[1:]
                stored = file.read_bytes() if there.is_set() and file.is_file() else None
                part = re.fullmatch("bytes=([0-9]*)-([0-9]*)", self.headers.get("Range", ""))
                body = stored or b""
                self.send_response(404 if stored is None else 206 if part else 200)
                if part and stored is not None:
                    first = int(part[1]) if part[1] else len(body) - int(part[2])
                    stop = int(part[2]) + 1 if part[1] and part[2] else len(body)
                    self.send_header("Content-Range", f"bytes {first}-{min(stop, len(body)) - 1}/{len(body)}")
                    body = body[first:stop]
                self.send_header("ETag", f'"{zlib.crc32(stored or b""):08x}"')
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  (the base class looks for this name)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/{folder.name}"

    def vanish(self) -> None:
        self._there.clear()

    def come_back(self) -> None:
        self._there.set()


class Deleted:
    """A bucket from which one object after the other is deleted."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._objects = {key: read_key(url, key) or b"" for key in list_keys(url)}

    def vanish(self) -> None:
        for key in self._objects:
            delete_key(self.url, key)

    def come_back(self) -> None:
        for key, stored in self._objects.items():
            write_key(self.url, key, stored)


@contextmanager
def placed(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """Yield an input that was written to ``folder/disk/in.zarr``, where it can vanish."""
    source = folder / "disk" / "in.zarr"
    if kind == "moved":
        yield Moved(source)
    elif kind == "unmounted":
        yield from _mounted(source)
    elif kind == "refused":
        yield from _served(source)
    else:
        bucket = request.getfixturevalue("bucket")
        for file in source.rglob("*"):
            if file.is_file():
                write_key(f"{bucket}/in.zarr", str(file.relative_to(source)), file.read_bytes())
        yield Deleted(f"{bucket}/in.zarr")


def _served(source: Path) -> Iterator[Place]:
    place = Refused(source)
    with place.server as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield place
        finally:
            server.shutdown()
            thread.join()


def _mounted(source: Path) -> Iterator[Place]:
    try:
        place = Mounted(source)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(Path(place.url).parent)], check=False, stderr=subprocess.DEVNULL)


def leave_for(place: Place, seconds: float) -> threading.Timer:
    """Let an input vanish now, and come back after some seconds; return who brings it."""
    place.vanish()
    timer = threading.Timer(seconds, place.come_back)
    timer.start()
    return timer


@contextmanager
def leaving(place: Place, after: float) -> Iterator[None]:
    """Let an input vanish after some seconds, whatever is under way then."""
    timer = threading.Timer(after, place.vanish)
    timer.start()
    try:
        yield
    finally:
        timer.join()
