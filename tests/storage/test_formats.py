"""Every format that is read passes the same suite."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tensorstore as ts
import zarr
from format_cases import CHUNK, FLIPPED, ORDER, UNSURE
from numpy.typing import NDArray

from volumetool.geometry import Size
from volumetool.storage.formats.registry import FORMATS, readable_formats
from volumetool.storage.io.chunks import level_digests
from volumetool.testing.format_suite import FormatSuite


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def _lengthen(file: Path, sections: int) -> None:
    """Change the length of a Zarr array in its metadata."""
    _edit(file, lambda array: array["shape"].__setitem__(-3, sections))


def test_a_message_names_every_format() -> None:
    assert all(each.name in readable_formats() for each in FORMATS)


def _steps(voxel_size: Size, position: Size) -> list[dict[str, Any]]:
    return [{"type": "scale", "scale": list(voxel_size)}, {"type": "translation", "translation": list(position)}]


def _image(voxel_size: Size, position: Size, order: str = "zyx") -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in order]
    turned = [tuple(each["zyx".index(axis)] for axis in order) for each in (voxel_size, position)]
    return {"axes": axes, "datasets": [{"path": "s0", "coordinateTransformations": _steps(*turned)}]}  # type: ignore[arg-type]


def _order(voxels: NDArray[Any]) -> Any:
    """Return the codec of Zarr 3 that keeps the byte order of voxels."""
    return zarr.codecs.BytesCodec(endian="big" if voxels.dtype.byteorder == ">" else "little")


class TestOmeZarr05(FormatSuite):
    format = "ome-zarr-0.5"
    ending = ".zarr"
    options: ClassVar[dict[str, Any]] = {}

    def declare(self, place: Path, sections: int) -> None:
        _lengthen(place / "s0" / "zarr.json", sections)

    def ome(self, voxel_size: Size, position: Size) -> dict[str, Any]:
        """Return the metadata of the image."""
        return {"version": "0.5", "multiscales": [_image(voxel_size, position)]}

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        group = zarr.create_group(place, zarr_format=3, attributes={"ome": self.ome(voxel_size, position)})
        codec = zarr.codecs.ZstdCodec(checksum=True)
        group.create_array("s0", data=voxels, chunks=CHUNK, compressors=codec, serializer=_order(voxels), **self.options)


@pytest.mark.slow
class TestOmeZarr05Shards(TestOmeZarr05):
    options: ClassVar[dict[str, Any]] = {"shards": (8, 32, 32)}


@pytest.mark.slow
class TestOmeZarr06(TestOmeZarr05):
    format = "ome-zarr-0.6"

    def ome(self, voxel_size: Size, position: Size) -> dict[str, Any]:
        image = _image(voxel_size, position)
        steps = image["datasets"][0]["coordinateTransformations"]
        way = {"type": "sequence", "input": {"path": "s0"}, "output": {"name": "nm"}, "transformations": steps}
        systems = [{"name": "nm", "axes": image["axes"]}]
        datasets = [{"path": "s0", "coordinateTransformations": [way]}]
        return {"version": "0.6", "multiscales": [{"coordinateSystems": systems, "datasets": datasets}]}


class TestOmeZarr04(FormatSuite):
    format = "ome-zarr-0.4"
    ending = ".zarr"
    lacks: ClassVar[dict[str, str]] = {FLIPPED: UNSURE}
    axes: ClassVar[str] = "zyx"

    def declare(self, place: Path, sections: int) -> None:
        _edit(place / "s0" / ".zarray", lambda array: array["shape"].__setitem__(self.axes.index("z"), sections))

    def image(self, voxel_size: Size, position: Size) -> dict[str, Any]:
        return {"version": "0.4", **_image(voxel_size, position, self.axes)}

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        image, shape = self.image(voxel_size, position), {"t": 1, "c": 1, **dict(zip("zyx", voxels.shape, strict=True))}
        stored = voxels.transpose(["zyx".index(axis) for axis in self.axes if axis in "zyx"])
        chunks = tuple({"t": 1, "c": 1, **dict(zip("zyx", CHUNK, strict=True))}[axis] for axis in self.axes)
        zarr.create_group(place, zarr_format=2, attributes={"multiscales": [image]}).create_array(
            "s0", data=stored.reshape([shape[axis] for axis in self.axes]), chunks=chunks
        )


@pytest.mark.slow
class TestOmeZarrTransposed(TestOmeZarr04):
    axes = "xzy"


@pytest.mark.slow
class TestOmeZarr03(TestOmeZarr04):
    sized = False
    position = (0.0, 0.0, 0.0)

    def image(self, voxel_size: Size, position: Size) -> dict[str, Any]:  # noqa: ARG002  (it stores neither)
        return {"version": "0.3", "axes": list(self.axes), "datasets": [{"path": "s0"}]}


@pytest.mark.slow
class TestOmeZarr02(TestOmeZarr03):
    axes = "tczyx"

    def image(self, voxel_size: Size, position: Size) -> dict[str, Any]:  # noqa: ARG002
        return {"version": "0.2", "datasets": [{"path": "s0"}]}


class TestOmeZarr01(TestOmeZarr02):
    def image(self, voxel_size: Size, position: Size) -> dict[str, Any]:
        return {**super().image(voxel_size, position), "version": "0.1"}


class TestN5(FormatSuite):
    """Of one dataset that says where it lies, as Neuroglancer and Paintera spell it."""

    format = "n5"
    ending = ".n5"
    wider = ("uint32", "int32", "uint64", "int64", "float64")
    lacks: ClassVar[dict[str, str]] = {ORDER: "its voxels are always big-endian"}
    dataset: ClassVar[str] = ""
    """Where the voxels are, below the place."""

    def attributes(self, voxel_size: Size, position: Size) -> dict[str, dict[str, Any]]:
        """Return the attributes of each group and dataset."""
        size, at = list(voxel_size[::-1]), list(position[::-1])
        return {"": {"axes": ["x", "y", "z"], "units": ["nm"] * 3, "resolution": size, "offset": at}}

    def declare(self, place: Path, sections: int) -> None:
        _edit(place / self.dataset / "attributes.json", lambda array: array["dimensions"].__setitem__(2, sections))

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        metadata = {
            "dimensions": voxels.shape[::-1],
            "blockSize": CHUNK[::-1],
            "dataType": voxels.dtype.name,
            "compression": {"type": "gzip"},
        }
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(place / self.dataset)}, "metadata": metadata}
        ts.open(spec, create=True).result().write(voxels.transpose()).result()
        for where, said in self.attributes(voxel_size, position).items():
            file = place / where / "attributes.json"
            file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | said))


@pytest.mark.slow
class TestN5Viewer(TestN5):
    dataset = "s0"
    position = (0.0, 0.0, 0.0)

    def attributes(self, voxel_size: Size, position: Size) -> dict[str, dict[str, Any]]:  # noqa: ARG002  (it has none)
        size = {"unit": "um", "dimensions": [value / 1000 for value in voxel_size[::-1]]}
        return {"": {"n5": "2.0.0", "downsamplingFactors": [[1, 1, 1]], "pixelResolution": size}}


@pytest.mark.slow
class TestN5Paintera(TestN5):
    dataset = "data/s0"

    def attributes(self, voxel_size: Size, position: Size) -> dict[str, dict[str, Any]]:
        group = {"multiScale": True, "resolution": list(voxel_size[::-1]), "offset": list(position[::-1])}
        return {"": {"n5": "2.0.0", "painteraData": {"type": "raw"}}, "data": group, "data/s0": {}}


@pytest.mark.slow
class TestN5Cosem(TestN5):
    dataset = "s0"

    def attributes(self, voxel_size: Size, position: Size) -> dict[str, dict[str, Any]]:
        axes = {"axes": ["z", "y", "x"], "units": ["nm"] * 3}
        transform = {**axes, "scale": list(voxel_size), "translate": list(position)}
        return {"": {"multiscales": [{"datasets": [{"path": "s0", "transform": transform}]}]}, "s0": {"transform": transform}}


@pytest.mark.slow
class TestN5BigDataViewer(TestN5):
    dataset = "setup0/timepoint0/s0"
    position = (0.0, 0.0, 0.0)

    def attributes(self, voxel_size: Size, position: Size) -> dict[str, dict[str, Any]]:  # noqa: ARG002  (its XML has it)
        group = {"multiScale": True, "resolution": list(voxel_size[::-1])}
        setup = {
            "downsamplingFactors": [[1, 1, 1]],
            "dataType": "uint8",
            "voxelSize": {"size": list(voxel_size[::-1]), "unit": "nm"},
        }
        return {"": {"n5": "2.0.0"}, "setup0": setup, "setup0/timepoint0": group}


class _Zipped(FormatSuite):
    """A volume in a zip file."""

    sparse = False
    folder: ClassVar[str] = ""

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:
        below = place.parent / f"of {place.name}"
        super().write(below / self.folder, voxels, voxel_size, position)
        self._pack(place)

    def declare(self, place: Path, sections: int) -> None:
        below = place.parent / f"of {place.name}"
        super().declare(below / self.folder, sections)
        self._pack(place)

    def _pack(self, place: Path) -> None:
        below = place.parent / f"of {place.name}"
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


@pytest.mark.slow
class TestZippedN5(_Zipped, TestN5):
    ending = ".n5.zip"
    folder = "v.n5"


class TestPrecomputed(FormatSuite):
    format = "precomputed"
    wider = ("uint32", "int32", "uint64")
    lacks: ClassVar[dict[str, str]] = {ORDER: "its voxels are always little-endian", FLIPPED: UNSURE}
    options: ClassVar[dict[str, Any]] = {}
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
                **self.options,
            },
        }
        ts.open(spec, create=True).result()[..., 0].write(voxels.transpose()).result()

    def declare(self, place: Path, sections: int) -> None:
        _edit(place / "info", lambda info: info["scales"][0]["size"].__setitem__(2, sections))


@pytest.mark.slow
class TestPrecomputedShards(TestPrecomputed):
    options: ClassVar[dict[str, Any]] = {
        "sharding": {
            "@type": "neuroglancer_uint64_sharded_v1",
            "preshift_bits": 1,
            "minishard_bits": 1,
            "shard_bits": 1,
            "hash": "murmurhash3_x86_128",
            "minishard_index_encoding": "gzip",
            "data_encoding": "gzip",
        }
    }


class _ZarrArray(FormatSuite):
    format = "zarr"
    ending = ".zarr"
    sized = False
    position = (0.0, 0.0, 0.0)
    lacks: ClassVar[dict[str, str]] = {FLIPPED: UNSURE}
    zarr_format: ClassVar[int]

    def declare(self, place: Path, sections: int) -> None:
        _lengthen(place / (".zarray" if self.zarr_format == 2 else "zarr.json"), sections)

    def write(self, place: Path, voxels: NDArray[Any], voxel_size: Size, position: Size) -> None:  # noqa: ARG002  (it stores neither)
        order = {"serializer": _order(voxels)} if self.zarr_format == 3 else {}
        zarr.create_array(place, data=voxels, chunks=CHUNK, zarr_format=self.zarr_format, **order)  # type: ignore[arg-type]


@pytest.mark.slow
class TestZarr2Array(_ZarrArray):
    zarr_format = 2


class TestZarr3Array(_ZarrArray):
    zarr_format = 3
