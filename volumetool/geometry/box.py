"""A box of voxels: the one type for every region of interest, shard, patch and core."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import starmap

Triple = tuple[int, int, int]
"""Three integers in z, y, x order, usually voxels."""

Size = tuple[float, float, float]
"""Three lengths in z, y, x order, in nanometres."""


@dataclass(frozen=True)
class Box:
    """Half-open box ``start <= voxel < stop``.

    Parameters
    ----------
    start, stop : tuple of int
        Corners in voxels, z, y, x. ``start`` may be negative: a patch reaches over the faces of its volume.
    """

    start: Triple
    stop: Triple

    @classmethod
    def whole(cls, shape: Triple) -> Box:
        """Return the box of a whole array of `shape` voxels."""
        return cls((0, 0, 0), shape)

    @property
    def shape(self) -> Triple:
        """Extent in voxels; never negative."""
        z, y, x = (max(0, stop - start) for start, stop in zip(self.start, self.stop, strict=True))
        return z, y, x

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        z, y, x = self.shape
        return z * y * x

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Slices that cut this box out of an array that begins at voxel 0."""
        z, y, x = starmap(slice, zip(self.start, self.stop, strict=True))
        return z, y, x

    def intersection(self, other: Box) -> Box:
        """Return the box shared with `other`; empty where they do not meet."""
        start = tuple(map(max, self.start, other.start))
        stop = tuple(max(low, high) for low, high in zip(start, map(min, self.stop, other.stop), strict=True))
        return Box(_triple(start), _triple(stop))

    def touches(self, other: Box) -> bool:
        """Say whether the two boxes share a voxel."""
        return self.intersection(other).voxels > 0

    def contains(self, other: Box) -> bool:
        """Say whether every voxel of `other` lies in this box."""
        return self.intersection(other) == other

    def shifted(self, offset: Triple) -> Box:
        """Return the box moved by `offset` voxels."""
        return Box(
            _triple(a + b for a, b in zip(self.start, offset, strict=True)),
            _triple(a + b for a, b in zip(self.stop, offset, strict=True)),
        )

    def enlarged(self, scale: Triple) -> Box:
        """Return the same box on a grid `scale` times finer."""
        return Box(
            _triple(a * f for a, f in zip(self.start, scale, strict=True)),
            _triple(a * f for a, f in zip(self.stop, scale, strict=True)),
        )

    def coarsened(self, factor: Triple) -> Box:
        """Return the smallest box on a grid `factor` times coarser that covers this one; an empty box stays empty."""
        start = _triple(a // f for a, f in zip(self.start, factor, strict=True))
        if self.voxels == 0:
            return Box(start, start)
        return Box(start, _triple(-(-b // f) for b, f in zip(self.stop, factor, strict=True)))

    def __str__(self) -> str:
        return ",".join(f"{start}:{stop}" for start, stop in zip(self.start, self.stop, strict=True))


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return z, y, x
