"""Conversion with the whole pyramid: level 0 from the source, every further level from the one before."""

from __future__ import annotations

from volumetool.enhancement.pyramid import build_level
from volumetool.geometry import LevelGrid, Size, plan_levels
from volumetool.store.convert import Progress, convert
from volumetool.store.create import open_for_writing
from volumetool.store.volume import Volume


def convert_volume(source: str, url: str, *, voxel_size: Size | None = None, progress: Progress | None = None) -> Volume:
    """Write an OME-Zarr 0.5 volume with all its levels.

    Parameters
    ----------
    source : str
        A volume, a TIFF stack or a folder of TIFF sections.
    url : str
        The new volume.
    voxel_size : tuple of float, optional
        nm, z, y, x; needed where the source has none.
    progress : callable, optional
        Called with voxels of level 0 written and in all.

    Raises
    ------
    InputError, OutputError
        As `volumetool.store.convert.convert`.
    """
    volume = convert(source, url, voxel_size=voxel_size, progress=progress)
    for channel in range(volume.channels or 1):
        for number, grid in enumerate(_grids(volume)):
            if number:
                fine = open_for_writing(url, volume, number - 1, channel)
                build_level(fine, open_for_writing(url, volume, number, channel), grid)
    return volume


def _grids(volume: Volume) -> tuple[LevelGrid, ...]:
    return plan_levels(volume.shape, volume.voxel_size, volume.translation)
