"""Restoring a small volume in one piece: the reference for everything that is measured on a trained network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from volumetool.geometry import Triple, mirror_index
from volumetool.models import Normalisation, UNet, UNetConfig

Floats = NDArray[np.float32]


def grey_limits(image: NDArray[Any], normalisation: Normalisation) -> tuple[float, float]:
    """Return the grey values that become 0 and 1: float, in units of the image."""
    if normalisation.kind == "none":
        return 0.0, 1.0
    low, high = np.percentile(image, (normalisation.low, normalisation.high))
    return float(low), max(float(high), float(low) + 1e-6)


def safe_margin(config: UNetConfig) -> Triple:
    """Return input voxels z, y, x beyond which nothing reaches into the output; multiples of the granularity."""
    convolutions = 4 * len(config.pools) + 4
    # An axis that is pooled reaches less than 7 steps of its coarsest level, one that is not a voxel per convolution. A gate's
    # statistics reach three more steps.
    steps = 10 if config.gate else 7
    z, y, x = (steps * grain if grain > 1 else convolutions + steps - 7 for grain in config.granularity)
    return (z if config.dims == 3 else 0), y, x


def cut(network: UNet, volume: NDArray[Any], start: Triple, stop: Triple) -> Floats:
    """Cut a box out of a mirrored volume, as the network's input.

    Parameters
    ----------
    network : UNet
        Decides the layout of the input.
    volume : ndarray
        (z, y, x) grey values.
    start, stop : tuple of int
        Corners of the box in voxels; may lie outside the volume.

    Returns
    -------
    ndarray
        float32 (z, channels, y, x) for 2D networks, one section with its neighbours per z; else (1, 1, z, y, x).
    """
    reach = network.config.z_context
    start, stop = (start[0] - reach, *start[1:]), (stop[0] + reach, *stop[1:])
    index = [mirror_index(a, b, n) for a, b, n in zip(start, stop, volume.shape, strict=True)]
    box = np.asarray(volume[np.ix_(*index)], np.float32)  # (z, y, x)
    if network.config.dims == 3:
        return box[None, None]
    return np.stack([box[z : z + 2 * reach + 1] for z in range(len(box) - 2 * reach)])  # (z, channels, y, x)


def restore(network: UNet, patches: Floats, limits: tuple[float, float]) -> Floats:
    """Run a network on grey values.

    Parameters
    ----------
    network : UNet
        Network in eval mode.
    patches : ndarray
        float32, as `cut` makes them; sizes are multiples of the network's granularity.
    limits : tuple of float
        Grey values that become 0 and 1, see `grey_limits`.

    Returns
    -------
    ndarray
        float32 (z*fz, y*fy, x*fx), grey values, neither clipped nor rounded.
    """
    restored = _run(network, patches, limits, network)
    restored += np.float32(limits[0])
    return restored


@torch.inference_mode()
def _run(network: UNet, patches: Floats, limits: tuple[float, float], forward: Callable[[Tensor], Tensor]) -> Floats:
    """Return the output (z*fz, y*fy, x*fx) in grey levels above the lower limit."""
    low, high = limits
    unit = (patches - np.float32(low)) / np.float32(high - low)
    # Section by section: memory stays that of one.
    parts = [forward(torch.from_numpy(each[None]))[0, 0].numpy() for each in unit]
    # Parts are (y*fy, x*fx) in 2D, and one (z*fz, y*fy, x*fx) in 3D.
    fine: Floats = np.stack(parts) if network.config.dims == 2 else parts[0]
    fine *= np.float32(high - low)
    return fine


def restore_volume(
    network: UNet, volume: NDArray[Any], normalisation: Normalisation, *, limits: tuple[float, float] | None = None
) -> Floats:
    """Run a network once over a whole small volume that is mirrored at its faces.

    Parameters
    ----------
    network : UNet
        Network in eval mode.
    volume : ndarray
        (z, y, x) coarse grey values.
    normalisation : Normalisation
        The model card's; its percentiles are taken of this volume.
    limits : tuple of float, optional
        Grey values that become 0 and 1 instead.

    Returns
    -------
    ndarray
        float32 (z*fz, y*fy, x*fx), grey values, neither clipped nor rounded.
    """
    chosen = limits or grey_limits(volume, normalisation)
    return _inside(network, volume, lambda patches: restore(network, patches, chosen))


def expect_errors(network: UNet, volume: NDArray[Any], normalisation: Normalisation) -> Floats:
    """Return the absolute errors that a network expects of `restore_volume`.

    Parameters
    ----------
    network : UNet
        Network in eval mode, whose architecture has ``expected_error``.
    volume, normalisation
        As for :func:`restore_volume`.

    Returns
    -------
    ndarray
        float32 (z*fz, y*fy, x*fx), grey levels, not calibrated.
    """
    limits = grey_limits(volume, normalisation)
    return _inside(
        network, volume, lambda patches: _run(network, patches, limits, lambda x: network.forward_with_error(x)[1].exp())
    )


def _inside(network: UNet, volume: NDArray[Any], run: Callable[[Floats], Floats]) -> Floats:
    """Run on the volume with the margin that it needs, and cut that off again."""
    margin, grain = safe_margin(network.config), network.config.granularity
    z, y, x = (n + m + -n % g for n, m, g in zip(volume.shape, margin, grain, strict=True))
    low = (-margin[0], -margin[1], -margin[2])
    whole = run(cut(network, volume, low, (z, y, x)))
    inside = (slice(m * f, (m + n) * f) for m, n, f in zip(margin, volume.shape, network.config.scale, strict=True))
    return np.ascontiguousarray(whole[tuple(inside)])
