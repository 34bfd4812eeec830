"""Repair: what stands in for bad sections, and which sections others may look at.

A filled section is interpolated between the nearest good ones before and after it. Structures move from section to section, so
both are displaced first, place by place, to where they show the same (bilateral, overlapped block motion compensation: Choi et
al. 2007, IEEE Trans. Circuits Syst. Video Technol. 17). Places are blocks of a grid that begins at the volume's origin, and all
sums are of integers, so what a voxel becomes depends on no window in which it is computed.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from volumetool.geometry import mirror_index

RepairMode = Literal["fill", "nearest", "leave"]

REACH = 8
"""Sections that are looked at beyond bad ones for a good one."""

BLOCK = 32
"""Side of the blocks that are displaced, in voxels; each is compared with a margin of as much in all."""

FARTHEST = 6
"""Largest displacement along y and x from a section to the next one, in voxels."""

EVERY = 2
"""Every second voxel along y and x is compared."""

CLEARLY = 0.8
"""Share of the squared difference as they lie below which a displacement must bring it."""

SMOOTHING = (1, 4, 6, 4, 1)
"""Binomial weights along y and x, against noise, before sections are compared."""

HALO = 2 * BLOCK + 2 * FARTHEST + len(SMOOTHING) // 2
"""Voxels around a window that its filled voxels depend on."""

INTERPOLATION = 128
"""Bytes per voxel of a window that interpolation takes at most."""

Integers = NDArray[np.int64]


class SectionRepair(BaseModel):
    """Which sections are bad, and what is done about them.

    Parameters
    ----------
    mode : {"fill", "nearest", "leave"}
        What a bad section is replaced by before it is enhanced: the interpolation of good ones around it, the nearest good
        one, or nothing. Whichever it is, the z context of other sections leaves it out.
    bad : tuple of tuple of int
        The bad sections of each channel of the input, rising.
    grey : tuple of float, optional
        Grey values of black and white, between which sections are compared; by default those of the section statistics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: RepairMode
    bad: tuple[tuple[int, ...], ...]
    grey: tuple[float, float] | None = None

    @cached_property
    def _bad(self) -> tuple[frozenset[int], ...]:
        return tuple(map(frozenset, self.bad))

    def touches(self, channel: int, start: int, stop: int) -> bool:
        """Return whether one of a range of sections is bad.

        Parameters
        ----------
        channel : int
            Channel of the input.
        start, stop : int
            Half-open range of sections.
        """
        return any(start <= z < stop for z in self.bad[channel])

    def seen_from(self, channel: int, z: int, context: int, depth: int) -> list[int]:
        """Return a section with its z context, from which bad sections are left out as if they were not there.

        Parameters
        ----------
        channel : int
            Channel of the input.
        z : int
            The section.
        context : int
            Sections on each side; mirrored at the faces, and where more than `REACH` sections in a row are bad.
        depth : int
            Sections of the volume.
        """
        near = range(max(0, z - context - REACH), min(depth, z + context + REACH + 1))
        stack = [each for each in near if each == z or each not in self._bad[channel]]
        at = stack.index(z)
        return [stack[i] for i in mirror_index(at - context, at + context + 1, len(stack))]

    def replacements(self, channel: int, z: int, depth: int) -> tuple[int, ...]:
        """Return the good sections that a section is made of: itself, those before and after it, or the nearest.

        Parameters
        ----------
        channel : int
            Channel of the input.
        z : int
            The section.
        depth : int
            Sections of the volume.

        Returns
        -------
        tuple of int
            One or two sections. A bad section without a good one within `REACH` sections stays as it is.
        """
        bad = self._bad[channel]
        if z not in bad or self.mode == "leave":
            return (z,)
        before = next((each for each in range(z - 1, max(-1, z - REACH - 1), -1) if each not in bad), None)
        after = next((each for each in range(z + 1, min(depth, z + REACH + 1)) if each not in bad), None)
        sides = tuple(each for each in (before, after) if each is not None)
        if len(sides) == 2 and self.mode == "nearest":
            return (min(sides, key=lambda each: (abs(each - z), each)),)
        return sides or (z,)


