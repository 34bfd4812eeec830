"""Formats of single files, and folders of them: each keeps the promises of every format."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, ClassVar

import h5py
import mrcfile
import numpy as np
import pytest
import tifffile
from dm_files import image, preview, write_dm
from format_cases import CHUNK, EMPTY, FLIPPED, HUGE, ORDER, UNSURE
from numpy.typing import NDArray
from PIL import Image

from volumetool.geometry import Size
from volumetool.testing.format_suite import FormatSuite


class TestHdf5(FormatSuite):
    format = "hdf5"
    ending = ".h5"
    sparse = False
    wider = ("uint32", "int32", "uint64", "int64", "float16", "float64")  # h5py's bool is an enumeration
    lacks: ClassVar[dict[str, str]] = {FLIPPED: "the list of its chunks has no checksum"}

    def declare(self, place: Path, sections: int) -> None:
        with h5py.File(place, "r+") as file:
            file["volumes/raw"].resize(sections, axis=0)

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        with h5py.File(place, "w") as file:
            made = file.create_dataset(
                "volumes/raw",
                data=voxels,
                chunks=tuple(min(chunk, max(1, n)) for chunk, n in zip(CHUNK, voxels.shape, strict=True)),
                compression="gzip",
                maxshape=(None, None, None),
            )
            made.attrs["resolution"], made.attrs["offset"] = voxel_size, position


class TestNpy(FormatSuite):
    format = "npy"
    ending = ".npy"
    sized = False
    position = (0.0, 0.0, 0.0)
    sparse = False
    lacks: ClassVar[dict[str, str]] = {FLIPPED: UNSURE}

    def declare(self, place: Path, sections: int) -> None:
        content = place.read_bytes()
        shape = content[content.index(b"'shape': (") : content.index(b")")]
        longer = b"'shape': (%d,%s" % (sections, shape.partition(b",")[2])
        place.write_bytes(content.replace(shape, longer, 1).replace(b" " * (len(longer) - len(shape)), b"", 1))

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it stores neither)
        np.save(place, voxels)


class TestDm3(FormatSuite):
    format = "dm"
    ending = ".dm3"
    dtypes = ("uint16", "uint8", "int8", "int16", "float32")
    wider = ("uint32", "int32")
    sparse = False
    lacks: ClassVar[dict[str, str]] = {
        FLIPPED: UNSURE,
        ORDER: "its voxels are little-endian wherever it is written today",
        HUGE: "its lengths stand in tags that are read by ncempy; test_dm.py damages them all",
    }
    version: ClassVar[int] = 3

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        origins = tuple(-at / size for at, size in zip(position, voxel_size, strict=True))
        write_dm(place, [preview(), image(voxels, voxel_size, ("nm",) * 3, origins)], self.version)


@pytest.mark.slow
class TestDm4(TestDm3):
    ending = ".dm4"
    version = 4


class TestMrc(FormatSuite):
    format = "mrc"
    ending = ".mrc"
    dtypes = ("uint16", "int8", "int16", "float32")
    wider = ()  # its halves are read as float32
    sparse = False
    lacks: ClassVar[dict[str, str]] = {FLIPPED: UNSURE}

    def declare(self, place: Path, sections: int) -> None:
        content = bytearray(place.read_bytes())
        content[8:12] = sections.to_bytes(4, "little")
        place.write_bytes(content)

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        with warnings.catch_warnings(action="ignore"), mrcfile.new(place) as file:  # it warns of NaN
            file.set_data(voxels)
            file.voxel_size = tuple(10 * size for size in reversed(voxel_size))  # angstrom, x, y, z
            file.header.origin = tuple(10 * at for at in reversed(position))
            file.header.ispg = 1
            file.header.mz = len(voxels)
            file.header.cella.z = 10 * voxel_size[0] * len(voxels)


class TestNrrd(FormatSuite):
    format = "nrrd"
    ending = ".nrrd"
    sparse = False
    wider = ("uint32", "int32", "uint64", "int64", "float64")
    lacks: ClassVar[dict[str, str]] = {FLIPPED: "it has no checksum"}

    def declare(self, place: Path, sections: int) -> None:
        place.write_bytes(place.read_bytes().replace(b"sizes: 37 26 9\n", f"sizes: 37 26 {sections}\n".encode()))

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        z, y, x = voxel_size
        fields = [
            f"type: {({'float32': 'float', 'float64': 'double'}).get(voxels.dtype.name, voxels.dtype.name)}",
            "dimension: 3",
            "space dimension: 3",
            f"sizes: {' '.join(map(str, voxels.shape[::-1]))}",
            f"space directions: ({x},0,0) (0,{y},0) (0,0,{z})",
            'space units: "nm" "nm" "nm"',
            f"space origin: ({','.join(map(str, position[::-1]))})",
            f"endian: {'big' if voxels.dtype.byteorder == '>' else 'little'}",
            "encoding: raw",
        ]
        head = "\n".join(["NRRD0004", "# made by hand", *fields, "\n"])
        place.write_bytes(head.encode() + voxels.tobytes())


@pytest.mark.slow
class TestTurnedMrc(TestMrc):
    """Its columns lie along z, its rows along x, its sections along y."""

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        z, y, x = (10 * size for size in voxel_size)
        with warnings.catch_warnings(action="ignore"), mrcfile.new(place) as file:
            file.set_data(np.ascontiguousarray(voxels.transpose(1, 2, 0)))
            file.header.mapc, file.header.mapr, file.header.maps = 3, 1, 2
            file.header.mx, file.header.my, file.header.mz = voxels.shape[::-1]
            file.header.cella = (x * voxels.shape[2], y * voxels.shape[1], z * voxels.shape[0])
            # Without an origin, the numbers of the first column, row and section say where it is.
            starts = [round(at / size) for at, size in zip(position, voxel_size, strict=True)]
            file.header.nxstart, file.header.nystart, file.header.nzstart = starts[0], starts[2], starts[1]


class TestTiff(FormatSuite):
    """OME-TIFF."""

    format = "tiff"
    ending = ".ome.tif"
    position = (0.0, 0.0, 0.0)
    sparse = False
    wider = ("uint32", "int32", "float64")
    lacks: ClassVar[dict[str, str]] = {EMPTY: "tifffile writes no page without pixels"}

    def declare(self, place: Path, sections: int) -> None:
        said = tifffile.tiffcomment(place)
        tifffile.tiffcomment(place, said.replace('SizeZ="9"', f'SizeZ="{sections}"').encode())

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it has none)
        sizes = {f"PhysicalSize{axis}": size for axis, size in zip("ZYX", voxel_size, strict=True)}
        units = {f"PhysicalSize{axis}Unit": "nm" for axis in "ZYX"}
        options: dict[str, Any] = {"photometric": "minisblack", "compression": "zlib", "rowsperstrip": 8}
        metadata = {"axes": "ZYX", **sizes, **units}
        tifffile.imwrite(place, voxels, byteorder=_byte_order(voxels), metadata=metadata, **options)


def _byte_order(voxels: NDArray[Any]) -> Any:
    return ">" if voxels.dtype.byteorder == ">" else "<"


@pytest.mark.slow
class TestTiffOfImageJ(TestTiff):
    ending = ".tif"
    dtypes = ("uint8", "uint16", "float32")
    wider = ()
    lacks: ClassVar[dict[str, str]] = {**TestTiff.lacks, FLIPPED: UNSURE}

    def declare(self, place: Path, sections: int) -> None:
        said = tifffile.tiffcomment(place)
        tifffile.tiffcomment(place, said.replace("slices=9", f"slices={sections}").replace("images=9", f"images={sections}"))

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002
        resolution = (1 / voxel_size[2], 1 / voxel_size[1])
        metadata = {"axes": "ZYX", "spacing": voxel_size[0], "unit": "nm"}
        tifffile.imwrite(place, voxels, imagej=True, byteorder=_byte_order(voxels), resolution=resolution, metadata=metadata)


@pytest.mark.slow
class TestTiffPageByPage(TestTiff):
    """BigTIFF, written page by page in tiles."""

    ending = ".tiff"
    sized = False
    wider = ("uint32", "int32", "uint64", "int64", "float16", "float64")
    lacks: ClassVar[dict[str, str]] = {**TestTiff.lacks, HUGE: "it has as many sections as pages"}

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002
        with tifffile.TiffWriter(place, bigtiff=True, byteorder=_byte_order(voxels)) as writer:
            for section in voxels:
                writer.write(section, photometric="minisblack", tile=(16, 16), compression="zlib", metadata=None)


class TestFolderOfPng(FormatSuite):
    format = "png"
    dtypes = ("uint8", "uint16")
    wider = ()
    lacks: ClassVar[dict[str, str]] = {HUGE: "every section is a file"}
    position = (0.0, 0.0, 0.0)
    sparse = False
    sized = False

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it has none)
        place.mkdir(exist_ok=True)
        for number, section in enumerate(voxels):
            Image.fromarray(section).save(place / f"section {number}.png")


@pytest.mark.slow
class TestFolderOfBmp(TestFolderOfPng):
    format = "bmp"
    dtypes = ("uint8",)
    lacks: ClassVar[dict[str, str]] = {**TestFolderOfPng.lacks, FLIPPED: "it has no checksum"}

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it has none)
        place.mkdir(exist_ok=True)
        for number, section in enumerate(voxels):
            Image.fromarray(section).save(place / f"section {number}.BMP")


class TestFolderOfTiff(TestTiff):
    ending = ""
    sized = False
    wider = ("uint32", "int32", "uint64", "int64", "float16", "float64")
    lacks: ClassVar[dict[str, str]] = {HUGE: "it has as many sections as files", FLIPPED: UNSURE}

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002
        place.mkdir(exist_ok=True)
        for number, section in enumerate(voxels):
            file, order = place / f"section {number}.tif", _byte_order(voxels)
            tifffile.imwrite(file, section, byteorder=order, photometric="minisblack", tile=(16, 16))
