"""Zeiss CZI files: the sections of one scene, with its channels.

pylibCZIrw reads them; it comes with the extra ``volumetool[czi]``. A file may hold several scenes, pieces of a sample that lie
apart: ``FILE.czi/2`` names one of them. Tiles are laid beside each other as the file says; where they overlap, the library
shows one of them.
"""

from __future__ import annotations

import functools
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, product
from math import isfinite, nan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from volumetool.errors import InputError
from volumetool.geometry.box import Size
from volumetool.paths import file_on, open_file
from volumetool.storage.formats.base import NONSENSE, Format, FoundLevel, ParsedMetadata, parse_xml, wrong_axes, zyx
from volumetool.storage.formats.reader import open_reader
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import is_local, local_path
from volumetool.storage.io.limits import check_array, check_images
from volumetool.units import in_words, runs_of

if TYPE_CHECKING:
    from pylibCZIrw.czi import CziReader, Rectangle

_MAGIC = b"ZISRAWFILE"
_TYPES: dict[str, np.dtype[Any]] = {
    "Gray8": np.dtype(np.uint8),
    "Gray16": np.dtype(np.uint16),
    "Gray32Float": np.dtype(np.float32),
}
_AT_ONCE = 2**26
"""Bytes of a section that are read at once: more than a tile has."""

_MOST_NAMED = 1000
"""Sections that an error names."""

_PER_METRE = 1e9
"""Nanometres."""

_SEGMENT, _TILE = struct.Struct("<16sqq"), struct.Struct("<iiq")
"""Heads of a segment, its kind and lengths; and of the tile in one, lengths of notes, attachments and pixels."""

_BROKEN = (*NONSENSE, RuntimeError, OSError, MemoryError)
"""What the library raises over files that are damaged."""

_reading = threading.Lock()


