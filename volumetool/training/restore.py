"""Restoring one whole section at once: the reference for everything that is measured on a trained network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from volumetool.models.card import Normalisation

Floats = NDArray[np.float32]


def grey_limits(section: NDArray[np.uint8], normalisation: Normalisation) -> tuple[float, float]:
    """Return the grey values that become 0 and 1: float, in units of the section."""
    if normalisation.kind == "none":
        return 0.0, 1.0
    low, high = np.percentile(section, (normalisation.low, normalisation.high))
    return float(low), max(float(high), float(low) + 1.0)


@torch.inference_mode()
def restore(network: nn.Module, patches: Floats, limits: tuple[float, float]) -> Floats:
    """Run a 2D network on patches of grey values.

    Parameters
    ----------
    network : nn.Module
        In eval mode.
    patches : ndarray
        float32 (batch, y, x), grey values; sizes are multiples of the network's granularity.
    limits : tuple of float
        Grey values that become 0 and 1, see `grey_limits`.

    Returns
    -------
    ndarray
        float32 (batch, y*fy, x*fx), grey values, neither clipped nor rounded.
    """
    low, high = limits
    x = torch.from_numpy((patches - np.float32(low)) / np.float32(high - low))[:, None]  # (b, 1, y, x)
    restored: Floats = network(x)[:, 0].numpy()  # (b, y*fy, x*fx)
    restored *= np.float32(high - low)
    restored += np.float32(low)
    return restored


def restore_section(
    network: nn.Module, section: NDArray[np.uint8], normalisation: Normalisation, *, margin: int = 28, grain: int = 4
) -> Floats:
    """Run a 2D network once over a whole section that is mirrored at its faces.

    Parameters
    ----------
    network : nn.Module
        In eval mode, with equal scale along y and x.
    section : ndarray
        uint8 (y, x), coarse, larger than the margin.
    normalisation : Normalisation
        The model card's; its percentiles are taken of this section.
    margin : int
        Voxels mirrored at each face, a multiple of `grain`; from the receptive field up nothing changes.
    grain : int
        The network's granularity.

    Returns
    -------
    ndarray
        float32 (y*fy, x*fx), grey values, neither clipped nor rounded.
    """
    padding = [(margin, margin + -size % grain) for size in section.shape]
    mirrored = np.pad(section.astype(np.float32), padding, mode="reflect")
    whole = restore(network, mirrored[None], grey_limits(section, normalisation))[0]
    f = whole.shape[0] // mirrored.shape[0]
    y, x = section.shape
    inside: Floats = whole[margin * f : (margin + y) * f, margin * f : (margin + x) * f]
    return inside
