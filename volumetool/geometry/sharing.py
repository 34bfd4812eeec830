"""Sharing: which regions need the same patches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from volumetool.geometry.box import Box, Triple
from volumetool.geometry.lattice import Lattice
from volumetool.geometry.regions import RegionGrid


@dataclass(frozen=True)
class RegionTask:
    """A region whose turn it is, and where its neighbours are by then. A neighbour shares a patch with it.

    Parameters
    ----------
    region : int
        Index in the job's region grid.
    earlier : tuple of int
        Neighbours that are done or under way.
    later : tuple of int
        Neighbours whose turn is still to come, as far as patches are kept for them.
    """

    region: int
    earlier: tuple[int, ...] = ()
    later: tuple[int, ...] = ()


@dataclass(frozen=True)
class PatchSharing:
    """A lattice of patches against a grid of regions.

    Parameters
    ----------
    grid : RegionGrid
        All regions of the job.
    lattice : Lattice
        All patches of the volume.
    origin : tuple of int
        Voxel of the lattice's output at which the grid begins (a cropped output).
    """

    grid: RegionGrid
    lattice: Lattice
    origin: Triple = (0, 0, 0)

    def patches(self, axis: int, number: int) -> range:
        """Return the patches along one axis that the `number`-th region along it needs."""
        low = number * self.grid.size[axis]
        high = min(low + self.grid.size[axis], self.grid.shape[axis])
        return self.lattice.axes[axis].touching(self.origin[axis] + low, self.origin[axis] + high)

    def regions(self, axis: int, patch: int) -> range:
        """Return the numbers of the regions along one axis that need a patch along it."""
        line, origin = self.lattice.axes[axis], self.origin[axis]
        low = max(line.weight_start(patch) - origin, 0)
        high = min(line.weight_stop(patch) - origin, self.grid.shape[axis])
        size = self.grid.size[axis]
        return range(low // size, -(-high // size))

    def count(self, once: tuple[bool, bool, bool] = (False, False, False), within: Box | None = None) -> int:
        """Return how many patches all regions evaluate together; a patch that k regions need counts k times.

        Parameters
        ----------
        once : tuple of bool
            Axes, z, y, x, along which a patch that several regions need counts once.
        within : Box, optional
            Voxels of the grid; only the regions that touch them evaluate. All regions without it.
        """
        total = self.grid.channels
        for axis, numbers in enumerate(self.numbers(within)):
            needed = [self.patches(axis, number) for number in numbers]
            total *= needed[-1].stop - needed[0].start if once[axis] else sum(map(len, needed))
        return total

    def numbers(self, within: Box | None = None) -> tuple[range, range, range]:
        """Return along each axis the numbers of the regions that touch some voxels of the grid, of all without them."""
        whole = Box.whole(self.grid.shape)
        box = (whole if within is None else within.intersection(whole)).coarsened(self.grid.size)
        z, y, x = map(range, box.start, box.stop)
        return z, y, x

    def peak(self, kept: tuple[bool, bool, bool], ahead: int = 0, within: Box | None = None) -> int:
        """Return an upper bound of the patches that are kept at once, each from its first region to its last.

        In raster order a patch over a face along z waits for a whole layer of regions, one over a face along y for a row.
        While a row is under way, both faces of its layer count for the row's own patches; so do both faces of a region.

        Parameters
        ----------
        kept : tuple of bool
            Axes, z, y, x, over whose faces patches are kept.
        ahead : int
            Regions that may run before an earlier one has ended.
        within : Box, optional
            Voxels of the grid; only the regions that touch them run. All regions without it.
        """
        all_of, most, over = [], [], []
        for axis, numbers in enumerate(self.numbers(within)):
            needed = [self.patches(axis, number) for number in numbers]
            all_of.append(needed[-1].stop - needed[0].start)
            most.append(max(map(len, needed)))
            over.append(max((a.stop - b.start for a, b in itertools.pairwise(needed)), default=0) if kept[axis] else 0)
        layer = over[0] * all_of[2] * (all_of[1] + most[1])
        row = most[0] * over[1] * (all_of[2] + most[2])
        near = most[0] * most[1] * 2 * over[2]
        inner = [max(0, n - 2 * shared) for n, shared in zip(most, over, strict=True)]
        return layer + row + near + ahead * (most[0] * most[1] * most[2] - inner[0] * inner[1] * inner[2])

    def position(self, index: int) -> tuple[int, Triple]:
        """Return a region's channel, and its number along each axis."""
        _, height, width = self.grid.grid
        rest, x = divmod(index, width)
        rest, y = divmod(rest, height)
        channel, z = divmod(rest, self.grid.grid[0])
        return channel, (z, y, x)

    def index(self, channel: int, position: Triple) -> int:
        """Return the index of the region at a position."""
        depth, height, width = self.grid.grid
        z, y, x = position
        return ((channel * depth + z) * height + y) * width + x

    def neighbours(self, index: int) -> Iterator[int]:
        """Yield the other regions that share a patch with a region, in order."""
        channel, position = self.position(index)
        reach = []
        for axis, number in enumerate(position):
            needed = self.patches(axis, number)
            reach.append(range(self.regions(axis, needed[0]).start, self.regions(axis, needed[-1]).stop))
        for z, y, x in itertools.product(*reach):
            if (z, y, x) != position:
                yield self.index(channel, (z, y, x))

    def layer(self, index: int) -> int:
        """Return a region's number along z, counted over all channels."""
        _, height, width = self.grid.grid
        return index // (height * width)

    def owners(self, channel: int, patch: Triple) -> Iterator[int]:
        """Yield the regions that need a patch, in order."""
        for position in itertools.product(*(self.regions(axis, number) for axis, number in enumerate(patch))):
            z, y, x = position
            yield self.index(channel, (z, y, x))
