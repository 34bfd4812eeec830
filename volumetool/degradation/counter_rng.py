"""Random numbers that belong to a voxel's position.

A number is a hash of (seed, step, z, y, x), a counter-based generator as in Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3" (SC 2011), here with the mixing function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014). So a voxel's noise
is the same in every chunk that holds it, on every device, in any order.
"""

from __future__ import annotations

import numpy as np

from volumetool.degradation.arrays import Array, BlockPosition, module_of
from volumetool.geometry import Triple

_GOLDEN = 0x9E3779B97F4A7C15
_FIRST, _SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_WORD = 2**64 - 1

INVERTED = 12.0
"""Mean below which a Poisson number is found by counting up its distribution function."""


def hashes(like: Array, place: BlockPosition, shape: Triple | None = None, stream: int = 0) -> Array:
    """Return 64 random bits for every voxel of a block.

    Parameters
    ----------
    like : array
        Says on which device, and, where `shape` is not given, for how many voxels.
    place : BlockPosition
        Position of the block; seed and number of the step.
    shape : tuple of int, optional
        Voxels along z, y, x.
    stream : int
        Tells several draws of one step apart.

    Returns
    -------
    array of uint64, shape (z, y, x)
        Bits that depend on the seed, the step, the stream and each voxel's position alone.
    """
    xp = module_of(like)
    key = _mix_int(_mix_int(_mix_int(place.seed & _WORD) + place.number) + stream)
    bits = xp.full((1, 1, 1), key, dtype=xp.uint64)
    for axis, (start, size) in enumerate(zip(place.origin, shape or like.shape, strict=True)):
        steps = xp.arange(start, start + size, dtype=xp.uint64) * xp.uint64(_GOLDEN)
        bits = bits + steps.reshape([-1 if a == axis else 1 for a in range(3)])  # one axis more
        _mix(bits)
    return bits


def _mix(bits: Array) -> None:
    xp = module_of(bits)
    bits ^= bits >> xp.uint64(30)
    bits *= xp.uint64(_FIRST)
    bits ^= bits >> xp.uint64(27)
    bits *= xp.uint64(_SECOND)
    bits ^= bits >> xp.uint64(31)


def _mix_int(bits: int) -> int:
    bits = (bits + _GOLDEN) & _WORD
    bits = ((bits ^ (bits >> 30)) * _FIRST) & _WORD
    bits = ((bits ^ (bits >> 27)) * _SECOND) & _WORD
    return bits ^ (bits >> 31)


def _halves(bits: Array) -> tuple[Array, Array]:
    xp = module_of(bits)
    return (bits >> xp.uint64(32)).astype(xp.uint32), bits.astype(xp.uint32)


def uniform(bits: Array) -> Array:
    """Return float64 numbers, uniform in 0..1 with neither end, from 32 of the 64 random bits."""
    return (_halves(bits)[0] + 0.5) * 2.0**-32


def normal(bits: Array) -> Array:
    """Return float32 numbers of the standard normal distribution, by the method of Box and Muller (1958).

    The radius comes from 32 bits, so that no number is beyond 6.8 standard deviations.
    """
    xp = module_of(bits)
    first, second = _halves(bits)
    radius = first.astype(xp.float32)
    radius += xp.float32(0.5)
    radius *= xp.float32(2.0**-32)
    xp.log(radius, out=radius)
    radius *= xp.float32(-2)
    xp.sqrt(radius, out=radius)
    turn = second.astype(xp.float32)
    turn *= xp.float32(2 * np.pi * 2.0**-32)
    xp.cos(turn, out=turn)
    radius *= turn
    return radius


def poisson(mean: Array, bits: Array) -> Array:
    """Return float32 Poisson numbers.

    A mean below `INVERTED` is inverted exactly: the smallest count whose distribution function exceeds a uniform number. A
    larger one takes the expansion of the quantile in powers of 1/sqrt(mean) by Giles, "Algorithm 955: approximation of the
    inverse Poisson cumulative distribution function" (ACM TOMS 2016), to second order, of a normal number, and rounds down.
    At a mean of 12 the distribution function is then wrong by at most 2e-4, mean and variance by 5e-5 of themselves; at 100
    by 1e-5 and 1e-6.

    Parameters
    ----------
    mean : array of float32
        Means, 0 or more.
    bits : array of uint64, same shape
        Random bits, from :func:`hashes`.
    """
    xp = module_of(mean)
    z = normal(bits)
    root = xp.sqrt(mean)
    square = z * z
    counts = mean + root * z + (square / xp.float32(6) + xp.float32(1 / 3))
    counts -= z * (xp.float32(2) + square) / (xp.float32(72) * xp.maximum(root, xp.float32(1)))
    counts = xp.maximum(xp.floor(counts), xp.float32(0))
    small = mean < xp.float32(INVERTED)
    if small.any():
        counts[small] = _inverted(mean[small].astype(xp.float64), uniform(bits[small]))
    return counts


def _inverted(mean: Array, share: Array) -> Array:
    xp = module_of(mean)
    term = xp.exp(-mean)
    below = term.copy()
    counts = xp.zeros(mean.shape, dtype=xp.float32)
    for count in range(1, 64):  # beyond 64 lies less than 1e-20 of a mean of 12
        counts += share > below
        term *= mean / count
        below += term
    return counts
