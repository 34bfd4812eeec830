"""Zarr volumes as zarr-python and tensorstore write them, with the metadata of OME-Zarr, daisy, funlib and xarray."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numcodecs
import tensorstore as ts
import zarr

from tests.storage.foreign_volumes import AT, CHUNK, SIZE, UNITS, Draw, Foreign, Json, Voxels, readable
from volumetool.geometry import Size

_CODECS_2: dict[str, Any] = {
    "none": None,
    "zlib": numcodecs.Zlib(1),
    "gzip": numcodecs.GZip(1),
    "bz2": numcodecs.BZ2(1),
    "zstd": numcodecs.Zstd(1),
    "zstd-checksum": numcodecs.Zstd(1, checksum=True),
    "blosc-lz4": numcodecs.Blosc("lz4", shuffle=numcodecs.Blosc.SHUFFLE),
    "blosc-zstd-bits": numcodecs.Blosc("zstd", shuffle=numcodecs.Blosc.BITSHUFFLE),
    "blosc-zlib-auto": numcodecs.Blosc("zlib", shuffle=numcodecs.Blosc.AUTOSHUFFLE),
    "lz4": numcodecs.LZ4(),
    "lzma": numcodecs.LZMA(),
}
_CODECS_3: dict[str, Any] = {
    "none": None,
    "gzip": zarr.codecs.GzipCodec(level=1),
    "zstd": zarr.codecs.ZstdCodec(level=1),
    "zstd-checksum": zarr.codecs.ZstdCodec(level=1, checksum=True),
    "blosc": zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle"),
    "blosc-bits": zarr.codecs.BloscCodec(cname="zstd", shuffle="bitshuffle"),
    "crc32c": [zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
}


@dataclass(frozen=True)
class _Said:
    """What metadata say: of the group around the array, and of the array."""

    axes: str
    group: Json | None = None
    array: Json = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    size: Size | None = SIZE
    position: Size = (0.0, 0.0, 0.0)


def zarr_python_2(draw: Draw, place: Path) -> Foreign:
    """Write Zarr 2 with zarr-python."""
    voxels, said = draw.voxels(), _say(draw, "0.4")
    codec = draw.one("codec", *_CODECS_2)
    filters = [numcodecs.Delta(voxels.dtype)] if draw.one("filter", *[None] * 9, "delta") else None
    made = _write(
        draw, place, voxels.astype(voxels.dtype.newbyteorder(draw.one("endian", "<", ">"))), said,
        zarr_format=2, compressors=_CODECS_2[codec], filters=filters, order=draw.one("order", "C", "F"),
        chunk_key_encoding={"name": "v2", "separator": draw.one("separator", "/", ".")},
    )  # fmt: skip
    strange = codec in ("lz4", "lzma") or filters is not None
    return made.but(expected="input.unsupported") if strange else made


def zarr_python_3(draw: Draw, place: Path) -> Foreign:
    """Write Zarr 3 with zarr-python."""
    voxels, said = draw.voxels(), _say(draw, "0.5")
    rank = len(said.axes)
    options: Json = {"compressors": _CODECS_3[draw.one("codec", *_CODECS_3)]}
    if voxels.dtype.itemsize > 1:
        options["serializer"] = zarr.codecs.BytesCodec(endian=draw.one("endian", "little", "big"))
    layout = draw.one("layout", "shards", "transposed", "plain")
    if layout == "shards":
        options["shards"] = tuple(2 * n for n in _chunk(said.axes))
    else:
        options["chunk_key_encoding"] = {"name": "default", "separator": draw.one("separator", "/", ".")}
    if layout == "transposed":
        options["filters"] = [zarr.codecs.TransposeCodec(order=tuple(reversed(range(rank))))]
    return _write(draw, place, voxels, said, zarr_format=3, **options)


def tensorstore_zarr(draw: Draw, place: Path) -> Foreign:
    """Write Zarr 2 or 3 with tensorstore."""
    driver = draw.one("driver", "zarr", "zarr3")
    voxels, said = draw.voxels(), _say(draw, "0.4" if driver == "zarr" else "0.5")
    shape = _shape(said.axes, voxels)
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(_folder(place, said))}}
    array = ts.open(
        spec,
        create=True,
        dtype=voxels.dtype,
        shape=shape,
        chunk_layout=ts.ChunkLayout(chunk_shape=_chunk(said.axes)),
        dimension_units=None,
    ).result()
    array.write(_stored(said.axes, voxels)).result()
    _attributes(place, said, 2 if driver == "zarr" else 3, exists=True)
    return Foreign(draw.label, place, voxels, said.size, said.position, readable(voxels))


def _write(draw: Draw, place: Path, voxels: Voxels, said: _Said, **options: Any) -> Foreign:
    """Write a volume; one chunk of it, as if it had never been written, where the draw says so."""
    kind, fills = voxels.dtype.kind, [0, 1, None]
    fill = draw.one("fill", *fills, *([float("nan")] if kind == "f" else []))
    if options["zarr_format"] == 3 and fill is None:
        fill = 0
    chunk = _chunk(said.axes)
    array = zarr.create_array(
        str(_folder(place, said)), shape=_shape(said.axes, voxels), dtype=voxels.dtype, chunks=chunk, fill_value=fill,
        attributes=said.array, dimension_names=said.names if options["zarr_format"] == 3 else None,
        config={"write_empty_chunks": True}, **options,
    )  # fmt: skip
    array[...] = _stored(said.axes, voxels)
    if draw.one("hole", False, True):
        separator = options.get("chunk_key_encoding", {}).get("separator", "/")
        key = separator.join("0" * array.ndim)
        (_folder(place, said) / (key if options["zarr_format"] == 2 else f"c{separator}{key}")).unlink()
        hole = dict(zip(said.axes, options.get("shards") or chunk, strict=True))
        voxels = voxels.copy()
        voxels[: hole.get("z", 1), : hole["y"], : hole["x"]] = fill or 0
    _attributes(place, said, options["zarr_format"])
    asked = draw.one("asked", place, place / "s0") if said.group is not None else place
    return Foreign(draw.label, asked, voxels, said.size, said.position, readable(voxels))


def _folder(place: Path, said: _Said) -> Path:
    return place if said.group is None else place / "s0"


def _attributes(place: Path, said: _Said, version: int, *, exists: bool = False) -> None:
    """Write the attributes of the group, and of an array that has none yet."""
    if said.group is not None:
        zarr.create_group(str(place), zarr_format=version, attributes=said.group, overwrite=False)
    if exists and said.array:
        zarr.open_array(str(_folder(place, said)), mode="r+").attrs.update(said.array)
    if exists and said.names and version == 3:
        file = _folder(place, said) / "zarr.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"dimension_names": said.names}))
    if said.names and version == 2:
        zarr.open_array(str(_folder(place, said)), mode="r+").attrs["_ARRAY_DIMENSIONS"] = list(said.names)


def _stored(axes: str, voxels: Voxels) -> Voxels:
    """Return voxels along axes as they are stored."""
    turned = voxels.transpose([["zyx".index(axis) for axis in axes if axis in "zyx"]][0])
    return turned.reshape([1] * (len(axes) - 3) + list(turned.shape))


def _shape(axes: str, voxels: Voxels) -> tuple[int, ...]:
    return _stored(axes, voxels).shape


def _chunk(axes: str) -> tuple[int, ...]:
    by_axis = dict(zip("zyx", CHUNK, strict=True))
    return tuple(by_axis.get(axis, 1) for axis in axes)


def _say(draw: Draw, version: str) -> _Said:
    """Draw a dialect of metadata."""
    dialect = draw.one("dialect", "ome", "ome", "ome", "daisy", "funlib", "names", "none")
    if dialect == "ome":
        return _ome(draw, version)
    if dialect == "daisy":
        units = draw.one("units", None, "nm", "um")
        per = UNITS[units or "nm"]
        said = {"resolution": [n / per for n in SIZE], "offset": [n / per for n in AT]}
        return _Said("zyx", None, said | ({"units": [units] * 3} if units else {}), position=AT)
    if dialect == "funlib":
        units, channel = draw.one("units", "nm", "um", ""), draw.one("channel", "", "c")
        per = UNITS.get(units, 1.0)
        names = ["c^"] * len(channel) + list("zyx")
        said = {
            "voxel_size": [n / per for n in SIZE],
            "offset": [n / per for n in AT],
            "axis_names": names,
            "units": [units] * 3,
        }
        return _Said(f"{channel}zyx", None, said, size=SIZE if units else None, position=AT)
    if dialect == "names":
        axes = draw.one("axes", "zyx", "xyz", "yzx")
        return _Said(axes, None, {}, tuple(axes), None)
    return _Said("zyx", size=None)


def _ome(draw: Draw, version: str) -> _Said:
    axes = draw.one("axes", "zyx", "zyx", "czyx", "tczyx", "xyz", "ZYX")
    unit = draw.one("unit", *UNITS, None)
    per, lower = UNITS.get(unit, 1.0), axes.lower()
    sizes, shifts = (dict(zip("zyx", (n / per for n in each), strict=True)) for each in (SIZE, AT))
    scale = {"type": "scale", "scale": [sizes.get(axis, 1.0) for axis in lower]}
    moved = {"type": "translation", "translation": [shifts.get(axis, 0.0) for axis in lower]}
    where = draw.one("steps", "level", "shared", "mixed", "scale alone")
    kinds = {"t": "time", "c": "channel"}
    described = [
        {"name": axis, "type": kinds.get(axis, "space"), **({"unit": unit} if unit and axis not in "tc" else {})}
        for axis in axes
    ]
    own, shared = {
        "level": ([scale, moved], []),
        "shared": ([{"type": "scale", "scale": [1.0] * len(axes)}], [scale, moved]),
        "mixed": ([scale], [moved]),
        "scale alone": ([scale], []),
    }[where]
    image = {"axes": described, "datasets": [{"path": "s0", "coordinateTransformations": own}], "name": "em"}
    image |= {"coordinateTransformations": shared} if shared else {}
    group = (
        {"multiscales": [{"version": version, **image}]}
        if version == "0.4"
        else {"ome": {"version": version, "multiscales": [image]}}
    )
    names = tuple(axes) if version == "0.5" else None
    return _Said(lower, group, {}, names, SIZE if unit else None, (0.0, 0.0, 0.0) if where == "scale alone" else AT)


WRITERS = (zarr_python_2, zarr_python_3, tensorstore_zarr)
