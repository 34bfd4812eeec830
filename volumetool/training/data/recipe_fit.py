"""Fit a crappifier to the volume that a microscope made: samples of both volumes in, a recipe out."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from volumetool.degradation.fit import Fit, fit_crappifier
from volumetool.errors import ConfigError
from volumetool.geometry import Box, Triple, whole_ratio
from volumetool.paths import AnyPlace
from volumetool.processing.survey import grey_limits
from volumetool.storage.open import open_volume
from volumetool.storage.volume import Volume
from volumetool.storage.voxels import read_voxels

SAMPLE_VOXELS: Final = 2**20
"""Coarse voxels that are looked at in each volume."""

SAMPLE_SIDE: Final = 256
"""Side of the field, in coarse voxels, in the middle of evenly spaced sections."""

_OFF: Final = 0.05
"""Largest distance of a ratio of voxel sizes from a whole number."""


def fit_recipe(low: AnyPlace, truth: AnyPlace, *, scale: Triple | None = None, name: str = "fitted") -> Fit:
    """Fit a crappifier that makes volumes like `truth` into volumes like `low`; they need not show the same place.

    Parameters
    ----------
    low : str or path
        The microscope's coarse volume: path or URL.
    truth : str or path
        Fine volume of such tissue with little noise.
    scale : tuple of int, optional
        Fine voxels per coarse one along z, y, x; by default the ratio of the voxel sizes, which else need not be known.
    name : str
        Name of the recipe.

    Raises
    ------
    InputError
        As `open_volume`.
    ConfigError
        ``config.scale``: the ratio of the voxel sizes is not whole numbers; ``config.too-small``.
    """
    given = None if scale is None else (1.0, 1.0, 1.0)  # nm, of no effect then
    coarse, fine = open_volume(low, voxel_size=given), open_volume(truth, voxel_size=given)
    scale = scale or _ratio(coarse, fine)
    black, white = grey_limits(coarse, 0)
    step = 1 / (white - black) if coarse.dtype.kind in "iu" else 0.0
    return fit_crappifier(_sample(coarse, (1, 1, 1)), _sample(fine, scale), scale, step=step, name=name)


def _ratio(coarse: Volume, fine: Volume) -> Triple:
    ratio = whole_ratio(coarse.voxel_size, fine.voxel_size, _OFF)
    if ratio is None:
        raise ConfigError(
            "config.scale",
            f"voxels of {coarse.voxel_size} nm are not whole multiples of voxels of {fine.voxel_size} nm (z, y, x)",
            hint="give the factors: --scale z,y,x; or convert one volume with the right --voxel-size",
        )
    return ratio


def _sample(volume: Volume, scale: Triple) -> NDArray[np.float32]:
    """Return blocks of sections, evenly spaced along z, of the middle of the volume; black at 0, white at 1."""
    depth, height, width = (n // f for n, f in zip(volume.shape, scale, strict=True))
    rows, columns = min(height, SAMPLE_SIDE), min(width, SAMPLE_SIDE)
    count = max(1, min(depth, SAMPLE_VOXELS // max(1, rows * columns)))
    store, blocks = volume.open(0, strict=True), []
    for place in range(count):
        z = (2 * place + 1) * depth // (2 * count)
        start = z, (height - rows) // 2, (width - columns) // 2
        box = Box(start, (start[0] + 1, start[1] + rows, start[2] + columns)).enlarged(scale)
        blocks.append(read_voxels(store, box, f"{volume.url}:"))
    voxels = np.concatenate(blocks)  # (count * fz, rows * fy, columns * fx)
    black, white = (np.float32(limit) for limit in grey_limits(volume, 0))
    return (voxels.astype(np.float32) - black) / (white - black)
