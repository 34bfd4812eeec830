"""What a live volume answers: its own keys alone, errors as JSON, and nothing to who may not ask or has gone."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_jobs import noise, shard_files, write_input

from volumetool.live_view.volume import LiveVolume

TRAVERSALS = (
    "../canary",
    "%2e%2e/canary",
    "..%2fcanary",
    "%2e%2e%2fcanary",
    "0/../../canary",
    "0/c/../../../canary",
    "//canary",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "..\\canary",
    "..%5ccanary",
    "zarr.json%00",
    "C:%5ccanary",
)
PARTS = st.sampled_from(["..", ".", "", "c", "0", "1", "2", "00", "-1", "99", "input-mean-1", "zarr.json", "%2e", "٣", "0 "])
PATIENCE = 120


@pytest.fixture
def served(serve: Any, volume: Path, flat: dict[str, Any]) -> Iterator[Any]:
    with serve(volume, **flat) as served:
        yield served


def _raw(url: str, path: str, *headers: str) -> bytes:
    """Ask through a bare socket: clients tidy paths and headers up."""
    address = url.split("/")[2]
    host, _, port = address.partition(":")
    lines = "".join(f"{header}\r\n" for header in headers or (f"Host: {address}",))
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\n{lines}Connection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: raw.recv(65536), b""))


def test_no_spelling_of_a_path_finds_anything(served: Any) -> None:
    base = "/" + "/".join(served.url.split("/")[3:])
    for shape in TRAVERSALS:
        answer = _raw(served.url, f"{base}/{shape}")
        assert re.match(rb"HTTP/1.1 40[04] ", answer), shape
        assert b"root:" not in answer


def test_other_hosts_origins_and_tokens_get_nothing(served: Any) -> None:
    address = served.url.split("/")[2]
    path = "/" + "/".join(served.url.split("/")[3:]) + "/zarr.json"
    own = f"Host: {address}"
    assert b" 200 " in _raw(served.url, path, own).split(b"\r\n")[0]
    for host in ("evil.example", f"evil.example:{address.rpartition(':')[2]}", "127.0.0.1", ""):
        assert b" 421 " in _raw(served.url, path, f"Host: {host}").split(b"\r\n")[0]
    for origin in ("https://evil.example", "null", "http://127.0.0.1", "http://localhost", f"https://{address}", "file://"):
        assert b" 403 " in _raw(served.url, path, own, f"Origin: {origin}").split(b"\r\n")[0]
    assert b" 404 " in _raw(served.url, "/another-token/live/zarr.json", own).split(b"\r\n")[0]


class _Nothing:
    """Voxels that nobody may ask for outside of the grid."""

    async def is_complete(self) -> bool:
        return False

    async def read(self, _level: Any, channel: int, box: Any) -> np.ndarray[Any, Any]:
        assert channel == 0
        assert box.voxels
        return np.ones(box.shape, "uint8")

    async def in_thread(self, function: Any, *arguments: Any) -> Any:
        return function(*arguments)


@pytest.fixture(scope="module")
def keys() -> LiveVolume:
    from volumetool.geometry import plan_levels
    from volumetool.live_view.levels import LiveLevel
    from volumetool.live_view.metadata import LiveLayout
    from volumetool.live_view.volume import Levels

    grids = plan_levels((4, 16, 16), (8.0, 8.0, 8.0), (0.0, 0.0, 0.0), (2, 8, 8), (2, 8, 8))
    computed = tuple(LiveLevel(str(n), "computed", grid, n) for n, grid in enumerate(grids[:2]))
    stored = (LiveLevel("2", "stored", grids[1], 2),)
    stand_in = (LiveLevel("input-mean-1", "input", grids[1], 0),)
    nothing: Any = _Nothing()
    return LiveVolume(Levels(computed, stand_in, stored), LiveLayout("uint8", None, 0, ()), {}, nothing)


@settings(max_examples=300)
@given(st.one_of(st.lists(PARTS, max_size=7).map("/".join), st.text(max_size=20)))
@example("0/c/1/1/1")
@example("0/c/1/1/2")
@example("0/c/0/1/1/1")
@example("1/c/0/0/00")
@example("2/zarr.json")
@example("input-mean-1/c/0/0/0")
@example("0/c/0/0/99999999999999999")
def test_a_key_has_one_spelling(keys: LiveVolume, key: str) -> None:
    known = r"((0|1|input-mean-1)/)?zarr\.json|0/c(/[01]){3}|(1|input-mean-1)/c/0/0/0"
    assert (asyncio.run(keys(key)) is not None) == (re.fullmatch(known, key, re.ASCII) is not None)


def test_an_error_is_told_as_json_and_concerns_its_chunk_alone(serve: Any, tmp_path: Path, flat: dict[str, Any]) -> None:
    voxels = noise((2, 37, 45), "float32")
    voxels[0, 3, 3] = np.nan
    with serve(write_input(tmp_path / "in.zarr", voxels), **flat, dtype="uint8") as served:
        broken, whole = (httpx.get(f"{served.url}/0/c/0/{y}/{y}", timeout=60) for y in (0, 8))
        assert (broken.status_code, broken.json()["code"]) == (500, "data.not-finite")
        assert "--nodata nan" in broken.json()["hint"]
        assert whole.status_code == 200
        assert httpx.get(f"{served.url}/zarr.json", timeout=60).status_code == 200


def test_damaged_input_is_told_as_an_error(serve: Any, tmp_path: Path, flat: dict[str, Any], caplog: Any) -> None:
    path = write_input(tmp_path / "in.zarr", noise((2, 37, 45)))
    with serve(path, **flat) as served:
        for file in shard_files(path):
            damaged = bytearray(file.read_bytes())
            damaged[len(damaged) // 2] ^= 1
            damaged[-5] ^= 1
            file.write_bytes(damaged)
        answer = httpx.get(f"{served.url}/0/c/0/0/0", timeout=60)
        assert (answer.status_code, answer.json()["code"]) == (500, "data.unreadable")
    assert any("data.unreadable" in record.getMessage() for record in caplog.records)


def test_what_nobody_foresaw_is_told_too(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("by accident")

    monkeypatch.setattr("volumetool.live_view.volume.encode_chunk", fail)
    answer = httpx.get(f"{served.url}/0/c/0/0/0", timeout=60)
    assert (answer.status_code, answer.json()["code"]) == (500, "live.unexpected")


def test_a_client_that_has_gone_is_not_computed_for(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = served.opened.basis.engine
    may, begun, predict = threading.Event(), threading.Event(), engine.predict

    def wait(patches: Any, *places: Any) -> Any:
        begun.set()
        assert may.wait(PATIENCE)
        return predict(patches, *places)

    monkeypatch.setattr(engine, "predict", wait)
    first = threading.Thread(target=httpx.get, args=(f"{served.url}/0/c/0/0/0",), kwargs={"timeout": PATIENCE})
    first.start()
    assert begun.wait(PATIENCE)
    host, _, port = served.url.split("/")[2].partition(":")
    path = "/" + "/".join(served.url.split("/")[3:])
    desk = served.opened.desk
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(f"GET {path}/0/c/4/8/8 HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
        _until(lambda: len(desk._wishes) == 2)
    _until(lambda: sum(not wish.future.cancelled() for wish in desk._wishes) == 1)
    may.set()
    first.join(PATIENCE)
    asked_again = httpx.get(f"{served.url}/0/c/0/0/0", timeout=60)
    assert asked_again.status_code == 200
    assert desk.made == 2  # one patch of each of two sections


def _until(what: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)
