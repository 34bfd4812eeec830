"""Copy any readable volume or image stack into a new OME-Zarr 0.5 volume: level 0 only, whole shards at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from volumetool.errors import DataError, InputError, OutputError
from volumetool.geometry.box import Box, Size, Triple
from volumetool.geometry.levels import LevelGrid, plan_levels
from volumetool.store.arrays import read_part, write_part
from volumetool.store.create import VolumeLayout, create_volume, group_metadata, open_for_writing, write_attributes
from volumetool.store.found import read_json
from volumetool.store.images import Gaps, ImageStack, holds_images, open_images
from volumetool.store.kvstore import brief, canonical_url, contains, is_local, unwritable
from volumetool.store.open import open_volume
from volumetool.store.volume import Volume

MEMORY_BYTES = 2**30
"""Voxels held at once while converting; a single shard may need more."""

FINEST_ALONE = "finest level alone"
"""What a converted volume says of itself until its coarser levels are built."""

Progress = Callable[[int, int], None]
"""Called with the voxels written so far and the voxels in all."""


def convert(
    source: str | os.PathLike[str] | Volume | ImageStack,
    url: str | os.PathLike[str],
    *,
    voxel_size: Size | None = None,
    levels: tuple[LevelGrid, ...] | None = None,
    memory: int = MEMORY_BYTES,
    progress: Progress | None = None,
) -> Volume:
    """Create an OME-Zarr 0.5 volume and fill its level 0; the coarser levels are created empty.

    Converting again, after an interruption or not, starts over and gives the same bytes. Meanwhile the volume's own attributes
    call it unfinished.

    Parameters
    ----------
    source : str, path, Volume or ImageStack
        A volume, a TIFF stack or a folder of TIFF sections.
    url : str or path
        The new volume.
    voxel_size : tuple of float, optional
        Nanometres, z, y, x; needed where the source has none, and otherwise corrects it.
    levels : tuple of LevelGrid, optional
        The pyramid to create; by default that of `plan_levels`.
    memory : int
        Bytes of voxels to hold at once; whole sections are decoded one at a time beside it.
    progress : callable, optional
        Called with voxels done and voxels in all.

    Returns
    -------
    Volume
        The new volume.

    Raises
    ------
    InputError
        As `open_volume` and `open_images`; ``input.no-voxel-size``.
    OutputError
        As `create_volume`; ``output.inside-input``.
    DataError
        ``data.unreadable``: damaged chunks in the source.
    """
    origin = source if isinstance(source, ImageStack) else open_source(source, voxel_size)
    url = canonical_url(url)
    if isinstance(origin, Volume):
        place, size, translation, channels = origin.url, origin.voxel_size, origin.translation, origin.channels
        provenance: dict[str, Any] = {"source": origin.url, "source_identity": origin.identity}
    else:
        place, size, translation, channels = origin.path, _size(origin, voxel_size), (0.0, 0.0, 0.0), None
        provenance = {"source": origin.path, "source_identity": origin.identity}
        if origin.blank:
            provenance |= {"first_section": origin.first, "blank_sections": list(origin.blank)}
    _refuse_inside(place, url)
    grids = levels or plan_levels(origin.shape, size, translation)
    layout = VolumeLayout(origin.dtype.name, grids, channels, name=Path(place).name)
    begun = {"conversion": provenance, "status": "unfinished"}
    finished = [group_metadata(layout, {**begun, "status": status}) for status in (FINEST_ALONE, "complete")]
    if read_json(url, "zarr.json") in finished:
        write_attributes(url, begun)
    volume = create_volume(url, layout, begun)
    for channel in range(channels or 1):
        _copy(origin, volume, layout, channel, memory, progress)
    write_attributes(url, {**begun, "status": FINEST_ALONE})
    return open_volume(url)


def _copy(
    origin: Volume | ImageStack,
    volume: Volume,
    layout: VolumeLayout,
    channel: int,
    memory: int,
    progress: Progress | None,
) -> None:
    read = _reader(origin, channel)
    target = open_for_writing(volume.url, layout, 0, channel)
    grid = layout.levels[0]
    each = grid.shape[0] * grid.shape[1] * grid.shape[2]
    done = channel * each
    for box in shard_groups(grid, memory // volume.dtype.itemsize):
        voxels = read(box)
        try:
            write_part(target, box.slices, voxels)
        except (ValueError, OSError) as error:
            raise unwritable(volume.url, error) from error
        done += box.voxels
        if progress is not None:
            progress(done, each * (layout.channels or 1))


def _reader(origin: Volume | ImageStack, channel: int) -> Callable[[Box], npt.NDArray[Any]]:
    if isinstance(origin, ImageStack):
        return lambda box: origin.read(box.start[0], box.stop[0], box.slices[1])[:, :, box.slices[2]]
    array = origin.open(0, channel)

    def read(box: Box) -> npt.NDArray[Any]:
        try:
            voxels: npt.NDArray[Any] = read_part(array, box.slices)
        except (ValueError, OSError) as error:
            raise DataError(
                "data.unreadable",
                f"{origin.url} cannot be read in the voxels {box}: {brief(error)}",
                hint="The data may be damaged or incomplete; copy them again.",
                where=origin.url,
            ) from error
        return voxels

    return read


def shard_groups(grid: LevelGrid, voxels: int) -> Iterator[Box]:
    """Cut a level into boxes of whole shards, one shard deep.

    A box is as wide, and then as high, as `voxels` allows, but one shard at least.
    """
    depth, height, width = grid.shard
    columns = max(1, min(-(-grid.shape[2] // width), voxels // (depth * height * width)))
    rows = max(1, min(-(-grid.shape[1] // height), voxels // (depth * height * width * columns)))
    step: Triple = (depth, height * rows, width * columns)
    whole = Box.whole(grid.shape)
    for z in range(0, grid.shape[0], step[0]):
        for y in range(0, grid.shape[1], step[1]):
            for x in range(0, grid.shape[2], step[2]):
                yield Box((z, y, x), (z + step[0], y + step[1], x + step[2])).intersection(whole)


def open_source(
    source: str | os.PathLike[str] | Volume, voxel_size: Size | None = None, gaps: Gaps = "refuse"
) -> Volume | ImageStack:
    """Open what is to be converted.

    Raises
    ------
    InputError
        As `open_volume` and `open_images`.
    """
    if isinstance(source, Volume):
        return source if voxel_size is None else open_volume(source.url, voxel_size=voxel_size)
    place = canonical_url(source)
    if is_local(place) and holds_images(place):
        return open_images(place, gaps=gaps)
    return open_volume(place, voxel_size=voxel_size)


def _size(stack: ImageStack, voxel_size: Size | None) -> Size:
    size = voxel_size or stack.voxel_size
    if size is None:
        raise InputError(
            "input.no-voxel-size",
            f"{stack.path} does not say how large its voxels are",
            hint="Give it in nanometres: --voxel-size z,y,x",
            where=stack.path,
        )
    return (float(size[0]), float(size[1]), float(size[2]))


def _refuse_inside(source: str, url: str) -> None:
    if contains(source, url):
        raise OutputError(
            "output.inside-input",
            f"the output {url} lies inside the input {source}",
            hint="Choose a place beside the input.",
            where=url,
        )
