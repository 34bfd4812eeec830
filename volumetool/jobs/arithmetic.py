"""Arithmetic of a network, and how much of it a device can do at best."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from volumetool.geometry import Triple
from volumetool.models import ModelCard, make_network

SIDES = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices that are multiplied: large enough to keep every unit of a device busy."""

ROUNDS = 20
"""Products that are timed; the fastest counts."""


def count_operations(card: ModelCard, patch: Triple) -> int:
    """Count the floating-point operations that a network needs for one patch, in its convolutions.

    Parameters
    ----------
    card : ModelCard
        The network.
    patch : tuple of int
        In input voxels along z, y, x.

    Returns
    -------
    int
        Two for each multiplication that is added up; 0 for a fake.
    """
    depth, height, width = patch
    shape = (1, 1, depth, height, width) if card.dims == 3 else (1, depth + 2 * card.z_context, height, width)
    network = make_network(card.architecture)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape))
    return int(counter.get_total_flops())


def product_rate(device: torch.device, precision: str) -> float:
    """Measure how many floating-point operations per second a device does in a product of large matrices.

    No network does more: its convolutions are such products, of matrices that are smaller or less square.

    Parameters
    ----------
    device : torch.device
        Where; on a CPU with all threads that torch has.
    precision : str
        ``float32`` or ``bfloat16``.
    """
    side = SIDES[device.type]
    matrix = torch.rand((side, side), generator=torch.Generator().manual_seed(0)).to(device, getattr(torch, precision))
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()  # a value in hand: on a GPU the product itself only begins when it is asked for
        seconds.append(time.perf_counter() - started)
    return float(2 * side**3 / min(seconds))
