"""Volumes behind web servers of many habits."""

from __future__ import annotations

import gzip
import http.server
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
from bucket_server import BucketServer
from small_jobs import SMALL, digest, noise, run, write_input

from volumetool.errors import InputError
from volumetool.storage.convert_volume import convert
from volumetool.storage.io import retries
from volumetool.storage.io.arrays import read_part
from volumetool.storage.open import open_volume

WHOLE = (slice(None),) * 3


class WebServer(http.server.ThreadingHTTPServer):
    """Serves the files of a folder on loopback.

    Attributes
    ----------
    refuse : callable
        Gives the status, and the headers, of an answer without a body; (200, {}) for the file.
    ranges, packed : bool
        Whether it serves parts of files, and whether it packs each answer with gzip.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refuse: Callable[[], tuple[int, dict[str, str]]] = lambda: (200, {})
        self.ranges, self.packed = True, False
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        status, headers = self.server.refuse()
        file = self.server.folder / self.path.lstrip("/")
        body = file.read_bytes() if status == 200 and file.is_file() else b""
        part = re.fullmatch("bytes=([0-9]*)-([0-9]*)", self.headers.get("Range", ""))
        if status == 200 and not file.is_file():
            status = 404
        elif status == 200 and part and self.server.ranges:
            status, whole = 206, len(body)
            first = int(part[1]) if part[1] else whole - int(part[2])
            stop = min(int(part[2]) + 1, whole) if part[1] and part[2] else whole
            body, headers = body[first:stop], {"Content-Range": f"bytes {first}-{stop - 1}/{whole}"}
        if self.server.packed and status == 200:
            body, headers = gzip.compress(body), {"Content-Encoding": "gzip"}
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  (the base class looks for this name)

    def log_message(self, *_: object) -> None:
        """Do nothing."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    """Serve one volume in two formats: ``plain.zarr``, and ``sharded.zarr``."""
    convert(str(write_input(tmp_path / "plain.zarr", noise((10, 37, 45)))), tmp_path / "sharded.zarr")
    with WebServer(tmp_path) as made:
        threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True).start()
        yield made
        made.shutdown()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no time pass between two tries."""
    monkeypatch.setattr(retries.STORAGE, "_sleep", lambda _seconds: None)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["plain.zarr", "sharded.zarr"])
def test_voxels_come_whole_from_a_server_of_any_habit_or_not_at_all(
    server: WebServer,
    name: str,
    packed: bool,  # noqa: FBT001
    ranges: bool,  # noqa: FBT001
) -> None:
    """Parts of shards need a server that gives out parts; packing on the way is nobody's matter."""
    server.ranges, server.packed = ranges, packed
    array = open_volume(f"{server.url}/{name}").open(strict=True)
    if ranges or name == "plain.zarr":
        np.testing.assert_array_equal(read_part(array, WHOLE), noise((10, 37, 45)))
        return
    with pytest.raises(InputError) as caught:
        read_part(array, (slice(0, 1),) * 3)
    assert caught.value.code == "input.no-ranges"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_server_that_leads_elsewhere_is_not_followed_and_says_so(server: WebServer, tmp_path: Path, status: int) -> None:
    """Elsewhere may be within a private network, though the user named a public host."""
    followed: list[None] = []
    with WebServer(tmp_path) as other:
        threading.Thread(target=other.serve_forever, args=(0.02,), daemon=True).start()
        other.refuse = lambda: (followed.append(None) or 200, {})
        server.refuse = lambda: (status, {"Location": f"{other.url}/plain.zarr/zarr.json"})
        with pytest.raises(InputError, match=f"HTTP {status}") as caught:
            open_volume(f"{server.url}/plain.zarr")
        other.shutdown()
    assert caught.value.code == "input.unreadable"
    assert "another address" in caught.value.hint
    assert followed == []


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_waited_for_and_one_that_stays_busy_is_named(server: WebServer, status: int) -> None:
    random = Random(3)  # noqa: S311
    server.refuse = lambda: (status if random.random() < 0.3 else 200, {"Retry-After": "1"})
    array = open_volume(f"{server.url}/sharded.zarr").open(strict=True)
    np.testing.assert_array_equal(read_part(array, WHOLE), noise((10, 37, 45)))
    server.refuse = lambda: (status, {"Retry-After": "1"})
    with pytest.raises(InputError, match="tried 10 times") as caught:
        open_volume(f"{server.url}/plain.zarr")
    assert caught.value.code == "input.unreadable"
    asked: list[None] = []
    server.refuse = lambda: (asked.append(None) or (200 if len(asked) < 3 else status), {})
    with pytest.raises(InputError, match="tried 10 times") as later:  # once the group's metadata are read
        open_volume(f"{server.url}/plain.zarr")
    assert later.value.code == "input.unreadable"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", [pytest.param("plain.zarr", marks=pytest.mark.slow), "sharded.zarr"])
def test_a_job_from_a_web_server_to_a_bucket_makes_the_voxels_of_one_on_a_disk(
    server: WebServer, kept: BucketServer, tmp_path: Path, name: str
) -> None:
    assert run(**SMALL, input=str(tmp_path / name), output=str(tmp_path / "straight.zarr")).complete
    random = Random(5)  # noqa: S311
    server.refuse = lambda: (503 if random.random() < 0.05 else 200, {})
    assert run(**SMALL, input=f"{server.url}/{name}", output="s3://bucket/out.zarr").complete
    assert digest(kept.folder / "bucket" / "out.zarr") == digest(tmp_path / "straight.zarr")
