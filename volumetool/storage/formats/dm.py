"""Gatan's DigitalMicrograph files (.dm3, .dm4): a tree of tags, and voxels without compression among them.

ncempy reads the tags; it comes with the extra ``volumetool[dm]``. Beside the image, a file holds pictures of it in colour, its
previews.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import nan, prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.paths import open_file
from volumetool.storage.formats.base import NONSENSE, Format, FoundLevel, ParsedMetadata, broken, scale_zyx, wrong_axes, zyx
from volumetool.storage.formats.reader import RawReader, check_length, open_reader
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import is_local, local_path
from volumetool.storage.io.limits import check_array
from volumetool.units import nanometres_per

_HEAD = {3: (4, 8), 4: (8, 12)}
"""Of a version: bytes of the file's length, and where the word for the byte order begins."""

_COLOURS = 23
_TYPES = {1: "<i2", 2: "<f4", 6: "|u1", 7: "<i4", 9: "|i1", 10: "<u2", 11: "<u4", 12: "<f8"}
"""NumPy's names of the types of images. What is missing is complex, packed or in colour."""

_TAG_ERRORS = (*NONSENSE, OSError, RuntimeError, AssertionError, MemoryError)
"""What ncempy raises over tags that are none."""


def find_dm(url: str) -> ParsedMetadata | None:
    """Describe the image in a DigitalMicrograph file; None if there is none.

    Raises
    ------
    InputError
        ``input.unsupported``: ncempy is not installed. ``input.not-a-volume``: several images, or none. ``input.dtype``,
        ``input.axes``, ``input.unreadable``, ``input.broken-metadata``, ``input.too-large``, ``input.empty``.
    """
    if not is_local(url) or not (path := local_path(url)).is_file():
        return None
    with open_file(path) as file:
        if not _is_dm(file.read(16), path):
            return None
        tags = _read_tags(path, file)
    data = _choose(url, tags)
    count = len([name for name in data if name.startswith("Dimensions.")])
    if count not in (2, 3):
        raise wrong_axes(url, f"of an image of {count} dimensions")
    axes = SPACE[-count:]
    shape = tuple(int(data[f"Dimensions.{number}"]) for number in range(count, 0, -1))
    stored, offset = _type(url, int(data["DataType"])), int(data["Data.arrayOffset"])
    if prod(shape) * stored.itemsize != int(data["Data.arraySize"]):
        raise broken(url, f"has {data['Data.arraySize']} bytes of voxels, and says that there are {shape} of {stored}")
    check_length(path, shape, stored, offset)
    reader = RawReader(str(path), shape, stored.str, offset, stored.newbyteorder("="))
    check_array(url, open_reader(reader))
    level, unit = _placed(data, axes)
    return ParsedMetadata(url, "dm", "virtual_chunked", axes, (level,), unit, reader=reader)


def _is_dm(head: bytes, path: Path) -> bool:
    version = int.from_bytes(head[:4], "big")
    if version not in _HEAD or len(head) < 16:
        return False
    width, order = _HEAD[version]
    length = int.from_bytes(head[4 : 4 + width], "big")
    return int.from_bytes(head[order : order + 4], "big") in (0, 1) and 0 < length <= path.stat().st_size


def _read_tags(path: Path, file: BinaryIO) -> Mapping[str, Any]:
    """Return all tags by their paths, such as ``.ImageList.2.ImageData.DataType``."""
    try:
        from ncempy.io.dm import fileDM
    except ImportError as error:
        raise InputError(
            "input.unsupported",
            f"{path} is a DigitalMicrograph file, which is read with the package ncempy: {error}",
            hint='pip install "volumetool[dm]"; or save it as TIFF or MRC in DigitalMicrograph or Fiji.',
            where=str(path),
        ) from error
    file.seek(0)
    try:
        with np.errstate(all="raise"):
            tags: Mapping[str, Any] = fileDM(file).allTags
    except _TAG_ERRORS as error:
        raise broken(str(path), f"has tags that make no sense: {type(error).__name__}: {error}") from error
    return tags


def _choose(url: str, tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of the only image that is no preview, by names such as ``Dimensions.1``."""
    images: dict[str, dict[str, Any]] = {}
    for path, value in tags.items():
        if path.startswith(".ImageList.") and ".ImageData." in path:
            image, _, name = path.partition(".ImageData.")
            images.setdefault(image, {})[name] = value
    found = [data for data in images.values() if "Data.arrayOffset" in data and int(data["DataType"]) != _COLOURS]
    if len(found) != 1:
        raise InputError(
            "input.not-a-volume",
            f"{url} holds {len(found)} images that are not in colour; wanted is one",
            hint="Save the image that is meant in a file of its own.",
            where=url,
        )
    return found[0]


def _type(url: str, number: int) -> np.dtype[Any]:
    if number not in _TYPES:
        raise InputError(
            "input.dtype",
            f"{url} holds voxels of DigitalMicrograph's type {number}, which are no plain integers or floats",
            hint="Convert the image to a real number type in DigitalMicrograph first.",
            where=url,
        )
    return np.dtype(_TYPES[number])


def _placed(data: Mapping[str, Any], axes: tuple[str, ...]) -> tuple[FoundLevel, Size | None]:
    """Return voxel size, position and unit; each axis has its own unit, or none."""
    sizes, units, places = [], [], []
    for number in range(len(axes), 0, -1):
        said = f"Calibrations.Dimension.{number}."
        size = float(f"{float(data.get(f'{said}Scale', 0)):.7g}")  # stored with seven digits
        unit = nanometres_per(data.get(f"{said}Units")) if size > 0 else None
        sizes.append(1.0 if unit is None else size)
        units.append(nan if unit is None else unit)
        places.append(-sizes[-1] * float(data.get(f"{said}Origin", 0)) + 0.0)  # 0.0 makes -0 a 0
    position = zyx({"z": 0.0, **dict(zip(axes, places, strict=True))})
    known = not all(np.isnan(units))
    return FoundLevel("", scale_zyx(axes, sizes), position), scale_zyx(axes, units) if known else None


DM = Format("DigitalMicrograph", find_dm, (".dm3", ".dm4"))
