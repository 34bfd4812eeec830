"""A volume in a format that the client does not read is shown as the OME-Zarr that it is served as."""

from __future__ import annotations

import asyncio
import zipfile
from itertools import product
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import zarr

from volumetool.storage.convert_volume import convert
from volumetool.storage.open import open_volume
from volumetool.viewer.layers import make_layers
from volumetool.viewer.ngff_compat import readable
from volumetool.viewer.view import view

VOXELS = np.random.default_rng(1).integers(1, 1000, (6, 300, 270), np.int16)


def test_the_client_reads_the_same_voxels_at_the_same_place(tmp_path: Path) -> None:
    with mrcfile.new(tmp_path / "v.mrc") as file:
        file.set_data(VOXELS)
        file.voxel_size = 40.0
        file.header.origin = (120.0, -40.0, 0.0)
    (layer,) = make_layers([tmp_path / "v.mrc"])
    source = layer.source("http://127.0.0.1:1/t/0")
    assert source == {"url": "http://127.0.0.1:1/t/0/|zarr3:"}
    keys = readable(layer.volume)
    copy = tmp_path / "copy"
    for key in ("zarr.json", "0/zarr.json", *(f"0/c/{z}/{y}/{x}" for z, y, x in product((0, 1), (0, 1), (0, 1)))):
        content = asyncio.run(keys(key))
        assert content is not None
        (copy / key).parent.mkdir(parents=True, exist_ok=True)
        (copy / key).write_bytes(content.read(0, content.size))
    for other in ("v.mrc", "0/c/2/0/0", "c/0/0/0", "../v.mrc"):
        assert asyncio.run(keys(other)) is None
    served, given = open_volume(copy), open_volume(tmp_path / "v.mrc")
    np.testing.assert_array_equal(served.open().read().result(), VOXELS)
    assert (served.voxel_size, served.translation) == (given.voxel_size, given.translation)


def test_a_volume_in_a_zip_file_is_served_as_it_is_read(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VOXELS)
    convert(tmp_path / "v.npy", tmp_path / "v.n5", voxel_size=(4.0, 4.0, 4.0))
    with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
        for file in (tmp_path / "v.n5").rglob("*"):
            archive.write(file, file.relative_to(tmp_path))
    (layer,) = make_layers([tmp_path / "v.zip"])
    assert layer.is_local
    assert layer.source("http://127.0.0.1:1/t/0") == {"url": "http://127.0.0.1:1/t/0/|zarr3:"}
    content = asyncio.run(readable(layer.volume)("0/c/0/0/0"))
    assert content is not None
    first = np.frombuffer(content.read(0, content.size), "<i2", VOXELS[:4, :256, :256].size).reshape(4, 256, 256)
    np.testing.assert_array_equal(first, VOXELS[:4, :256, :256])


def test_the_client_reads_every_channel(tmp_path: Path) -> None:
    voxels = np.stack([VOXELS, 2 * VOXELS])
    with h5py.File(tmp_path / "v.h5", "w") as file:
        file.create_dataset("both", data=voxels, chunks=(1, 4, 64, 64)).attrs["resolution"] = (30.0, 8.0, 4.0)
    (layer,) = make_layers([tmp_path / "v.h5" / "both"])
    keys = readable(layer.volume)
    for key in ("zarr.json", "0/zarr.json", *(f"0/c/{c}/{z}/{y}/{x}" for c, z, y, x in product((0, 1), repeat=4))):
        content = asyncio.run(keys(key))
        assert content is not None
        (tmp_path / "copy" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / key).write_bytes(content.read(0, content.size))
    served = open_volume(tmp_path / "copy")
    for channel, wanted in enumerate(voxels):
        np.testing.assert_array_equal(served.open(channel=channel).read().result(), wanted)


def test_arrays_volumes_and_places_are_viewed_together(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VOXELS)
    stored = zarr.create_array(tmp_path / "v.zarr", shape=VOXELS.shape, dtype=VOXELS.dtype)
    fine = open_volume(VOXELS.repeat(2, 2), voxel_size=(30, 8, 4))
    with view([VOXELS, fine, stored, tmp_path / "v.npy"], voxel_size=(30, 8, 8)) as shown, view(VOXELS, voxel_size=(1, 1, 1)):
        names = [layer.name for layer in shown.layers]
        assert names == ["array", "array (2)", "v.zarr", "v.npy"]
        assert shown.layers[0].corners == shown.layers[1].corners
    content = asyncio.run(readable(shown.layers[0].volume)("0/c/0/0/0"))
    assert content is not None
    first = np.frombuffer(content.read(0, content.size), "<i2", VOXELS[:4, :256, :256].size).reshape(4, 256, 256)
    np.testing.assert_array_equal(first, VOXELS[:4, :256, :256])
