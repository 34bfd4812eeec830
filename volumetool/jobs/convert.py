"""Conversion with the whole pyramid: level 0 from the source, every further level from the one before."""

from __future__ import annotations

from volumetool.geometry import Size
from volumetool.jobs.pyramid import build_pyramid
from volumetool.store.convert import Progress, convert, open_source
from volumetool.store.images import Gaps
from volumetool.store.volume import Volume


def convert_volume(
    source: str, url: str, *, voxel_size: Size | None = None, gaps: Gaps = "refuse", progress: Progress | None = None
) -> Volume:
    """Write an OME-Zarr 0.5 volume with all its levels.

    Parameters
    ----------
    source : str
        A volume, a TIFF stack or a folder of TIFF sections.
    url : str
        The new volume.
    voxel_size : tuple of float, optional
        nm, z, y, x; needed where the source has none.
    gaps : str
        What becomes of numbers that are missing in a folder of sections: ``refuse``, ``keep`` (blank sections) or ``close``.
    progress : callable, optional
        Called with voxels of level 0 written and in all.

    Raises
    ------
    InputError, OutputError
        As `volumetool.store.convert.convert`.
    """
    opened = open_source(source, voxel_size, gaps)
    return build_pyramid(convert(opened, url, voxel_size=voxel_size, progress=progress).url)
