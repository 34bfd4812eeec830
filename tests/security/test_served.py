"""S3: 313 shapes of paths, sent as they are, through the server of `view`: no byte from outside of a volume comes back."""

from __future__ import annotations

import random
import re
import shutil
import socket
from pathlib import Path

import pytest

from volumetool.jobs.run import RunResult
from volumetool.listening.gate import Gate, accepted_hosts
from volumetool.storage.formats.precomputed import find_precomputed
from volumetool.storage.open import open_volume
from volumetool.viewer.served_keys import files_of
from volumetool.viewer.server import Serving, bind, build_app

CANARY = b"what lies beside the volume"
PARTS = (
    "..", ".", "", "%2e%2e", "%2E%2E", "..%2f", "%2f", "%5c", "..%5c", "%252e%252e", "..;", "%c0%ae%c0%ae", "%00", "canary",
    "link",
    "folder", "out.zarr.job", "plan.json", "0", "c", "0", "zarr.json", "~", "C:", "\\\\host\\share", "%u002e", "/etc/passwd",
    "*",
)  # fmt: skip
FIXED = (
    "../canary", "%2e%2e/canary", "..%2fcanary", "%2e%2e%2fcanary", "0/../../canary", "0/c/../../../canary", "//canary",
    "/etc/passwd", "%2fetc%2fpasswd", "..\\canary", "..%5ccanary", "zarr.json%00", "C:%5ccanary",
)  # fmt: skip


def _generated() -> list[str]:
    chance = random.Random(313)  # noqa: S311  (no secret)
    return ["/".join(chance.choices(PARTS, k=chance.randint(1, 7))) for _ in range(300)]


@pytest.fixture(scope="module")
def folder(job: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of a job's output, with canaries beside it and in it, and with links that lead to them."""
    place = tmp_path_factory.mktemp("served") / "out.zarr"
    shutil.copytree(job.plan.output, place)
    shutil.copytree(f"{job.plan.output}.job", f"{place}.job")
    (place.parent / "folder").mkdir()
    for where in (place.parent, place, place / "0", place.parent / "folder"):
        (where / "canary").write_bytes(CANARY)
    (place / "link").symlink_to(place.parent / "canary")
    (place / "folder").symlink_to(place.parent / "folder")
    return place


def test_no_shape_of_a_path_leads_out_of_a_volume(folder: Path) -> None:
    bound = bind()
    port = bound.getsockname()[1]
    gate = Gate(accepted_hosts("127.0.0.1", port), token="token")
    shapes = [*FIXED, *_generated()]
    assert len(shapes) == 313
    with Serving(build_app({"v": files_of(open_volume(folder))}, gate), bound):
        served = 0
        for shape in shapes:
            with socket.create_connection(("127.0.0.1", port)) as raw:
                raw.sendall(f"GET /token/v/{shape} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
                answer = b"".join(iter(lambda raw=raw: raw.recv(65536), b""))
            served += answer.startswith(b"HTTP/1.1 200 ")
            assert re.match(rb"HTTP/1.1 (200|400|404) ", answer), shape
            assert CANARY not in answer, shape
            assert b"root:" not in answer, shape
            assert b"fingerprint" not in answer or shape.endswith("zarr.json"), shape
        assert served < 5


@pytest.mark.parametrize("name", ["ome-zarr", "n5", "precomputed", "zarr2"])
def test_no_link_leads_out_of_a_volume_of_any_format(name: str, formats: dict[str, Path]) -> None:
    path = formats[name]
    chunks = {"ome-zarr": "0/c/2/2/1", "n5": "1/2/2", "precomputed": "4_8_30/8-14_8-10_4-6", "zarr2": "2.2.1"}
    files = files_of(find_precomputed(str(path)) or open_volume(path, voxel_size=(30.0, 8.0, 4.0)))
    assert files.find(chunks[name]) is not None
    chunk, outside = path / chunks[name], path.parent / "outside"
    if chunk.parent == path:
        chunk.rename(outside)
        chunk.symlink_to(outside)
    else:  # the folder is the link, not the file
        chunk.parent.rename(outside)
        chunk.parent.symlink_to(outside)
    assert files.find(chunks[name]) is None


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_only_plain_files_are_served(kind: str, folder: Path, tmp_path: Path) -> None:
    import os

    copy = tmp_path / "copy.zarr"
    shutil.copytree(folder, copy, symlinks=True)
    shard = next(file for file in sorted(copy.rglob("c/0/0/0")) if file.is_file())
    files = files_of(open_volume(copy))
    shard.unlink()
    os.mkfifo(shard) if kind == "fifo" else shard.mkdir()
    assert files.find(str(shard.relative_to(copy))) is None
