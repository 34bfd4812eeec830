"""What was never stored reads as fill, and what is gone is an error, however it went."""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from volumetool.errors import InputError
from volumetool.storage.io import arrays, presence, retries
from volumetool.storage.io.arrays import open_array, read_part
from volumetool.storage.io.retries import VanishedError
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume

SHAPE, WHOLE = (4, 8, 12), (slice(1, 4), slice(0, 8), slice(1, 12))
GRID = {"name": "regular", "configuration": {"chunk_shape": [2, 4, 4]}}
SHARDS = {"name": "regular", "configuration": {"chunk_shape": [4, 8, 8]}}
SHARDING = {"name": "sharding_indexed", "configuration": {"chunk_shape": [2, 4, 4]}}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "zarr": ("zarr", {"shape": SHAPE, "chunks": [2, 4, 4], "dtype": "<u2", "fill_value": 9}),
    "zarr3": ("zarr3", {"shape": SHAPE, "chunk_grid": GRID, "data_type": "uint16", "fill_value": 9}),
    "shards": (
        "zarr3",
        {"shape": SHAPE, "chunk_grid": SHARDS, "data_type": "uint16", "fill_value": 9, "codecs": [SHARDING]},
    ),
    "n5": ("n5", {"dimensions": SHAPE, "blockSize": [2, 4, 4], "dataType": "uint16", "compression": {"type": "raw"}}),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)


def write(folder: Path, kind: str) -> tuple[ts.TensorStore, np.ndarray[Any, Any]]:
    """Write an array of which some chunks are not stored; return it, strict, and its voxels."""
    driver, metadata = KINDS[kind]
    spec = {"driver": driver, "kvstore": f"file://{folder}/", "fill_missing_data_reads": False}
    array = ts.open(spec | {"metadata": metadata}, create=True).result()
    voxels = np.full(SHAPE, 0 if kind == "n5" else 9, np.uint16)
    for part in ((slice(0, 2), slice(0, 4), slice(0, 4)), (slice(2, 4), slice(4, 8), slice(0, 8))):
        voxels[part] = np.random.default_rng(0).integers(10, 999, voxels[part].shape)
        array[part].write(voxels[part]).result()
    return ts.open(spec, read=True, open=True).result(), voxels


def test_what_was_never_stored_is_the_fill_value(tmp_path: Path, kind: str) -> None:
    array, voxels = write(tmp_path / "a", kind)
    np.testing.assert_array_equal(read_part(array, WHOLE), voxels[WHOLE])
    turned = array.transpose((2, 0, 1))[3:]  # a view, as volumes of other axes are seen
    np.testing.assert_array_equal(read_part(turned, (slice(3, 9),)), voxels.transpose(2, 0, 1)[3:9])


