"""Neuroglancer's precomputed as input: voxels, places, chunks, and what is refused."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from numpy.typing import NDArray

import volumetool as vt
from volumetool.errors import InputError
from volumetool.geometry import Box
from volumetool.storage.formats.precomputed import find_precomputed
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.chunks import stored_chunks

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 2,
    "hash": "murmurhash3_x86_128",
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
OFFSET = (-3, 200, 100)
SIZE = (30.0, 9.0, 8.0)
SHAPE = (11, 40, 60)


def write(path: Path, voxels: NDArray[Any], key: str = "scales/8_9_30", factor: int = 1, **scale: Any) -> Path:
    """Add a scale, voxels (c, z, y, x), `factor` times as coarse along y and x."""
    resolution = [SIZE[2] * factor, SIZE[1] * factor, SIZE[0]]
    offset = [OFFSET[2] // factor, OFFSET[1] // factor, OFFSET[0]]
    own = {"key": key, "encoding": "raw", "resolution": resolution, "voxel_offset": offset, "chunk_size": [32, 16, 4]}
    shared = {"type": "image", "data_type": voxels.dtype.name, "num_channels": len(voxels)}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "multiscale_metadata": shared,
        "scale_metadata": {**own, "size": list(voxels.shape[:0:-1]), **scale},
    }
    store = ts.open(spec, create=True).result()
    store[ts.d[:].translate_to[0]][...] = voxels.T
    return path


def noise(channels: int = 1, dtype: str = "uint8", shape: tuple[int, int, int] = SHAPE) -> NDArray[Any]:
    """Make voxels (c, z, y, x) without a zero."""
    return np.random.default_rng(1).integers(1, 120, (channels, *shape)).astype(dtype)


def read(volume: vt.Volume, level: int = 0, channel: int = 0) -> NDArray[Any]:
    """Return all voxels of a level."""
    return np.asarray(volume.open(level, channel).read().result())


def test_channels_and_scales_are_told_apart(tmp_path: Path) -> None:
    fine, coarse = noise(3, "uint16"), noise(3, "uint16", (11, 20, 30))
    write(tmp_path / "v", coarse, "16_18_30", 2)  # listed first
    write(tmp_path / "v", fine)
    volume = vt.open_volume(tmp_path / "v")
    assert [level.path for level in volume.levels] == ["scales/8_9_30", "16_18_30"]
    assert volume.levels[1].voxel_size == (30.0, 18.0, 16.0)
    assert volume.channels == 3
    for channel in range(3):
        np.testing.assert_array_equal(read(volume, 0, channel), fine[channel])
        np.testing.assert_array_equal(read(volume, 1, channel), coarse[channel])


@pytest.mark.parametrize(("encoding", "most"), [("png", 0), ("jpeg", 12)])
def test_encoded_chunks_are_read(tmp_path: Path, encoding: str, most: int) -> None:
    z, y, x = np.indices(SHAPE)
    voxels = (40 + z + y + x).astype(np.uint8)[None]
    write(tmp_path / "v", voxels, encoding=encoding)
    assert np.abs(read(vt.open_volume(tmp_path / "v")).astype(int) - voxels[0]).max() <= most


@pytest.mark.parametrize("spelling", ["precomputed://{}", "{}/|neuroglancer-precomputed:", "precomputed://file://{}", "{}/"])
def test_it_is_found_as_viewers_spell_it(tmp_path: Path, spelling: str) -> None:
    write(tmp_path / "v", noise())
    assert vt.open_volume(spelling.format(tmp_path / "v")).url == str(tmp_path / "v")


def test_it_is_converted_and_enhanced(tmp_path: Path) -> None:
    voxels = noise()
    source = write(tmp_path / "v", voxels, sharding=SHARDING)
    converted = vt.convert(source, tmp_path / "c.zarr")
    assert (converted.voxel_size, converted.translation) == (SIZE, vt.open_volume(source).translation)
    np.testing.assert_array_equal(read(converted), voxels[0])
    outcome = vt.enhance(source, tmp_path / "e.zarr", model="fake:identity?scale=1,2,2", missing="fail", workers=1)
    assert outcome.complete
    enhanced = vt.open_volume(tmp_path / "e.zarr")
    np.testing.assert_array_equal(read(enhanced)[:, ::2, ::2], voxels[0])
    assert enhanced.translation == tuple(
        at + (new - old) / 2
        for at, new, old in zip(converted.translation, enhanced.voxel_size, converted.voxel_size, strict=True)
    )


@pytest.mark.parametrize("sharding", [None, SHARDING, SHARDING | {"hash": "identity"}], ids=["files", "murmur", "identity"])
def test_chunks_that_are_not_stored_are_seen(tmp_path: Path, sharding: dict[str, Any] | None) -> None:
    voxels = noise()
    hole = np.s_[:, 4:8, 16:32, 32:60]
    voxels[hole] = 0
    write(tmp_path / "v", voxels, **({} if sharding is None else {"sharding": sharding}))
    volume = vt.open_volume(tmp_path / "v")
    chunks, array = stored_chunks(volume, 0, 0), volume.open(strict=True)
    absent = chunks.absent(Box.whole(SHAPE), chunks.never_stored(Box.whole(SHAPE), array))
    np.testing.assert_array_equal(absent, voxels[0] == 0)
    np.testing.assert_array_equal(read_part(array, (slice(None),) * 3), voxels[0])
    assert "chunk" in chunks.name((1, 1, 1))


def test_a_region_whose_chunk_is_gone_fails_where_that_is_asked(tmp_path: Path) -> None:
    write(tmp_path / "v", noise())
    (tmp_path / "v" / "scales" / "8_9_30" / "132-160_216-232_1-5").unlink()
    outcome = vt.enhance(tmp_path / "v", tmp_path / "e.zarr", model="fake:identity", missing="fail", workers=1)
    assert not outcome.complete
    assert "132-160_216-232_1-5" in str(outcome.failures[0].error["message"])


def test_a_copy_has_the_same_identity_and_another_offset_another(tmp_path: Path) -> None:
    volumes = [vt.open_volume(write(tmp_path / name, noise(), **more)) for name, more in (("a", {}), ("b", {}))]
    assert volumes[0].identity == volumes[1].identity
    _edit(tmp_path / "b", voxel_offset=[0, 0, 0])
    assert vt.open_volume(tmp_path / "b").identity != volumes[0].identity


def _edit(path: Path, **scale: Any) -> None:
    info = json.loads((path / "info").read_text())
    info["scales"][0].update(scale)
    (path / "info").write_text(json.dumps(info))


def _kind(path: Path, **members: Any) -> None:
    info = json.loads((path / "info").read_text())
    (path / "info").write_text(json.dumps(info | members))


@pytest.mark.parametrize(
    ("scale", "members", "code"),
    [
        ({"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}, {}, "input.labels"),
        ({}, {"type": "segmentation"}, "input.labels"),
        ({"encoding": "kempressed"}, {}, "input.unsupported"),
        ({"resolution": [0, 8, 8]}, {}, "input.broken-metadata"),
        ({"size": "wide"}, {}, "input.broken-metadata"),
        ({"key": "../elsewhere"}, {}, "input.broken-metadata"),
        ({}, {"data_type": "uint64"}, "input.dtype"),
        ({}, {"data_type": "float16"}, "input.unsupported"),
        ({}, {"num_channels": 0}, "input.unsupported"),
    ],
)
def test_what_is_no_readable_image_is_refused_by_name(
    tmp_path: Path, scale: dict[str, Any], members: dict[str, Any], code: str
) -> None:
    write(tmp_path / "v", noise())
    _edit(tmp_path / "v", **scale)
    _kind(tmp_path / "v", **members)
    with pytest.raises(InputError) as caught:
        vt.open_volume(tmp_path / "v")
    assert caught.value.code == code


def test_chunk_files_that_are_packed_are_refused_and_not_taken_for_missing(tmp_path: Path) -> None:
    voxels = noise()
    write(tmp_path / "v", voxels)
    folder = tmp_path / "v" / "scales" / "8_9_30"
    for file in list(folder.iterdir()):  # as cloud-volume writes by default
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    with pytest.raises(InputError, match=r"\.gz.*read are plain") as caught:
        vt.open_volume(tmp_path / "v")
    assert caught.value.code == "input.unsupported"
    subprocess.run(["gunzip", "-r", str(folder)], check=True)  # as the hint says
    np.testing.assert_array_equal(read(vt.open_volume(tmp_path / "v")), voxels[0])


def test_a_segmentation_can_still_be_looked_at(tmp_path: Path) -> None:
    write(tmp_path / "v", noise(dtype="uint64"))
    _kind(tmp_path / "v", type="segmentation")
    found = find_precomputed(str(tmp_path / "v"))
    assert found is not None
    assert found.kind == "segmentation"
    assert found.open().shape == SHAPE
