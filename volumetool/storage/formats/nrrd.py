"""NRRD files (.nrrd), and headers of files with bare voxels (.nhdr): a header of text, then voxels with the first axis fastest.

Voxels that are compressed as a whole are not read: no section of them can be found without unpacking all before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volumetool.errors import InputError
from volumetool.paths import open_file
from volumetool.storage.formats.base import Format, FoundLevel, ParsedMetadata, scale_zyx, sense, wrong_axes, zyx
from volumetool.storage.formats.reader import RawReader, check_length, open_reader
from volumetool.storage.io.arrays import SPACE
from volumetool.storage.io.kvstore import is_local, local_path
from volumetool.storage.io.limits import check_array
from volumetool.storage.writing.layout import OWN_KEY
from volumetool.units import nanometres_per

_MAGIC = b"NRRD000"
_AT_ONCE, _LONGEST = 2**12, 2**20
"""Bytes of a header that are read at once, and in all."""

_END = re.compile(rb"\r?\n\r?\n")

_TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_NUMPY = {name: short for short, names in _TYPES.items() for name in names.split(", ")}
_IN_SPACE = ("domain", "space", "none", "???")
"""Kinds of axes along which voxels follow each other in space, or that say nothing."""


@dataclass(frozen=True)
class _Header:
    """A header: its fields, and where the voxels are."""

    fields: Mapping[str, str]
    file: Path
    end: int

    def words(self, name: str) -> list[str]:
        """Return the words of a field; a vector in brackets is one, and so is a text in quotes."""
        return re.findall(r'"[^"]*"|\([^)]*\)|\S+', self.fields.get(name, ""))


def find_nrrd(url: str) -> ParsedMetadata | None:
    """Describe the volume in a NRRD file; None if there is none.

    Raises
    ------
    InputError
        ``input.unsupported``: compressed voxels, or voxels in several files. ``input.dtype``: blocks of bytes. ``input.axes``:
        neither two or three axes, nor one more with channels. ``input.unreadable``: the file of the voxels is not there, or too
        short. ``input.broken-metadata``, ``input.too-large``, ``input.empty``.
    """
    if not is_local(url) or not (path := local_path(url)).is_file():
        return None
    with open_file(path) as file:
        head = file.read(_AT_ONCE)
        if not head.startswith(_MAGIC):
            return None
        while not _END.search(head) and len(head) < _LONGEST and (more := file.read(_AT_ONCE)):
            head += more
    with sense(url):
        header = _read_header(path, head)
        axes, shape, reader = _voxels(url, header)
        level, unit, notes = _placed(header, axes[::-1])
    check_length(header.file, shape, np.dtype(reader.stored), reader.offset)
    check_array(url, open_reader(reader))
    said = {OWN_KEY: {"notes": list(notes)}} if notes else {}
    return ParsedMetadata(url, "nrrd", "virtual_chunked", axes, (level,), unit, said, reader)


def _read_header(path: Path, head: bytes) -> _Header:
    ends = _END.search(head)
    text = (head[: ends.start()] if ends else head).decode("ascii", "replace")
    lines = [line.partition(":") for line in text.splitlines()[1:] if not line.startswith("#") and ":=" not in line]
    fields = {name.strip().lower(): value.strip() for name, _, value in lines}
    named = fields.get("data file", fields.get("datafile"))
    if named is None:
        if ends is None:
            raise ValueError(f"no empty line ends its header in {len(head)} bytes")
        return _Header(fields, path, ends.end())
    if named.split()[:1] == ["LIST"] or "%" in named:
        raise _unsupported(path, f"has its voxels in several files ({named})", "Join them into one, as pynrrd does.")
    if Path(named).name != named:
        raise _unsupported(path, f"has its voxels in {named}", "Only a file beside the header is read: move it there.")
    if not (file := path.with_name(named)).is_file():
        raise InputError(
            "input.unreadable",
            f"{path} has its voxels in {named}, which is not there",
            hint="Copy both files into one folder.",
            where=str(path),
        )
    return _Header(fields, file, 0)


def _voxels(url: str, header: _Header) -> tuple[tuple[str, ...], tuple[int, ...], RawReader]:
    """Return the axes as stored, the slowest first, the voxels along them, and what reads these."""
    encoding, kind = header.fields["encoding"].lower(), header.fields["type"].lower()
    if encoding != "raw":
        code = "import sys, nrrd; v, h = nrrd.read(sys.argv[1]); h['encoding'] = 'raw'; nrrd.write(sys.argv[2], v, h)"
        hint = f'Unpack it, with pynrrd: `python -c "{code}" FILE NEW.nrrd`.'
        raise _unsupported(Path(url), f"has its voxels encoded as {encoding}; read are raw ones", hint)
    if kind not in _NUMPY:
        raise InputError("input.dtype", f"{url} holds {kind}; wanted are numbers", hint="Save it as numbers first.", where=url)
    shape = tuple(int(word) for word in header.words("sizes"))[::-1]
    if len(shape) != int(header.fields["dimension"]):
        raise ValueError(f"it has {header.fields['dimension']} dimensions and the sizes {header.fields['sizes']}")
    stored = np.dtype(_NUMPY[kind])
    if stored.itemsize > 1:
        stored = np.dtype({"little": "<", "big": ">"}[header.fields["endian"].lower()] + _NUMPY[kind])
    offset = header.end
    if (skip := int(header.fields.get("byte skip", 0))) == -1:
        offset = header.file.stat().st_size - math.prod(shape) * stored.itemsize
    elif skip < 0 or int(header.fields.get("line skip", 0)) != 0:
        raise _unsupported(Path(url), "skips lines of text before its voxels", "Say `byte skip: N` in its header, N bytes.")
    else:
        offset += skip
    if offset < 0:
        raise ValueError(f"its voxels take more bytes than {header.file} has")
    reader = RawReader(str(header.file), shape, stored.str, offset, stored.newbyteorder("="))
    return _axes(url, header, len(shape)), shape, reader


def _axes(url: str, header: _Header, rank: int) -> tuple[str, ...]:
    kinds = [kind.lower() for kind in header.words("kinds")] or ["domain"] * rank
    others = [number for number, kind in enumerate(kinds) if kind not in _IN_SPACE]
    if len(kinds) != rank or len(others) > 1 or rank - len(others) not in (2, 3):
        raise wrong_axes(url, kinds if header.words("kinds") else f"of an array of {rank} dimensions")
    spatial = iter(SPACE[::-1])
    return tuple("c" if number in others else next(spatial) for number in range(rank))[::-1]


def _placed(header: _Header, axes: tuple[str, ...]) -> tuple[FoundLevel, tuple[float, float, float] | None, tuple[str, ...]]:
    """Return voxel size and position, the unit, and what is to be said of them; the axes are the fastest first."""
    spatial = [axis for axis in axes if axis != "c"]
    vectors = [_vector(word) for axis, word in zip(axes, header.words("space directions"), strict=False) if axis != "c"]
    sizes = [math.hypot(*vector) for vector in vectors]
    if not vectors:
        sizes = [float(word) for axis, word in zip(axes, header.words("spacings"), strict=False) if axis != "c"]
    straight = all(vector[at : at + 1] == [size] for at, (vector, size) in enumerate(zip(vectors, sizes, strict=False)))
    origin = _vector(header.fields["space origin"]) if "space origin" in header.fields else []
    notes = []
    if not straight:
        notes.append("its axes are turned or mirrored in its space: taken as they are stored, without its position there")
    if header.words("axis mins") or (origin and len(origin) != len(spatial)):
        notes.append("its position is not read")
    at = dict(zip(spatial, origin, strict=True)) if straight and len(origin) == len(spatial) else {}
    units = [nanometres_per(word.strip('"')) for word in header.words("space units") or header.words("units")]
    level = FoundLevel("", scale_zyx(spatial, sizes or [1.0] * len(spatial)), zyx(dict.fromkeys(SPACE, 0.0) | at))
    if len(sizes) != len(spatial) or not any(units):
        return level, None, tuple(notes)
    known = [units[number] if number < len(units) else None for number in range(len(spatial))]
    return level, scale_zyx(spatial, [math.nan if unit is None else unit for unit in known]), tuple(notes)


def _vector(text: str) -> list[float]:
    return [float(part) for part in text.strip("() ").split(",")]


def _unsupported(path: Path, what: str, hint: str) -> InputError:
    return InputError("input.unsupported", f"{path} {what}", hint=hint, where=str(path))


NRRD = Format("NRRD", find_nrrd, (".nrrd", ".nhdr"))
