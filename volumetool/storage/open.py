"""Open any volume that volumetool reads; the format is found by looking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorstore as ts

from volumetool.errors import DataError, InputError
from volumetool.geometry.box import Size, Triple
from volumetool.storage.cast import CASTABLE, Cast
from volumetool.storage.formats.base import FoundLevel, ParsedMetadata, broken, check_allowed, read_json, sense, wrong_axes
from volumetool.storage.formats.foreign import describe_file
from volumetool.storage.formats.npy import AnyVolume, describe_array, place_or_array, require_volume
from volumetool.storage.formats.precomputed import scale_structure
from volumetool.storage.formats.reader import open_reader
from volumetool.storage.formats.registry import find_volume, named_like, readable_formats
from volumetool.storage.formats.zarr import refuse_unsaid_nesting
from volumetool.storage.images import Gaps, find_images
from volumetool.storage.io.arrays import SPACE, Driver, open_array
from volumetool.storage.io.kvstore import canonical_url, is_local, join_url, list_keys, local_path
from volumetool.storage.io.limits import check_levels
from volumetool.storage.io.stores.zip_file import zip_on
from volumetool.storage.io.urls import check_below
from volumetool.storage.volume import DTYPES, Level, Volume, identity_of

# The members that decide how stored bytes become voxels. Attributes are left out: notes may be added to a finished
# input.
_STRUCTURE: dict[Driver, tuple[str, tuple[str, ...]]] = {
    "zarr": (
        ".zarray",
        ("shape", "chunks", "dtype", "compressor", "filters", "fill_value", "order", "dimension_separator"),
    ),
    "zarr3": ("zarr.json", ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "codecs", "fill_value")),
    "n5": ("attributes.json", ("dimensions", "blockSize", "dataType", "compression")),
}


def open_volume(url: AnyVolume, *, voxel_size: Size | None = None, gaps: Gaps = "refuse", cast: Cast | None = None) -> Volume:
    """Open a volume for reading.

    Parameters
    ----------
    url : str, path or array
        Local path, or URL with the scheme file, s3, gs, http or https. It may name a multiscale volume, or one of its
        levels; also a zip file of either, or a place in one. Or an array in memory, with axes z, y, x (c in front, or y, x
        alone) and `voxel_size`: of NumPy, or one of zarr-python, dask or h5py, whose voxels are read when they are asked for.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x, of the finest level. Needed if the metadata have none; otherwise it corrects them: coarser
        levels and all translations are scaled along.
    gaps : str
        What becomes of missing numbers between the sections of a folder: ``refuse``, ``keep`` (blank sections) or
        ``close``.
    cast : Cast, optional
        What `convert` is to make of the voxels: with it, data types are opened that volumetool does not work on.

    Returns
    -------
    Volume
        Of one of the `FORMATS`.

    Raises
    ------
    InputError
        ``input.not-found``, ``input.not-a-volume``, ``input.labels``, ``input.version``, ``input.axes``,
        ``input.dtype``, ``input.no-voxel-size``, ``input.voxel-size``, ``input.broken-metadata``,
        ``input.forbidden``, ``input.level-missing``, ``input.unreadable``, ``input.unsupported``, ``input.url``,
        ``input.url-secret``, ``input.too-large``, ``input.empty``; of TIFF those of `open_images`.
    """
    correction = _check_voxel_size(voxel_size)
    place = place_or_array(url)
    if not isinstance(place, str):
        require_volume(place, voxel_size, CASTABLE if cast else DTYPES)
        return _volume(describe_array(place), correction, cast)
    with sense(place):
        found = find_volume(place) if gaps == "refuse" else find_images(place, gaps)
        volume = None if found is None else _volume(found, correction, cast)
    if volume is None:
        check_allowed(place, "zarr.json")
        raise _nothing_here(place)
    return volume


def read_attributes(url: str) -> dict[str, Any]:
    """Return what volumetool noted in the metadata of a volume, without opening its arrays; empty where it noted nothing.

    Raises
    ------
    InputError
        As `open_volume`, as far as metadata of the whole volume tell.
    """
    with sense(place := canonical_url(url)):
        found = find_volume(place)
    if found is None:
        check_allowed(place, "zarr.json")
        raise _nothing_here(place)
    return _noted(found)


def _noted(found: ParsedMetadata) -> dict[str, Any]:
    ours = found.attributes.get("volumetool")
    return ours if isinstance(ours, dict) else {}


def _volume(found: ParsedMetadata, voxel_size: Size | None, cast: Cast | None) -> Volume:
    arrays = open_levels(found)
    dtype = _dtype(found.url, arrays, cast)
    correction = _correction(found, voxel_size)
    levels = tuple(_level(found, *pair, correction) for pair in zip(found.levels, arrays, strict=True))
    channels = _channels(found, arrays)
    facts = {"dtype": dtype.name, "axes": found.axes, "channels": channels}
    structures = _structures(found)
    return Volume(
        url=found.url,
        format=found.format,
        driver=found.driver,
        axes=found.axes,
        dtype=dtype,
        channels=channels,
        levels=levels,
        attributes=_noted(found),
        identity=identity_of(levels, {**facts, "arrays": structures}),
        level_identities=tuple(
            identity_of((level,), {**facts, "arrays": [structure]}) for level, structure in zip(levels, structures, strict=True)
        ),
        reader=found.reader,
        cast=cast,
    )


def open_levels(found: ParsedMetadata) -> list[ts.TensorStore]:
    """Return the arrays of all levels, with the axes as stored.

    Raises
    ------
    InputError
        ``input.too-large``, ``input.broken-metadata``, ``input.level-missing``, ``input.unsupported``, ``input.axes``.
    """
    check_levels(found.url, len(found.levels))
    return [_array(found, level) for level in found.levels]


def _array(found: ParsedMetadata, level: FoundLevel) -> ts.TensorStore:
    url = join_url(found.url, check_below(found.url, level.path))
    if found.reader is not None:
        return open_reader(found.reader)
    if found.driver in _STRUCTURE and read_json(url, _STRUCTURE[found.driver][0]) is None:
        check_allowed(url, _STRUCTURE[found.driver][0])
        raise InputError(
            "input.level-missing",
            f"{found.url} lists the level '{level.path}', but no array is there",
            hint="The copy may be incomplete: copy it again, or remove the level from the metadata.",
            where=url,
        )
    if found.driver == "zarr":
        refuse_unsaid_nesting(url)
    try:
        array = open_array(found.url, found.driver, level.path)
    except DataError as error:
        raise InputError("input.unsupported", error.message, hint=error.hint, where=url) from error
    if array.rank != len(found.axes):
        raise wrong_axes(url, f"{', '.join(found.axes)} by its metadata but {array.rank} dimensions")
    return array


def _dtype(url: str, arrays: list[ts.TensorStore], cast: Cast | None) -> np.dtype[Any]:
    names = [array.dtype.name for array in arrays]
    if len(set(names)) > 1:
        raise broken(url, f"has levels of different dtypes: {', '.join(names)}")
    name, known = names[0], CASTABLE if cast else DTYPES
    if name not in known:
        hint = "Convert it: `volumetool convert INPUT OUTPUT --dtype uint8 --window lo,hi`, lo and hi as darkest and brightest."
        raise _wrong_dtype(url, f"holds {name}; volumetool works on {', '.join(known)}", hint)
    dtype = np.dtype(name)
    if cast and cast.needs_window(dtype):
        hint = "Say which values become the least and the greatest: --window lo,hi; or give --dtype float32."
        raise _wrong_dtype(url, f"holds {name}, whose fractions do not fit into {cast.dtype}", hint)
    return dtype


def _wrong_dtype(url: str, what: str, hint: str) -> InputError:
    return InputError("input.dtype", f"{url} {what}", hint=hint, where=url)


def _correction(found: ParsedMetadata, voxel_size: Size | None) -> Size:
    """Return by what to multiply the scales of the metadata to get nanometres."""
    first = found.levels[0].scale
    for level in found.levels:
        if not all(0 < size < math.inf for size in level.scale) or not all(map(math.isfinite, level.translation)):
            raise broken(
                found.url,
                f"has the scale {level.scale} and translation {level.translation}: no numbers, or a scale not above 0",
            )
    if voxel_size is not None:
        return (voxel_size[0] / first[0], voxel_size[1] / first[1], voxel_size[2] / first[2])
    if found.conflict:
        raise _no_voxel_size(found.url, f"states different voxel sizes: {found.conflict}", "z,y,x")
    if found.unit is None:
        said = "" if first == (1.0, 1.0, 1.0) else f" (its scale is {first} in no unit of length)"
        raise _no_voxel_size(found.url, f"does not say how large its voxels are{said}", "z,y,x")
    known = {axis: f"{size:g}" for axis, size in zip(SPACE, _times(first, found.unit), strict=True) if not math.isnan(size)}
    if len(known) < len(SPACE):
        says = ", ".join(f"{size} nm along {axis}" for axis, size in known.items())
        told = f"says how large its voxels are ({says}), but not along {', '.join(axis for axis in SPACE if axis not in known)}"
        raise _no_voxel_size(found.url, told, ",".join(known.get(axis, axis) for axis in SPACE))
    return found.unit


def _no_voxel_size(url: str, what: str, example: str) -> InputError:
    hint = f"Give it in nanometres: --voxel-size {example}"
    return InputError("input.no-voxel-size", f"{url} {what}", hint=hint, where=url)


def _level(found: ParsedMetadata, level: FoundLevel, array: ts.TensorStore, correction: Size) -> Level:
    layout = array.chunk_layout
    shard = _spatial(layout.write_chunk.shape or (), found.axes)
    chunk = _spatial(layout.read_chunk.shape or (), found.axes)
    return Level(
        path=level.path,
        shape=_spatial(array.shape, found.axes),
        voxel_size=_times(level.scale, correction),
        translation=_times(level.translation, correction),
        chunk=chunk,
        shard=shard if _is_sharded(array) or (found.format == "precomputed" and shard != chunk) else None,
    )


def _is_sharded(array: ts.TensorStore) -> bool:
    codec = array.codec
    codecs = [] if codec is None else codec.to_json().get("codecs", [])
    return any(isinstance(each, dict) and each.get("name") == "sharding_indexed" for each in codecs)


def _channels(found: ParsedMetadata, arrays: list[ts.TensorStore]) -> int | None:
    for array in arrays:
        if "t" in found.axes and (length := array.shape[found.axes.index("t")]) != 1:
            raise wrong_axes(found.url, f"{', '.join(found.axes)} with {length} time points")
    if "c" not in found.axes:
        return None
    count: int = arrays[0].shape[found.axes.index("c")]
    return None if found.format == "precomputed" and count == 1 else count  # its c axis is always there


def _structures(found: ParsedMetadata) -> list[dict[str, Any]]:
    if found.driver == "neuroglancer_precomputed":
        return [scale_structure(found.attributes, level.path) for level in found.levels]
    if found.reader is not None:
        return [{} for _ in found.levels]
    key, members = _STRUCTURE[found.driver]
    described = [read_json(join_url(found.url, level.path), key) or {} for level in found.levels]
    return [{name: array[name] for name in members if name in array} for array in described]


def _spatial(values: Sequence[int | None], axes: tuple[str, ...]) -> Triple:
    by_axis = {"z": 1, **dict(zip(axes, values, strict=True))}
    return (int(by_axis["z"] or 1), int(by_axis["y"] or 1), int(by_axis["x"] or 1))


def _times(left: Size, right: Size) -> Size:
    return (left[0] * right[0], left[1] * right[1], left[2] * right[2])


def _check_voxel_size(voxel_size: Size | None) -> Size | None:
    if voxel_size is None:
        return None
    if len(voxel_size) != len(SPACE) or not all(0 < float(size) < float("inf") for size in voxel_size):
        raise InputError(
            "input.voxel-size",
            f"the voxel size {voxel_size} is not three positive numbers",
            hint="Give nanometres for z, y and x, such as --voxel-size 30,8,8",
        )
    return (float(voxel_size[0]), float(voxel_size[1]), float(voxel_size[2]))


def _nothing_here(url: str) -> InputError:
    wanted = f"wanted is {readable_formats()}"
    if zip_on(url) is not None and (names := list(dict.fromkeys(key.partition("/")[0] for key in list_keys(url)))):
        return InputError(
            "input.not-a-volume",
            f"{url} holds {_some(names)}; {wanted}",
            hint=f"Give a volume in it, such as {join_url(url, names[0])}. What is a file in it must be unpacked first.",
            where=url,
        )
    path = local_path(url) if is_local(url) else None
    if path is None or not path.exists():
        hint = "Check the spelling, and that it is the directory that holds zarr.json, .zattrs, attributes.json or info."
        if path is None and (like := named_like(url)) is not None:
            hint = f"{like.name} is read from local disks alone: copy it here first."
        elif "*" in url or "?" in url:
            hint = "Give the folder of the sections itself, not a pattern of names."
        return InputError(
            "input.not-found",
            f"nothing to read at {url}; {wanted}",
            hint=hint,
            where=url,
        )
    if not path.is_dir():
        what, hint = describe_file(path)
        if (like := named_like(url)) is not None and what == "a file":
            what, hint = f"named like {like.name}, but does not begin like it", "Copy it again, or write it anew."
        return InputError("input.not-a-volume", f"{url} is {what}; {wanted}", hint=hint, where=url)
    names = sorted(entry.name for entry in path.iterdir())
    seen = _some(names)
    hint = "Give the volume's own directory."
    if first := next((path / name for name in names if (path / name).is_file()), None):
        what, to_do = describe_file(first)
        seen, hint = (f"{seen} ({first.name} is {what})", to_do) if what != "a file" else (seen, hint)
    elif folder := next((name for name in ("zarr.json", ".zattrs", ".zarray", "attributes.json") if name in names), None):
        seen, hint = f"a folder named {folder} where a file is wanted", "The copy is damaged: copy the volume again."
    return InputError("input.not-a-volume", f"{url} holds {seen}; {wanted}", hint=hint, where=url)


def _some(names: list[str]) -> str:
    """Return the first of some names, for people."""
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" or "nothing"