@pytest.mark.parametrize("away", ["whole", "chunks"])
def test_what_is_away_between_two_looks_is_read_again(
    tmp_path: Path, kind: str, away: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away while voxels are read, and back before anybody looks whether the array is there."""
    array, voxels = write(tmp_path / "a", kind)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    for file in (tmp_path / "a").rglob("*"):
        if file.is_file() and (away == "whole" or file.name not in presence.METADATA.values()):
            file.unlink()
    looks: list[int] = []

    def check_there(view: ts.TensorStore) -> None:
        shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
        looks.append(1)
        found(view)

    found = presence.check_there
    monkeypatch.setattr(presence, "check_there", check_there)
    np.testing.assert_array_equal(read_part(array, WHOLE), voxels[WHOLE])
    assert len(looks) == 2


@pytest.mark.parametrize("how", ["gone", "another", "another dtype", "torn"])
def test_an_array_that_is_gone_is_named(tmp_path: Path, kind: str, how: str) -> None:
    array, _ = write(tmp_path / "a", kind)
    file = next(file for file in (tmp_path / "a").iterdir() if file.name in presence.METADATA.values())
    metadata = json.loads(file.read_bytes())
    shutil.rmtree(tmp_path / "a")
    if how != "gone":
        (tmp_path / "a").mkdir()
        if how == "another dtype":
            metadata[{"n5": "dataType", "zarr": "dtype"}.get(kind, "data_type")] = "<i2" if kind == "zarr" else "int16"
        else:
            metadata["dimensions" if kind == "n5" else "shape"] = [4, 8, 11]
        file.write_bytes(json.dumps(metadata).encode()[: 20 if how == "torn" else None])
    with pytest.raises(InputError) as caught:
        read_part(array, WHOLE)
    assert caught.value.code == "input.vanished"
    assert str(tmp_path / "a") in caught.value.message
    assert "tried 8 times" in caught.value.message


OTHER: dict[str, dict[str, dict[str, Any]]] = {
    "fill value": {"zarr": {"fill_value": 8}, "zarr3": {"fill_value": 8}},
    "codec": {
        "zarr": {"compressor": {"id": "zlib", "level": 1}},
        "zarr3": {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
        "n5": {"compression": {"type": "gzip"}},
    },
    "chunks": {
        "zarr": {"chunks": [2, 4, 8]},
        "zarr3": {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 8, 4]}}},
        "n5": {"blockSize": [2, 4, 8]},
    },
    "keys": {"zarr": {"dimension_separator": "/"}, "zarr3": {"chunk_key_encoding": {"name": "v2"}}},
}


@pytest.mark.parametrize(("what", "kind"), [(what, kind) for what, kinds in OTHER.items() for kind in kinds])
def test_an_array_that_was_replaced_by_one_of_other_bytes_is_named(tmp_path: Path, what: str, kind: str) -> None:
    array, _ = write(tmp_path / "a", kind)
    file = next(file for file in (tmp_path / "a").iterdir() if file.name in presence.METADATA.values())
    metadata = json.loads(file.read_bytes())
    file.write_text(json.dumps(metadata | {"dimensions" if kind == "n5" else "shape": [9, 9, 99]}))
    presence.check_there(array)  # which has grown
    file.write_text(json.dumps(metadata | OTHER[what][kind]))
    with pytest.raises(VanishedError, match=r"another array lies at .* and not"):
        presence.check_there(array)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("sharded", [False, True])
def test_an_array_is_the_same_however_its_metadata_are_spelled(tmp_path: Path, dtype: str, *, sharded: bool) -> None:
    """By another writer, which says the order of single bytes, too; opened once, and opened again."""
    little = [{"name": "bytes", "configuration": {"endian": "little"}}]
    codecs = [{**SHARDING, "configuration": {"chunk_shape": [2, 4, 4], "codecs": little, "index_codecs": little}}]
    metadata = {"zarr_format": 3, "node_type": "array", "shape": SHAPE, "data_type": dtype, "fill_value": 9}
    metadata |= {"chunk_grid": SHARDS if sharded else GRID, "chunk_key_encoding": {"name": "default"}}
    (tmp_path / "zarr.json").write_text(json.dumps(metadata | {"codecs": codecs if sharded else little}))
    array = open_array(str(tmp_path), "zarr3", strict=True)
    for handle in (array, arrays.reopened(array), arrays.reopened(arrays.reopened(array))):
        presence.check_there(handle)
        assert (read_part(handle, WHOLE) == 9).all()


def test_a_precomputed_volume_that_was_replaced_is_named(tmp_path: Path) -> None:
    info, array = tmp_path / "info", write_precomputed(tmp_path)
    metadata = json.loads(info.read_bytes())
    presence.check_there(array)
    for other in ({"voxel_offset": [0, 0, 1]}, {"chunk_sizes": [[8, 8, 4]]}, {"encoding": "jpeg"}, {"size": [8, 8, 7]}):
        info.write_text(json.dumps(metadata | {"scales": [metadata["scales"][0] | other]}))
        with pytest.raises(VanishedError, match="another array"):
            presence.check_there(array)


def write_precomputed(folder: Path) -> ts.TensorStore:
    scale = {"size": [8, 8, 8], "chunk_size": [8, 8, 8], "encoding": "raw", "resolution": [8, 8, 8], "key": "8"}
    multiscale = {"type": "image", "data_type": "uint8", "num_channels": 1}
    spec = {"driver": "neuroglancer_precomputed", "kvstore": f"file://{folder}/"}
    ts.open(spec | {"scale_metadata": scale, "multiscale_metadata": multiscale}, create=True).result()
    return open_array(str(folder), "neuroglancer_precomputed", "8", strict=True)


def test_what_is_gone_is_waited_for_six_seconds_whatever_chance_says(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.undo()
    unlucky = retries.Retries(sleep=waited.append, chance=lambda: 0.0)

    def look(_: int) -> None:
        raise retries.VanishedError("a disk")

    with pytest.raises(retries.VanishedError):
        unlucky.call(look)
    assert 6 < sum(waited) < 7


def test_volumes_without_gaps_are_read_as_before(filled: tuple[Volume, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No request more: nobody looks for metadata or for chunks one by one."""
    volume, voxels = filled
    monkeypatch.setattr(arrays, "read_sparse", None)
    np.testing.assert_array_equal(read_part(volume.open(strict=True), (slice(None),) * 3), voxels)


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[str]:
    """Give the URL of `tmp_path` behind Python's own server, which ignores ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_without_byte_ranges_is_called_that(plain: str, filled: tuple[Volume, Any]) -> None:
    volume = open_volume(f"{plain}/{Path(filled[0].url).name}")
    with pytest.raises(InputError) as caught:
        read_part(volume.open(strict=True), (slice(None),) * 3)
    assert caught.value.code == "input.no-ranges"
    assert "range requests" in caught.value.message
    assert "damage" not in str(caught.value)
