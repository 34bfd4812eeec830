"""Steps of a watch: which sections are enhanced together, and which must be there for it."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from volumetool.geometry import Box, Lattice, mirror_index

UNKNOWN_END = 2**30
"""Length of an axis that ends nobody knows where: nothing is mirrored at its end."""


@dataclass(frozen=True)
class Steps:
    """The sections of a volume, in steps of one stride of the lattice: a section in 2D.

    Parameters
    ----------
    lattice : Lattice
        The job's; where the number of sections is not known its length along z counts for nothing.
    count : int, optional
        Sections in all, where that is known.
    """

    lattice: Lattice
    count: int | None

    @property
    def thick(self) -> int:
        """Sections of a step."""
        return self.lattice.z.stride

    def sections(self, step: int) -> range:
        """Return the sections of a step."""
        start = step * self.thick
        stop = start + self.thick
        return range(start, stop if self.count is None else min(stop, self.count))

    def needs(self, step: int) -> set[int]:
        """Return the sections that a step's patches see: its own, and those around it where the model looks at them.

        At the ends of the volume they are mirrored, so that the last sections of a model with context wait until it is known
        that they are the last.
        """
        z, own = self.lattice.z, self.sections(step)
        patches = z.touching(own.start * z.scale, own.stop * z.scale)
        start = z.start(patches[0]) - self.lattice.context
        stop = z.start(patches[-1]) + z.patch + self.lattice.context
        seen = mirror_index(start, stop, UNKNOWN_END if self.count is None else self.count)
        return {int(index) for index in seen}

    def can_begin(self, step: int, landed: Container[int]) -> bool:
        """Return whether all that a step needs has landed."""
        return all(section in landed for section in self.needs(step))

    def box(self, step: int) -> Box:
        """Return the voxels of the output that a step computes."""
        own = self.sections(step)
        _, height, width = self.lattice.output_shape
        return Box((own.start * self.lattice.z.scale, 0, 0), (own.stop * self.lattice.z.scale, height, width))
