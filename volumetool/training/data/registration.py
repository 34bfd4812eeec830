"""Registration: lay real noisy and clean images of one field on top of each other before anybody learns from them.

Two scans of a field never coincide: the stage drifts between them, and another dwell time can change the magnification, too. A
network that learns from such pairs learns to blur and to shift. So each pair is registered in two steps, both on images whose
noise and shading are filtered off:

1. The peak of the windowed cross-correlation finds the shift to within a voxel. (Pure phase correlation weights all frequencies
   alike, most of which are noise here, and without a window the image borders pull it towards no shift at all.)
2. Least squares: the noisy image is regressed on the clean one and its derivatives, which gives what is missing of the shift
   (Lucas and Kanade 1981, with gain and offset free). The noise is in the regressed image alone, hence no bias, and the sum of
   squares is smallest where the correlation is highest.

It is the clean image that moves. Interpolation would average the noise of the other one and correlate it between neighbours,
and a network would learn to take off a noise that no microscope makes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import windows
from skimage.registration import phase_cross_correlation

from volumetool.errors import InputError

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_BAND = (1.0, 16.0)  # voxels: noise below and shading above are filtered off
_SPLINE: Final = 5  # of orders 1, 3 and 5 the one that keeps most of the finest detail
_REACH = 3  # voxels at a border that such a spline takes from beyond it
_SETTLED = 0.005  # voxels
_STEPS = 8
_FAR = 2.0  # voxels between peak and least squares; if they are farther apart one of them is wrong
_WORTH = 0.01  # share of the unexplained variance that a stretch must explain; of chance alone it explains far less
_MOST_SATURATED = 0.1  # share of voxels
_LEAST_SIDE = 32  # voxels


@dataclass(frozen=True)
class Registration:
    """The registration of two images of a field.

    Parameters
    ----------
    shift : tuple of float
        Along y and x, in coarse voxels: what to add to the positions of the noisy image to find the same place in the clean
        one; so, move the noisy one by it or the clean one by minus it.
    score : float
        Correlation of the two after registration, -1..1, without the finest and the coarsest frequencies.
    stretch : tuple of tuple of float
        What a step of one voxel along y, x (columns) adds to the shift along y, x (rows); all 0 unless another magnification
        or skew explains the pair distinctly better.
    reason : str
        Why the pair is no good; empty if it is.
    """

    shift: tuple[float, float]
    score: float
    stretch: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 0.0), (0.0, 0.0))
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the pair may be used."""
        return not self.reason


@dataclass(frozen=True)
class Pairs:
    """Registered pairs.

    Parameters
    ----------
    noisy : ndarray
        (n, y, x) voxels as they were acquired, cropped to the field that all pairs have in common.
    clean : ndarray
        float32 (n, y * scale, x * scale), moved onto `noisy`.
    kept : tuple of int
        Indices of these pairs among those given.
    dropped : tuple of (int, str)
        The others, each with the reason.
    """

    noisy: NDArray[Any]
    clean: Floats
    kept: tuple[int, ...]
    dropped: tuple[tuple[int, str], ...]


def register(
    noisy: NDArray[Any], clean: NDArray[Any], *, scale: int = 1, largest_shift: float = 16.0, least_score: float = 0.4
) -> Registration:
    """Find how the clean image of a field lies to the noisy one.

    Parameters
    ----------
    noisy : ndarray
        (y, x), of any real dtype and contrast; 32 voxels or more on each side.
    clean : ndarray
        (y * scale, x * scale); registered by the mean of each block of scale x scale voxels.
    scale : int
        Fine voxels per coarse one along y and along x.
    largest_shift : float
        Coarse voxels that any place may be off before the pair is not accepted.
    least_score : float
        Correlation after registration below which the pair is not accepted.

    Returns
    -------
    Registration
        Its `accepted` and `reason` tell whether to use the pair.

    Raises
    ------
    InputError
        ``input.pair-shape`` if the shapes do not belong together.
    """
    _check_shapes(noisy.shape, clean.shape, scale)
    for name, image in (("noisy", noisy), ("clean", clean)):
        if fault := _fault(image):
            return Registration((0.0, 0.0), 0.0, reason=f"the {name} image is {fault}")
    first, second = _band(noisy), _band(_reduce(clean, scale))
    found = _refine(first, second, _peak(first, second))
    farthest = _farthest(found, noisy.shape)
    if found.reason:
        return found
    if found.score < least_score:
        return replace(
            found, reason=f"unlike: correlation {found.score:.2f} after registration, {least_score:.2f} is asked for"
        )
    if farthest > largest_shift:
        return replace(found, reason=f"too far: {farthest:.1f} voxels off, {largest_shift:.1f} are allowed")
    return found


