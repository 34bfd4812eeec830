"""Building the levels of a volume from its finest one, in place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from volumetool.errors import ConfigError, OutputError
from volumetool.events import Observer, counting, ignore
from volumetool.geometry import Box, LevelGrid, Size, plan_levels, shard_boxes, whole_ratio
from volumetool.storage.convert import FINEST_ALONE
from volumetool.storage.create import VolumeLayout, open_for_writing, read_root
from volumetool.storage.downsample import Reduction, build_level, require_stored
from volumetool.storage.extend import announce_levels, create_coarser
from volumetool.storage.formats.ome_zarr import said_reduction
from volumetool.storage.formats.registry import WRITTEN
from volumetool.storage.io.chunks import changed_while_read, level_digests, level_states
from volumetool.storage.io.shards import delete_torn_shards
from volumetool.storage.open import open_volume
from volumetool.storage.provenance import write_status
from volumetool.storage.volume import Level, Volume
from volumetool.storage.voxels import Source
from volumetool.storage.writing.layout import WrittenFormat
from volumetool.storage.writing.names import ReductionMethod

_ROUNDED = 1e-3
"""Share by which voxel sizes of two levels may miss a whole ratio: they are rounded where they are written."""


def build_pyramid(
    url: str | os.PathLike[str],
    *,
    reduction: ReductionMethod | None = None,
    nodata: float | None = None,
    voxel_size: Size | None = None,
    observer: Observer = ignore,
) -> Volume:
    """Write every level of a volume from the level before it; an OME-Zarr 0.5 volume of one level gets the others.

    Level 0 is not touched. Building again gives the same bytes. Levels that are new are named in the volume's metadata when
    they are complete. Of levels that are there one shard after the other is replaced, each in one move; meanwhile, and after a
    kill, the volume does not call itself complete.

    Parameters
    ----------
    url : str or path
        Path or URL of the volume.
    reduction : {"mean", "mode"}, optional
        How a level is made from the one before; by default as an OME-Zarr volume says that its levels were made, else the mean.
    nodata : float, optional
        Value that a mean leaves out; a block of nothing else becomes `nodata` itself. A volume that a job made knows its own.
    voxel_size : tuple of float, optional
        nm, z, y, x, where the metadata do not say it; it decides which axes the first coarser levels halve.
    observer : Observer, optional
        Told by `Progressed` of each shard.

    Raises
    ------
    InputError
        As `open_volume`; ``input.changed``: level 0 was written to while this ran.
    OutputError
        ``output.format``: another format; ``output.levels``: levels cannot be added, or those there are not means of whole
        blocks; ``output.unfinished``: a job is not through with it; ``output.unwritable``.
    ConfigError
        ``config.option``: a job made the volume with another `nodata` or as means; `nodata` beside ``mode``.
    DataError
        Voxels that cannot be read, or do not read back as written.
    """
    volume = open_volume(url, voxel_size=voxel_size)
    form = _check(volume)
    chosen = _reduction_of(volume, reduction, nodata)
    new = len(volume.levels) == 1 and form.name == "ome-zarr-0.5"
    grids = plan_levels(volume.shape, volume.voxel_size, volume.translation) if new else level_grids(volume)
    if new:
        layout = create_coarser(volume, grids)
    else:
        layout = VolumeLayout(volume.dtype.name, grids, volume.channels, format=form.name)
        write_status(volume.url, FINEST_ALONE)
    states = level_states(volume, 0)
    every = sum(len(list(shard_boxes(grid))) for grid in grids[1:]) * (volume.channels or 1)
    count, written = counting(observer, "coarse levels", every), []
    for channel in range(volume.channels or 1):
        fine = Source(volume.open(0, channel, strict=True), check=states[channel][1])
        for number, grid in enumerate(grids[1:], start=1):
            coarse = open_for_writing(volume.url, layout if new else volume, number, channel)
            clear = partial(delete_torn_shards, coarse, layout, number, channel=channel)
            written.append((coarse, build_level(fine, coarse, grid, reduction=chosen, ready=_Ready(clear, count))))
            fine = Source(coarse)
    for coarse, boxes in written:
        require_stored(coarse, boxes)
    if level_digests(volume, 0) != [digest for digest, _ in states]:
        raise changed_while_read(volume.url, "run the command again")
    if volume.format.startswith("ome-zarr"):
        announce_levels(volume, grids, chosen.method)
    if not new or volume.attributes.get("status") == FINEST_ALONE:
        write_status(volume.url, "complete")
    return open_volume(volume.url, voxel_size=voxel_size)


@dataclass(frozen=True)
class _Ready:
    """Makes room for a shard where a torn one stands, and counts it."""

    clear: Callable[[Box], None]
    count: Callable[[int], None]

    def __call__(self, box: Box) -> None:
        self.clear(box)
        self.count(1)


def _check(volume: Volume) -> WrittenFormat:
    """Return the format, which is OME-Zarr 0.5, or another that volumetool wrote itself."""
    sharded = volume.format == "precomputed" and any(level.shard is not None for level in volume.levels)
    written = WRITTEN.get("precomputed-sharded" if sharded else volume.format)
    if written is None or not (volume.attributes or written.name == "ome-zarr-0.5") or "z" not in volume.axes:
        raise OutputError(
            "output.format",
            f"{volume.url} is {volume.format} ({', '.join(volume.axes)}); levels are written into OME-Zarr 0.5 with z, y, x, "
            "and into what volumetool wrote itself",
            hint="copy it with all its levels: volumetool convert VOLUME NEW.zarr",
            where=volume.url,
        )
    if volume.attributes.get("status") == "unfinished":
        raise OutputError(
            "output.unfinished",
            f"{volume.url} is not finished: what writes it was interrupted, or is still at it",
            hint="run the command that began it to its end",
            where=volume.url,
        )
    return written


def _reduction_of(volume: Volume, method: ReductionMethod | None, nodata: float | None) -> Reduction:
    """Return how levels are made: of a job's output as the job made them, else as asked, else as the volume says."""
    spec = volume.attributes.get("spec")
    if not spec:
        said = said_reduction(read_root(volume.url)[1] or {}) if volume.format.startswith("ome-zarr") else "mean"
        method = method or said
        if method == "mode" and nodata is not None:
            raise ConfigError(
                "config.option",
                f"--nodata {nodata:g} is left out of means, but levels are made as mode",
                hint="leave one of them out; --reduction mean makes means",
            )
        return Reduction(method, nodata)
    own = Reduction(nodata=float(spec["fill"]) if spec["nodata"] is not None else None)
    if method not in (None, own.method):
        raise ConfigError(
            "config.option",
            f"--reduction {method}, but the job that made {volume.url} wrote means",
            hint="leave --reduction out: the volume knows its own",
        )
    if nodata is not None and str(nodata) != str(own.nodata):  # as text, NaN equals NaN
        raise ConfigError(
            "config.option",
            f"--nodata {nodata:g}, but the job that made {volume.url} wrote "
            f"{'none' if own.nodata is None else f'{own.nodata:g}'}",
            hint="leave --nodata out: the volume knows its own",
        )
    return own


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
