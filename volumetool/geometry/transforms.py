"""Pixel-centred transforms: voxel centres are the origin, every factor is an integer.

A voxel of size s whose centre is at t covers ``t - s/2 .. t + s/2``. Cutting it into f parts puts the centre of the first part
at ``t - s/2 + s/(2f)``; taking the mean over f voxels puts the centre of the first block at ``t - s/2 + f*s/2``. Both are
``t + (s_new - s)/2`` (OME-NGFF 0.6, section on binning, gives the second).
"""

from __future__ import annotations

from volumetool.geometry.box import Size, Triple


def upscaled(voxel_size: Size, translation: Size, scale: Triple) -> tuple[Size, Size]:
    """Return voxel size and translation of a volume whose voxels are cut into `scale` parts per axis.

    Parameters
    ----------
    voxel_size, translation : tuple of float
        Of the volume as it is, in nm, z, y, x. The translation is the centre of the first voxel.
    scale : tuple of int
        Parts per axis, z, y, x; each at least 1.

    Returns
    -------
    voxel_size, translation : tuple of float
        Of the finer volume, in nm, z, y, x.
    """
    fine = (voxel_size[0] / scale[0], voxel_size[1] / scale[1], voxel_size[2] / scale[2])
    return fine, _recentred(translation, voxel_size, fine)


def downscaled_translation(voxel_size: Size, translation: Size, coarse: Size) -> Size:
    """Return the translation of a mean-downsampled level.

    Parameters
    ----------
    voxel_size, translation : tuple of float
        Of level 0, in nm, z, y, x. The translation is the centre of the first voxel.
    coarse : tuple of float
        Voxel size of the downsampled level, in nm, z, y, x; a whole multiple of `voxel_size`.

    Returns
    -------
    tuple of float
        Centre of the level's first voxel, in nm, z, y, x.
    """
    return _recentred(translation, voxel_size, coarse)


def moved(translation: Size, voxel_size: Size, start: Triple) -> Size:
    """Return the translation of a part of a volume: the centre of its first voxel, nm, z, y, x.

    Parameters
    ----------
    translation, voxel_size : tuple of float
        Of the volume, in nm, z, y, x.
    start : tuple of int
        First voxel of the part, z, y, x.
    """
    z, y, x = (t + first * size for t, first, size in zip(translation, start, voxel_size, strict=True))
    return z, y, x


def whole_ratio(coarse: Size, fine: Size, tolerance: float) -> Triple | None:
    """Return how many fine voxels make a coarse one along z, y, x; None if that is no whole number.

    Parameters
    ----------
    coarse, fine : tuple of float
        Voxel sizes, nm, z, y, x.
    tolerance : float
        Share by which a ratio may differ from a whole number, since voxel sizes are rounded where they are written.
    """
    ratios = [a / b for a, b in zip(coarse, fine, strict=True)]
    z, y, x = (max(1, round(ratio)) for ratio in ratios)
    if any(abs(ratio / whole - 1) > tolerance for ratio, whole in zip(ratios, (z, y, x), strict=True)):
        return None
    return z, y, x


def _recentred(translation: Size, old: Size, new: Size) -> Size:
    z, y, x = (t + (b - a) / 2 for t, a, b in zip(translation, old, new, strict=True))
    return z, y, x
