"""Levels of a live volume: those that are computed, and beyond them the input's own or, once they are there, the job's.

Down to the voxel size of the input a level is what the batch job would write. A coarser one would need the network on
everything below it to show a thumbnail, so there the input stands in, as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from volumetool.geometry import Box, LevelGrid, Size, Triple, default_chunk, plan_levels
from volumetool.processing.spec import OutputSpec
from volumetool.storage.volume import Level, Volume

Kind = Literal["computed", "stored", "input"]

NEAR = 2**7
"""Side of a live chunk, in input voxels, where sections are independent: a view asks for little beyond its edges, and for
patches beyond them rarely. One look at a section computes no other."""

MOST_INPUT = 2**26
"""Voxels of the input that one chunk of a level made on the fly may be the mean of; coarser levels are not made."""

SAME = 1 + 1e-6
"""Voxel sizes are rounded where they are written."""


@dataclass(frozen=True)
class LiveLevel:
    """A level of a live volume.

    Attributes
    ----------
    name : str
        Name of its array.
    kind : {"computed", "stored", "input"}
        Whether the level is computed by the network, read from the job's output, or made from the input.
    grid : LevelGrid
        Its chunk, which is its shard, is the live volume's own.
    number : int
        Level of the job's output, or of the input.
    factor : tuple of int
        Voxels of that level of the input that make one of this.
    """

    name: str
    kind: Kind
    grid: LevelGrid
    number: int
    factor: Triple = (1, 1, 1)

    def box(self, place: Triple) -> Box:
        """Return the voxels of a chunk; empty outside the grid."""
        z, y, x = (n * size for n, size in zip(place, self.grid.chunk, strict=True))
        return Box.whole(self.grid.chunk).shifted((z, y, x)).intersection(Box.whole(self.grid.shape))


def computed_levels(spec: OutputSpec, voxel_size: Size, chunk: Triple | None = None) -> tuple[LiveLevel, ...]:
    """Return the levels whose voxels are at most as large as the input's, and the finest one in any case.

    Parameters
    ----------
    spec : Terms
        Everything that decides the bytes of the job.
    voxel_size : tuple of float
        Voxel size of the input, in nm.
    chunk : tuple of int, optional
        Chunk of the levels; by default one section where sections are independent, else the job's chunk.

    Returns
    -------
    tuple of LiveLevel
        Levels that the network computes, finest first.
    """
    thin = not spec.lattice.z.overlap and spec.lattice.z.patch == 1
    return tuple(
        LiveLevel(
            str(number), "computed", _rechunked(grid, chunk or (_section(grid, voxel_size) if thin else grid.chunk)), number
        )
        for number, grid in enumerate(spec.levels)
        if number == 0 or math.prod(grid.voxel_size) <= math.prod(voxel_size) * SAME
    )


def stored_levels(spec: OutputSpec, first: int) -> tuple[LiveLevel, ...]:
    """Return the coarser levels as the job writes them."""
    return tuple(
        LiveLevel(str(number), "stored", _rechunked(grid, grid.chunk), number)
        for number, grid in enumerate(spec.levels)
        if number >= first
    )


def input_levels(volume: Volume, level: int) -> tuple[LiveLevel, ...]:
    """Return what the input shows beyond the level that is enhanced: its own coarser levels, or means of that level."""
    own = volume.levels[level + 1 :]
    if not own:
        return tuple(_made(volume.levels[level], level))
    return tuple(
        LiveLevel(f"input-{number}", "input", _own_grid(each), number) for number, each in enumerate(own, start=level + 1)
    )


def _made(level: Level, number: int) -> Iterator[LiveLevel]:
    factor = (1, 1, 1)
    for count, grid in enumerate(plan_levels(level.shape, level.voxel_size, level.translation)[1:], start=1):
        factor = (factor[0] * grid.factor[0], factor[1] * grid.factor[1], factor[2] * grid.factor[2])
        if math.prod(factor) * math.prod(grid.chunk) > MOST_INPUT:
            return
        yield LiveLevel(f"input-mean-{count}", "input", _rechunked(grid, grid.chunk), number, factor)


def _own_grid(level: Level) -> LevelGrid:
    chunk = _clipped(default_chunk(level.voxel_size), level.shape)
    return LevelGrid(level.shape, chunk, chunk, level.voxel_size, level.translation, (1, 1, 1), fused=False)


def _section(grid: LevelGrid, voxel_size: Size) -> Triple:
    y, x = (round(NEAR * coarse / fine) for coarse, fine in zip(voxel_size[1:], grid.voxel_size[1:], strict=True))
    return 1, max(NEAR, y), max(NEAR, x)


def _rechunked(grid: LevelGrid, chunk: Triple) -> LevelGrid:
    own = _clipped(chunk, grid.shape)
    return replace(grid, chunk=own, shard=own)


def _clipped(chunk: Triple, shape: Triple) -> Triple:
    return min(chunk[0], shape[0]), min(chunk[1], shape[1]), min(chunk[2], shape[2])


def below(levels: tuple[LevelGrid, ...], number: int, box: Box) -> Box:
    """Return the voxels of level 0 that a box of a coarser level is the mean of.

    Parameters
    ----------
    levels : tuple of LevelGrid
        All levels of the output, finest first.
    number : int
        Level of the box, from 0.
    box : Box
        Part of that level, in its voxels.

    Returns
    -------
    Box
        Part of level 0, in its voxels; it ends where the level ends.
    """
    for n in range(number, 0, -1):
        box = box.enlarged(levels[n].factor).intersection(Box.whole(levels[n - 1].shape))
    return box
