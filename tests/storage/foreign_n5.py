"""N5 volumes as tensorstore writes them, and, block by block by the specification of N5, as the Java library and z5 do."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import ceil
from pathlib import Path

import numcodecs
import tensorstore as ts

from tests.storage.foreign_volumes import AT, CHUNK, SIZE, UNITS, Draw, Foreign, Json, Voxels, readable
from volumetool.geometry import Size

_DTYPES = ("uint8", "int8", "uint16", "int16", "float32") * 2 + ("uint32", "int32", "uint64", "int64", "float64")

# How Java's library and z5 name codecs, and what they put into a block.
_CODECS: dict[str, tuple[Json, Callable[[bytes, int], bytes]]] = {
    "raw": ({"type": "raw"}, lambda data, _: data),
    "gzip": ({"type": "gzip", "level": -1, "useZlib": False}, lambda data, _: gzip.compress(data)),
    "zlib": ({"type": "gzip", "level": 6, "useZlib": True}, lambda data, _: zlib.compress(data)),
    "bzip2": ({"type": "bzip2", "blockSize": 8}, lambda data, _: bz2.compress(data)),
    "xz": ({"type": "xz", "preset": 6}, lambda data, _: lzma.compress(data)),
    "zstd": ({"type": "zstd", "level": 3, "nbWorkers": 0}, lambda data, _: bytes(numcodecs.Zstd(3).encode(data))),
    "blosc": (
        {"type": "blosc", "cname": "lz4", "clevel": 6, "shuffle": 1, "blocksize": 0, "nthreads": 1},
        lambda data, _: bytes(numcodecs.Blosc("lz4", 6, 1).encode(data)),
    ),
    "blosc-zstd": (
        {"type": "blosc", "cname": "zstd", "clevel": 5, "shuffle": 2, "blocksize": 0, "nthreads": 4},
        lambda data, size: bytes(numcodecs.Blosc("zstd", 5, 2).encode(memoryview(data).cast("B"))) if size else b"",
    ),
    "lz4": ({"type": "lz4", "blockSize": 65536}, lambda data, _: data),
}


@dataclass(frozen=True)
class _Said:
    """What attributes say: where the dataset lies in what is opened, and what stands on each folder of the way."""

    own: Json
    above: dict[str, Json]
    path: str = ""
    size: Size | None = SIZE
    position: Size = (0.0, 0.0, 0.0)
    stored: str = "xyz"
    xml: str | None = None
    refused: str | None = None


def blocks(draw: Draw, place: Path) -> Foreign:
    """Write N5 block by block."""
    voxels, said, codec = draw.voxels(_DTYPES), _say(draw), draw.one("codec", *_CODECS)
    stored = _turned(voxels, said.stored)
    named, compress = _CODECS[codec]
    size = tuple(dict(zip("zyx", CHUNK, strict=True))[axis] for axis in said.stored)
    metadata = {"dimensions": stored.shape, "dataType": voxels.dtype.name, "blockSize": size, "compression": named}
    folder = place / said.path
    folder.mkdir(parents=True)
    hole = draw.one("hole", False, True)
    for block in product(*(range(ceil(n / m)) for n, m in zip(stored.shape, size, strict=True))):
        part = tuple(slice(i * m, (i + 1) * m) for i, m in zip(block, size, strict=True))
        if hole and not any(block):
            stored = stored.copy()
            stored[part] = 0
            continue
        piece = stored[part]
        head = struct.pack(f">HH{piece.ndim}I", 0, piece.ndim, *piece.shape)
        data = piece.astype(piece.dtype.newbyteorder(">")).tobytes(order="F")  # x is fastest
        file = folder.joinpath(*map(str, block))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(head + compress(data, piece.dtype.itemsize))
    made = _finish(draw, place, _back(stored, said.stored), said, metadata)
    return made.but(expected="input.unsupported") if codec == "lz4" and not said.refused else made


def tensorstore_n5(draw: Draw, place: Path) -> Foreign:
    """Write N5 with tensorstore."""
    voxels, said = draw.voxels(_DTYPES), _say(draw)
    stored = _turned(voxels, said.stored)
    kinds = ({"type": "raw"}, {"type": "gzip"}, {"type": "bzip2"}, {"type": "xz"}, {"type": "zstd"})
    codec = draw.one("codec", *kinds, {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1})
    metadata = {"dimensions": stored.shape, "dataType": voxels.dtype.name, "blockSize": [4, 3, 2], "compression": codec}
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": str(place / said.path)}, "metadata": metadata}
    array = ts.open(spec, create=True).result()
    array.write(stored).result()
    return _finish(draw, place, voxels, said, json.loads((place / said.path / "attributes.json").read_text()))


def _turned(voxels: Voxels, order: str) -> Voxels:
    return voxels.transpose(["zyx".index(axis) for axis in order])


def _back(stored: Voxels, order: str) -> Voxels:
    return stored.transpose([order.index(axis) for axis in "zyx"])


def _finish(draw: Draw, place: Path, voxels: Voxels, said: _Said, metadata: Json) -> Foreign:
    for path, attributes in said.above.items():
        (place / path / "attributes.json").write_text(json.dumps(attributes))
    (place / said.path / "attributes.json").write_text(json.dumps({**metadata, **said.own}))
    if said.xml:
        place.with_suffix(".xml").write_text(said.xml.format(name=place.name))
    expected = said.refused or readable(voxels)
    return Foreign(draw.label, place, voxels, said.size, said.position, expected)


def _say(draw: Draw) -> _Said:
    """Draw a dialect of attributes."""
    dialects = (_plain, _viewer, _cosem, _paintera, _bdv, _canonical, _axis_names)
    chosen = draw.one("dialect", *(each.__name__.strip("_") for each in dialects))
    return next(each for each in dialects if each.__name__.strip("_") == chosen)(draw)


def _lengths(values: Size, unit: str | None, order: str = "xyz") -> list[float]:
    by_axis = dict(zip("zyx", values, strict=True))
    return [by_axis[axis] / UNITS.get(unit or "nm", 1.0) for axis in order]


def _plain(draw: Draw) -> _Said:
    """Say what Neuroglancer reads: axes, units, resolution, with the offset that others add."""
    unit, order = draw.one("unit", "nm", "um"), draw.one("axes", "xyz", "zyx", "xzy")
    own = {"axes": list(order), "units": [unit] * 3, "resolution": _lengths(SIZE, unit, order)}
    moved = draw.one("offset", False, True)
    return _Said(
        own | ({"offset": _lengths(AT, unit, order)} if moved else {}), {}, "", SIZE, AT if moved else (0, 0, 0), order
    )


def _viewer(draw: Draw) -> _Said:
    unit, form = draw.one("unit", "nm", "um", None), draw.one("form", "object", "list")
    sizes = _lengths(SIZE, unit)
    named = form == "object" and unit
    pixel = {"pixelResolution": {"unit": unit, "dimensions": sizes} if named else sizes}
    factors, path = {"downsamplingFactors": [1, 1, 1]}, draw.one("path", "", "s0", "c0/s0")
    size = SIZE if named else None
    if not path:
        return _Said(pixel | factors, {}, "", size)
    group = path.rpartition("/")[0]
    return _Said(factors, {group: pixel | {"scales": [[1, 1, 1]]}}, path, size)


def _cosem(draw: Draw) -> _Said:
    unit, order, path = draw.one("unit", "nm", "um"), draw.one("order", None, "C", "F"), draw.one("path", "", "s0")
    axes = "xyz" if order == "F" else "zyx"
    transform = {
        "axes": list(axes), "scale": _lengths(SIZE, unit, axes), "translate": _lengths(AT, unit, axes), "units": [unit] * 3,
        **({"order": order} if order else {}),
    }  # fmt: skip
    above = {"": {"multiscales": [{"datasets": [{"path": "s0", "transform": transform}]}]}} if path else {}
    extra = draw.one("beside", {}, {"pixelResolution": {"dimensions": _lengths(SIZE, unit), "unit": unit}})
    return _Said({"transform": transform, **extra}, above, path, SIZE, AT)


def _paintera(draw: Draw) -> _Said:
    lengths = {"resolution": _lengths(SIZE, None), "offset": _lengths(AT, None)}
    beside = draw.one("beside", {}, {"pixelResolution": {"unit": "um", "dimensions": _lengths(SIZE, "um")}})
    path = draw.one("path", "", "data/s0")
    if not path:
        return _Said(lengths | beside, {}, "", SIZE, AT)
    above = {"": {"painteraData": {"type": "raw"}}, "data": {"multiScale": True, **lengths, **beside}}
    return _Said({}, above, path, SIZE, AT)


def _bdv(draw: Draw) -> _Said:
    unit, xml = draw.one("unit", "µm", "um", "nm", "pixel"), draw.one("xml", True, True, False)
    sizes = _lengths(SIZE, unit)
    above = {"": {"n5": "4.0.0"}, "setup0": {"downsamplingFactors": [[1, 1, 1]], "dataType": "uint16"}}
    above["setup0/timepoint0"] = {"resolution": sizes, "saved_completely": True, "multiScale": True}
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><SpimData version="0.2"><BasePath type="relative">.</BasePath>'
        '<SequenceDescription><ImageLoader format="bdv.n5" version="1.0"><n5 type="relative">{name}</n5></ImageLoader>'
        "<ViewSetups><ViewSetup><id>0</id><name>channel 1</name><size>9 7 5</size><voxelSize>"
        f"<unit>{unit}</unit><size>{' '.join(map(str, sizes))}</size></voxelSize></ViewSetup></ViewSetups>"
        "</SequenceDescription>"
    )
    position = (0.0, 0.0, 0.0)
    if draw.one("registered", False, True):
        scale, shift = _lengths(SIZE, unit), _lengths(AT, unit)
        rows = [[*(scale[i] if i == j else 0.0 for j in range(3)), shift[i]] for i in range(3)]
        affine = " ".join(str(n) for row in rows for n in row)
        text += '<ViewRegistrations><ViewRegistration timepoint="0" setup="0"><ViewTransform type="affine">'
        text += f"<affine>{affine}</affine></ViewTransform></ViewRegistration></ViewRegistrations>"
        position = AT if xml else position
    text += "</SpimData>"
    known = SIZE if xml and unit != "pixel" else None
    return _Said({"downsamplingFactors": [1, 1, 1]}, above, "setup0/timepoint0/s0", known, position, xml=text if xml else None)


def _canonical(draw: Draw) -> _Said:
    unit, kind = draw.one("unit", "nm", "um"), draw.one("transform", "affine", "scale", "sequence", "sheared")
    sizes, shifts = _lengths(SIZE, unit), _lengths(AT, unit)
    rows = [[*(sizes[i] if i == j else 0.0 for j in range(3)), shifts[i]] for i in range(3)]
    scale = {"type": "scale", "scale": sizes}
    steps = [scale, {"type": "translation", "translation": shifts}]
    if kind == "sheared":
        rows[0][1] = 0.5
    affine = {"type": "affine", "affine": [n for row in rows for n in row]}
    transform = {"scale": scale, "sequence": {"type": "sequence", "transformations": steps}}.get(kind, affine)
    refused = "input.axes" if kind == "sheared" else None
    return _Said(
        {"spatialTransform": {"transform": transform, "unit": unit}},
        {},
        "",
        SIZE,
        (0, 0, 0) if kind == "scale" else AT,
        refused=refused,
    )


def _axis_names(draw: Draw) -> _Said:
    """Say what funlib does through zarr's store for N5: names and lengths as NumPy shows the array."""
    unit, order = draw.one("unit", "nm", "um"), draw.one("axes", "zyx", "xyz")
    own = {"axis_names": list(order), "units": [unit] * 3}
    own |= {"voxel_size": _lengths(SIZE, unit, order), "offset": _lengths(AT, unit, order)}
    return _Said(own, {}, "", SIZE, AT, "".join(reversed(order)))


WRITERS = (blocks, tensorstore_n5)
