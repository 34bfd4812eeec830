"""The operation that is a Gaussian filter: float32, scale 1, the same arithmetic wherever a voxel lies in its patch."""

from __future__ import annotations

import hashlib
import math
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from volumetool.errors import ConfigError
from volumetool.geometry import Triple
from volumetool.models.card import Normalisation, OperationCard
from volumetool.processing.device.arrays import Array, array_module
from volumetool.processing.spec import Numerics

TRUNCATE = 4.0
"""Standard deviations after which the kernel ends."""

LARGEST = 16.0
"""Largest standard deviation along an axis, in voxels: a patch is four times as long as its kernel's half."""

SIDE = 64
"""Voxels of a patch along an axis, unless the kernel needs more."""


class GaussianFilter:
    """A Gaussian filter of patches.

    Parameters
    ----------
    sigma : tuple of float
        Standard deviations in voxels along z, y, x; 0 leaves an axis alone. Without one along z it works section by section.
    """

    def __init__(self, sigma: tuple[float, float, float]) -> None:
        radius = [int(TRUNCATE * each + 0.5) for each in sigma]
        dims = 3 if radius[0] else 2
        # Twice the radius is shared and trimmed: each voxel comes from the one patch that holds its whole kernel.
        z, y, x = (max(SIDE, 4 * each) for each in radius)
        self.spec = f"gaussian:sigma={','.join(map(repr, sigma))}"
        self.identity = hashlib.sha256(self.spec.encode()).hexdigest()
        self.card = OperationCard(
            name="gaussian",
            dims=dims,
            scale=(1, 1, 1),
            patch=(z if dims == 3 else 1, y, x),
            overlap=(2 * radius[0], 2 * radius[1], 2 * radius[2]),
            trim=(radius[0], radius[1], radius[2]),
            granularity=(1, 1, 1),
            receptive_field=(radius[0], radius[1], radius[2]),
            normalisation=Normalisation(kind="none"),
        )
        self._weights = [_weights(each, reach) for each, reach in zip(sigma, radius, strict=True)]

    def open(self, device: torch.device, _: Numerics) -> GaussianFunction:
        """Make the filter ready; it computes in float32 whatever the numerics."""
        return GaussianFunction(self._weights, array_module(device))

    def working_bytes(self, patch: Triple, _: str) -> int:
        """Return the bytes of three copies of a patch."""
        return 3 * 4 * math.prod(patch)


class GaussianFunction:
    """A Gaussian filter on a device.

    Parameters
    ----------
    weights : list of list of numpy.float32
        For each axis, the weights of the voxels 0, 1, ... away.
    xp : module
        ``numpy`` or ``cupy``.
    """

    def __init__(self, weights: list[list[np.float32]], xp: ModuleType) -> None:
        self._weights, self._xp = weights, xp

    def __call__(self, patches: NDArray[np.float32]) -> Array:
        """Return filtered patches, float32 (n, z, y, x), each mirrored where the kernel reaches beyond it."""
        values = self._xp.asarray(patches)  # (n, z, y, x)
        for axis, weights in enumerate(self._weights, start=1):
            radius, length = len(weights) - 1, values.shape[axis]
            margins = [(radius, radius) if each == axis else (0, 0) for each in range(4)]
            wide = self._xp.pad(values, margins, mode="reflect")  # longer along the axis by the radius on either side
            moved = [wide[(slice(None),) * axis + (slice(first, first + length),)] for first in range(2 * radius + 1)]
            values = moved[radius] * weights[0]  # (n, z, y, x)
            for far, weight in enumerate(weights[1:], start=1):
                values += (moved[radius - far] + moved[radius + far]) * weight
        return values

    def release(self) -> None:
        """Do nothing: no memory is held between calls."""


def read_gaussian(spec: str) -> GaussianFilter:
    """Return the filter of a name: ``gaussian:sigma=1.5``, or ``gaussian:sigma=0,1.5,1.5`` along z, y, x.

    Raises
    ------
    ConfigError
        ``config.option``.
    """
    _, _, text = spec.partition("sigma=")
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    if spec != f"gaussian:sigma={text}" or len(values) not in (1, 3) or not all(0 <= value <= LARGEST for value in values):
        raise ConfigError(
            "config.option",
            f"{spec} does not describe a Gaussian filter",
            hint=f"for example gaussian:sigma=1.5 or, along z, y, x, gaussian:sigma=0,1.5,1.5; 0 to {LARGEST:g} voxels",
        )
    z, y, x = values if len(values) == 3 else values * 3
    return GaussianFilter((z, y, x))


def _weights(sigma: float, radius: int) -> list[np.float32]:
    """Return the weights of the voxels 0 to `radius` away, of which both sides together sum to 1."""
    half = [math.exp(-0.5 * (distance / sigma) ** 2) if distance else 1.0 for distance in range(radius + 1)]
    return [np.float32(weight / (2 * sum(half) - 1)) for weight in half]
