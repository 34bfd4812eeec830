"""Conversion with the whole pyramid: level 0 from the source, every further level from the one before."""

from __future__ import annotations

from volumetool.geometry import Size
from volumetool.jobs.pyramid import build_pyramid
from volumetool.store.convert import Progress, convert
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
    return build_pyramid(convert(source, url, voxel_size=voxel_size, progress=progress).url)
