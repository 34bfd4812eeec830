"""How much overlap a trained network needs: the cut, measured.

A patch sees its network's zero padding at its border, a whole volume does not. The larger the overlap, the farther from the
border is every voxel that is used. What remains is measured on real volumes, in grey levels of 255, as the largest
difference between patches along one axis, blended, and one pass over the whole mirrored volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.geometry import ramp
from volumetool.models import Normalisation, UNet
from volumetool.training.restore import cut, grey_limits, restore, restore_volume, safe_margin

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """One overlap and trim with what they cost and leave.

    Parameters
    ----------
    overlap, trim : int
        Input voxels along the axis that was cut.
    largest, rms : float
        Difference from the whole volume, in grey levels, before rounding.
    """

    overlap: int
    trim: int
    largest: float
    rms: float


def measure_cuts(
    network: UNet,
    normalisation: Normalisation,
    volumes: Sequence[NDArray[Any]],
    overlaps: Sequence[int],
    *,
    axis: int = 2,
    stride: int = 48,
) -> Iterator[Cut]:
    """Cut volumes into patches along one axis, with every overlap and every trim that leaves a ramp, or a plain cut.

    Parameters
    ----------
    network : UNet
        float32, in eval mode.
    normalisation : Normalisation
        Normalisation of the model card.
    volumes : sequence of ndarray
        (z, y, x) real coarse volumes, in grey values of 8 bits.
    overlaps : sequence of int
        Input voxels, multiples of the network's granularity, at most the stride.
    axis : int
        0, 1, 2 for z, y, x; z only for 3D networks.
    stride : int
        Input voxels; small, so that a volume of modest size holds many seams.

    Yields
    ------
    Cut
        By overlap, then trim (in steps of 2 voxels); the next overlap is measured when its first cut is asked for.
    """
    scale = network.config.scale[axis]
    limits = [grey_limits(volume, normalisation) for volume in volumes]
    wholes = [restore_volume(network, v, normalisation, limits=each) for v, each in zip(volumes, limits, strict=True)]
    for overlap in overlaps:
        errors: dict[int, list[Floats]] = {}
        for volume, each, whole in zip(volumes, limits, wholes, strict=True):
            patches = list(_restore_patches(network, volume, each, (axis, stride, overlap)))
            for trim in range(0, overlap // 2 + 1, 2):
                joined = _join(patches, scale, overlap, trim, axis)
                error = np.take(joined, range(whole.shape[axis]), axis) - whole
                errors.setdefault(trim, []).append(error.ravel())
        for trim, parts in errors.items():
            yield Cut(
                overlap=overlap,
                trim=trim,
                largest=float(max(np.abs(error).max() for error in parts)),
                rms=float(np.sqrt(np.mean(np.square(np.concatenate(parts), dtype=np.float64)))),
            )


def least_cut(cuts: Sequence[Cut], *, limit: float = 0.1, shortest_ramp: int = 4) -> Cut:
    """Choose the least overlap that stays below a limit; of its trims, the one with the smallest difference.

    Parameters
    ----------
    cuts : sequence of Cut
        Cuts that were measured by :func:`measure_cuts`.
    limit : float
        Largest difference allowed, in grey levels.
    shortest_ramp : int
        Input voxels that must be blended.

    Returns
    -------
    Cut
        The choice.
    """
    good = [cut for cut in cuts if cut.largest < limit and cut.overlap - 2 * cut.trim >= shortest_ramp]
    if not good:
        raise ValueError(f"no overlap up to {max(cut.overlap for cut in cuts)} leaves less than {limit} grey levels")
    return min(good, key=lambda cut: (cut.overlap, cut.largest))


def _restore_patches(
    network: UNet, volume: NDArray[Any], limits: tuple[float, float], along: tuple[int, int, int]
) -> Iterator[Floats]:
    """Restore patches along one axis, each with what the other axes need to be whole."""
    axis, stride, overlap = along
    config = network.config
    margin = [0 if a == axis else m for a, m in enumerate(safe_margin(config))]
    ends = [n + m + -n % g for n, m, g in zip(volume.shape, margin, config.granularity, strict=True)]
    inside = [slice(m * f, (m + n) * f) for m, n, f in zip(margin, volume.shape, config.scale, strict=True)]
    inside[axis] = slice(None)
    for number in range(-(-(volume.shape[axis] + overlap) // stride)):
        start, stop = [-m for m in margin], list(ends)
        start[axis], stop[axis] = number * stride - overlap, (number + 1) * stride
        box = cut(network, volume, (start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        yield restore(network, box, limits)[tuple(inside)]


def _join(parts: list[Floats], scale: int, overlap: int, trim: int, axis: int) -> Floats:
    shared, cut = overlap * scale, trim * scale
    weights = ramp(shared - 2 * cut)
    turned = [np.moveaxis(part, axis, -1) for part in parts]
    pieces = []
    for a, b in pairwise([turned[0], *turned]):
        earlier, later = a[..., a.shape[-1] - shared :], b[..., :shared]
        if a is b:
            earlier = later  # the first patch has no neighbour before it
        middle = slice(cut, shared - cut)
        blended = earlier[..., middle] + weights * (later[..., middle] - earlier[..., middle])
        pieces += [earlier[..., :cut], blended, later[..., shared - cut :], b[..., shared : b.shape[-1] - shared]]
    joined = np.concatenate([*pieces, turned[-1][..., turned[-1].shape[-1] - shared :]], axis=-1)
    return np.moveaxis(joined[..., shared:], -1, axis)
