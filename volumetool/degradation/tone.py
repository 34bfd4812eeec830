"""Contrast, brightness, gamma: the detector's setting, and how it drifts."""

# ruff: noqa: ARG002  (every step is handed what any step may need)

from __future__ import annotations

from typing import Literal

from pydantic import Field

from volumetool.degradation.arrays import Array, BlockPosition, module_of
from volumetool.degradation.counter_rng import hashes, normal
from volumetool.degradation.step import Step


class Tone(Step):
    """The detector's setting: ``contrast * image**gamma + brightness``, the same everywhere.

    Parameters
    ----------
    kind : {"tone"}
        Names the step.
    contrast, gamma : float
        Factor and exponent of the values, above 0; 1 changes nothing.
    brightness : float
        Offset in grey levels of 255; 0 changes nothing.
    """

    kind: Literal["tone"] = "tone"
    contrast: float = Field(1.0, gt=0)
    brightness: float = 0.0
    gamma: float = Field(1.0, gt=0)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Map every voxel."""
        xp = module_of(image)
        curved = image if self.gamma == 1 else xp.maximum(image, xp.float32(0)) ** xp.float32(self.gamma)
        return curved * xp.float32(self.contrast) + xp.float32(self.brightness / 255)


class Drift(Step):
    """Drift of the tone: it is another in every section and wanders slowly from line to line.

    The wandering is value noise: independent normal numbers at every `lines`-th line, joined by smooth steps.

    Parameters
    ----------
    kind : {"drift"}
        Names the step.
    contrast, gamma : float
        Standard deviation of the logarithm of the contrast (about mid grey) and of gamma.
    brightness : float
        Standard deviation in grey levels of 255.
    lines : int
        Lines between two independent values, in voxels of the grid where the step stands.
    """

    kind: Literal["drift"] = "drift"
    contrast: float = Field(0.0, ge=0)
    brightness: float = Field(0.0, ge=0)
    gamma: float = Field(0.0, ge=0)
    lines: int = Field(256, ge=1)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Map every voxel by its line's tone."""
        xp = module_of(image)
        if self.gamma > 0:
            curve = xp.exp(xp.float32(self.gamma) * self._wander(image, place, 0))
            image = xp.maximum(image, xp.float32(0)) ** curve
        if self.contrast > 0:
            gain = xp.exp(xp.float32(self.contrast) * self._wander(image, place, 1))
            image = (image - xp.float32(0.5)) * gain + xp.float32(0.5)
        return image + xp.float32(self.brightness / 255) * self._wander(image, place, 2)

    def _wander(self, image: Array, place: BlockPosition, stream: int) -> Array:
        xp = module_of(image)
        depth, height, _ = image.shape
        first = place.origin[1] // self.lines
        count = (place.origin[1] + height - 1) // self.lines - first + 2
        nodes = BlockPosition((place.origin[0], first, 0), place.scale, place.seed, place.number)
        values = normal(hashes(image, nodes, (depth, count, 1), stream))  # (z, nodes, 1)
        line = xp.arange(place.origin[1], place.origin[1] + height)  # (y,)
        node = line // self.lines - first
        between = ((line % self.lines).astype(xp.float32) / xp.float32(self.lines)).reshape(1, -1, 1)
        weight = between * between * (xp.float32(3) - xp.float32(2) * between)
        before, after = values.take(node, axis=1), values.take(node + 1, axis=1)  # (z, y, 1)
        return before + weight * (after - before)
