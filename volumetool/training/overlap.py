"""How much overlap a trained network needs: the cut, measured.

A patch sees its network's zero padding at its border, a whole section does not. The larger the overlap, the farther from the
border is every voxel that is used. What remains is measured on real sections, in grey levels of 255, as the largest
difference between the patches of a lattice, blended, and one pass over the whole mirrored section.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import nn

from volumetool.geometry import mirror_index, ramp
from volumetool.models.card import Normalisation
from volumetool.training.restore import grey_limits, restore, restore_section

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Cut:
    """One overlap and trim with what they cost and leave.

    Parameters
    ----------
    overlap, trim : int
        Input voxels, equal along y and x.
    largest, rms : float
        Difference from the whole section, in grey levels, before rounding.
    cost : float
        Voxels computed per voxel kept, both axes, at the stride that the cost was asked for.
    """

    overlap: int
    trim: int
    largest: float
    rms: float
    cost: float


def measure_cuts(
    network: nn.Module,
    normalisation: Normalisation,
    sections: Sequence[NDArray[np.uint8]],
    overlaps: Sequence[int],
    *,
    stride: int = 48,
    cost_stride: int = 256,
) -> tuple[Cut, ...]:
    """Measure every overlap with every trim that leaves a ramp, or a plain cut.

    Parameters
    ----------
    network : nn.Module
        2D, float32, in eval mode.
    normalisation : Normalisation
        The card's.
    sections : sequence of ndarray
        uint8 (y, x) real coarse sections.
    overlaps : sequence of int
        Input voxels, multiples of the network's granularity, at most the stride.
    stride : int
        Input voxels; small, so that a section of modest size holds many seams.
    cost_stride : int
        Stride for which the cost is stated.

    Returns
    -------
    tuple of Cut
        By overlap, then trim (in steps of 2 voxels).
    """
    errors: dict[tuple[int, int], list[Floats]] = {}
    for section in sections:
        whole = restore_section(network, section, normalisation)
        limits = grey_limits(section, normalisation)
        for overlap in overlaps:
            patches = _restore_patches(network, section, limits, stride, overlap)
            for trim in range(0, overlap // 2 + 1, 2):
                blended = _blend(patches, whole.shape[0] // section.shape[0], overlap, trim)
                error = blended[: whole.shape[0], : whole.shape[1]] - whole
                errors.setdefault((overlap, trim), []).append(error.ravel())
    return tuple(
        Cut(
            overlap=overlap,
            trim=trim,
            largest=float(max(np.abs(error).max() for error in parts)),
            rms=float(np.sqrt(np.mean(np.square(np.concatenate(parts), dtype=np.float64)))),
            cost=((cost_stride + overlap) / cost_stride) ** 2,
        )
        for (overlap, trim), parts in sorted(errors.items())
    )


def least_cut(cuts: Sequence[Cut], *, limit: float = 0.1, shortest_ramp: int = 4) -> Cut:
    """Choose the least overlap that stays below a limit; of its trims, the one with the smallest difference.

    Parameters
    ----------
    cuts : sequence of Cut
        From `measure_cuts`.
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
    network: nn.Module, section: NDArray[np.uint8], limits: tuple[float, float], stride: int, overlap: int
) -> list[list[Floats]]:
    counts = [-(-(size + overlap) // stride) for size in section.shape]
    rows, columns = (mirror_index(-overlap, count * stride, size) for count, size in zip(counts, section.shape, strict=True))
    grey = section[np.ix_(rows, columns)].astype(np.float32)

    def row(i: int) -> Iterator[Floats]:
        for j in range(counts[1]):
            patch = grey[i * stride : (i + 1) * stride + overlap, j * stride : (j + 1) * stride + overlap]
            yield restore(network, patch[None], limits)[0]

    return [list(row(i)) for i in range(counts[0])]


def _blend(patches: list[list[Floats]], scale: int, overlap: int, trim: int) -> Floats:
    # First along x within each row of patches, then the rows along y; the margin before the section's face is cut off.
    rows = [_join(row, scale, overlap, trim, axis=1) for row in patches]
    return _join(rows, scale, overlap, trim, axis=0)


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
