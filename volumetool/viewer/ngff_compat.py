"""OME-Zarr images as the client can read them.

volumetool understands what many programs write: short names of units, no version, axes in capitals, scales in no unit at all.
The client refuses such images or puts them elsewhere. And where a level's last voxel reaches beyond the volume, because its
shape was rounded up, the client draws it there. So the metadata of what this machine serves are rewritten: in the
specification's own words, with the lengths that volumetool goes by, and with the voxels that lie inside the volume. Nothing on
disk changes. What is at a URL the client reads itself.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from volumetool.errors import InputError
from volumetool.geometry import Size, plan_levels
from volumetool.storage.formats.base import Json, ParsedMetadata
from volumetool.storage.formats.ome_zarr import find_ome_zarr, ome_of
from volumetool.storage.formats.precomputed import Precomputed, find_precomputed
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import encode_json, is_local
from volumetool.storage.io.stores.zip_file import zip_on
from volumetool.storage.volume import Level, Volume
from volumetool.units import is_long_name, nanometres_per
from volumetool.viewer.computed import ComputedKeys
from volumetool.viewer.served_keys import files_of
from volumetool.viewer.server import Content, InMemory, KeyReader

_PER_METRE = 1e9
"""Nanometres: dividing by it keeps round numbers round."""

_COMPUTED_CHUNK = (4, 256, 256)
"""Of volumes whose files the client cannot read: most are stored by section."""

_METADATA = {"zarr": ".zattrs", "zarr3": "zarr.json"}
_TIMES = ("minute", "hour", "day")
_TOLERANCE = 1e-6


def is_image(volume: Volume) -> bool:
    """Return whether a volume is a whole OME-Zarr image, not a single level of one."""
    return volume.format.startswith("ome-zarr") and volume.levels[0].path != ""


def is_placed(volume: Volume) -> bool:
    """Return whether the client finds where a volume's voxels are in the metadata, and reads them as volumetool does."""
    return is_image(volume) or volume.format == "precomputed" or is_computed(volume)


def is_computed(volume: Volume | Precomputed) -> bool:
    """Return whether the client gets an OME-Zarr that is computed, as it cannot read the files of a volume."""
    return isinstance(volume, Volume) and (volume.reader is not None or zip_on(volume.url) is not None)


def readable(volume: Volume | Precomputed, levels: int | None = None) -> KeyReader:
    """Return the reader of a local volume's keys, whose metadata the client reads as volumetool does.

    Parameters
    ----------
    volume : Volume or Precomputed
        Volume on a disk of this machine.
    levels : int, optional
        Number of levels of an image that the client gets to know; by default all. The coarse levels of a volume that is being
        written are still empty: from afar all of it would look black.
    """
    if isinstance(volume, Volume) and is_computed(volume):
        finest = plan_levels(volume.shape, volume.voxel_size, volume.translation, _COMPUTED_CHUNK)[:1]
        return ComputedKeys(volume, finest, "ome-zarr-0.5-unsharded", "raw")
    files = files_of(volume)
    if not isinstance(volume, Volume) or not is_image(volume):
        return files
    told = encode_json(_restated(volume, volume.levels[:levels]))
    return trimmed(replace(files, instead={_METADATA[volume.driver]: told}), volume)


def trimmed(keys: KeyReader, volume: Volume) -> KeyReader:
    """Return a reader of an image's keys whose levels end where its finest one does, along y and x.

    Where a level is what is drawn, the voxel that it loses is a pixel; drawn below finer ones it is a rim. Along z the loss
    would be the last sections, which from afar nothing else shows.

    Parameters
    ----------
    keys : KeyReader
        Answers for the keys of the image.
    volume : Volume
        Volume that is served.
    """
    name = ".zarray" if volume.driver == "zarr" else "zarr.json"
    inside = {f"{level.path.strip('/')}/{name}": _inside(level, volume.levels[0]) for level in volume.levels[1:]}

    async def read(key: str) -> Content | None:
        content = await keys(key)
        if content is None or key not in inside:
            return content
        array: Json = json.loads(await asyncio.to_thread(content.read, 0, content.size))
        array["shape"] = [min(n, inside[key].get(axis, n)) for n, axis in zip(array["shape"], volume.axes, strict=True)]
        return InMemory(encode_json(array))

    return read


def _inside(level: Level, finest: Level) -> dict[str, int]:
    """Return how many voxels of a level lie wholly inside the finest one along y and x; at least one."""
    ends = [at + (n - 0.5) * size for at, n, size in zip(finest.translation, finest.shape, finest.voxel_size, strict=True)]
    begins = [at - size / 2 for at, size in zip(level.translation, level.voxel_size, strict=True)]
    lengths = [(end - begin) / size for end, begin, size in zip(ends, begins, level.voxel_size, strict=True)]
    return {axis: max(1, math.floor(n + _TOLERANCE)) for axis, n in zip(SPACE, lengths, strict=True) if axis != "z"}


