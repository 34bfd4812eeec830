"""Volumes that grow by sections: the raw one, and the enhanced one until it is complete.

Both are OME-Zarr 0.5 whose shards are one step of the watch thick, mostly one section, so that a section is stored without
touching its neighbours. Where the number of sections is not known beforehand, the arrays grow along z: their metadata are
replaced in one move. A reader that opens the volume again sees more of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import tensorstore as ts

from volumetool.geometry import LevelGrid, Size, Triple, downscaled_translation
from volumetool.storage.create import VolumeLayout, array_metadata, group_metadata, open_for_writing
from volumetool.storage.io.kvstore import encode_json, join_url, write_key

SIDE = 512
"""Voxels of a chunk along y and x; along z it is one."""

MOST_LEVELS = 5
"""Levels that are made of every section as it lands: the coarsest is 16 times thinned out."""

STAGED = "growing"
"""Folder of the arrays of an enhanced volume that is not complete yet."""


VolumeLevels = tuple[LevelGrid, ...]
"""Levels of a volume, finest first."""


def section_levels(shape: Triple, thick: int, voxel_size: Size, translation: Size, most: int = MOST_LEVELS) -> VolumeLevels:
    """Return levels that sections can be written on one by one: halved along y and x alone.

    Parameters
    ----------
    shape : tuple of int
        Level 0, in voxels.
    thick : int
        Sections of a shard.
    voxel_size, translation : tuple of float
        Voxel size and position of level 0, in nm.
    most : int
        Levels at most; there are as many as it takes until one fits a chunk.
    """
    count = 1
    while count < most and max(shape[1:]) > SIDE << (count - 1):
        count += 1
    shard: Triple = (thick, SIDE << (count - 1), SIDE << (count - 1))
    grids = [LevelGrid(shape, (1, SIDE, SIDE), shard, voxel_size, translation, (1, 1, 1), fused=True)]
    for _ in range(1, count):
        fine = grids[-1]
        size = (fine.voxel_size[0], 2 * fine.voxel_size[1], 2 * fine.voxel_size[2])
        grids.append(
            LevelGrid(
                shape=(shape[0], -(-fine.shape[1] // 2), -(-fine.shape[2] // 2)),
                chunk=(1, SIDE, SIDE),
                shard=(thick, fine.shard[1] // 2, fine.shard[2] // 2),
                voxel_size=size,
                translation=downscaled_translation(voxel_size, translation, size),
                factor=(1, 2, 2),
                fused=True,
            )
        )
    return tuple(grids)


@dataclass(frozen=True)
class Growing:
    """A volume that grows along z.

    Attributes
    ----------
    url : str
        Place of the volume.
    folder : str
        Folder of the arrays below the volume; empty where they stand in the volume itself.
    layout : VolumeLayout
        Layout that the volume has now.
    """

    url: str
    folder: str
    layout: VolumeLayout

    @property
    def depth(self) -> int:
        """Sections of level 0."""
        return self.layout.levels[0].shape[0]

    def deeper(self, depth: int) -> Growing:
        """Return the same volume with so many sections of level 0."""
        levels = tuple(replace(level, shape=(depth, *level.shape[1:])) for level in self.layout.levels)
        return replace(self, layout=replace(self.layout, levels=levels))

    def describe(self, attributes: Mapping[str, Any]) -> None:
        """Write what the volume says of itself, in one move."""
        group = group_metadata(self.layout, attributes)
        (image,) = group["attributes"]["ome"]["multiscales"]
        for dataset in image["datasets"]:
            dataset["path"] = f"{self.folder}/{dataset['path']}" if self.folder else dataset["path"]
        write_key(self.url, "zarr.json", encode_json(group))

    def grow(self) -> None:
        """Write the shape that the volume has by now; the coarse levels first, so that level 0 never lacks its shadow."""
        for level in reversed(range(len(self.layout.levels))):
            array = {"zarr_format": 3, "node_type": "array", **array_metadata(self.layout, level)}
            write_key(join_url(self._arrays, str(level)), "zarr.json", encode_json(array))

    def open(self, level: int = 0) -> ts.TensorStore:
        """Open a level for reading and writing: z, y, x."""
        return open_for_writing(self._arrays, self.layout, level)

    @property
    def _arrays(self) -> str:
        return join_url(self.url, self.folder)
