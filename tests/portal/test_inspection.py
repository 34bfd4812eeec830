"""Files that are made to fill memory, to keep the portal busy, or to be taken for what they are not: none is opened further."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from volumetool.errors import VolumetoolError
from volumetool.portal.transfer import inspection
from volumetool.portal.transfer.inspection import inspect, kind_of, look_at


def tiff(**tags: int) -> Callable[[Path], None]:
    """Return what writes a TIFF file with other tags than it has."""

    def write(file: Path) -> None:
        tifffile.imwrite(file, np.zeros((64, 64), np.uint8), compression="zlib", photometric="minisblack")
        with tifffile.TiffFile(file, mode="r+b") as opened:
            for name, value in tags.items():
                opened.pages.first.tags[name].overwrite(value)

    return write


def strip_bomb(file: Path) -> None:
    """Write a TIFF file whose only strip unpacks to a thousand times what its tags say."""
    packed = zlib.compress(bytes(2**26), 9)
    tiff()(file)
    with tifffile.TiffFile(file, mode="r+b") as opened:
        at = opened.filehandle.seek(0, io.SEEK_END)
        opened.filehandle.write(packed)
        opened.pages.first.tags["StripOffsets"].overwrite(at)
        opened.pages.first.tags["StripByteCounts"].overwrite(len(packed))


def endless_tiff(file: Path) -> None:
    """Write a TIFF file whose directory is followed by itself."""
    tifffile.imwrite(file, np.zeros((16, 16), np.uint8), photometric="minisblack")
    data = bytearray(file.read_bytes())
    start = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, start)[0]
    struct.pack_into("<I", data, start + 2 + 12 * count, start)
    file.write_bytes(data)


def many_pages(file: Path) -> None:
    """Write a TIFF file of many large sections that are all one strip of zeros."""
    packed = zlib.compress(bytes(8192 * 8192), 9)
    with tifffile.TiffWriter(file, bigtiff=True) as writer:
        writer.write(
            iter([packed] * 40),
            shape=(40, 8192, 8192),
            dtype=np.uint8,
            compression="zlib",
            rowsperstrip=8192,
            photometric="minisblack",
        )


def png(width: int, height: int, packed: bytes = b"", kind: int = 0, depth: int = 8) -> Callable[[Path], None]:
    """Return what writes a PNG file by its head and its packed rows."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    def write(file: Path) -> None:
        head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
        rows = part(b"IDAT", packed or zlib.compress(bytes(2**20)))
        file.write_bytes(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + rows + part(b"IEND", b""))

    return write


def mrc(**fields: int) -> Callable[[Path], None]:
    """Return what writes an MRC file with another head than it has."""

    def write(file: Path) -> None:
        with mrcfile.new(file, np.zeros((2, 8, 8), np.int16), overwrite=True):
            pass
        with mrcfile.open(file, "r+", permissive=True) as opened:
            for name, value in fields.items():
                opened.header[name] = value

    return write


def raw(data: bytes) -> Callable[[Path], None]:
    """Return what writes bytes."""
    return lambda file: file.write_bytes(data) and None


BOMBS: dict[str, Callable[[Path], None]] = {
    "a section of 2^31 columns": tiff(ImageWidth=2**31 - 1),
    "a section of 2^31 rows": tiff(ImageLength=2**31 - 1),
    "a section of no column": tiff(ImageWidth=0),
    "voxels of 64 bits": tiff(BitsPerSample=64),
    "a strip that lies behind the end": tiff(StripOffsets=2**31),
    "a strip that is longer than the file": tiff(StripByteCounts=2**31),
    "a strip that unpacks to 64 MiB": strip_bomb,
    "a directory that follows itself": endless_tiff,
    "40 sections of one strip of zeros": many_pages,
    "a TIFF file that ends": raw(b"II*\0\x08\0\0\0"),
    "a TIFF file of one byte more": raw(b"MM\0*\xff\xff\xff\xff"),
    "a PNG file of 60000 x 60000": png(60_000, 60_000),
    "a PNG file of 2^31 columns": png(2**31 - 1, 1),
    "a PNG file that is cut off": raw(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    "a PNG file in colour": png(16, 16, kind=2),
    "a PNG file of 16 rows with two": png(16, 16, zlib.compress(bytes(34))),
    "an MRC file of 2^31 sections": mrc(nz=2**31 - 1),
    "an MRC file of minus one row": mrc(ny=-1),
    "an MRC file of complex numbers": mrc(mode=4),
    "an MRC file whose head is 2 GiB long": mrc(nsymbt=2**31 - 1),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_by_name(bomb: str, tmp_path: Path) -> None:
    assert len(BOMBS) == 20
    file = tmp_path / "part"
    BOMBS[bomb](file)
    kind = kind_of(file)
    assert kind is not None
    named = file.rename(tmp_path / f"volume.{kind}")
    with pytest.raises(VolumetoolError) as refused:
        look_at(named)
    assert refused.value.code.startswith(("input.", "data.", "resource."))
    assert refused.value.message


@pytest.mark.parametrize(
    "begin", [b"PK\3\4", b"\x7fELF", b"%PDF", b"<svg ", b"GIF89a", b"\xff\xd8\xff", b"", b"\0" * 300, b"#!/bin/sh"]
)
def test_what_begins_otherwise_is_no_volume(begin: bytes, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(begin)
    assert kind_of(tmp_path / "part") is None


def test_a_look_has_bounds_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "volume.tif"
    tifffile.imwrite(file, np.zeros((2, 16, 16), np.uint8), photometric="minisblack", metadata={"axes": "ZYX"})
    assert inspect(file)["shape"] == [2, 16, 16]
    monkeypatch.setattr(inspection, "sys", type("Other", (), {"executable": "/bin/true"}))
    with pytest.raises(VolumetoolError, match="could not be looked at within 4 GiB of memory and 60 s"):
        inspect(file)
