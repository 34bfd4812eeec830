"""DigitalMicrograph files as small as they can be: the tags that place an image, with a preview before it."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TYPES = {"int16": 1, "float32": 2, "uint8": 6, "int32": 7, "int8": 9, "uint16": 10, "uint32": 11}
_CODES = {"int16": 2, "float32": 6, "uint8": 10, "int32": 3, "int8": 9, "uint16": 4, "uint32": 5}

Tags = dict[str, Any]


def image(voxels: NDArray[Any], sizes: tuple[float, ...], units: tuple[str, ...], origins: tuple[float, ...]) -> Tags:
    """Return the tags of an image; sizes, units and origins for each axis, slowest first."""
    described = zip(sizes, units, origins, strict=True)
    dimensions = {f"{n}": {"Origin": o, "Scale": s, "Units": u} for n, (s, u, o) in _numbered(described)}
    return {
        "ImageData": {
            "Calibrations": {"Dimension": dimensions},
            "Data": voxels,
            "DataType": TYPES[voxels.dtype.name],
            "Dimensions": {f"{n}": length for n, length in _numbered(voxels.shape)},
        }
    }


def preview() -> Tags:
    """Return the tags of a picture in colour."""
    tags = image(np.zeros((2, 2), "int32"), (1.0, 1.0), ("", ""), (0.0, 0.0))
    tags["ImageData"]["DataType"] = 23
    return tags


def write_dm(path: Path, images: list[Tags], version: int = 3) -> None:
    """Write a file of some images."""
    body = _group({"ImageList": {f"{n}": each for n, each in enumerate(images)}}, version)
    path.write_bytes(struct.pack(">I", version) + _word(len(body), version) + struct.pack(">I", 1) + body + bytes(8))


def _numbered(values: Any) -> list[tuple[int, Any]]:
    listed = list(values)
    return [(len(listed) - place, value) for place, value in enumerate(listed)][::-1]


def _word(number: int, version: int) -> bytes:
    return struct.pack(">I" if version == 3 else ">Q", number)


def _group(tags: Tags, version: int) -> bytes:
    named = b"".join(_entry(name, value, version) for name, value in tags.items())
    return b"\1\0" + _word(len(tags), version) + named


def _entry(name: str, value: Any, version: int) -> bytes:
    label = b"" if name.isdecimal() else name.encode()  # those without a label are counted
    kind = 20 if isinstance(value, dict) else 21
    body = _group(value, version) if isinstance(value, dict) else _value(value, version)
    length = _word(len(body), version) if version == 4 else b""
    return bytes([kind]) + struct.pack(">H", len(label)) + label + length + body


def _value(value: Any, version: int) -> bytes:
    if isinstance(value, str):
        head, data = (20, 4, len(value)), value.encode("utf-16-le")
    elif isinstance(value, np.ndarray):
        head, data = (20, _CODES[value.dtype.name], value.size), value.tobytes()
    elif isinstance(value, float):
        head, data = (6,), struct.pack("<f", value)
    else:
        head, data = (5,), struct.pack("<I", value)
    return b"%%%%" + _word(len(head), version) + b"".join(_word(n, version) for n in head) + data
