"""TIFF and MRC files as tifffile, Pillow, mrcfile and microscopes write them, and precomputed volumes of tensorstore."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import PIL.Image
import tensorstore as ts
import tifffile

from tests.storage.foreign_volumes import AT, CHUNK, READ, SIZE, Draw, Foreign, Json, Voxels, readable

_UNITS = {"nm": 1.0, "um": 1e3, "micron": 1e3, "\\u00B5m": 1e3, "mm": 1e6, "inch": 2.54e7, "cm": 1e7, "\\u00C5": 0.1}
"""What ImageJ users write as a unit, in nanometres."""


def _options(draw: Draw, voxels: Voxels) -> Json:
    """Draw what tifffile may do with any image."""
    codec = draw.one("codec", None, "zlib", "lzw", "zstd", "packbits", "lzma")
    if voxels.dtype.kind == "b":
        codec = None
    predictor = codec in ("zlib", "lzw", "zstd") and voxels.dtype.itemsize < 8 and draw.one("predictor", False, True)
    layout = draw.one("layout", {}, {"rowsperstrip": 2}, {"tile": (16, 16)})
    return {
        "compression": codec, "predictor": predictor or None, "byteorder": draw.one("endian", "<", ">"),
        "bigtiff": draw.one("bigtiff", False, True), **layout,
    }  # fmt: skip


def tiff_plain(draw: Draw, place: Path) -> Foreign:
    """Write pages by tifffile: in one call, one by one, or one file each; grey values may begin at white."""
    voxels = draw.voxels()
    options = _options(draw, voxels)
    inverted = voxels.dtype.kind == "u" and draw.one("white is zero", False, True)
    options |= {"photometric": "miniswhite" if inverted else "minisblack"}
    stored = np.iinfo(voxels.dtype).max - voxels if inverted else voxels
    castable = voxels.dtype.kind != "b"  # which TIFF packs into bits
    way = draw.one("way", "at once", "page by page", "no metadata", "folder")
    if way == "folder":
        place.mkdir()
        for z, section in enumerate(stored):
            tifffile.imwrite(place / f"s_{z + 8}.tif", section, **options)  # the numbers grow longer on the way
        return Foreign(draw.label, place, voxels, None, expected=readable(voxels), castable=castable)
    place = place.with_suffix(".tif")
    if way == "page by page":
        options.pop("bigtiff")
        with tifffile.TiffWriter(place, byteorder=options.pop("byteorder")) as writer:
            for section in stored:
                writer.write(section, **options)
    else:
        tifffile.imwrite(place, stored, **options, **({"metadata": None} if way == "no metadata" else {}))
    return Foreign(draw.label, place, voxels, None, expected=readable(voxels), castable=castable)


def tiff_imagej(draw: Draw, place: Path) -> Foreign:
    """Write what ImageJ does."""
    voxels = draw.voxels(("uint8", "uint16", "float32"))
    place, unit = place.with_suffix(".tif"), draw.one("unit", *_UNITS, "pixel", None)
    per = _UNITS.get(unit, 1.0)
    spacing = draw.one("spacing", True, True, False)
    said: Json = {"axes": draw.one("axes", "ZYX", "TYX")} | ({"unit": unit} if unit else {})
    said |= {"spacing": SIZE[0] / per} if spacing else {}
    origin = draw.one("origin", False, True)
    said |= {name: -at / n for name, at, n in zip(("zorigin", "yorigin", "xorigin"), AT, SIZE, strict=True)} if origin else {}
    tifffile.imwrite(place, voxels, imagej=True, resolution=(per / SIZE[2], per / SIZE[1]), metadata=said)
    known = unit in _UNITS and spacing
    told = "z,8,4" if unit in _UNITS and not spacing else ""
    return Foreign(draw.label, place, voxels, SIZE if known else None, AT if origin else (0, 0, 0), told=told)


def tiff_microscope(draw: Draw, place: Path) -> Foreign:
    """Write sections into a folder, with the private tags in which microscopes note the size of pixels."""
    voxels = draw.voxels(("uint8", "uint16"))
    maker = draw.one("maker", "fei", "helios", "zeiss", "tescan", "centimetres", "inches", "screen")
    y, x = (n * 1e-9 for n in SIZE[1:])
    fei = f"[User]\r\nUserText=a\r\n[Scan]\r\nPixelWidth={x}\r\nPixelHeight={y}\r\nDwelltime=1e-6\r\n"
    zeiss = "0\r\n0\r\n0\r\n3.52e-9\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 8.000 nm\r\nDP_ZOOM\r\nZoom = No\r\n"
    tescan = f"[MAIN]\r\nMagnification=1e4\r\nPixelSizeX={x}\r\nPixelSizeY={y}\r\n"
    tags = {"fei": (34680, fei), "helios": (34682, fei), "zeiss": (34118, zeiss), "tescan": (50431, tescan)}
    options: Json = {"extratags": [(tags[maker][0], 2, 0, tags[maker][1], True)]} if maker in tags else {}
    resolution = {
        "centimetres": {"resolution": (1e7 / 4, 1e7 / 8), "resolutionunit": "CENTIMETER"},
        "inches": {"resolution": (2.54e7 / 4, 2.54e7 / 8), "resolutionunit": "INCH"},
    }
    options |= resolution.get(maker, {"resolution": (72, 72), "resolutionunit": "INCH"})
    place.mkdir()
    for z, section in enumerate(voxels):
        tifffile.imwrite(place / f"slice_{z:03}.tif", section, metadata=None, **options)
    told = {"screen": "does not say how large its voxels are", "zeiss": "z,8,8"}.get(maker, "z,8,4")
    return Foreign(draw.label, place, voxels, None, told=told)


def tiff_ome(draw: Draw, place: Path) -> Foreign:
    """Write OME-TIFF with tifffile."""
    voxels = draw.voxels((*READ, *READ, "uint32", "int32", "float64"))
    options, place = _options(draw, voxels), place.with_suffix(".ome.tif")
    unit = draw.one("unit", None, "nm", "µm", "mm", "Å", "pixel", "reference frame")
    per = {None: 1e3, "nm": 1.0, "mm": 1e6, "Å": 0.1}.get(unit, 1e3)
    said: Json = {"axes": "ZYX"}
    for axis, size in zip("ZYX", SIZE, strict=True):
        said |= {f"PhysicalSize{axis}": size / per} | ({f"PhysicalSize{axis}Unit": unit} if unit else {})
    if flat := draw.one("flat", False, False, True):
        del said["PhysicalSizeZ"]
    tifffile.imwrite(place, voxels, ome=True, metadata=said, photometric="minisblack", **options)
    known = not flat and unit not in ("pixel", "reference frame")
    told = "z,8,4" if flat and unit not in ("pixel", "reference frame") else ""
    return Foreign(draw.label, place, voxels, SIZE if known else None, expected=readable(voxels), told=told)


def tiff_pillow(draw: Draw, place: Path) -> Foreign:
    """Write pages with Pillow."""
    voxels = draw.voxels(("uint8", "uint16", "float32", "int32"))
    place = place.with_suffix(".tiff")
    first, *others = (PIL.Image.fromarray(section) for section in voxels)
    codec = draw.one("codec", "raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")
    dpi = draw.one("dpi", None, (72, 72), (6350000, 3175000))
    first.save(place, save_all=True, append_images=others, compression=codec, **({"dpi": dpi} if dpi else {}))
    told = "z,8,4" if dpi and dpi[0] > 72 else "does not say how large its voxels are"
    return Foreign(draw.label, place, voxels, None, expected=readable(voxels), told=told)


def mrc(draw: Draw, place: Path) -> Foreign:
    """Write MRC with mrcfile."""
    voxels = draw.voxels(("int8", "int16", "uint16", "float32", "float16"))
    if voxels.dtype == np.float16:
        voxels = voxels.astype(np.float32).astype(np.float16)
    axes, place = draw.one("axes", "zyx", "xyz", "yzx"), place.with_suffix(".mrc")
    sized = draw.one("sized", True, True, False)
    moved = draw.one("origin", None, "start", *(["origin"] if sized else []))  # an origin is a length
    turned = np.ascontiguousarray(voxels.transpose(["zyx".index(axis) for axis in axes]))
    with warnings.catch_warnings(action="ignore"), mrcfile.new(place) as file:  # of values that are no numbers
        file.set_data(turned)
        file.header.maps, file.header.mapr, file.header.mapc = (" xyz".index(axis) for axis in axes)
        for axis, n in zip("zyx", voxels.shape, strict=True):
            file.header[f"m{axis}"] = n
        angstrom = [n * 10 for n in SIZE] if sized else [0, 0, 0]
        file.header.cella = tuple(n * s for n, s in zip(voxels.shape[::-1], angstrom[::-1], strict=True))
        if moved == "origin":
            file.header.origin = tuple(10 * at for at in AT[::-1])
        if moved == "start":
            by_axis = dict(zip("zyx", (round(at / n) for at, n in zip(AT, SIZE, strict=True)), strict=True))
            file.header.nzstart, file.header.nystart, file.header.nxstart = (by_axis[axis] for axis in axes)
    if draw.one("endian", "<", ">") == ">":
        _swap(place)
    read = voxels.astype(np.float32) if voxels.dtype == np.float16 else voxels
    return Foreign(draw.label, place, read, SIZE if sized else None, AT if moved else (0.0, 0.0, 0.0))


def _swap(place: Path) -> None:
    """Write an MRC file anew in the other byte order."""
    with mrcfile.open(place) as file:
        header, data = file.header.copy(), file.data.copy()
    header.machst = [0x11, 0x11, 0, 0]
    swapped = header.astype(header.dtype.newbyteorder(">"))
    place.write_bytes(swapped.tobytes() + data.astype(data.dtype.newbyteorder(">")).tobytes())


def precomputed(draw: Draw, place: Path) -> Foreign:
    """Write a precomputed volume with tensorstore."""
    voxels = draw.voxels((*READ, "uint32", "uint64", "int32"))
    encoding = draw.one("encoding", "raw", "compressed_segmentation") if voxels.dtype.name in ("uint32", "uint64") else "raw"
    sharding = draw.one(
        "sharded",
        None,
        {
            "@type": "neuroglancer_uint64_sharded_v1",
            "preshift_bits": 1,
            "minishard_bits": 1,
            "shard_bits": 1,
            "hash": "identity",
            "minishard_index_encoding": "gzip",
            "data_encoding": "raw",
        },
    )
    offset = draw.one("offset", (0, 0, 0), tuple(round(at / n) for at, n in zip(AT, SIZE, strict=True)))
    scale: Json = {
        "size": list(voxels.shape[::-1]),
        "chunk_size": list(CHUNK[::-1]),
        "resolution": list(SIZE[::-1]),
        "encoding": encoding,
        "voxel_offset": list(offset[::-1]),
    }
    if encoding != "raw":
        scale["compressed_segmentation_block_size"] = [4, 4, 4]
    if sharding:
        scale["sharding"] = sharding
    spec: Any = {
        "driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": str(place)},
        "multiscale_metadata": {"type": "image", "data_type": voxels.dtype.name, "num_channels": 1}, "scale_metadata": scale,
    }  # fmt: skip
    array = ts.open(spec, create=True).result()
    array.write(voxels.transpose()[..., None]).result()
    z, y, x = ((n + 0.5) * s for n, s in zip(offset, SIZE, strict=True))  # the first voxel begins at its offset
    expected = "input.labels" if encoding != "raw" else readable(voxels)
    return Foreign(draw.label, place, voxels, SIZE, (z, y, x), expected)


WRITERS = (tiff_plain, tiff_imagej, tiff_ome, tiff_pillow, tiff_microscope, mrc, precomputed)
