"""Volumes to test with: small ones made here, and real files of other software where they are at hand."""

from __future__ import annotations

import functools
import http.server
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volumetool.geometry.levels import plan_levels
from volumetool.storage.create import VolumeLayout, create_volume, open_for_writing
from volumetool.storage.volume import Volume


@pytest.fixture(scope="session")
def fixture(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the unpacked tree of one of the format fixtures."""
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp("fixture")
            with zipfile.ZipFile(data / "format-fixtures" / f"{name}.zip") as archive:
                archive.extractall(unpacked[name])
        return unpacked[name]

    return unpack


@pytest.fixture
def layout() -> VolumeLayout:
    """Give an anisotropic layout with ragged edges, several shards and fused and unfused levels."""
    levels = plan_levels((20, 70, 45), (8.0, 4.0, 4.0), (4.0, -1.0, 0.5), (4, 8, 8), (8, 32, 16))
    return VolumeLayout("uint8", levels, name="sample")


@pytest.fixture
def filled(tmp_path: Path, layout: VolumeLayout) -> tuple[Volume, np.ndarray[Any, Any]]:
    """Give a volume on disk, all levels written, and the voxels of its level 0."""
    volume = create_volume(str(tmp_path / "filled.zarr"), layout, {"made": "for a test"})
    voxels = np.random.default_rng(7).integers(1, 255, layout.levels[0].shape, dtype=np.uint8)
    for number, level in enumerate(layout.levels):
        part = voxels if number == 0 else np.full(level.shape, number, np.uint8)
        open_for_writing(volume.url, layout, number).write(part).result()
    return volume, voxels


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """A file server that knows byte ranges, and forbids what it does not have, as public buckets do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        data = file.read_bytes() if file.is_file() else b""
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = wanted.partition("-")
        start = (int(first) if first else max(0, len(data) - int(last))) if wanted else 0
        stop = int(last) + 1 if wanted and first and last else len(data)
        self.send_response(403 if not file.is_file() else 206 if wanted else 200)
        body = data[start:stop]
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Give the URL of `tmp_path` behind HTTP."""
    handler = functools.partial(_Ranges, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()
