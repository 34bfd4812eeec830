"""The closed server gives out keys of named volumes to who may ask, and nothing else to anybody."""

from __future__ import annotations

import json
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from volumetool.errors import ConfigError, InputError
from volumetool.jobs.run import RunResult
from volumetool.listening.gate import Gate, accepted_hosts, base_url, is_loopback
from volumetool.storage.formats.precomputed import find_precomputed
from volumetool.storage.open import open_volume
from volumetool.viewer.served_keys import FilesOfVolume, files_of
from volumetool.viewer.server import InMemory, Serving, bind, build_app, parse_range

CANARY = b"what lies beside the volume"
PAGE = "http://127.0.0.1:9000"

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


@pytest.fixture(scope="module")
def folder(job: RunResult) -> Path:
    """Give the output of a job, with a canary beside it and in it."""
    output = Path(job.plan.output)
    for place in (output.parent, output, output / "0"):
        (place / "canary").write_bytes(CANARY)
    return output


@pytest.fixture(scope="module")
def files(folder: Path) -> FilesOfVolume:
    return files_of(open_volume(folder))


@pytest.fixture(scope="module")
def client(files: FilesOfVolume) -> Iterator[httpx.Client]:
    async def small(key: str) -> InMemory | None:
        return InMemory(b"0123456789") if key == "ten" else None

    bound = bind()
    port = bound.getsockname()[1]
    gate = Gate(accepted_hosts("127.0.0.1", port), frozenset({PAGE}), "token")
    with (
        Serving(build_app({"v": files, "small": small}, gate), bound),
        httpx.Client(base_url=base_url("127.0.0.1", port), timeout=60) as client,
    ):
        yield client


def test_every_stored_key_of_the_volume_is_served_as_it_is_stored(client: httpx.Client, folder: Path) -> None:
    stored = [file for file in folder.rglob("*") if file.is_file() and file.name != "canary"]
    assert len(stored) > 10
    for file in stored:
        answer = client.get(f"/token/v/{file.relative_to(folder)}")
        assert (answer.status_code, answer.content) == (200, file.read_bytes())


def test_other_programs_read_the_served_volume_as_if_it_were_on_their_disk(client: httpx.Client, folder: Path) -> None:
    served, stored = open_volume(str(client.base_url.join("/token/v"))), open_volume(folder)
    assert served.identity == stored.identity
    for number in range(len(stored.levels)):
        assert (served.open(number).read().result() == stored.open(number).read().result()).all()


