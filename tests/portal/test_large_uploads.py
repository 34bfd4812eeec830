"""An upload of 2 GiB to a portal in a process of its own takes no memory that grows with it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import yaml
from browsing import Visitor, settings_of
from sending import begin, offset_of, send, told_when

PIECE = 2**23
MOST_GROWN = 2**26
"""Bytes: some pieces and their copies, not a share of the file."""


@pytest.fixture
def disk() -> Iterator[Path]:
    """Give a folder on a disk: what stands in memory would count as the portal's."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    if shutil.disk_usage(folder).free < 2**33:
        pytest.skip(f"{folder} has no room for it")
    yield folder
    shutil.rmtree(folder)


def peak(process: int) -> int:
    """Return the most bytes of memory that a process had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def head(sections: int, side: int, folder: Path) -> bytes:
    """Return the head of an MRC file of bytes."""
    with mrcfile.new(folder / "head.mrc", np.zeros((1, side, side), np.int8)) as made:
        made.voxel_size = 80.0
        made.header.nz, made.header.mz = sections, sections
        made.header.cella.z = sections * 300.0
        made.flush()
    return (folder / "head.mrc").read_bytes()[:1024]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of a process's memory is asked of Linux")
@pytest.mark.parametrize("in_one", [False, True], ids=["in pieces, as the page", "in one request"])
def test_2_gib_take_bounded_memory_and_are_all_there(disk: Path, *, in_one: bool) -> None:
    sections, side = 128, 4096
    config = disk / "portal.yaml"
    config.write_text(yaml.safe_dump(json.loads(json.dumps(settings_of(disk), default=str))))
    command = [sys.executable, "-m", "volumetool", "serve", "--config", str(config), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        visitor = Visitor(told["url"]).join(told["invitation"], "ada")
        first = head(sections, side, disk)
        length = len(first) + sections * side**2
        assert length >= 2**31
        pieces = [first, *[bytes([number]) * PIECE for number in range(sections * side**2 // PIECE)]]
        assert sum(map(len, pieces)) == length
        place, whole = begin(visitor, length, "large.mrc"), hashlib.sha256()
        assert send(visitor, place, first).status_code == 204
        before, offset = peak(process.pid), len(first)
        whole.update(first)
        if in_one:
            send_all(visitor, place, pieces[1:], length - offset)
        for piece in pieces[1:]:
            whole.update(piece)
            if not in_one:
                digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
                assert send(visitor, place, piece, offset, upload_checksum=f"sha256 {digest}").status_code == 204
                offset += len(piece)
        assert offset_of(visitor, place) == length
        assert peak(process.pid) - before < MOST_GROWN
        found = told_when(visitor, place, lambda told: told["state"] != "looked at")
        assert (found["state"], found["facts"]["shape"]) == ("ready", [sections, side, side])
        with (disk / "portal" / "uploads" / found["id"] / "volume.mrc").open("rb") as file:
            assert hashlib.file_digest(file, "sha256").digest() == whole.digest()
        process.terminate()


def send_all(visitor: Visitor, place: str, pieces: list[bytes], length: int) -> None:
    """Send pieces in one request."""
    import httpx
    from sending import BYTES, TUS

    from volumetool.portal.web import COOKIE

    sent = {"origin": visitor.url, "x-form-token": visitor.form_token, "cookie": f"{COOKIE}={visitor.token}", **TUS, **BYTES}
    sent |= {"upload-offset": "1024", "content-length": str(length)}
    answer = httpx.patch(visitor.url + place, content=iter(pieces), headers=sent, timeout=600)
    assert answer.status_code == 204, answer.text
