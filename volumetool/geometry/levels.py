"""Levels of the pyramid: shapes, chunks, shards, and which levels a region can write from its own memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from volumetool.errors import ConfigError
from volumetool.geometry.box import Box, Size, Triple
from volumetool.geometry.transforms import downscaled_translation

CHUNK_VOXELS = 2**18
"""Voxels of a default chunk: 256 KiB of uint8, one quick request for a viewer."""

ISOTROPY = 2**0.5
"""An axis is halved while its voxel size is at most this many times the finest axis's."""

LARGE_VOLUME = 2**36
"""Voxels from which shards grow, so that a volume of a petavoxel has millions of files, not a hundred million."""


@dataclass(frozen=True)
class LevelGrid:
    """One level of a pyramid, before it is on disk.

    Parameters
    ----------
    shape, chunk, shard : tuple of int
        In voxels of this level, z, y, x. A shard is whole chunks.
    voxel_size, translation : tuple of float
        In nm, z, y, x; the translation is that of the centre of voxel 0.
    factor : tuple of int
        Voxels of the level before that make one of this level; (1, 1, 1) for level 0.
    fused : bool
        Whether a level-0 shard's shadow on this level is exactly one whole shard, so that one owner can write both.
    """

    shape: Triple
    chunk: Triple
    shard: Triple
    voxel_size: Size
    translation: Size
    factor: Triple
    fused: bool


def default_chunk(voxel_size: Size) -> Triple:
    """Return a chunk of about 2**18 voxels, powers of two, as near to a cube in nm as powers of two allow."""
    chunk = [1, 1, 1]
    while chunk[0] * chunk[1] * chunk[2] < CHUNK_VOXELS:
        extents = [n * size for n, size in zip(chunk, voxel_size, strict=True)]
        # Of equal extents the last axis grows first: x is contiguous in memory.
        axis = max(range(3), key=lambda a: (-extents[a], a))
        chunk[axis] *= 2
    return chunk[0], chunk[1], chunk[2]


def default_shard(chunk: Triple, shape: Triple) -> Triple:
    """Return a shard of 4 chunks per axis, 8 where the volume has more than 2**36 voxels."""
    times = 8 if shape[0] * shape[1] * shape[2] > LARGE_VOLUME else 4
    return chunk[0] * times, chunk[1] * times, chunk[2] * times


def plan_levels(
    shape: Triple, voxel_size: Size, translation: Size, chunk: Triple | None = None, shard: Triple | None = None
) -> tuple[LevelGrid, ...]:
    """Return the levels of a pyramid, finest first, until a level fits one chunk.

    Parameters
    ----------
    shape : tuple of int
        Level 0, in voxels.
    voxel_size, translation : tuple of float
        Level 0, in nm.
    chunk : tuple of int, optional
        Chunk of every level, in voxels. By default each level has the near-cubic chunk of its own voxel size.
    shard : tuple of int, optional
        Shard of level 0, in voxels, a multiple of the chunk.

    Raises
    ------
    ConfigError
        ``config.shard`` where a shard is not whole chunks.
    """
    first_chunk = chunk or default_chunk(voxel_size)
    first_shard = shard or default_shard(first_chunk, shape)
    if any(a % b for a, b in zip(first_shard, first_chunk, strict=True)):
        raise ConfigError(
            "config.shard",
            f"shard {first_shard} is not a whole number of chunks {first_chunk}",
            hint="take a multiple of the chunk",
        )
    levels = [LevelGrid(shape, first_chunk, first_shard, voxel_size, translation, (1, 1, 1), fused=True)]
    while any(n > c for n, c in zip(levels[-1].shape, levels[-1].chunk, strict=True)):
        levels.append(_next_level(levels[0], levels[-1], chunk))
    return tuple(levels)