@dataclass(frozen=True)
class CziStack:
    """A `Reader` of the sections of one scene.

    Attributes
    ----------
    file : str
        Path of the file.
    shape : tuple of int
        Voxels along c, z, y, x; without c where there is one channel.
    dtype : numpy.dtype
        Data type of all channels.
    corner : tuple of int
        The first z, y and x, in the file's own numbers.
    scene : int or None
        Number of the scene; None where the file has none.
    """

    file: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    corner: tuple[int, int, int]
    scene: int | None

    @property
    def files(self) -> tuple[str]:
        """The file."""
        return (self.file,)

    @property
    def chunk(self) -> tuple[int, ...]:
        """A section, or some rows of a large one."""
        *outer, rows, columns = self.shape
        return (*(1 for _ in outer), min(rows, max(1, _AT_ONCE // (columns * self.dtype.itemsize))), columns)

    def read_box(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Return the voxels of a box."""
        *channels, sections, rows, columns = box
        first, top, left = self.corner
        place = (left + columns.start, top + rows.start, columns.stop - columns.start, rows.stop - rows.start)
        numbers = [range(part.start, part.stop) for part in (*channels, sections)]
        planes = []
        with _reading:
            czi = _opened(self.file, _state(self.file))
            for *channel, z in product(*numbers):
                plane = {"C": channel[0] if channel else 0, "Z": first + z, "T": 0}
                planes.append(czi.read(roi=place, plane=plane, scene=self.scene)[:, :, 0])  # (y, x, 1) -> (y, x)
        return np.stack(planes).reshape([part.stop - part.start for part in box])


def find_czi(url: str) -> ParsedMetadata | None:
    """Describe the scene in a CZI file that a place names; None if there is no such file.

    Raises
    ------
    InputError
        ``input.unsupported``: pylibCZIrw is not installed. ``input.not-a-volume``: several scenes, or not the one that is
        named. ``input.axes``: several time points, angles or the like. ``input.dtype``: colours, or channels of different
        types. ``input.incomplete``: sections that are not there. ``input.unreadable``, ``input.too-large``, ``input.empty``.
    """
    if not is_local(url) or (file := file_on(place := local_path(url))) is None:
        return None
    with open_file(file) as opened:
        if opened.read(len(_MAGIC)) != _MAGIC:
            return None
    try:
        with _reading:
            czi = _opened(str(file), _state(str(file)))
            stack = _stack(file, czi, place.relative_to(file).as_posix())
            level, unit = _placed(czi.raw_metadata, stack.shape[-3])
    except ImportError as error:
        raise InputError(
            "input.unsupported",
            f"{file} is a Zeiss CZI file, which is read with the package pylibCZIrw: {error}",
            hint='pip install "volumetool[czi]"; or `bioformats2raw FILE OUTPUT.zarr` writes it as OME-Zarr.',
            where=url,
        ) from error
    except _BROKEN as error:
        raise InputError(
            "input.unreadable",
            f"{file} cannot be read as CZI: {error}",
            hint="The file may be damaged or incomplete; copy it again.",
            where=url,
        ) from error
    check_array(url, open_reader(stack))
    return ParsedMetadata(url, "czi", "virtual_chunked", ("c", *SPACE)[-len(stack.shape) :], (level,), unit, reader=stack)


def _state(file: str) -> tuple[int, int, int]:
    found = Path(file).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _opened(file: str, state: tuple[int, int, int]) -> CziReader:
    """Open a file, anew in each state; its list of tiles may have a hundred thousand, and is not read at every read."""
    from pylibCZIrw.czi import CziReader

    _, size, _ = state
    _check_segments(file, size)
    return CziReader(file)


def _check_segments(file: str, size: int) -> None:
    """Refuse a tile that says that it is longer than the file: the library would end the process over it."""
    at = 0
    with open_file(file) as opened:
        while at + _SEGMENT.size + _TILE.size <= size:
            opened.seek(at)
            kind, allocated, _ = _SEGMENT.unpack(opened.read(_SEGMENT.size))
            if kind.rstrip(b"\0") == b"ZISRAWSUBBLOCK":
                lengths = _TILE.unpack(opened.read(_TILE.size))
                if min(lengths) < 0 or at + _SEGMENT.size + sum(lengths) > size:
                    raise ValueError(
                        f"a tile at byte {at} has {lengths} bytes of notes, attachments and pixels; the file has {size}"
                    )
            elif not kind.startswith((b"ZISRAW", b"DELETED")) or allocated < 0:
                raise ValueError(f"there is no segment of a CZI file at byte {at}")
            at += _SEGMENT.size + allocated


def _stack(file: Path, czi: CziReader, named: str) -> CziStack:
    box = dict(czi.total_bounding_box_no_pyramid)
    scene, area = _choose(file, czi.scenes_bounding_rectangle_no_pyramid, named)
    if further := {axis: length for axis, (_, length) in box.items() if axis not in ("C", "Z", "Y", "X") and length > 1}:
        said = ", ".join(f"{axis} ({length})" for axis, length in further.items())
        raise wrong_axes(str(file), f"z, y, x, c and {said}")
    area = area or czi.total_bounding_rectangle_no_pyramid
    (first, sections), (_, channels) = box.get("Z", (0, 1)), box.get("C", (0, 1))
    _require_complete(file, czi, area, channels, range(first, first + sections))
    types = {czi.get_channel_pixel_type(channel) for channel in range(channels)}
    if len(types) > 1 or not types <= set(_TYPES):
        raise InputError(
            "input.dtype",
            f"{file} holds pixels of {', '.join(sorted(types))}; read is one of {', '.join(_TYPES)} for all channels",
            hint="Save the channel that is meant, in grey values, as a file of its own in ZEN.",
            where=str(file),
        )
    dtype = _TYPES[types.pop()]
    check_images(file, (sections, area.h, area.w), dtype.itemsize)
    shape = (channels, sections, area.h, area.w)[0 if channels > 1 else 1 :]
    return CziStack(str(file), shape, dtype, (first, area.y, area.x), scene)


def _choose(file: Path, scenes: Mapping[int, Rectangle], named: str) -> tuple[int | None, Rectangle | None]:
    """Return the number and the area of the only scene, or of the one that is named; None where the file has none."""
    numbers = {str(number): number for number in sorted(scenes)}
    if named in numbers:
        return numbers[named], scenes[numbers[named]]
    if named != "." or len(scenes) > 1:
        there = ", ".join(f"{number} ({area.h} x {area.w} pixels)" for number, area in sorted(scenes.items())) or "none"
        raise InputError(
            "input.not-a-volume",
            f"{file} holds the scenes {there}" + (f", and not '{named}'" if named != "." else ", not one"),
            hint=f"Give one of them, such as {file}/{next(iter(numbers), '0')}." if scenes else f"Give {file}.",
            where=str(file),
        )
    return next(iter(scenes.items()), (None, None))


def _require_complete(file: Path, czi: CziReader, area: Rectangle, channels: int, sections: range) -> None:
    """Refuse a file without a tile of some section: it would be black."""
    there: set[tuple[int, int]] = set()

    def note(_: int, tile: Any) -> bool:
        at = tile.coordinate.to_dict()
        there.add((at.get("C", 0), at.get("Z", 0)))
        return True

    czi.enumerate_subblocks_subset(note, roi=area, only_layer0=True)
    for channel in range(channels):
        if missing := list(islice((z for z in sections if (channel, z) not in there), _MOST_NAMED)):
            raise InputError(
                "input.incomplete",
                f"{file} has no image of the sections {in_words(runs_of(missing))} of channel {channel}",
                hint="The acquisition may have been stopped: save what is complete as a file of its own in ZEN.",
                where=str(file),
            )


def _placed(text: str, sections: int) -> tuple[FoundLevel, Size | None]:
    """Return the voxel size in nanometres, of axes that the metadata know; the size of one section alone is its pixels'."""
    found = {each.get("Id", "").lower(): each.findtext("Value") for each in parse_xml(text).iter("Distance")}
    sizes = {axis: float(found.get(axis) or nan) * _PER_METRE for axis in SPACE}
    sizes = {axis: float(f"{size:.9g}") if isfinite(size) and size > 0 else nan for axis, size in sizes.items()}
    if sections == 1 and not isfinite(sizes["z"]):
        sizes["z"] = sizes["y"]
    known = {axis: isfinite(size) for axis, size in sizes.items()}
    level = FoundLevel("", zyx({axis: size if known[axis] else 1.0 for axis, size in sizes.items()}))
    return level, zyx({axis: 1.0 if known[axis] else nan for axis in SPACE}) if any(known.values()) else None


CZI = Format("CZI", find_czi, (".czi",))
