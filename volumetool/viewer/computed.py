"""The keys of a volume as it would be written in another format: each chunk is made of its voxels as it is asked for."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from volumetool.errors import DataError
from volumetool.geometry import Box, LevelGrid, without_shards
from volumetool.storage.conversion import copied_layout
from volumetool.storage.create import check_layout, group_metadata, open_in_memory
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.chunk_keys import ARRAY_METADATA
from volumetool.storage.io.kvstore import encode_json
from volumetool.storage.io.retries import brief
from volumetool.storage.io.shards import level_keys
from volumetool.storage.volume import Volume
from volumetool.storage.writing.names import CodecName, WrittenName
from volumetool.viewer.server import Content, InMemory


class ComputedKeys:
    """Reads the keys of a volume as those of another format; a `KeyReader`.

    A chunk is what `convert` would write of the same voxels; one of zeros alone is not there.

    Parameters
    ----------
    volume : Volume
        Of any format.
    levels : tuple of LevelGrid
        Those of its levels that there are, finest first, each in the chunks that are given out.
    format : str
        One that is written, without shards.
    codec : str, optional
        One of its codecs; by default its first.

    Raises
    ------
    OutputError
        ``output.channels``, ``output.codec``: the format has no place for it.
    """

    def __init__(
        self,
        volume: Volume,
        levels: tuple[LevelGrid, ...],
        format: WrittenName,  # noqa: A002
        codec: CodecName | None = None,
    ) -> None:
        self._volume, self._written = volume, WRITTEN[format]
        self._layout = replace(copied_layout(volume, without_shards(levels), format)[0], codec=codec)
        check_layout(volume.url, self._layout)
        self._keys = [level_keys(self._layout, number) for number in range(len(levels))]
        self._metadata = {self._written.root: encode_json(group_metadata(self._layout, {}))}
        self._metadata |= {key: encode_json(content) for key, content in self._written.beside.items()}
        if (own := ARRAY_METADATA.get(self._written.driver)) is not None:
            for number in range(len(levels)):
                self._metadata[f"{self._written.path.format(number)}/{own}"] = self._stored(number, 0, own) or b""

    async def __call__(self, key: str) -> Content | None:
        """Find the content of a key; a chunk is read now."""
        if key in self._metadata:
            return InMemory(self._metadata[key])
        for number, keys in enumerate(self._keys):
            name = key.removeprefix(f"{self._written.path.format(number)}/")
            if name != key and name in keys:
                data = await asyncio.to_thread(self._chunk, number, name)
                return None if data is None else InMemory(data)
        return None

    def _chunk(self, number: int, name: str) -> bytes | None:
        place = dict(zip(self._written.axes(self._layout.channels), self._keys[number].place(name), strict=True))
        grid = self._layout.levels[number]
        z, y, x = (place[axis] * size for axis, size in zip("zyx", grid.chunk, strict=True))
        box = Box.whole(grid.chunk).shifted((z, y, x)).intersection(Box.whole(grid.shape))
        return self._stored(number, place.get("c", 0), name, box)

    def _stored(self, number: int, channel: int, name: str, box: Box | None = None) -> bytes | None:
        """Return what is stored under a name when a level is created, and one box of it is written."""
        array = open_in_memory(self._layout, number, channel)
        if box is not None:
            try:
                voxels = read_part(self._volume.open(number, channel), box.slices)
            except (ValueError, OSError) as error:
                raise DataError("data.unreadable", f"{self._volume.url}: {brief(error)}", hint="Copy it again.") from error
            array[box.slices].write(voxels).result()
        assert array.kvstore is not None  # noqa: S101  (what is stored has one)
        folder = "" if self._written.driver in ARRAY_METADATA else f"{self._written.path.format(number)}/"
        found = array.kvstore.read(f"{folder}{name}").result()
        return found.value if found.state == "value" else None
