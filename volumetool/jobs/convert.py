"""Conversion with the whole pyramid: level 0 from the source, every further level from the one before."""

from __future__ import annotations

from volumetool.geometry import Size
from volumetool.jobs.pyramid import write_levels
from volumetool.store.convert import Progress, convert
from volumetool.store.create import write_attributes
from volumetool.store.open import open_volume
from volumetool.store.volume import Volume


def convert_volume(source: str, url: str, *, voxel_size: Size | None = None, progress: Progress | None = None) -> Volume:
    """Write an OME-Zarr 0.5 volume with all its levels; it calls itself unfinished until the last one is there.

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
    volume = write_levels(convert(source, url, voxel_size=voxel_size, progress=progress))
    write_attributes(volume.url, {**volume.attributes, "status": "complete"})
    return open_volume(volume.url)
