"""Building the levels of a volume from its finest one, in place."""

from __future__ import annotations

import math

from volumetool.enhancement.pyramid import build_level, shard_boxes
from volumetool.errors import OutputError
from volumetool.geometry import LevelGrid, plan_levels, whole_ratio
from volumetool.jobs.clean import delete_shards
from volumetool.store.convert import Progress
from volumetool.store.create import add_levels, open_for_writing
from volumetool.store.open import open_volume
from volumetool.store.volume import Level, Volume

_ROUNDED = 1e-3
"""Share by which voxel sizes of two levels may miss a whole ratio: they are rounded where they are written."""


def build_pyramid(url: str, *, nodata: float | None = None, progress: Progress | None = None) -> Volume:
    """Write every level of an OME-Zarr 0.5 volume from the level before it; a volume of one level gets the others.

    Level 0 is not touched. Building again gives the same bytes.

    Parameters
    ----------
    url : str
        The volume.
    nodata : float, optional
        Value that means leave out; a block of nothing else becomes `nodata` itself.
    progress : callable, optional
        Called with shards written and shards in all.

    Raises
    ------
    InputError
        As `open_volume`.
    OutputError
        ``output.format``: another format; ``output.levels``: the levels there are not means of whole blocks;
        ``output.unwritable``.
    DataError
        Voxels that cannot be read, or do not read back as written.
    """
    volume = open_volume(url)
    if volume.format != "ome-zarr-0.5":
        raise OutputError(
            "output.format",
            f"{volume.url} is {volume.format}; levels are written into OME-Zarr 0.5",
            hint="copy it with all its levels: volumetool convert VOLUME NEW.zarr",
            where=volume.url,
        )
    if len(volume.levels) == 1:
        volume = add_levels(volume, plan_levels(volume.shape, volume.voxel_size, volume.translation))
    grids = level_grids(volume)
    every = sum(len(list(shard_boxes(grid))) for grid in grids[1:]) * (volume.channels or 1)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, every)

    for channel in range(volume.channels or 1):
        for number in range(1, len(grids)):
            fine, coarse = (open_for_writing(volume.url, volume, level, channel) for level in (number - 1, number))
            delete_shards(coarse, grids[number], None, None if volume.channels is None else channel)
            build_level(fine, coarse, grids[number], nodata=nodata, step=step)
    return volume


def level_grids(volume: Volume) -> tuple[LevelGrid, ...]:
    """Return the grids of a volume's levels as they are stored.

    Raises
    ------
    OutputError
        ``output.levels``: a level that is not the one before, divided by whole factors and rounded up.
    """
    grids = [_grid(volume.levels[0], (1, 1, 1))]
    for number, (fine, coarse) in enumerate(zip(volume.levels[:-1], volume.levels[1:], strict=True), start=1):
        factor = whole_ratio(coarse.voxel_size, fine.voxel_size, _ROUNDED)
        shape = factor and tuple(math.ceil(n / f) for n, f in zip(fine.shape, factor, strict=True))
        if factor is None or shape != coarse.shape:
            raise OutputError(
                "output.levels",
                f"level {number} of {volume.url} has {coarse.shape} voxels of {coarse.voxel_size} nm; the level before has "
                f"{fine.shape} of {fine.voxel_size} nm (z, y, x), which is no division by whole factors, rounded up",
                hint="copy it with levels of its own: volumetool convert VOLUME NEW.zarr",
                where=volume.url,
            )
        grids.append(_grid(coarse, factor))
    return tuple(grids)


def _grid(level: Level, factor: tuple[int, int, int]) -> LevelGrid:
    shard = level.shard or level.chunk
    return LevelGrid(level.shape, level.chunk, shard, level.voxel_size, level.translation, factor, fused=False)
