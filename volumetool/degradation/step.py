"""The base class of the steps of a crappifier."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from volumetool.degradation.arrays import Array, BlockPosition
from volumetool.geometry import Triple


class Step(BaseModel):
    """One thing that happens to the image on its way through the microscope.

    A step works on float32 (z, y, x) with black at 0 and white at 1, on the fine grid before the reduction and on the coarse
    one after it. It mirrors at the block's own faces, and a voxel's value depends only on voxels at most `reach` away and on
    its position.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    def reach(self, scale: Triple) -> Triple:  # noqa: ARG002  (most steps look at one voxel alone)
        """Return how far the step looks along z, y, x, in voxels of its grid.

        Parameters
        ----------
        scale : tuple of int
            Fine voxels per voxel of its grid.
        """
        return 0, 0, 0

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Return what the step makes of a block.

        Parameters
        ----------
        image : array of float32, shape (z, y, x)
            The block; it is not changed.
        place : BlockPosition
            Position of the block in the volume.

        Returns
        -------
        array of float32, shape (z, y, x)
            A new array, or `image` itself where the step changes nothing.
        """
        raise NotImplementedError

    def varied(self, noise: float, blur: float) -> Self:  # noqa: ARG002  (each step takes what concerns it)
        """Return the step with `noise` times the standard deviation and `blur` times the width."""
        return self