def align_pairs(
    noisy: NDArray[Any], clean: NDArray[Any], *, scale: int = 1, largest_shift: float = 16.0, least_score: float = 0.4
) -> Pairs:
    """Register pairs, drop those that do not fit, and crop the others to the field that they share.

    Parameters
    ----------
    noisy : ndarray
        (n, y, x), of any real dtype.
    clean : ndarray
        (n, y * scale, x * scale); image i shows the field of noisy image i.
    scale, largest_shift, least_score
        As in `register`.

    Returns
    -------
    Pairs
        Noisy voxels as they were, clean ones interpolated by a spline of order 5.

    Raises
    ------
    InputError
        ``input.pair-shape`` if the shapes do not belong together; ``input.pairs`` if no pair fits.
    """
    if noisy.ndim != 3 or clean.ndim != 3 or len(noisy) != len(clean):
        raise InputError("input.pair-shape", f"pairs are two stacks of as many images, not {noisy.shape} and {clean.shape}")
    found = [
        register(one, other, scale=scale, largest_shift=largest_shift, least_score=least_score)
        for one, other in zip(noisy, clean, strict=True)
    ]
    kept = tuple(index for index, registration in enumerate(found) if registration.accepted)
    dropped = tuple((index, registration.reason) for index, registration in enumerate(found) if not registration.accepted)
    if not kept:
        raise InputError(
            "input.pairs",
            f"none of the {len(found)} pairs fits; the first one is {found[0].reason}" if found else "there are no pairs",
            hint="look at both stacks: image i of one must show the field of image i of the other",
        )
    margin = math.ceil(max(_farthest(found[index], noisy.shape[1:]) for index in kept)) + _REACH  # coarse voxels
    y, x = (size - margin for size in noisy.shape[1:])
    if min(y, x) <= margin:
        raise InputError(
            "input.pairs", f"images of {noisy.shape[1:]} voxels that are up to {margin - _REACH} off share no field"
        )
    moved = np.stack([move(clean[index], found[index], scale) for index in kept])
    fine = moved[:, margin * scale : y * scale, margin * scale : x * scale]
    return Pairs(noisy[list(kept), margin:y, margin:x], fine, kept, dropped)


def move(clean: NDArray[Any], registration: Registration, scale: int = 1) -> Floats:
    """Move a clean image onto its noisy partner.

    Parameters
    ----------
    clean : ndarray
        (y, x), fine voxels.
    registration : Registration
        The registration, as :func:`register` returns it.
    scale : int
        Fine voxels per coarse one.

    Returns
    -------
    ndarray
        float32 (y, x). What lies beyond the clean image's border is its mirror image: crop it off.
    """
    return _warp(_fit_spline(clean), scale * np.array(registration.shift), np.array(registration.stretch))


def match_contrast(noisy: NDArray[Any], clean: NDArray[Any], *, scale: int = 1) -> Floats:
    """Bring a clean image, registered, to the grey values of its noisy partner.

    Gain and offset are those of least squares of the noisy image on the clean one, of which only the former has noise. Voxels
    that are more than three standard deviations off (by the median of the absolute residuals) are left out, and again until
    it makes no difference: charging, dirt and clipping are no contrast.

    Parameters
    ----------
    noisy : ndarray
        (y, x) or (n, y, x); one gain and offset for all of it.
    clean : ndarray
        Grey values (y * scale, x * scale) or (n, y * scale, x * scale), registered to `noisy`.
    scale : int
        Fine voxels per coarse one.

    Returns
    -------
    ndarray
        float32, shaped as `clean`.
    """
    target = noisy.astype(np.float64).ravel()
    known = np.stack([np.ones(target.size), _reduce(clean, scale).astype(np.float64).ravel()], axis=1)  # (voxels, 2)
    fits = np.ones(target.size, bool)
    offset_and_gain: NDArray[np.floating[Any]] = np.zeros(2)
    for _ in range(10):
        used = known[fits]
        offset_and_gain = np.linalg.lstsq(used.T @ used, used.T @ target[fits], rcond=None)[0]
        off = np.abs(target - known @ offset_and_gain)
        before, fits = fits, off <= 3 * 1.4826 * np.median(off)
        if np.array_equal(before, fits):
            break
    offset, gain = offset_and_gain.astype(np.float32)
    matched: Floats = offset + gain * clean.astype(np.float32)
    return matched


