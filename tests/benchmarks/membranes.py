"""Membranes that a restored section shows and its truth does not: what a network makes up where it does not know the tissue.

A membrane is a thin line that is darker than both of its sides, stands out of its surroundings, and does so all along a good
way. So a row of grains, whose gaps are bright, is none; nor is the edge of a dark organelle, a spot, or a chance line in noise.
Lengths are in pixels of the restored section, for it is pixels that a network draws.

The limits were chosen on phantoms of granules and of chromatin, so that next to nothing is found in bilinear enlargements of
noisy sections, or in a section of the same texture elsewhere. The price: many short or branching lines are missed that an eye
sees. Counts compare images; they are no census.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

LENGTH = 36
"""Pixels along the line."""

CONTRAST = 1.0
"""How much darker than both sides three quarters of the line are, in standard deviations of the fine detail around it."""

FAINTEST = 3 / 255
"""The same as a share of the data range: what is paler is not seen."""

CONTINUITY = 0.4
"""Nine tenths of the line are at least so dark, as a share of its median."""

KNOWN = 0.5
"""A line of the truth, moved by up to two pixels, accounts for a restored one that is not more than twice as dark."""

_DIRECTIONS = 12
_ACROSS = 1.2  # pixels, the Gaussian across a line
_SIDES = (3.5, 5.5)  # pixels to both sides of thin and of thicker lines
_LONG, _SHORT = 5.0, 2.0  # pixels, the Gaussian along a line: to find it, and to find its gaps
_WEAK, _STRONG = 0.5, 0.8  # contrasts at which a line goes on and begins
_MOVED = 2  # pixels
_MARGIN = 32


def false_membranes(restored: NDArray[Any], truth: NDArray[Any], *, data_range: float = 255.0) -> Labels:
    """Find the membranes of a restored section that its truth does not have.

    Parameters
    ----------
    restored, truth : numpy.ndarray, shape (y, x)
        Grey values of the same scale; membranes are dark.
    data_range : float
        Difference between the largest and the smallest possible value.

    Returns
    -------
    numpy.ndarray of int32, shape (y, x)
        The middle lines of the false membranes, one pixel wide: 0 elsewhere, and each its own number from 1. Where one crosses
        another, both are cut.
    """
    found = np.zeros(restored.shape, np.int32)
    depths = _line_depths(restored, _LONG)
    direction = depths.argmax(axis=0)
    depth = depths.max(axis=0)
    contrast = np.where(depth >= FAINTEST * data_range, depth / (_detail(restored) + 1e-3 * data_range), 0)
    fine, true = _line_depths(restored, _SHORT), _line_depths(truth, _SHORT)
    number = 0
    for y, x in _paths(contrast):
        if len(y) < LENGTH:
            continue
        along = fine[direction[y, x], y, x]
        if (
            np.percentile(contrast[y, x], 25) >= CONTRAST
            and np.percentile(along, 10) >= CONTINUITY * np.median(along)
            and _known(true, direction[y, x], y, x) < KNOWN * np.percentile(along, 25)
        ):
            number += 1
            found[y, x] = number
    return found


def _line_depths(section: NDArray[Any], length: float) -> Floats:
    """Return by how much each pixel, meaned along a direction, is darker than both sides: float32 (directions, y, x)."""
    mode = "reflect" if min(section.shape) > _MARGIN else "symmetric"
    spectrum = fft.rfft2(np.pad(section.astype(np.float32), _MARGIN, mode=mode))
    shape = tuple(size + 2 * _MARGIN for size in section.shape)
    up, right = fft.fftfreq(shape[0])[:, None], fft.rfftfreq(shape[1])[None]
    depths = np.empty((_DIRECTIONS, *section.shape), np.float32)
    for number, angle in enumerate(np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS):
        along = right * np.cos(angle) + up * np.sin(angle)
        across = up * np.cos(angle) - right * np.sin(angle)
        smooth = spectrum * np.exp(-2 * np.pi**2 * ((length * along) ** 2 + (_ACROSS * across) ** 2))

        def beside(away: float, smooth: Any = smooth, across: Any = across) -> Floats:
            moved: Floats = fft.irfft2(smooth * np.exp(2j * np.pi * away * across), s=shape)
            return moved[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]

        sides = [np.minimum(beside(away), beside(-away)) for away in _SIDES]
        depths[number] = np.maximum(*sides) - beside(0)
    return depths


def _detail(section: NDArray[Any]) -> Floats:
    grey = section.astype(np.float32)
    detail: Floats = np.sqrt(ndimage.gaussian_filter(np.square(grey - ndimage.gaussian_filter(grey, 6)), 12))
    return detail


def _paths(contrast: Floats) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Return the places, y and x, of each line between two crossings."""
    from skimage.filters import apply_hysteresis_threshold
    from skimage.morphology import skeletonize

    lines = skeletonize(apply_hysteresis_threshold(contrast, _WEAK, _STRONG))
    around = ndimage.convolve(lines.astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant")
    label, _ = ndimage.label(lines & (around <= 3), np.ones((3, 3)))  # itself and two neighbours
    boxes = ndimage.find_objects(label)
    places = [np.nonzero(label[box] == number) for number, box in enumerate(boxes, start=1)]
    return [(y + box[0].start, x + box[1].start) for (y, x), box in zip(places, boxes, strict=True)]


def _known(true: Floats, direction: NDArray[np.intp], y: NDArray[np.intp], x: NDArray[np.intp]) -> float:
    """Return how dark three quarters of a line are in the truth, where it is darkest nearby."""
    steps = range(-_MOVED, _MOVED + 1)
    height, width = true.shape[1:]
    return max(
        float(np.percentile(true[direction, np.clip(y + down, 0, height - 1), np.clip(x + right, 0, width - 1)], 25))
        for down in steps
        for right in steps
    )
