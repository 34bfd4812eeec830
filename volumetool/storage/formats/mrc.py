"""MRC files (.mrc, .rec, .map, .st, .ali), as IMOD, SerialEM and the EM Data Bank write them.

A header of 1024 bytes, an extended one, and voxels without compression. Lengths are in angstrom. The axes x, y, z may lie along
columns, rows and sections in any order. Half-precision voxels (mode 12) are read as float32.
"""

from __future__ import annotations

from math import isfinite, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE
from mrcfile.utils import byte_order_from_machine_stamp, dtype_from_mode, spacegroup_is_volume_stack

from volumetool.errors import InputError
from volumetool.paths import open_file
from volumetool.storage.formats.base import Format, FoundLevel, ParsedMetadata, broken, zyx
from volumetool.storage.formats.reader import RawReader, check_length
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import is_local, local_path
from volumetool.storage.io.limits import check_images

_MARK = slice(208, 212)
_MODES = {0: "int8", 1: "int16", 2: "float32", 6: "uint16", 12: "float32"}
_ANGSTROM = 0.1
"""Nanometres."""

# What IMOD adds to the header: a stamp, and flags that say how it means bytes and positions.
_IMOD_STAMP, _IMOD_FLAGS = slice(40, 44), slice(44, 48)
_SIGNED_BYTES, _POSITION_OF_FIRST_VOXEL = 1, 4


def find_mrc(url: str) -> ParsedMetadata | None:
    """Describe the MRC file at a place; None if there is none.

    Raises
    ------
    InputError
        ``input.dtype``: complex numbers, 4 bits, colours. ``input.axes``: a stack of volumes. ``input.unreadable``: the file is
        shorter than its header says. ``input.broken-metadata``, ``input.too-large``, ``input.empty``.
    """
    if not is_local(url) or not (path := local_path(url)).is_file():
        return None
    with open_file(path) as file:
        head = file.read(HEADER_DTYPE.itemsize)
    if head[_MARK] != b"MAP " or len(head) < HEADER_DTYPE.itemsize:
        return None
    order = byte_order_from_machine_stamp(np.frombuffer(head, HEADER_DTYPE)[0]["machst"])
    header = np.rec.array(np.frombuffer(head, HEADER_DTYPE.newbyteorder(order)))[0]
    reader, axes = _reader(path, header, order), _axes(url, header)
    sizes = {axis: _size(header.cella[axis], header[f"m{axis}"]) for axis in SPACE}
    scale = {axis: 1.0 if isnan(size) else size for axis, size in sizes.items()}
    unit = {axis: nan if isnan(size) else 1.0 for axis, size in sizes.items()}
    level = FoundLevel("", zyx(scale), zyx(_position(header, axes, scale)))
    said = set(sizes.values()) != {_ANGSTROM} and not all(map(isnan, sizes.values()))
    return ParsedMetadata(url, "mrc", "virtual_chunked", axes, (level,), zyx(unit) if said else None, reader=reader)


def _reader(path: Path, header: Any, order: str) -> RawReader:
    mode, shape = int(header.mode), (int(header.nz), int(header.ny), int(header.nx))
    if mode not in _MODES:
        raise InputError(
            "input.dtype",
            f"{path} holds voxels of mode {mode}; read are 0, 1, 2, 6 and 12 ({', '.join(dict.fromkeys(_MODES.values()))})",
            hint="Write it in one of these modes first, such as with IMOD's `newstack -mode 1`.",
            where=str(path),
        )
    if spacegroup_is_volume_stack(header.ispg):
        raise InputError(
            "input.axes",
            f"{path} is a stack of volumes (space group {header.ispg}); wanted is one volume",
            hint="Save each of them as a file of its own.",
            where=str(path),
        )
    stored, offset = dtype_from_mode(header.mode).newbyteorder(order), HEADER_DTYPE.itemsize + int(header.nsymbt)
    dtype = np.dtype(_MODES[mode])
    flags = _imod_flags(header)
    if mode == 0 and flags is not None and not flags & _SIGNED_BYTES:
        stored = dtype = np.dtype(np.uint8)
    if min(shape) < 1 or offset < HEADER_DTYPE.itemsize:
        raise broken(str(path), f"has {shape} voxels and an extended header of {header.nsymbt} bytes")
    check_images(path, shape, stored.itemsize)
    check_length(path, shape, stored, offset)
    return RawReader(str(path), shape, stored.str, offset, dtype)


def _imod_flags(header: Any) -> int | None:
    """Return IMOD's flags, None where other software wrote the file. All fit into one byte, whatever its order."""
    words = header.extra2.tobytes()
    return max(words[_IMOD_FLAGS]) if words[_IMOD_STAMP] in (b"IMOD", b"DOMI") else None


def _axes(url: str, header: Any) -> tuple[str, ...]:
    """Return the axes that lie along sections, rows and columns."""
    numbers = [int(number) for number in (header.maps, header.mapr, header.mapc)]
    if sorted(numbers) != [1, 2, 3]:
        raise broken(url, f"has the axes {numbers} along sections, rows and columns; wanted are 3, 2, 1 in some order")
    return tuple("xyz"[number - 1] for number in numbers)


def _size(cell: Any, voxels: Any) -> float:
    """Return the nanometres of a voxel, NaN where the header does not say them."""
    length = float(cell) / int(voxels) if voxels else 0.0
    return _nanometres(length) if isfinite(length) and length > 0 else nan


def _position(header: Any, axes: tuple[str, ...], size: dict[str, float]) -> dict[str, float]:
    """Return the position of the first voxel: the origin, otherwise the numbers of the first section, row and column.

    The origin of IMOD is seen from the first voxel, unless its flags say otherwise.
    """
    origin = {axis: _nanometres(float(header.origin[axis])) for axis in SPACE}
    if any(origin.values()):
        flags = _imod_flags(header)
        sign = -1 if flags is not None and not flags & _POSITION_OF_FIRST_VOXEL else 1
        return {axis: sign * at + 0.0 for axis, at in origin.items()}  # 0.0 makes -0 a 0
    first = dict(zip(axes, (header.nzstart, header.nystart, header.nxstart), strict=True))
    return {axis: int(first[axis]) * size[axis] for axis in SPACE}


def _nanometres(angstrom: float) -> float:
    """Return a length of the header, which has seven digits."""
    return float(f"{angstrom * _ANGSTROM:.7g}")


MRC = Format("MRC", find_mrc, (".mrc", ".mrcs", ".rec", ".map", ".st", ".ali", ".ccp4"))
