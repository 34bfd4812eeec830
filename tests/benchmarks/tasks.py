"""Task scores: whether what is done with an image afterwards comes out the same.

Three tasks, each with one fixed way of doing it, the same for every image that is compared: cells are cut apart by a watershed
on their membranes, synaptic vesicles are found as dark spots, and neighbouring sections are correlated, which is what
alignment lives on. Each way is plain on purpose. What counts is how much of the truth's result is left.

The parameters were chosen on noise-free sections of one phantom: the watershed's by how well it agrees with the true neurites,
the detector's by how many of its vesicles it finds. (While the detector was chosen, its recall on degraded and restored
sections of that phantom was in sight, too.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from volumetool.errors import InputError

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

PERCENTILES = (1.0, 99.0)
"""Percentiles of a section that become 0 and 1, so that contrast does not count."""

MEMBRANE_BLUR = 12.0
"""nm: sigma of the Gaussian before the watershed."""

INSIDE = 0.5
"""Normalised grey values above it lie inside cells, those below it on membranes or dark organelles."""

MARKER_DEPTH = 16.0
"""nm: two parts of a cell are two markers if the neck between them is narrower than either by this much."""

SHELL_RADIUS = 26.0
"""nm: outer radius of a vesicle; a spot nearer to a centre is on that vesicle."""

SPOT_BLUR = 12.0
"""nm: sigma of the derivatives that find dark spots."""

SPOT_WINDOW = 5
"""Voxels: a spot is the strongest one in a square of this side."""

CLEARANCE = 24.0
"""nm: spots nearer to the border of a cell do not count."""

FALSE_ALARMS = 10.0
"""Per square micrometre: the truth itself then shows a good part of its vesicles."""


@dataclass(frozen=True)
class Partition:
    """How far one segmentation is from another.

    Attributes
    ----------
    rand_error : float
        Adapted Rand error, 0 (equal) to 1: one minus the F-score of pairs of voxels (Arganda-Carreras et al. 2015).
    split, merged : float
        The two halves of the variation of information (Meila 2007) in bits: what is cut apart that belongs together, what is
        joined that does not.
    """

    rand_error: float
    split: float
    merged: float

    @property
    def variation(self) -> float:
        """The variation of information in bits; 0 for equal segmentations."""
        return self.split + self.merged


def segment_cells(section: NDArray[Any], voxel_size: float) -> Labels:
    """Cut a section along its membranes, which are dark.

    Normalised, blurred, thresholded; the farthest places from any membrane are markers, and from there darkness is flooded.

    Parameters
    ----------
    section : numpy.ndarray, shape (y, x)
        Grey values.
    voxel_size : float
        nm along y and x.

    Returns
    -------
    numpy.ndarray of int32, shape (y, x)
        Cells from 1; every voxel belongs to one.
    """
    from skimage.measure import label
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    bright = ndimage.gaussian_filter(_normalised(section), MEMBRANE_BLUR / voxel_size)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(bright > INSIDE), 1.0)  # voxels
    markers = label(h_maxima(depth, MARKER_DEPTH / voxel_size))
    cells: Labels = watershed(-bright, markers).astype(np.int32)
    return cells


def components(labels: NDArray[Any]) -> Labels:
    """Give each connected piece of each neurite in a section (y, x) a number of its own: what one section alone can know."""
    from skimage.measure import label

    pieces: Labels = label(labels, background=-1, connectivity=1).astype(np.int32)
    return pieces


def compare_partitions(found: Labels, truth: Labels) -> Partition:
    """Compare two segmentations of one field, voxel by voxel.

    Parameters
    ----------
    found, truth : numpy.ndarray of int, shape (y, x)
        Labels; which numbers they have does not count.

    Raises
    ------
    InputError
        ``input.shape-mismatch``: the fields are not the same.
    """
    from skimage.metrics import adapted_rand_error, variation_of_information

    if found.shape != truth.shape:
        raise InputError(
            "input.shape-mismatch",
            f"a segmentation of shape {found.shape} cannot be compared with one of shape {truth.shape}",
            hint="give two segmentations of the same field",
        )
    error = float(adapted_rand_error(truth, found, ignore_labels=())[0])
    split, merged = variation_of_information(truth, found)  # bits: H(found | truth), H(truth | found)
    return Partition(error, float(split), float(merged))


@dataclass(frozen=True)
class Vesicles:
    """Where the vesicles are, and where they are looked for.

    Attributes
    ----------
    centres : numpy.ndarray of float32, shape (vesicles, 3)
        Along z, y, x in voxels.
    depths : tuple of int
        The z of each section that is searched, in voxels.
    inside : numpy.ndarray of bool, shape (sections, y, x)
        Where spots count.
    """

    centres: Floats
    depths: tuple[int, ...]
    inside: NDArray[np.bool_]


def place_vesicles(centres: Floats, labels: NDArray[Any], depths: Sequence[int], voxel_size: float) -> Vesicles:
    """Look for vesicles where an analyst would: inside cells, `CLEARANCE` away from their borders.

    Parameters
    ----------
    centres : numpy.ndarray of float32, shape (vesicles, 3)
        Along z, y, x in voxels.
    labels : numpy.ndarray of int, shape (z, y, x)
        True neurites.
    depths : sequence of int
        Sections to search.
    voxel_size : float
        nm, isotropic.
    """
    from skimage.segmentation import find_boundaries

    away = ndimage.distance_transform_edt(~find_boundaries(labels, mode="inner"))  # voxels
    return Vesicles(centres, tuple(depths), away[list(depths)] * voxel_size >= CLEARANCE)


def vesicle_recall(
    sections: NDArray[Any], vesicles: Vesicles, voxel_size: float, *, false_alarms: float = FALSE_ALARMS
) -> float:
    """Return the share of the vesicles that a spot detector finds at a given rate of false alarms.

    The detector looks for places that are dark along every direction: the smaller eigenvalue of the Hessian, so that membranes,
    dark along one, do not count. Its threshold, one for all sections, is where the false alarms reach the given rate. A vesicle
    counts whose centre lies within one voxel of the section; spots on one that is cut farther from its centre are neither found
    nor false.

    Parameters
    ----------
    sections : numpy.ndarray, shape (sections, y, x)
        Grey values; vesicles are dark.
    vesicles : Vesicles
        Where they are.
    voxel_size : float
        nm, isotropic.
    false_alarms : float
        Per square micrometre of the searched area of all sections together.

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    InputError
        ``input.no-vesicles``: no section shows one.
    """
    radius = SHELL_RADIUS / voxel_size
    strengths, verdicts, targets = [], [], 0
    for section, z, inside in zip(sections, vesicles.depths, vesicles.inside, strict=True):
        away = np.abs(vesicles.centres[:, 0] - z)
        whole, cut = (vesicles.centres[near, 1:] for near in (away <= 1, (away > 1) & (away <= radius)))
        spots, strength = _find_spots(section, inside, voxel_size)
        strengths.append(strength)
        verdicts.append(_judge(spots, whole, cut, radius))
        targets += len(whole)
    if not targets:
        raise InputError("input.no-vesicles", "no section shows a vesicle", hint="take more sections, or a larger phantom")
    verdict = np.concatenate(verdicts)[np.argsort(-np.concatenate(strengths), kind="stable")]
    area = np.count_nonzero(vesicles.inside) * (voxel_size / 1000) ** 2  # square micrometres
    allowed = np.cumsum(verdict == _FALSE) <= false_alarms * area
    return float(np.count_nonzero(allowed & (verdict == _FOUND))) / targets


_FALSE, _FOUND, _NEITHER = 0, 1, 2


def neighbour_correlation(volume: NDArray[Any]) -> float:
    """Return Pearson's correlation of neighbouring sections, meaned over a volume (z, y, x) of two or more."""
    flat = volume.reshape(len(volume), -1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    size = np.linalg.norm(flat, axis=1)
    return float(np.mean(np.sum(flat[:-1] * flat[1:], axis=1) / (size[:-1] * size[1:])))


def share_of_loss(restored: float, bilinear: float, truth: float) -> float:
    """Return how far a restored score is from the truth's, as a share of how far bilinear enlargement is.

    Parameters
    ----------
    restored, bilinear, truth : float
        One score of three images; whether more is better does not matter, and overshooting counts as falling short. Of an error
        against the truth itself, the truth has 0.

    Returns
    -------
    float
        0: nothing is lost; 1: as much as by bilinear enlargement; NaN where bilinear enlargement loses nothing.
    """
    lost = abs(truth - bilinear)
    return abs(truth - restored) / lost if lost else float("nan")


def _normalised(section: NDArray[Any]) -> Floats:
    low, high = np.percentile(section, PERCENTILES)
    unit: Floats = ((section.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-6))).clip(0, 1)
    return unit


