"""Train the built-in model em-x4 from public data: ``python train_em_x4.py DATA em-x4.safetensors``.

DATA holds ``fib25_train1.tif`` and ``fib25_train2.tif`` (FIB-25, CC BY, github.com/janelia-flyem/neuroproof_examples,
isotropic, 8 nm) and ``brain_4w_07_clean.tif`` (EMDiffuse, MIT, github.com/Luchixiang/EMDiffuse), as 8-bit TIFF stacks with
axes z, y, x. One CPU core trains in about an hour; set ``--steps`` lower to try.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from torch import nn

from volumetool.models import (
    ModelCard,
    Normalisation,
    Provenance,
    UNet,
    UNetConfig,
    VoxelSizeRange,
    measure_receptive_field,
    save_model,
)
from volumetool.training.fit import FitConfig, fit

DATA = (
    "FIB-25, Drosophila medulla, FIB-SEM at 8 nm (CC BY): Takemura et al., PNAS 2015, 112:13711",
    "EMDiffuse, mouse brain, one SEM field (MIT): Lu et al., Nature Communications 2024",
)
RECIPE = (
    "Crops along all three planes at 8 nm, and of the volumes halved to 16 nm; random gamma, contrast, brightness; degraded "
    "4x by pssr-em or pssr2-poisson (PSSR's and PSSR2's crappifiers, pixel-centred) at 0.5 to 2 times their noise."
)


def main() -> None:
    """Read, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    architecture = UNetConfig(dims=2, scale=(1, 4, 4), width=32, pools=((1, 2, 2), (1, 2, 2)))
    config = FitConfig(steps=options.steps, ema=0.999 if options.steps > 2000 else 0.99)
    started, recent = time.monotonic(), []

    def progress(step: int, loss: float, network: nn.Module) -> None:
        recent.append(loss)
        if step % 100 == 0:
            print(f"step {step}  {time.monotonic() - started:.0f} s  PSNR {-np.mean(recent[-100:]):.3f} dB", flush=True)
        if step % 1000 == 0 or step == config.steps:
            save_model(options.output, network, make_card(network, architecture, config))

    fit(lambda: UNet(architecture), read_sources(options.data), config, device=options.device, progress=progress)


def read_sources(folder: Path) -> list[NDArray[np.uint8]]:
    """Read the fine volumes; the isotropic ones come a second time at half their resolution, for coarser data."""
    volumes = [tifffile.imread(folder / f"fib25_train{number}.tif") for number in (1, 2)]
    section = tifffile.imread(folder / "brain_4w_07_clean.tif")[None]  # (1, y, x)
    return [*volumes, *map(halve, volumes), section]


def halve(volume: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Mean over blocks of 2 x 2 x 2, mirrored out to the old size so that crops of the usual size fit."""
    z, y, x = (size // 2 for size in volume.shape)
    blocks = volume[: 2 * z, : 2 * y, : 2 * x].reshape(z, 2, y, 2, x, 2)
    half = np.rint(blocks.mean(axis=(1, 3, 5))).astype(np.uint8)  # (z/2, y/2, x/2)
    return np.pad(half, [(0, size - 1) for size in half.shape], mode="reflect")


def make_card(network: nn.Module, architecture: UNetConfig, config: FitConfig) -> ModelCard:
    """Describe the trained network."""
    return ModelCard(
        name="em-x4",
        description="Four times finer in plane, section by section, for EM with dark membranes; removes shot noise.",
        licence="CC-BY-4.0",
        dims=2,
        scale=architecture.scale,
        patch=(1, 144, 144),
        overlap=(0, 16, 16),
        trim=(0, 4, 4),
        granularity=architecture.granularity,
        receptive_field=measure_receptive_field(network, architecture),
        normalisation=Normalisation(low=config.pairs.percentiles[0], high=config.pairs.percentiles[1]),
        polarity="dark membranes on bright cytoplasm",
        voxel_size=VoxelSizeRange(smallest=(1, 16, 16), largest=(1000, 64, 64)),
        precision_safe=("float32", "bfloat16"),
        architecture=architecture,
        provenance=Provenance(data=DATA, recipe=RECIPE, training=json.loads(config.model_dump_json())),
    )


if __name__ == "__main__":
    main()
