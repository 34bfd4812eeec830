"""An independent whole-volume reference: every patch of the lattice by plain loops, blended over the whole volume at once.

It shares no code with the product beyond the fake networks: positions, mirroring, ramps and rounding are written out again
from their definitions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Triple = tuple[int, int, int]
Places = tuple[list[int], list[int], list[int]]
"""Which voxels of the volume a patch sees along z (with context), y and x."""


@dataclass(frozen=True)
class Geometry:
    """Lattice of a reference run; triples are z, y, x in input voxels."""

    stride: Triple
    overlap: Triple
    trim: Triple
    scale: Triple
    dims: int
    context: int = 0
    granularity: Triple = (1, 1, 1)


def margins(g: Geometry) -> list[int]:
    """How far the first patch lies before each face: overlap less trim, or the next multiple of the granularity."""
    return [
        next(m for m in range(o - t, o - t + grain) if m % grain == 0)
        for o, t, grain in zip(g.overlap, g.trim, g.granularity, strict=True)
    ]


def mirrored(position: int, size: int) -> int:
    """Walk a position back and forth between the faces until it lies inside."""
    if size == 1:
        return 0
    while not 0 <= position < size:
        position = -position if position < 0 else 2 * (size - 1) - position
    return position


def varied(volume: NDArray[np.generic]) -> Callable[[Places], bool]:
    """Ask the network for patches that see more than one value of `volume`."""
    return lambda places: len(np.unique(volume[np.ix_(*places)])) > 1


def enhance_whole(
    volume: NDArray[np.generic], network: nn.Module, geometry: Geometry, asked: Callable[[Places], bool] | None = None
) -> NDArray[np.float32]:
    """Return network values of the whole volume, blended z, then y, then x.

    A patch that is not `asked` for counts as its input, enlarged; by default those are the patches of one value.
    """
    g = geometry
    asked = asked or varied(volume)
    counts = [-(-(n + o) // s) for n, o, s in zip(volume.shape, g.overlap, g.stride, strict=True)]
    before = margins(g)
    padded_shape = [(c * s + o) * f for c, s, o, f in zip(counts, g.stride, g.overlap, g.scale, strict=True)]
    lines = []
    for x in range(counts[2]):
        planes = []
        for y in range(counts[1]):
            stack = [_predict(volume, network, g, (z, y, x), asked) for z in range(counts[0])]
            planes.append(_join(stack, 0, g, padded_shape[0]))
        lines.append(_join(planes, 1, g, padded_shape[1]))
    whole = _join(lines, 2, g, padded_shape[2])
    cut = tuple(slice(m * f, (m + n) * f) for n, m, f in zip(volume.shape, before, g.scale, strict=True))
    inside: NDArray[np.float32] = whole[cut]
    return inside


def places_of(index: Triple, shape: tuple[int, ...], g: Geometry) -> Places:
    """Return the voxels that patch `index` sees."""
    z, y, x = (
        [mirrored(p, n) for p in range(i * s - m - more, i * s - m + s + o + more)]
        for i, s, o, m, n, more in zip(index, g.stride, g.overlap, margins(g), shape, (g.context, 0, 0), strict=True)
    )
    return z, y, x


def _predict(
    volume: NDArray[np.generic], network: nn.Module, g: Geometry, index: Triple, asked: Callable[[Places], bool]
) -> NDArray[np.float32]:
    places = places_of(index, volume.shape, g)
    patch = volume[np.ix_(*places)].astype(np.float32)
    if not asked(places):
        own = patch[g.context : len(patch) - g.context]
        return np.kron(own, np.ones(g.scale, np.float32))
    x = torch.from_numpy(patch)[None] if g.dims == 2 else torch.from_numpy(patch)[None, None]
    with torch.inference_mode():
        y = network(x)
    result: NDArray[np.float32] = y[0].numpy() if g.dims == 2 else y[0, 0].numpy()
    return result


def _join(pieces: list[NDArray[np.float32]], axis: int, g: Geometry, length: int) -> NDArray[np.float32]:
    s, o, t = (values[axis] * g.scale[axis] for values in (g.stride, g.overlap, g.trim))
    shape = list(pieces[0].shape)
    shape[axis] = length
    result = np.zeros(shape, np.float32)
    for number, piece in enumerate(pieces):
        source, target = np.moveaxis(piece, axis, -1), np.moveaxis(result, axis, -1)
        for column in range(t, s + o - t):
            at = number * s + column
            position = column - t
            if number == 0 or position >= o - 2 * t:
                target[..., at] = source[..., column]
            else:
                w = np.float32((position + 0.5) / (o - 2 * t))
                a, b = target[..., at], source[..., column]
                target[..., at] = a + w * (b - a)
    return result