def _find_spots(section: NDArray[Any], inside: NDArray[np.bool_], voxel_size: float) -> tuple[NDArray[np.intp], Floats]:
    """Return dark spots, (spots, 2) along y, x, and how strongly each stands out."""
    from skimage.feature import hessian_matrix, hessian_matrix_eigvals

    sigma = SPOT_BLUR / voxel_size
    hessian = hessian_matrix(_normalised(section), sigma, mode="reflect", order="rc", use_gaussian_derivatives=True)
    curvature = hessian_matrix_eigvals(hessian)[1]  # the smaller one
    peak = (curvature == ndimage.maximum_filter(curvature, size=SPOT_WINDOW)) & (curvature > 0) & inside
    strength: Floats = curvature[peak]
    return np.argwhere(peak), strength


def _judge(spots: NDArray[np.intp], whole: Floats, cut: Floats, radius: float) -> NDArray[np.int8]:
    """Return a verdict per spot; of the spots on one vesicle only the nearest has found it."""
    verdict = np.full(len(spots), _FALSE, np.int8)
    if not len(spots):
        return verdict
    for centres in (cut, whole):
        if len(centres):
            distance, _ = cKDTree(centres).query(spots)
            verdict[distance <= radius] = _NEITHER
    if len(whole):
        distance, nearest = map(np.asarray, cKDTree(spots).query(whole))
        verdict[nearest[distance <= radius]] = _FOUND
    return verdict
