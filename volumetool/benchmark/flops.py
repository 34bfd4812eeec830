"""Arithmetic of a network, and how much of it a device can do at best."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from volumetool.geometry import Triple
from volumetool.processing.operation import Operation
from volumetool.processing.operations.network import NetworkOperation

SIDES = {"cpu": 2048, "cuda": 8192}
"""Side of the matrices that are multiplied: large enough to keep every unit of a device busy."""

ROUNDS = 20
"""Products that are timed; the fastest counts."""


def count_operations(operation: Operation, patch: Triple) -> int:
    """Count the floating-point operations that a network needs for one patch, in its convolutions; 0 where it is none.

    Parameters
    ----------
    operation : Operation
        Operation of the model.
    patch : tuple of int
        Size of a patch in input voxels along z, y, x.

    Returns
    -------
    int
        Two for each multiplication that is added up.
    """
    if not isinstance(operation, NetworkOperation):
        return 0
    model = operation.model
    depth, height, width = patch
    context = model.card.z_context
    shape = (1, 1, depth, height, width) if model.card.dims == 3 else (1, depth + 2 * context, height, width)
    network = model.network()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(shape))
    return int(counter.get_total_flops())


def product_rate(device: torch.device, precision: str) -> float:
    """Measure how many floating-point operations per second a device does in a product of large matrices.

    Convolutions are such products, of matrices that are smaller or less square: a network does less, unless a library saves
    multiplications.

    Parameters
    ----------
    device : torch.device
        Device to measure; a CPU works with all threads that torch has.
    precision : str
        ``float32`` or ``bfloat16``. On a GPU float32 means what it means to convolutions there, which may be TF32.

    Returns
    -------
    float
        Operations per second, of the fastest of some products.
    """
    side = SIDES["cpu" if device.type == "cpu" else "cuda"]
    matrix = torch.rand((side, side), generator=torch.Generator().manual_seed(0)).to(device, getattr(torch, precision))
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        seconds = min(_timed(matrix) for _ in range(ROUNDS))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    return 2 * side**3 / seconds


def _timed(matrix: torch.Tensor) -> float:
    """Return the seconds of a matrix times itself."""
    started = time.perf_counter()
    (matrix @ matrix)[0, 0].item()  # on a GPU the call returns before the product is done
    return time.perf_counter() - started
