"""The keys of a volume whose format the client does not read: an OME-Zarr that is made of its voxels as they are asked for."""

from __future__ import annotations

import asyncio

import numpy as np

from volumetool.errors import DataError
from volumetool.geometry import Box, plan_levels
from volumetool.storage.create import VolumeLayout, array_metadata, group_metadata
from volumetool.storage.io.arrays import read_part
from volumetool.storage.io.chunk_keys import ChunkKeys
from volumetool.storage.io.kvstore import encode_json
from volumetool.storage.io.retries import brief
from volumetool.storage.volume import Volume
from volumetool.viewer.server import Content, InMemory

_CHUNK = (4, 256, 256)


class ComputedKeys:
    """Reads the keys of a volume as those of an OME-Zarr with its finest level alone; a `KeyReader`.

    Parameters
    ----------
    volume : Volume
        Of any format.
    """

    def __init__(self, volume: Volume) -> None:
        (grid, *_) = plan_levels(volume.shape, volume.voxel_size, volume.translation, _CHUNK, _CHUNK)
        layout = VolumeLayout(volume.dtype.name, (grid,), volume.channels, name="volume")
        plain = [{"name": "bytes", "configuration": {"endian": "little"}}]
        array = array_metadata(layout, 0) | {"zarr_format": 3, "node_type": "array", "codecs": plain}
        described = {"zarr.json": group_metadata(layout, {}), "0/zarr.json": array}
        self._metadata = {key: encode_json(value) for key, value in described.items()}
        self._volume, self._keys = volume, ChunkKeys.of(array, "zarr3")

    async def __call__(self, key: str) -> Content | None:
        """Find the content of a key; a chunk is read now."""
        if key in self._metadata:
            return InMemory(self._metadata[key])
        name = key.removeprefix("0/")
        return await asyncio.to_thread(self._chunk, name) if key != name and name in self._keys else None

    def _chunk(self, key: str) -> Content:
        *channels, z, y, x = self._keys.place(key)
        z, y, x = (number * size for number, size in zip((z, y, x), _CHUNK, strict=True))
        channel = channels[0] if channels else 0
        box = Box.whole(_CHUNK).shifted((z, y, x)).intersection(Box.whole(self._volume.shape))
        try:
            voxels = read_part(self._volume.open(channel=channel), box.slices)
        except (ValueError, OSError) as error:
            raise DataError("data.unreadable", f"{self._volume.url}: {brief(error)}", hint="Copy it again.") from error
        chunk = np.zeros(_CHUNK, self._volume.dtype.newbyteorder("<"))
        chunk[Box.whole(box.shape).slices] = voxels
        return InMemory(chunk.tobytes())
