"""Metadata of a live volume: what the batch job would write, but for shards, and what stands in for coarse levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from volumetool.geometry import Box, Triple
from volumetool.live_view.levels import LiveLevel
from volumetool.storage.create import VolumeLayout, array_metadata, group_metadata
from volumetool.storage.formats.base import Json

DESCRIPTIONS = {
    "computed": "enhanced where one looks, with the voxels of the batch job",
    "stored": "of the finished job",
    "input": "not enhanced: the input, which stands in for a coarse level until the job is finished",
}


@dataclass(frozen=True)
class LiveLayout:
    """A live volume before anything is computed.

    Attributes
    ----------
    dtype : str
        Data type of the output.
    channels : int or None
        Length of the c axis; None for none.
    fill_value : float
        Fill value of the output; chunks of nothing else are not stored.
    levels : tuple of LiveLevel
        Levels, finest first.
    """

    dtype: str
    channels: int | None
    fill_value: float
    levels: tuple[LiveLevel, ...]

    @property
    def volume(self) -> VolumeLayout:
        """The layout of a stored volume with these levels."""
        return VolumeLayout(self.dtype, tuple(level.grid for level in self.levels), self.channels, self.fill_value)


def live_group(layout: LiveLayout, provenance: Mapping[str, Any]) -> Json:
    """Return the metadata of the group.

    Parameters
    ----------
    layout : LiveLayout
        Layout of the live volume.
    provenance : mapping
        JSON values; the levels and where they come from are added.
    """
    kinds = {level.name: DESCRIPTIONS[level.kind] for level in layout.levels}
    group = group_metadata(layout.volume, {**provenance, "levels": kinds})
    (image,) = group["attributes"]["ome"]["multiscales"]
    for dataset, level in zip(image["datasets"], layout.levels, strict=True):
        dataset["path"] = level.name
    if any(level.kind == "input" for level in layout.levels):
        # The factors between levels are no longer those of means of the level before.
        del image["type"]
        image["metadata"] = {"description": "Levels that the network did not make are named in the attribute volumetool."}
    return group


def live_array(layout: LiveLayout, number: int) -> Json:
    """Return the metadata of a level's array: the job's without shards, since a shard is too much to compute for one look."""
    sharded = array_metadata(layout.volume, number)
    inner = sharded["codecs"][0]["configuration"]
    grid = {"name": "regular", "configuration": {"chunk_shape": inner["chunk_shape"]}}
    return {"zarr_format": 3, "node_type": "array"} | sharded | {"chunk_grid": grid, "codecs": inner["codecs"]}


def encode_chunk(layout: LiveLayout, number: int, voxels: NDArray[Any]) -> bytes | None:
    """Return the stored bytes of a chunk, None where nothing is stored because it holds the fill value alone.

    Parameters
    ----------
    layout : LiveLayout
        Layout of the live volume.
    number : int
        Number of the level.
    voxels : numpy.ndarray, shape (z, y, x)
        Voxels of a chunk, or of what a face of the volume leaves of it; the rest is filled.
    """
    metadata = live_array(layout, number)
    chunk: Triple = layout.levels[number].grid.chunk
    leading = metadata["chunk_grid"]["configuration"]["chunk_shape"][:-3]
    metadata["shape"] = [*leading, *chunk]
    array = ts.open({"driver": "zarr3", "kvstore": "memory://", "metadata": metadata}, create=True).result()
    whole = (0,) * len(leading)
    array[whole + Box.whole(voxels.shape).slices].write(np.ascontiguousarray(voxels)).result()
    store = array.kvstore
    assert store is not None  # noqa: S101  (zarr3 always has one)
    stored = store.read("/".join(["c", *map(str, whole), "0", "0", "0"])).result()
    return bytes(stored.value) if stored.state == "value" else None
