"""The probe and the grid: what a beam smears, and where it is sampled."""

# ruff: noqa: ARG002  (every step is handed what any step may need)

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from volumetool.degradation.arrays import Array, BlockPosition, along, gaussian, gaussian_reach, module_of
from volumetool.degradation.step import Step
from volumetool.geometry import Triple


class Blur(Step):
    """The probe's point-spread function: the current density of a focused beam, taken as a Gaussian.

    A scanning microscope's resolution is the width of its spot, where the signal leaves a thin layer; a Gaussian is the usual
    first model (Reimer, *Scanning Electron Microscopy*, 1998).

    Parameters
    ----------
    kind : {"blur"}
        Names the step.
    sigma : float
        Standard deviation along y and x, in fine voxels, wherever in the recipe the step stands.
    sigma_z : float
        The same along z: how deep the signal comes from.
    """

    kind: Literal["blur"] = "blur"
    sigma: float = Field(ge=0)
    sigma_z: float = Field(0.0, ge=0)

    def reach(self, scale: Triple) -> Triple:
        """Return how far the Gaussian is summed."""
        z, y, x = (gaussian_reach(sigma) for sigma in self._widths(scale))
        return z, y, x

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Blur the image by the spot."""
        return gaussian(image, self._widths(place.scale))

    def varied(self, noise: float, blur: float) -> Self:
        """Make the spot `blur` times as wide."""
        return self.model_copy(update={"sigma": self.sigma * blur, "sigma_z": self.sigma_z * blur})

    def _widths(self, scale: Triple) -> tuple[float, float, float]:
        return self.sigma_z / scale[0], self.sigma / scale[1], self.sigma / scale[2]


class Reduce(Step):
    """Reduction to the coarse grid; output voxel i stands for the fine block ``[i*f, i*f + f)`` and its centre.

    Parameters
    ----------
    kind : {"reduce"}
        Names the step.
    mode : {"mean", "centre"}
        ``mean``: the beam sweeps the whole block. ``centre``: it stops at the block's centre, and the sample is linear
        between the fine voxels around it: the mean of the two nearest along y and along x for an even factor, the central
        one for an odd. Along z it is always the mean: a section is cut, not sampled.
    """

    kind: Literal["reduce"] = "reduce"
    mode: Literal["mean", "centre"] = "mean"

    def reduce(self, image: Array, scale: Triple) -> Array:
        """Reduce a block of whole multiples of `scale` to one voxel per `scale` voxels."""
        for axis in (2, 1, 0):
            factor = scale[axis]
            inner = self.mode == "centre" and axis > 0
            first, last = ((factor - 1) // 2, factor // 2) if inner else (0, factor - 1)
            total = along(image, axis, first, None, factor)  # 1/factor of the axis
            for offset in range(first + 1, last + 1):
                total = total + along(image, axis, offset, None, factor)
            image = total / module_of(image).float32(last - first + 1) if last > first else total
        return image