@pytest.mark.parametrize("shape", TRAVERSALS)
def test_no_spelling_of_a_path_leads_out_of_the_volume(files: FilesOfVolume, shape: str) -> None:
    bound = bind()
    port = bound.getsockname()[1]
    gate = Gate(accepted_hosts("127.0.0.1", port), token="token")
    with Serving(build_app({"v": files}, gate), bound), socket.create_connection(("127.0.0.1", port)) as raw:
        # Clients tidy paths up before they send them; a socket does not.
        raw.sendall(f"GET /token/v/{shape} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert re.match(rb"HTTP/1.1 40[04] ", answer)
    assert CANARY not in answer
    assert b"root:" not in answer


PARTS = st.sampled_from(["..", ".", "", "c", "0", "1", "00", "-1", "+1", "99", "canary", "zarr.json", "%2e%2e", "٣", "0 "])


@settings(max_examples=300)
@given(st.one_of(st.lists(PARTS, max_size=7).map("/".join), st.text(max_size=20)))
@example("0/c/0/0/0")
@example("0/c/0/0/00")
@example("0/c/0/0/99")
def test_a_key_is_served_only_in_the_one_spelling_of_its_format(files: FilesOfVolume, key: str) -> None:
    # Grids of the job's levels, finest first: shards per axis.
    found = files.find(key)
    if found is not None:
        assert re.fullmatch(r"(\d+/)?zarr\.json|\d+(/c(/(0|[1-9]\d*)){3})", key)
        assert found.size == (files.root / key).stat().st_size


def test_a_link_out_of_the_volume_is_not_followed(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(folder, copy)
    shard = next(file for file in sorted(copy.rglob("c/0/0/0")) if file.is_file())
    key = str(shard.relative_to(copy))
    assert files_of(open_volume(copy)).find(key) is not None
    shard.unlink()
    shard.symlink_to(folder.parent / "canary")
    assert files_of(open_volume(copy)).find(key) is None


@pytest.mark.parametrize("place", ["../precomputed/4_8_30", "a/../../b", "/etc"])
def test_a_level_outside_of_the_volume_is_refused(formats: dict[str, Path], place: str) -> None:
    info = formats["precomputed"] / "info"
    metadata = json.loads(info.read_text())
    metadata["scales"][0]["key"] = place
    info.write_text(json.dumps(metadata))
    if place.startswith("/"):
        volume = find_precomputed(str(formats["precomputed"]))
        assert volume is not None
        assert files_of(volume).find(f"{place}/0-8_0-4_0-2") is None
        return
    with pytest.raises(InputError, match="outside of itself"):
        find_precomputed(str(formats["precomputed"]))


def test_every_format_serves_its_own_chunks_and_no_neighbours(formats: dict[str, Path]) -> None:
    keys = {"ome-zarr": "0/c/2/2/1", "n5": "1/2/2", "precomputed": "4_8_30/8-14_8-10_4-6", "zarr2": "2.2.1"}
    wrong = {"ome-zarr": "0/c/3/2/1", "n5": "2/2/2", "precomputed": "4_8_30/8-16_8-12_4-6", "zarr2": "2/2/1"}
    for name, path in formats.items():
        volume = find_precomputed(str(path)) or open_volume(path, voxel_size=(30.0, 8.0, 4.0))
        files = files_of(volume)
        assert (path / keys[name]).is_file()
        assert files.find(keys[name]) is not None, name
        (path / wrong[name]).parent.mkdir(parents=True, exist_ok=True)
        (path / wrong[name]).write_bytes(CANARY)
        assert files.find(wrong[name]) is None, name
        stored = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()} - {wrong[name]}
        assert all(files.find(key) for key in stored), name


@pytest.mark.parametrize(("name", "status"), [("127.0.0.1", 200), ("LOCALHOST", 200), ("[::1]", 200), ("rebound.example", 421)])
def test_only_requests_meant_for_this_server_are_answered(client: httpx.Client, name: str, status: int) -> None:
    port = client.base_url.port
    assert client.get("/token/small/ten", headers={"host": f"{name}:{port}"}).status_code == status
    assert client.get("/token/small/ten", headers={"host": f"{name}:{(port or 0) + 1}"}).status_code == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (PAGE, 200),
        ("http://127.0.0.1:9001", 403),
        ("https://127.0.0.1:9000", 403),
        ("http://127.0.0.1:9000.evil.example", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
def test_only_the_viewers_own_page_may_read(client: httpx.Client, origin: str, status: int) -> None:
    for answer in (
        client.get("/token/small/ten", headers={"origin": origin}),
        client.options("/token/small/ten", headers={"origin": origin}),
    ):
        assert answer.is_success == (status == 200)
        assert answer.headers.get("access-control-allow-origin") == (PAGE if status == 200 else None)


@pytest.mark.parametrize(
    ("asked", "status", "body", "part"),
    [
        ("bytes=2-3", 206, b"23", "bytes 2-3/10"),
        ("bytes=8-", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=3-2", 200, b"0123456789", None),
        ("lines=0-1", 200, b"0123456789", None),
        ("bytes=" + "9" * 40 + "-", 200, b"0123456789", None),
    ],
)
def test_ranges_as_sharded_volumes_need_them(
    client: httpx.Client, asked: str, status: int, body: bytes | None, part: str | None
) -> None:
    answer = client.get("/token/small/ten", headers={"range": asked})
    assert answer.status_code == status
    assert answer.headers.get("content-range") == part
    assert body is None or answer.content == body


@given(st.integers(0, 50), st.integers(0, 60), st.integers(0, 60))
def test_a_range_is_what_a_slice_would_be(size: int, first: int, last: int) -> None:
    expected = range(size)[first : last + 1]
    found = parse_range(f"bytes={first}-{last}", size)
    if last < first:
        assert found == (0, size, False)
    else:
        assert found == ((expected.start, expected.stop, True) if expected else None)


def test_head_says_how_large_a_key_is(client: httpx.Client) -> None:
    answer = client.head("/token/small/ten")
    assert (answer.status_code, answer.headers["content-length"], answer.content) == (200, "10", b"")


@pytest.mark.parametrize(
    "path", ["/", "/token", "/token/", "/token/v", "/token/v/", "/token/other/ten", "/wrong/small/ten", "/é/v/x"]
)
def test_there_is_nothing_to_list_and_nothing_to_guess(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE"])
def test_nothing_can_be_written(client: httpx.Client, method: str) -> None:
    assert client.request(method, "/token/small/ten").status_code == 405


def test_a_file_that_is_replaced_is_not_read_on(files: FilesOfVolume, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(files.root, copy)
    found = files_of(open_volume(copy)).find("zarr.json")
    assert found is not None
    new = copy / "new"
    new.write_bytes(b"other bytes")
    new.rename(copy / "zarr.json")
    with pytest.raises(Exception, match="replaced"):
        found.read(0, 4)


def test_addresses() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "127.example.org")] == [False] * 4  # noqa: S104
    assert accepted_hosts("127.0.0.1", 5) == {"127.0.0.1:5", "localhost:5", "[::1]:5"}
    assert accepted_hosts("10.0.0.1", 5) > {"10.0.0.1:5"}
    assert base_url("::1", 5) == "http://[::1]:5"
    with bind() as bound, pytest.raises(ConfigError, match="cannot listen"):
        bind("127.0.0.1", bound.getsockname()[1])


def test_no_part_of_an_answer_waits_for_the_one_before_to_be_acknowledged() -> None:
    with bind() as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
