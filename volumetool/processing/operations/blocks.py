"""Filters that make one voxel of a block of them: means over blocks, projections of sections."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated, ClassVar, Literal

from numpy import float32
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field

from volumetool.configuration import parse_numbers
from volumetool.geometry import Triple
from volumetool.processing.device.arrays import Array
from volumetool.processing.operations.filter import Filter

Count = Annotated[int, Field(ge=1, le=64)]


class Bin(Filter):
    """Make one voxel of a block of voxels: their mean."""

    kind: ClassVar[str] = "bin"
    factor: Annotated[tuple[Count, Count, Count], BeforeValidator(parse_numbers)] = (1, 2, 2)
    """Voxels along z, y, x that become one, 1 to 64 each; what is left of the volume at its far faces is left out."""

    @property
    def reach(self) -> Triple:
        """None: blocks do not overlap."""
        return 0, 0, 0

    @property
    def shrink(self) -> Triple:
        """The block."""
        return self.factor

    def compute(self, patches: NDArray[float32], xp: ModuleType) -> Array:
        """Return the means of the blocks."""
        return in_blocks(xp.asarray(patches), self.factor).mean(axis=(2, 4, 6), dtype=float32)


class Project(Filter):
    """Make one section of several: the least, the greatest or the mean value along z."""

    kind: ClassVar[str] = "project"
    sections: int = Field(ge=1, le=256)
    """Sections that become one, 1 to 256; what is left at the end of the volume is left out."""
    by: Literal["max", "min", "mean"] = "max"
    """What is taken of them: max, min or mean."""

    @property
    def reach(self) -> Triple:
        """None: blocks do not overlap."""
        return 0, 0, 0

    @property
    def shrink(self) -> Triple:
        """The sections."""
        return self.sections, 1, 1

    def compute(self, patches: NDArray[float32], xp: ModuleType) -> Array:
        """Return the projections."""
        stacks = in_blocks(xp.asarray(patches), self.shrink)[:, :, :, :, 0, :, 0]  # (n, z, sections, y, x)
        return {"max": stacks.max, "min": stacks.min, "mean": stacks.mean}[self.by](axis=2)


def in_blocks(patches: Array, block: Triple) -> Array:
    """Return patches (n, z, y, x) as blocks (n, z, bz, y, by, x, bx), without a copy."""
    n, *shape = patches.shape
    return patches.reshape(n, *(part for size, count in zip(shape, block, strict=True) for part in (size // count, count)))
