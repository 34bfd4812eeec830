"""What the tests of jobs share: real data where they are at hand, and the helper file of this folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_jobs import SMALL, noise, write_input

from volumetool.models import ModelCard, Normalisation, UNet, UNetConfig, VoxelSizeRange, save_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the file of a U-Net with random weights that is done in a moment, for voxels of 16 to 64 nm."""
    config = UNetConfig(width=4, pools=((1, 2, 2),))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = UNet(config)
        for parameter in network.parameters():  # the head of a fresh U-Net is zero
            torch.nn.init.normal_(parameter, std=0.1)
    card = ModelCard(
        name="tiny",
        description="For tests.",
        licence="BSD-3-Clause",
        dims=2,
        scale=config.scale,
        patch=(1, 16, 16),
        overlap=(0, 4, 4),
        trim=(0, 1, 1),
        granularity=config.granularity,
        receptive_field=(0, 12, 12),
        normalisation=Normalisation(),
        voxel_size=VoxelSizeRange(smallest=(1.0, 16.0, 16.0), largest=(100.0, 64.0, 64.0)),
        architecture=config,
    )
    file = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_model(file, network, card)
    return file


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Give a small noise volume on disk."""
    return write_input(tmp_path / "in.zarr", noise((10, 37, 45)))


@pytest.fixture
def options(volume: Path, tmp_path: Path) -> dict[str, Any]:
    """Give the options of a small job: 12 regions of 1 or 2 shards, ragged edges, three fused levels and two coarse ones."""
    return {"input": str(volume), "output": str(tmp_path / "out.zarr"), **SMALL}


@pytest.fixture
def change() -> Callable[[Path, int], None]:
    """Give a function that flips one bit of a file."""

    def flip(file: Path, position: int) -> None:
        damaged = bytearray(file.read_bytes())
        damaged[position] ^= 1 << (position % 8)
        file.write_bytes(damaged)

    return flip