def _next_level(base: LevelGrid, last: LevelGrid, chunk: Triple | None) -> LevelGrid:
    factor = _next_factor(last)
    voxel_size: Size = _sizes(last.voxel_size, factor)
    own_chunk = chunk or default_chunk(voxel_size)
    shadow = tuple(n // f for n, f in zip(last.shard, factor, strict=True))
    whole = all(n % f == 0 for n, f in zip(last.shard, factor, strict=True))
    fused = last.fused and whole and all(n >= c and n % c == 0 for n, c in zip(shadow, own_chunk, strict=True))
    z, y, x = shadow if fused else _whole_chunks(base.shard, own_chunk)
    return LevelGrid(
        shape=_ceil(last.shape, factor),
        chunk=own_chunk,
        shard=(z, y, x),
        voxel_size=voxel_size,
        translation=downscaled_translation(base.voxel_size, base.translation, voxel_size),
        factor=factor,
        fused=fused,
    )


def _next_factor(level: LevelGrid) -> Triple:
    halvable = [n > 1 for n in level.shape]
    finest = min(s for s, can in zip(level.voxel_size, halvable, strict=True) if can)
    near = [can and s <= ISOTROPY * finest for s, can in zip(level.voxel_size, halvable, strict=True)]
    z, y, x = (2 if join else 1 for join in near)
    return z, y, x


def without_shards(levels: Sequence[LevelGrid]) -> tuple[LevelGrid, ...]:
    """Return the same levels where each chunk is stored on its own; then no region writes a coarser level."""
    return tuple(replace(level, shard=level.chunk, fused=number == 0) for number, level in enumerate(levels))


def total_factor(levels: Sequence[LevelGrid], number: int) -> Triple:
    """Return how many voxels of the finest level make one of a level, z, y, x."""
    z, y, x = (math.prod(axis) for axis in zip((1, 1, 1), *(level.factor for level in levels[1 : number + 1]), strict=True))
    return z, y, x


def coarse_level(levels: Sequence[LevelGrid], voxels: int) -> int:
    """Return the finest level of a pyramid that regions write and that has no more than so many voxels; else the coarsest.

    Parameters
    ----------
    levels : sequence of LevelGrid
        Finest first.
    voxels : int
        Voxels that it may have.
    """
    fused = [math.prod(level.shape) for level in levels if level.fused]
    return next((number for number, count in enumerate(fused) if count <= voxels), len(fused) - 1)


def fused_count(levels: Sequence[LevelGrid]) -> int:
    """Return how many levels, from level 0 on, a region writes itself."""
    return sum(level.fused for level in levels)


def _sizes(size: Size, factor: Triple) -> Size:
    return size[0] * factor[0], size[1] * factor[1], size[2] * factor[2]


def _ceil(shape: Triple, factor: Triple) -> Triple:
    return -(-shape[0] // factor[0]), -(-shape[1] // factor[1]), -(-shape[2] // factor[2])


def _whole_chunks(shard: Triple, chunk: Triple) -> Triple:
    z, y, x = (max(1, n // c) * c for n, c in zip(shard, chunk, strict=True))
    return z, y, x


def shard_boxes(level: LevelGrid, within: Box | None = None) -> Iterator[Box]:
    """Yield the box of every shard of a level, cut at its faces, in C order."""
    whole = Box.whole(level.shape)
    inside = (whole if within is None else within.intersection(whole)).coarsened(level.shard)
    for place in product(*(range(a, b) for a, b in zip(inside.start, inside.stop, strict=True))):
        start = (place[0] * level.shard[0], place[1] * level.shard[1], place[2] * level.shard[2])
        stop = (start[0] + level.shard[0], start[1] + level.shard[1], start[2] + level.shard[2])
        yield Box(start, stop).intersection(whole)


def slab_boxes(box: Box, levels: Sequence[LevelGrid]) -> list[Box]:
    """Return a slab of level 0 and its shadows on the following levels."""
    boxes = [box]
    for level in levels[1:]:
        boxes.append(boxes[-1].coarsened(level.factor))
    return boxes


def slabs_of(box: Box, shard: Triple) -> list[Box]:
    """Return the slabs of a region's box, in the order of the sweep."""
    starts = range(box.start[2], box.stop[2], shard[2])
    return [Box((*box.start[:2], x), (*box.stop[:2], min(x + shard[2], box.stop[2]))) for x in starts]
