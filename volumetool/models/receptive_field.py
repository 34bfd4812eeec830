"""The receptive field, measured: how far an input voxel can reach into the output.

The table formulas for convolutions and pooling are easy to get wrong by the pooling's phase, so the reach is read off the
gradient of the very network that will run.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from volumetool.models.card import ZYX
from volumetool.models.unet import UNet, UNetConfig


def measure_receptive_field(network: nn.Module, architecture: UNetConfig, *, reach: int = 64) -> ZYX:
    """Measure the largest one-sided reach of any input voxel, over all phases of the pooling grid.

    All weights are replaced by random positive ones in a copy of the network, so that no ReLU is shut and nothing cancels: a
    gradient is zero only where no path leads.

    Parameters
    ----------
    network : nn.Module
        The network; it is not changed.
    architecture : UNetConfig
        Configuration of the network.
    reach : int
        Input voxels on each side that are looked at; along z in 3D half of it, and a quarter where z is not pooled. Must
        exceed the true reach.

    Returns
    -------
    tuple of int
        Input voxels along z, y, x. Along z a 2D network reaches its z_context.
    """
    probe = copy.deepcopy(network)
    if isinstance(network, UNet):
        probe = UNet(architecture.model_copy(update={"width": 1}))  # the same paths, with one channel each: much faster
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in probe.parameters():
            # Not all alike: weights that are shared out (softmax) do not change where all that they depend on changes alike.
            parameter.copy_((0.5 + torch.rand(parameter.shape, generator=chance)) / max(1, parameter[0].numel()))
    grain = architecture.granularity[3 - architecture.dims :]
    deep = reach // 2 if architecture.granularity[0] > 1 else reach // 4
    reaches = [deep, reach, reach][3 - architecture.dims :]
    sizes = [(2 * r // g + 2) * g for r, g in zip(reaches, grain, strict=True)]
    x = torch.ones(1, 2 * architecture.z_context + 1, *sizes)
    # Sections that differ a little: what a gate makes of their differences has no slope where there are none.
    x = (x + 0.01 * torch.rand(x.shape, generator=chance)).requires_grad_()
    out = probe(x)[0, 0]  # (z*fz, y*fy, x*fx)

    widest = [0] * architecture.dims
    scale = architecture.scale[3 - architecture.dims :]
    starts = [size // 2 // g * g for size, g in zip(sizes, grain, strict=True)]
    for phase in range(max(grain)):  # an axis reaches as far as its own phase lets it, whatever the phases of the others
        voxel = [start + phase % g for start, g in zip(starts, grain, strict=True)]
        block = tuple(slice(v * f, v * f + f) for v, f in zip(voxel, scale, strict=True))
        (gradient,) = torch.autograd.grad(out[block].sum(), x, retain_graph=True)
        touched = gradient[0].abs().sum(0).nonzero()  # (voxels, dims)
        for axis, place in enumerate(voxel):
            if len(touched):
                widest[axis] = max(widest[axis], int((touched[:, axis] - place).abs().max()))
    if any(far >= start - step for far, start, step in zip(widest, starts, grain, strict=True)):
        raise ValueError(f"the receptive field fills the {tuple(sizes)} voxels of the probe: raise reach above {reach}")
    z, y, far_x = widest if architecture.dims == 3 else (architecture.z_context, *widest)
    return z, y, far_x
