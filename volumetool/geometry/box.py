"""A box of voxels: the one type for every region of interest, shard, patch and core."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product, starmap
from math import ceil
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from volumetool.configuration import FACE, parse_box
from volumetool.errors import ConfigError

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
        (z, y, x), (z_stop, y_stop, x_stop) = self.start, self.stop
        return max(0, z_stop - z), max(0, y_stop - y), max(0, x_stop - x)

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
        z, y, x = map(max, self.start, other.start)
        z_stop, y_stop, x_stop = map(min, self.stop, other.stop)
        return Box((z, y, x), (max(z, z_stop), max(y, y_stop), max(x, x_stop)))

    def joined(self, other: Box) -> Box:
        """Return the smallest box that holds this one and `other`."""
        return Box(_triple(map(min, self.start, other.start)), _triple(map(max, self.stop, other.stop)))

    def touches(self, other: Box) -> bool:
        """Return whether the two boxes share a voxel."""
        return self.intersection(other).voxels > 0

    def contains(self, other: Box) -> bool:
        """Return whether every voxel of `other` lies in this box."""
        return self.intersection(other) == other

    def shifted(self, offset: Triple) -> Box:
        """Return the box moved by `offset` voxels."""
        (z, y, x), (z_stop, y_stop, x_stop), (dz, dy, dx) = self.start, self.stop, offset
        return Box((z + dz, y + dy, x + dx), (z_stop + dz, y_stop + dy, x_stop + dx))

    def enlarged(self, scale: Triple) -> Box:
        """Return the same box on a grid `scale` times finer."""
        return Box(
            _triple(a * f for a, f in zip(self.start, scale, strict=True)),
            _triple(a * f for a, f in zip(self.stop, scale, strict=True)),
        )

    def coarsened(self, factor: Triple) -> Box:
        """Return the smallest box on a grid `factor` times coarser that covers this one; an empty box stays empty."""
        (z, y, x), (z_stop, y_stop, x_stop), (fz, fy, fx) = self.start, self.stop, factor
        start = z // fz, y // fy, x // fx
        if self.voxels == 0:
            return Box(start, start)
        return Box(start, (-(-z_stop // fz), -(-y_stop // fy), -(-x_stop // fx)))

    @property
    def fault(self) -> str | None:
        """Why no volume holds this box, None where one may."""
        for axis, start, stop in zip("zyx", self.start, self.stop, strict=True):
            if start < 0:
                return f"along {axis} it begins at {start}, before voxel 0"
            if stop <= start:
                return f"along {axis} it is empty, {start}:{stop}"
        return None

    def __str__(self) -> str:
        return ",".join(f"{a}:{'' if b == FACE else b}" for a, b in zip(self.start, self.stop, strict=True))


def _require_possible(box: Box) -> Box:
    if box.fault:
        raise ValueError(f"the box {box} (z,y,x, in input voxels) cannot be: {box.fault}")
    return box


AskedBox = Annotated[Box, BeforeValidator(parse_box, json_schema_input_type=Box | str), AfterValidator(_require_possible)]
"""A box as an option: also as text, ``z0:z1,y0:y1,x0:x1``."""


def part_inside(asked: Box, shape: Triple, volume: str) -> tuple[Box, str | None]:
    """Return the part of a box that lies in a volume.

    Parameters
    ----------
    asked : Box
        In voxels of the volume.
    shape : tuple of int
        Shape of the volume, in voxels.
    volume : str
        What the box counts voxels of.

    Returns
    -------
    Box
        The part inside, in voxels of the volume.
    str or None
        A note for the user if the box reaches beyond the volume, else None. An open stop, `FACE`, means the face itself.

    Raises
    ------
    ConfigError
        ``config.roi``: nothing of the box lies in the volume.
    """
    size = " x ".join(map(str, shape))
    inside = asked.intersection(Box.whole(shape))
    if asked.fault or inside.voxels == 0:
        beyond = (
            f"along {axis} it begins at {start}, and the last voxel is {n - 1}"
            for axis, start, n in zip("zyx", asked.start, shape, strict=True)
            if start >= n
        )
        raise ConfigError(
            "config.roi",
            f"the box {asked} (z,y,x) holds nothing of {volume}, which has {size} voxels: {asked.fault or next(beyond)}",
            hint=f"write z0:z1,y0:y1,x0:x1, counted in voxels of {volume}",
        )
    cut = any(stop not in (FACE, end) for stop, end in zip(asked.stop, inside.stop, strict=True))
    note = f"the box {asked} (z,y,x) reaches beyond {volume}, which has {size} voxels: {inside} is taken" if cut else None
    return inside, note


def cut(box: Box, step: Triple, voxels: int) -> Iterator[Box]:
    """Cut a box where multiples of `step` are.

    A part is as wide, then as high, then as deep as `voxels` allows, but one step at least.

    Parameters
    ----------
    box : Box
        What is cut, in voxels.
    step : tuple of int
        Voxels along z, y, x between two places where a cut may be, counted from voxel 0 of the volume.
    voxels : int
        Voxels that a part should not exceed.

    Yields
    ------
    Box
        The parts, in C order; together they are the box.
    """
    size = list(step)
    for axis in (2, 1, 0):
        here = min(size[0], box.shape[0]) * min(size[1], box.shape[1]) * min(size[2], box.shape[2])
        size[axis] *= max(1, min(ceil(box.shape[axis] / step[axis]) + 1, voxels // here))
    starts = (range(a // n * n, b, n) for a, b, n in zip(box.start, box.stop, size, strict=True))
    for z, y, x in product(*starts):
        yield Box((z, y, x), (z + size[0], y + size[1], x + size[2])).intersection(box)


def _triple(values: Iterable[int]) -> Triple:
    z, y, x = values
    return z, y, x