def _reduce(clean: NDArray[Any], scale: int) -> Floats:
    """Return the mean of each block of scale x scale voxels, float32 (..., y // scale, x // scale)."""
    y, x = (size // scale for size in clean.shape[-2:])
    blocks = clean[..., : y * scale, : x * scale].reshape(*clean.shape[:-2], y, scale, x, scale)
    means: Floats = blocks.mean(axis=(-3, -1), dtype=np.float32)  # (..., y, x)
    return means


def _peak(noisy: Floats, clean: Floats) -> Doubles:
    taper = np.outer(*(windows.hann(size, sym=False) for size in noisy.shape))
    shift, _, _ = phase_cross_correlation(clean * taper, noisy * taper, normalization=None)
    return np.asarray(shift, np.float64)


def _refine(noisy: Floats, clean: Floats, start: Doubles) -> Registration:
    spline = _fit_spline(clean)
    shift, score = _descend(noisy, spline, start, stretched=False)
    straight = Registration((float(shift[0]), float(shift[1])), score)
    if np.abs(shift[:2] - start).max() > _FAR:
        apart = f"unsure: the correlation's peak is at {_say(start)}, least squares lead to {_say(shift[:2])}"
        return replace(straight, reason=apart)
    shift, score = _descend(noisy, spline, shift[:2], stretched=True)
    if 1 - score**2 > (1 - _WORTH) * (1 - straight.score**2):
        return straight
    dy, dx, yy, yx, xy, xx = (float(number) for number in shift)
    return Registration((dy, dx), score, ((yy, yx), (xy, xx)))


def _descend(noisy: Floats, spline: Floats, start: Doubles, *, stretched: bool) -> tuple[Doubles, float]:
    """Least squares by Gauss and Newton: the shift, followed by the stretch row by row, and the correlation at the end."""
    found = np.concatenate([start, np.zeros(4)])
    y, x = (np.arange(size) - (size - 1) / 2 for size in noisy.shape)
    inside, score = np.ones(noisy.shape, bool), -1.0
    for _ in range(_STEPS):
        moved = _warp(spline, found[:2], found[2:].reshape(2, 2))
        inside = _inside(noisy.shape, found)
        if inside.sum() < _LEAST_SIDE**2:
            return found, -1.0
        steep_y, steep_x = np.gradient(moved, axis=0), np.gradient(moved, axis=1)
        columns = [np.ones_like(moved), moved, steep_y, steep_x]
        if stretched:
            columns += [steep_y * y[:, None], steep_y * x, steep_x * y[:, None], steep_x * x]
        known = np.stack([column[inside] for column in columns]).astype(np.float64)  # (unknowns, voxels)
        target = noisy[inside].astype(np.float64)
        score = float(np.corrcoef(known[1], target)[0, 1])
        solved = np.linalg.lstsq(known @ known.T, known @ target, rcond=None)[0]
        if solved[1] <= 0:  # the two contradict each other: no slope leads anywhere
            break
        step = solved[2:] / solved[1]
        found[: len(step)] += step
        if np.abs(step[:2]).max() < _SETTLED or np.abs(found[:2] - start).max() > _FAR:
            break
    return found, score


def _inside(shape: tuple[int, ...], found: Doubles) -> NDArray[np.bool_]:
    edges = [math.ceil(abs(float(off))) + 2 * _REACH for off in found[:2]]
    inside = np.zeros(shape, bool)
    inside[edges[0] : shape[0] - edges[0], edges[1] : shape[1] - edges[1]] = True
    return inside


def _fit_spline(image: NDArray[Any]) -> Floats:
    spline: Floats = ndimage.spline_filter(image.astype(np.float32), _SPLINE, output=np.float32, mode="mirror")
    return spline


def _warp(spline: Floats, shift: Doubles, stretch: Doubles) -> Floats:
    centre = (np.array(spline.shape) - 1) / 2
    matrix = np.eye(2) + stretch
    offset = centre + shift - matrix @ centre
    warped: Floats = ndimage.affine_transform(spline, matrix, offset, order=_SPLINE, mode="mirror", prefilter=False)
    return warped


def _farthest(registration: Registration, shape: tuple[int, ...]) -> float:
    """Coarse voxels that the place which is farthest off is off, along the worse axis."""
    half = (np.array(shape) - 1) / 2
    return float((np.abs(registration.shift) + np.abs(registration.stretch) @ half).max())


def _band(image: NDArray[Any]) -> Floats:
    fine, coarse = (ndimage.gaussian_filter(image.astype(np.float32), sigma) for sigma in _BAND)
    band: Floats = fine - coarse
    return band


def _fault(image: NDArray[Any]) -> str:
    if not np.isfinite(image).all():
        return "not finite everywhere"
    flat = max(float(np.mean(image == extreme)) for extreme in (image.min(), image.max()))
    return f"saturated: {flat:.0%} of it have its lowest or its highest value" if flat > _MOST_SATURATED else ""


def _check_shapes(noisy: tuple[int, ...], clean: tuple[int, ...], scale: int) -> None:
    if clean != tuple(size * scale for size in noisy) or len(noisy) != 2:
        raise InputError(
            "input.pair-shape",
            f"a clean image of {clean} voxels is not {scale} times a noisy one of {noisy} along y and x",
            hint="crop both to the same field; scale is the number of clean voxels per noisy one along an axis",
        )
    if min(noisy) < _LEAST_SIDE:
        raise InputError("input.pair-shape", f"images of {noisy} voxels are too small to register; {_LEAST_SIDE} is the least")


def _say(shift: Doubles) -> str:
    return f"({shift[0]:.1f}, {shift[1]:.1f})"
