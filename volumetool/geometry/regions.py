"""Regions: the unit of work. Each is a band of whole shards of the output, with one owner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from volumetool.geometry.box import Box, Triple


@dataclass(frozen=True)
class Region:
    """One unit of work.

    Parameters
    ----------
    index : int
        Position in the job's region grid: channel, z, y, x, x fastest.
    channel : int
        Channel of the volume; 0 where it has none.
    box : Box
        Voxels of the output's level 0 that this region owns: whole shards, cut at the faces of the volume.
    """

    index: int
    channel: int
    box: Box


@dataclass(frozen=True)
class RegionGrid:
    """All regions of a job.

    Parameters
    ----------
    shape : tuple of int
        Level 0 of the output, in voxels.
    shard : tuple of int
        Shard of level 0, in voxels.
    span : tuple of int
        Shards per region and axis.
    channels : int
        Number of channels, at least 1.
    """

    shape: Triple
    shard: Triple
    span: Triple
    channels: int = 1

    @property
    def size(self) -> Triple:
        """Voxels of a region that no face cuts."""
        return self.shard[0] * self.span[0], self.shard[1] * self.span[1], self.shard[2] * self.span[2]

    @property
    def grid(self) -> Triple:
        """Regions per axis."""
        z, y, x = (-(-n // m) for n, m in zip(self.shape, self.size, strict=True))
        return z, y, x

    @property
    def count(self) -> int:
        """Number of regions of all channels."""
        z, y, x = self.grid
        return self.channels * z * y * x

    def region(self, index: int) -> Region:
        """Return region number `index`."""
        grid_z, grid_y, grid_x = self.grid
        rest, x = divmod(index, grid_x)
        rest, y = divmod(rest, grid_y)
        channel, z = divmod(rest, grid_z)
        start = (z * self.size[0], y * self.size[1], x * self.size[2])
        stop = (start[0] + self.size[0], start[1] + self.size[1], start[2] + self.size[2])
        return Region(index, channel, Box(start, stop).intersection(Box.whole(self.shape)))

    def touching(self, box: Box | None = None) -> Iterator[int]:
        """Yield the indices of the regions that share a voxel with `box`, of all channels; all regions without one."""
        if box is None:
            yield from range(self.count)
            return
        inside = box.intersection(Box.whole(self.shape)).coarsened(self.size)
        grid_z, grid_y, grid_x = self.grid
        for channel in range(self.channels):
            for z in range(inside.start[0], inside.stop[0]):
                for y in range(inside.start[1], inside.stop[1]):
                    row = ((channel * grid_z + z) * grid_y + y) * grid_x
                    yield from range(row + inside.start[2], row + inside.stop[2])
