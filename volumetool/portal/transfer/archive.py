"""A result as one zip file that is made while it is sent: stored, not packed, since chunks are packed already."""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from volumetool.storage.create import read_root, with_attributes
from volumetool.storage.io.kvstore import encode_json
from volumetool.storage.provenance import provenance_of, without_places
from volumetool.storage.volume import Volume
from volumetool.viewer.served_keys import FilesOfVolume, chunk_keys, files_of
from volumetool.viewer.server import Content

BLOCK = 2**20
"""Bytes of a file in memory."""

_DATE = 0x21
"""1 January 1980, the first that a zip file can say: the same volume gives the same bytes."""

_LOCAL, _CENTRAL = struct.Struct("<4sHHHHHIIIHH"), struct.Struct("<4sHHHHHHIIIHHHHHII")
_MORE_LOCAL, _MORE_CENTRAL = struct.Struct("<HHQQ"), struct.Struct("<HHQQQ")
_END64, _LOCATOR, _END = struct.Struct("<4sQHHIIQQQQ"), struct.Struct("<4sIQI"), struct.Struct("<4sHHHHIIH")
_VERSION, _UTF8, _MADE_BY_UNIX = 45, 0x800, 3 << 8
_FULL, _MOST = 0xFFFF, 0xFFFFFFFF
_MODE = 0o100644 << 16


class Archive:
    """The zip file of a volume: its own keys, and nothing that lies beside it.

    What the volume says of its making is sent without the places and the name of this machine.

    All entries have the fields of zip64, so that the size of the whole is known before it is sent. In memory are one block of a
    file, and twelve bytes for each.

    Parameters
    ----------
    volume : Volume
        On a local disk.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume, self._files = volume, files_of(volume)
        key, root = read_root(volume.url)
        if root is not None and (own := provenance_of(root)) is not None:
            told = encode_json(with_attributes(root, without_places(own)))
            self._files = replace(self._files, instead={key: told})
        self._sizes = array("Q")
        names = 0
        for name, content in self._entries():
            self._sizes.append(content.size)
            names += len(name.encode())
        heads = _LOCAL.size + _MORE_LOCAL.size + _CENTRAL.size + _MORE_CENTRAL.size
        count = len(self._sizes)
        self.size = sum(self._sizes) + 2 * names + count * heads + _END64.size + _LOCATOR.size + _END.size
        """Bytes of the zip file."""

    def __iter__(self) -> Iterator[bytes]:
        """Yield the zip file.

        Raises
        ------
        OSError, DataError
            The volume is not what it was: what has been sent is no zip file.
        """
        sums, at = array("I"), 0
        for number, (name, content) in enumerate(self._entries()):
            total = 0
            for block in _blocks(content):  # the sum stands before the bytes; the second time they are in memory
                total = zlib.crc32(block, total)
            sums.append(total)
            if number >= len(self._sizes) or content.size != self._sizes[number]:
                raise OSError(f"{self._volume.url} is not what it was when its download began")
            text = name.encode()
            head = (b"PK\3\4", _VERSION, _UTF8, 0, 0, _DATE, total, _MOST, _MOST, len(text), _MORE_LOCAL.size)
            yield _LOCAL.pack(*head) + text + _MORE_LOCAL.pack(1, 16, content.size, content.size)
            yield from _blocks(content)
            at += _LOCAL.size + len(text) + _MORE_LOCAL.size + content.size
        yield from self._directory(sums, at)

    def _directory(self, sums: array[int], begins: int) -> Iterator[bytes]:
        """Yield the list at the end."""
        length = at = 0
        for total, size, (name, _) in zip(sums, self._sizes, self._entries(), strict=True):
            text = name.encode()
            more = _MORE_CENTRAL.pack(1, 24, size, size, at)
            head = (b"PK\1\2", _MADE_BY_UNIX | _VERSION, _VERSION, _UTF8, 0, 0, _DATE, total, _MOST, _MOST)
            yield _CENTRAL.pack(*head, len(text), len(more), 0, 0, 0, _MODE, _MOST) + text + more
            length += _CENTRAL.size + len(text) + len(more)
            at += _LOCAL.size + len(text) + _MORE_LOCAL.size + size
        count, ends = len(sums), begins + length
        yield _END64.pack(b"PK\6\6", _END64.size - 12, _VERSION, _VERSION, 0, 0, count, count, length, begins)
        yield _LOCATOR.pack(b"PK\6\7", 0, ends, 1)
        yield _END.pack(b"PK\5\6", 0, 0, _FULL, _FULL, _MOST, _MOST, 0)

    def _entries(self) -> Iterator[tuple[str, Content]]:
        """Yield the keys that are stored, in one order: metadata first, then the chunks of each level."""
        for name in self._names(self._files):
            if (content := self._files.find(name)) is not None:
                yield name, content

    def _names(self, files: FilesOfVolume) -> Iterator[str]:
        yield from sorted(files.metadata, key=lambda name: (name.count("/"), name))
        for level in self._volume.levels:
            path = level.path.strip("/")
            keys = chunk_keys(self._volume, path)
            for place in product(*map(range, keys.counts)):
                yield f"{path}/{keys.key(place)}" if path else keys.key(place)


def _blocks(content: Content) -> Iterator[bytes]:
    for start in range(0, content.size, BLOCK):
        yield content.read(start, min(start + BLOCK, content.size))