def interpolate(
    first: NDArray[Any], second: NDArray[Any], share: tuple[int, int], origin: tuple[int, int], window: tuple[float, float]
) -> NDArray[np.float32]:
    """Interpolate between two sections, each displaced to where both show the same.

    Parameters
    ----------
    first, second : numpy.ndarray, shape (y, x)
        Grey values. Results within `HALO` of a side that is no face of the volume depend on what lies beyond.
    share : tuple of int
        Sections from the first one to the one in between, and from that to the second one.
    origin : tuple of int
        Place of the first voxel in the volume, y, x.
    window : tuple of float
        Grey values that are black and white.

    Returns
    -------
    numpy.ndarray of float32, shape (y, x)
    """
    shape, total = first.shape, sum(share)
    field = _displacements(first, second, share, origin, window)  # (2, corners y, corners x)
    places = [np.arange(start, start + n) for start, n in zip(origin, shape, strict=True)]
    result = np.zeros(shape, np.float32)
    for corner in ((0, 0), (0, 1), (1, 0), (1, 1)):
        nodes = [place // BLOCK - place[0] // BLOCK + step for place, step in zip(places, corner, strict=True)]
        weights = [
            (place % BLOCK if step else BLOCK - place % BLOCK).astype(np.float32) / BLOCK
            for place, step in zip(places, corner, strict=True)
        ]
        moved = field[:, nodes[0][:, None], nodes[1]]  # (2, y, x)
        near, far = (_moved(image, sign * part * moved) for image, sign, part in ((first, -1, share[0]), (second, 1, share[1])))
        mean = (near * np.float32(share[1]) + far * np.float32(share[0])) / np.float32(total)
        result += weights[0][:, None] * weights[1] * mean
    return result


def _displacements(
    first: NDArray[Any], second: NDArray[Any], share: tuple[int, int], origin: tuple[int, int], window: tuple[float, float]
) -> Integers:
    """Return by how many voxels a section the structures move around each corner of the blocks, (2, corners y, corners x)."""
    one, other = (_smoothed(image, window) for image in (first, second))
    farthest = 2 * FARTHEST // sum(share)
    steps = sorted(
        ((y, x) for y in range(-farthest, farthest + 1) for x in range(-farthest, farthest + 1)),
        key=lambda step: (step[0] ** 2 + step[1] ** 2, step),
    )
    best = field = None
    for step in steps:
        near, far = (
            _sampled(image, [sign * part * move for move in step], origin)
            for image, sign, part in ((one, -1, share[0]), (other, 1, share[1]))
        )
        cost = _corner_sums(np.square(near - far), origin, first.shape)  # (corners y, corners x)
        if best is None or field is None:
            best, field = cost * CLEARLY, np.zeros((2, *cost.shape), np.int64)
        better = cost < best
        best = np.where(better, cost, best)
        field[:, better] = np.reshape(step, (2, 1))
    return np.zeros((2, 1, 1), np.int64) if field is None else field


def _smoothed(image: NDArray[Any], window: tuple[float, float]) -> Integers:
    """Return a section in 256 grey levels, smoothed: integers."""
    low, high = window
    levels = np.clip(np.rint((image.astype(np.float64) - low) * (255 / (high - low))), 0, 255).astype(np.int64)
    for axis in (0, 1):
        padded = np.pad(levels, [(2, 2) if each == axis else (0, 0) for each in (0, 1)], mode="edge")
        n = levels.shape[axis]
        levels = np.sum([weight * padded.take(range(k, k + n), axis) for k, weight in enumerate(SMOOTHING)], axis=0)
    return levels


def _clamped(start: int, shift: int, size: int, every: int) -> NDArray[np.intp]:
    return np.clip(np.arange(-start % every, size, every) + shift, 0, size - 1)


def _sampled(image: Integers, shift: list[int], origin: tuple[int, int]) -> Integers:
    """Return every second voxel, by its place in the volume, of a section that is displaced."""
    y, x = (_clamped(*each, EVERY) for each in zip(origin, shift, image.shape, strict=True))
    return image[y[:, None], x]


def _corner_sums(values: Integers, origin: tuple[int, int], shape: tuple[int, ...]) -> Integers:
    """Return the sums over the four blocks around each corner of the grid that a window touches."""
    for axis, (start, n) in enumerate(zip(origin, shape, strict=True)):
        places = np.arange(start + -start % EVERY, start + n, EVERY) // BLOCK - start // BLOCK  # block of each sample
        blocks = -(-(start + n) // BLOCK) - start // BLOCK
        edges = np.searchsorted(places, np.arange(blocks))
        sums = np.add.reduceat(values, edges, axis)
        pad = [(1, 1) if each == axis else (0, 0) for each in (0, 1)]
        padded = np.pad(sums, pad)
        values = padded.take(range(blocks + 1), axis) + padded.take(range(1, blocks + 2), axis)
    return values


def _moved(image: NDArray[Any], field: Integers) -> NDArray[np.float32]:
    """Return a section whose voxels are those that lie off by a field, (2, y, x); beyond the faces the outermost goes on."""
    y, x = (np.arange(n) for n in image.shape)
    places = np.clip(y[:, None] + field[0], 0, len(y) - 1), np.clip(x + field[1], 0, len(x) - 1)
    moved: NDArray[np.float32] = image[places].astype(np.float32)
    return moved
