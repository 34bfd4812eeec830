"""Every format that is read passes the same suite."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import h5py
import mrcfile
import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from dm_files import image, preview, write_dm
from numpy.typing import NDArray

from volumetool.geometry import Size
from volumetool.storage.formats.registry import FORMATS, readable_formats
from volumetool.storage.io import retries
from volumetool.storage.io.chunks import level_digests
from volumetool.testing.format_suite import FormatSuite

CHUNK = (4, 16, 16)


def test_a_message_names_every_format() -> None:
    assert all(each.name in readable_formats() for each in FORMATS)


def _steps(voxel_size: Size, position: Size) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": list(voxel_size)}, {"type": "translation", "translation": list(position)}]


def _image(voxel_size: Size, position: Size) -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
    return {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": _steps(voxel_size, position)}]}


class TestOmeZarr05(FormatSuite):
    format = "ome-zarr-0.5"
    ending = ".zarr"

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        ome = {"version": "0.5", "multiscales": [_image(voxel_size, position)]}
        group = zarr.create_group(place, zarr_format=3, attributes={"ome": ome})
        group.create_array("s0", data=voxels, chunks=CHUNK, compressors=zarr.codecs.ZstdCodec(checksum=True))


class TestOmeZarr04(FormatSuite):
    format = "ome-zarr-0.4"
    ending = ".zarr"

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        image = {"version": "0.4", **_image(voxel_size, position)}
        zarr.create_group(place, zarr_format=2, attributes={"multiscales": [image]}).create_array(
            "s0", data=voxels, chunks=CHUNK
        )


class TestN5(FormatSuite):
    format = "n5"
    ending = ".n5"

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        metadata = {
            "dimensions": voxels.shape[::-1],
            "blockSize": CHUNK[::-1],
            "dataType": voxels.dtype.name,
            "compression": {"type": "gzip"},
            "axes": ["x", "y", "z"],
            "units": ["nm"] * 3,
            "resolution": voxel_size[::-1],
        }
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(place)}, "metadata": metadata}
        ts.open(spec, create=True).result().write(voxels.transpose()).result()
        attributes = json.loads((place / "attributes.json").read_text())
        (place / "attributes.json").write_text(json.dumps({**attributes, "offset": position[::-1]}))


class _Zipped(FormatSuite):
    """A volume in a zip file."""

    sparse = False
    folder: ClassVar[str] = ""

    @pytest.fixture(autouse=True)
    def _short_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        below = place.parent / f"of {place.name}"
        super().write(below / self.folder, voxels, voxel_size, position)
        with zipfile.ZipFile(place, "w") as archive:
            for each in sorted(below.rglob("*")):
                archive.write(each, each.relative_to(below))

    def test_a_chunk_that_is_written_again_is_another_state(self, tmp_path: Path) -> None:
        place, _ = self._made(tmp_path)
        volume, before = self._open(place), level_digests(self._open(place), 0)
        with zipfile.ZipFile(place, "a") as archive:
            archive.writestr("note.txt", "")
        assert level_digests(volume, 0) != before


class TestOzx(_Zipped, TestOmeZarr05):
    ending = ".ozx"


class TestZippedN5(_Zipped, TestN5):
    ending = ".n5.zip"
    folder = "v.n5"


class TestPrecomputed(FormatSuite):
    format = "precomputed"
    position = (75.0, -20.0, 102.0)  # the corners of voxels are whole multiples of their size

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        corner = [round(at / size - 0.5) for at, size in zip(position, voxel_size, strict=True)]
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": str(place)},
            "multiscale_metadata": {"type": "image", "data_type": voxels.dtype.name, "num_channels": 1},
            "scale_metadata": {
                "key": "s0",
                "size": voxels.shape[::-1],
                "resolution": voxel_size[::-1],
                "voxel_offset": corner[::-1],
                "chunk_size": CHUNK[::-1],
                "encoding": "raw",
            },
        }
        ts.open(spec, create=True).result()[..., 0].write(voxels.transpose()).result()


class _ZarrArray(FormatSuite):
    format = "zarr"
    ending = ".zarr"
    sized = False
    position = (0.0, 0.0, 0.0)
    zarr_format: ClassVar[int]

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it stores neither)
        zarr.create_array(place, data=voxels, chunks=CHUNK, zarr_format=self.zarr_format)  # type: ignore[arg-type]


class TestZarr2Array(_ZarrArray):
    zarr_format = 2


class TestZarr3Array(_ZarrArray):
    zarr_format = 3


class TestHdf5(FormatSuite):
    format = "hdf5"
    ending = ".h5"
    sparse = False

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        with h5py.File(place, "w") as file:
            made = file.create_dataset(
                "volumes/raw", data=voxels, chunks=tuple(map(min, CHUNK, voxels.shape)), compression="gzip"
            )
            made.attrs["resolution"], made.attrs["offset"] = voxel_size, position


class TestNpy(FormatSuite):
    format = "npy"
    ending = ".npy"
    sized = False
    position = (0.0, 0.0, 0.0)
    sparse = False

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it stores neither)
        np.save(place, voxels)


class TestDm3(FormatSuite):
    format = "dm"
    ending = ".dm3"
    dtypes = ("uint16", "uint8", "int8", "int16", "float32")
    sparse = False
    version: ClassVar[int] = 3

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        origins = tuple(-at / size for at, size in zip(position, voxel_size, strict=True))
        write_dm(place, [preview(), image(voxels, voxel_size, ("nm",) * 3, origins)], self.version)


class TestDm4(TestDm3):
    ending = ".dm4"
    version = 4


class TestMrc(FormatSuite):
    format = "mrc"
    ending = ".mrc"
    dtypes = ("uint16", "int8", "int16", "float32")
    sparse = False

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        with mrcfile.new(place) as file:
            file.set_data(voxels)
            file.voxel_size = tuple(10 * size for size in reversed(voxel_size))  # angstrom, x, y, z
            file.header.origin = tuple(10 * at for at in reversed(position))
            file.header.ispg = 1
            file.header.mz = len(voxels)
            file.header.cella.z = 10 * voxel_size[0] * len(voxels)


class TestTurnedMrc(TestMrc):
    """Its columns lie along z, its rows along x, its sections along y."""

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        z, y, x = (10 * size for size in voxel_size)
        with mrcfile.new(place) as file:
            file.set_data(np.ascontiguousarray(voxels.transpose(1, 2, 0)))
            file.header.mapc, file.header.mapr, file.header.maps = 3, 1, 2
            file.header.mx, file.header.my, file.header.mz = voxels.shape[::-1]
            file.header.cella = (x * voxels.shape[2], y * voxels.shape[1], z * voxels.shape[0])
            # Without an origin, the numbers of the first column, row and section say where it is.
            starts = [round(at / size) for at, size in zip(position, voxel_size, strict=True)]
            file.header.nxstart, file.header.nystart, file.header.nzstart = starts[0], starts[2], starts[1]


class TestTiff(FormatSuite):
    format = "tiff"
    ending = ".ome.tif"
    position = (0.0, 0.0, 0.0)
    sparse = False

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it has none)
        sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", voxel_size, strict=True)}
        units = {f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}
        options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "rowsperstrip": 8}
        tifffile.imwrite(place, voxels, metadata={"axes": "ZYX", **sizes, **units}, **options)


class TestFolderOfTiff(TestTiff):
    ending = ""
    sized = False

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002
        place.mkdir(exist_ok=True)
        for number, section in enumerate(voxels):
            tifffile.imwrite(place / f"section {number}.tif", section, photometric="minisblack", tile=(16, 16))