def _restated(volume: Volume, levels: Sequence[Level]) -> Json:
    """Return the metadata of an image with its lengths in nanometres, and nothing that the client does not need."""
    image = {"axes": list(map(_axis, volume.axes)), "datasets": [_dataset(level, volume.axes) for level in levels]}
    if volume.driver == "zarr":
        return {"multiscales": [{"version": "0.4", **image}]}
    ome = {"version": "0.5", "multiscales": [image]}
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def _axis(name: str) -> Json:
    if name in SPACE:
        return {"name": name, "type": "space", "unit": "nanometer"}
    return {"name": name, "type": "channel" if name == "c" else "time"}


def _dataset(level: Level, axes: Sequence[str]) -> Json:
    sizes = dict(zip(SPACE, level.voxel_size, strict=True))
    centres = dict(zip(SPACE, level.translation, strict=True))
    steps = [
        {"type": "scale", "scale": [sizes.get(axis, 1.0) for axis in axes]},
        {"type": "translation", "translation": [centres.get(axis, 0.0) for axis in axes]},
    ]
    return {"path": level.path, "coordinateTransformations": steps}


def read_from_afar(volume: Volume) -> Size | None:
    """Return the voxel size, in m, that the client itself reads of a volume's metadata, None where it is right.

    Of an OME-Zarr image it reads them at URLs alone; a length without a unit it takes for so many metres.

    Raises
    ------
    InputError
        ``input.unviewable``: the client cannot read the metadata there.
    """
    if volume.format == "precomputed" and (stored := find_precomputed(volume.url)) is not None:
        return _unless_equal(stored.levels[0].voxel_size, volume)
    image = find_ome_zarr(volume.url) if is_image(volume) and not is_local(volume.url) else None
    if image is None:
        return None
    axes = _stored_axes(image)
    units = {axis["name"]: nanometres_per(axis.get("unit")) or _PER_METRE for axis in axes}
    units.setdefault("z", units["y"])  # the image of one section
    z, y, x = (scale * units[axis] for axis, scale in zip(SPACE, image.levels[0].scale, strict=True))
    return _unless_equal((z, y, x), volume)


def _unless_equal(read: Size, volume: Volume) -> Size | None:
    """Return a voxel size in nm as one in m; None where it is the volume's."""
    if all(math.isclose(own, size) for own, size in zip(read, volume.levels[0].voxel_size, strict=True)):
        return None
    return read[0] / _PER_METRE, read[1] / _PER_METRE, read[2] / _PER_METRE


def _stored_axes(image: ParsedMetadata) -> list[dict[str, Any]]:
    """Return the axes of an image as its metadata have them.

    Raises
    ------
    InputError
        ``input.unviewable``.
    """
    ome = ome_of(image.attributes)
    (multiscale, *_), key = ome["multiscales"], _METADATA[image.driver]
    version = (ome if "ome" in image.attributes else multiscale).get("version")
    if version not in ("0.4", "0.5"):
        raise _unviewable(image, "states no version" if version is None else f"states version {version!r}", key)
    axes: list[dict[str, Any]] = multiscale.get("axes", [])
    if not axes or not all(isinstance(axis, dict) for axis in axes):
        raise _unviewable(image, "names no axes", key)
    for axis in axes:
        name = axis["name"]
        if name.lower() in SPACE and name not in SPACE:
            raise _unviewable(image, f"names an axis {name!r}, where {name.lower()!r} is wanted", key)
        if "unit" in axis and not _is_known(axis["unit"]):
            wanted = "a full name such as 'nanometer' or 'micrometer' is wanted, or none"
            raise _unviewable(image, f"gives its axis {name} the unit {axis['unit']!r}, where {wanted}", key)
    return axes


def _is_known(unit: object) -> bool:
    """Return whether the client knows a unit: it refuses the others."""
    return is_long_name(unit) or (isinstance(unit, str) and (unit in _TIMES or unit.endswith("second")))


def _unviewable(image: ParsedMetadata, what: str, key: str) -> InputError:
    return InputError(
        "input.unviewable",
        f"{image.url} {what}; Neuroglancer reads URLs itself, and refuses this one",
        hint=f"Correct its {key}; or give one of its levels, {image.url}/{image.levels[0].path}; or view a copy on a disk "
        "of yours, of which the metadata are put right on the way.",
        where=image.url,
    )
