"""What happens along a scan line: displaced lines, a slow detector, charge that stays behind.

The beam runs along x, line after line along y.
"""

# ruff: noqa: ARG002  (every step is handed what any step may need)

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from volumetool.degradation.arrays import Array, BlockPosition, along, mirrored, module_of
from volumetool.degradation.counter_rng import hashes, normal
from volumetool.degradation.step import Step
from volumetool.geometry import Triple

_FARTHEST = 4.0
"""Standard deviations by which a line is displaced at most."""


class Jitter(Step):
    """Line jitter: mains hum and vibration start every line a little early or late.

    Parameters
    ----------
    kind : {"jitter"}
        Names the step.
    sd : float
        Standard deviation of a line's displacement along x, in voxels of the grid where the step stands; the line is
        interpolated linearly.
    """

    kind: Literal["jitter"] = "jitter"
    sd: float = Field(ge=0)

    def reach(self, scale: Triple) -> Triple:
        """Return the farthest displacement."""
        return 0, 0, math.ceil(_FARTHEST * self.sd)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Displace every line."""
        reach = self.reach(place.scale)[2]
        if reach == 0:
            return image
        xp = module_of(image)
        start = BlockPosition((place.origin[0], place.origin[1], 0), place.scale, place.seed, place.number)
        shift = normal(hashes(image, start, (*image.shape[:2], 1))) * xp.float32(self.sd)  # (z, y, 1)
        shift = shift.clip(-_FARTHEST * self.sd, _FARTHEST * self.sd)
        whole = xp.floor(shift)
        rest = shift - whole
        padded = mirrored(image, 2, reach, reach + 1)
        index = xp.arange(reach, reach + image.shape[2]) + whole.astype(xp.int64)  # (z, y, x)
        left, right = (xp.take_along_axis(padded, index + one, axis=2) for one in (0, 1))
        return left + rest * (right - left)


class Lag(Step):
    """Detector lag: scintillator and amplifier answer slowly, so that each pixel keeps some of those before it.

    Parameters
    ----------
    kind : {"lag"}
        Names the step.
    time : float
        Time constant of the exponential along +x, in voxels of the grid where the step stands.
    """

    kind: Literal["lag"] = "lag"
    time: float = Field(ge=0)

    def reach(self, scale: Triple) -> Triple:
        """Return how far back the exponential is summed."""
        return 0, 0, _memory(self.time)

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Average each voxel with those before it."""
        return _decaying(image, self.time)


class Charging(Step):
    """Charging: bright, insulating places keep charge, and the line behind them is drawn too dark or too bright.

    Parameters
    ----------
    kind : {"charging"}
        Names the step.
    amount : float
        Grey levels of 255 by which the line is shifted behind a wide white area; negative leaves dark tails.
    length : float
        The tail's decay along +x, in voxels of the grid where the step stands.
    threshold : float
        Brightness, in 0..1, above which a place charges.
    """

    kind: Literal["charging"] = "charging"
    amount: float
    length: float = Field(20.0, gt=0)
    threshold: float = Field(0.7, ge=0, lt=1)

    def reach(self, scale: Triple) -> Triple:
        """Return how far back the charge is summed."""
        return 0, 0, _memory(self.length) + 1

    def apply(self, image: Array, place: BlockPosition) -> Array:
        """Shift each voxel by the charge that lies before it."""
        xp = module_of(image)
        charge = xp.maximum(mirrored(image, 2, 1, 0) - xp.float32(self.threshold), xp.float32(0))  # (z, y, x + 1)
        tail = along(_decaying(charge, self.length), 2, 0, image.shape[2])  # what came before voxel x
        return image + xp.float32(self.amount / 255 / (1 - self.threshold)) * tail


def _memory(time: float) -> int:
    """Return the voxels, one less than a power of two, after which less than a 2000th of the exponential is left."""
    return 0 if time == 0 else 2 ** math.ceil(math.log2(max(2.0, 7.6 * time))) - 1


def _decaying(image: Array, time: float) -> Array:
    """Average along x with weights exp(-i/time) of the voxel i places before.

    The sum of 2**k weights is a product of k sums of two: 1 + a s + a^2 s^2 + a^3 s^3 = (1 + a s)(1 + a^2 s^2).
    """
    reach = _memory(time)
    if reach == 0:
        return image
    xp = module_of(image)
    total, size, step = mirrored(image, 2, reach, 0), image.shape[2], 1
    while step <= reach:
        later, earlier = along(total, 2, step), along(total, 2, 0, total.shape[2] - step)
        total = later + xp.float32(math.exp(-step / time)) * earlier  # (z, y, x - step)
        step *= 2
    decay = math.exp(-1 / time)
    return along(total, 2, total.shape[2] - size) * xp.float32((1 - decay) / (1 - decay ** (reach + 1)))
