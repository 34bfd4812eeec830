"""Small U-Nets with random weights, written as model files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from volumetool.models import ModelCard, Normalisation, UNet, UNetConfig, VoxelSizeRange, save_model

LATTICES: dict[int, dict[str, Any]] = {
    2: {"patch": (1, 16, 16), "overlap": (0, 4, 4), "trim": (0, 1, 1), "receptive_field": (0, 12, 12)},
    3: {"patch": (8, 16, 16), "overlap": (4, 4, 4), "trim": (1, 1, 1), "receptive_field": (6, 12, 12)},
}


def small_network(file: Path, *, dims: int = 2, expected_error: bool = True, patch: tuple[int, int, int] | None = None) -> str:
    """Write a network whose outputs differ from place to place, and return the path of its file.

    Parameters
    ----------
    file : Path
        Name ends in ``.safetensors``.
    dims : int
        2 makes voxels (1, 2, 2) times finer, 3 (2, 2, 2) times.
    expected_error : bool
        It says which error it expects.
    patch : tuple of int, optional
        Another patch than that of `LATTICES`.
    """
    scale = (dims - 1, 2, 2)
    config = UNetConfig.model_validate(
        {"dims": dims, "scale": scale, "width": 4, "pools": ((1, 2, 2),), "expected_error": expected_error}
    )
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = UNet(config)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.15)
        if network.error_head is not None:  # a tenth of the range, and from place to place a few times less and more
            torch.nn.init.normal_(network.error_head[-1].weight, std=0.8)
            torch.nn.init.constant_(network.error_head[-1].bias, -2.3)
    own: dict[str, Any] = {"name": "tiny", "description": "For tests.", "licence": "BSD-3-Clause", "dims": dims}
    own |= {"scale": scale, "granularity": config.granularity, "normalisation": Normalisation(), "architecture": config}
    own |= LATTICES[dims] | ({} if patch is None else {"patch": patch})
    meant = VoxelSizeRange(smallest=(1.0, 1.0, 1.0), largest=(100.0, 64.0, 64.0))
    save_model(file, network, ModelCard(**own, voxel_size=meant))
    return str(file)
