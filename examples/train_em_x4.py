"""Train the built-in model em-x4 from public data: ``python train_em_x4.py DATA em-x4.safetensors``.

DATA holds ``fib25_train1.tif`` and ``fib25_train2.tif`` (FIB-25, CC BY, github.com/janelia-flyem/neuroproof_examples,
isotropic, 8 nm) and ``brain_4w_07_clean.tif`` (EMDiffuse, MIT, github.com/Luchixiang/EMDiffuse), as 8-bit TIFF stacks with
axes z, y, x. One CPU core trains in about an hour; set ``--steps`` lower to try.

With ``--unseen FOLDER`` the model is then measured on sets that it has not seen (those of `UNSEEN` that are there), and the
overlap that it needs and its figures are written into its card. ``--steps 0`` measures a model that is trained already.
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
    load_model,
    measure_receptive_field,
    save_model,
)
from volumetool.training.crappify import RECIPES, crappify
from volumetool.training.evaluate import evaluate
from volumetool.training.fit import FitConfig, fit
from volumetool.training.overlap import least_cut, measure_cuts

DATA = (
    "FIB-25, Drosophila medulla, FIB-SEM at 8 nm (CC BY): Takemura et al., PNAS 2015, 112:13711",
    "EMDiffuse, mouse brain, one SEM field (MIT): Lu et al., Nature Communications 2024",
)
UNSEEN = {  # name: file, every how manieth section, border in voxels that is left out
    "fib25-val": ("fib25_val_z0-199_y0-339.tif", 25, 0),
    "isbi2012": ("isbi2012_train.tif", 4, 0),
    "cdeep3m-sbem": ("cdeep3m_sbem_z020-037.tif", 4, 0),
    "temca": ("tiles_col0060-0061_row0140-0141_level1.tif", 1, 60),
}
STRIDE = 384  # coarse voxels; a larger patch spends less on its overlap, and rates are flat from 152 to 432
RECIPE = (
    "Crops along all three planes at 8 nm, and of the volumes halved to 16 nm; random gamma, contrast, brightness, "
    "grain; degraded 4x by pssr-em or pssr2-poisson (PSSR's and PSSR2's crappifiers, pixel-centred) at 0.5 to 2 times their "
    "noise."
)


def main() -> None:
    """Read, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--start", type=Path, help="a trained model to go on from")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--unseen", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.steps:
        train(options)
    if options.unseen:
        measure(options.output, read_unseen(options.unseen))


def train(options: argparse.Namespace) -> None:
    """Train, and save the model every 500 steps."""
    architecture = UNetConfig(dims=2, scale=(1, 4, 4), width=32, pools=((1, 2, 2), (1, 2, 2)))
    config = FitConfig(steps=options.steps, learning_rate=options.rate)
    started, recent = time.monotonic(), []

    def progress(step: int, loss: float, network: nn.Module) -> None:
        recent.append(loss)
        if step % 100 == 0:
            print(f"step {step}  {time.monotonic() - started:.0f} s  PSNR {-np.mean(recent[-100:]):.3f} dB", flush=True)
        if step % 500 == 0 or step == config.steps:
            save_model(options.output, network, make_card(network, architecture, config))

    def untrained() -> nn.Module:
        return load_model(options.start).network().requires_grad_() if options.start else UNet(architecture)

    fit(untrained, read_sources(options.data), config, device=options.device, progress=progress)


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


def read_unseen(folder: Path) -> dict[str, list[NDArray[np.uint8]]]:
    """Read some sections of each set that was never trained on."""
    found = {}
    for name, (file, step, inset) in UNSEEN.items():
        if (folder / file).exists():
            volume = tifffile.imread(folder / file)  # (z, y, x)
            found[name] = list(volume[::step, inset : volume.shape[1] - inset, inset : volume.shape[2] - inset])
    return found


def measure(path: Path, unseen: dict[str, list[NDArray[np.uint8]]]) -> None:
    """Measure the overlap that a model needs and what it gains, and write both into its card."""
    model = load_model(path)
    network, card = model.network(), model.card
    rng = np.random.default_rng(0)
    coarse = [
        crappify(section, recipe, rng) for fine in unseen.values() for section, recipe in zip(fine, RECIPES, strict=False)
    ]
    cuts = measure_cuts(network, card.normalisation, coarse, range(8, 52, 4), cost_stride=STRIDE)
    for cut in cuts:
        print(
            f"overlap {cut.overlap:3d} trim {cut.trim:3d}  largest {cut.largest:8.4f}  rms {cut.rms:.5f}  cost {cut.cost:.3f}"
        )
    best = least_cut(cuts, limit=0.05)  # leaves room below a tenth of a grey level
    metrics = []
    for name, sections in unseen.items():
        for recipe in sorted(RECIPES):
            metrics += evaluate(network, name, sections, recipe)
    for m in metrics:
        print(f"{m.dataset:14s} {m.protocol:60s} {m.method:16s} {m.psnr:.2f} dB  {m.ssim:.3f}")
    side = STRIDE + best.overlap
    update = {
        "patch": (1, side, side),
        "overlap": (0, best.overlap, best.overlap),
        "trim": (0, best.trim, best.trim),
        "provenance": card.provenance.model_copy(update={"metrics": tuple(metrics)}),
    }
    save_model(path, network, ModelCard.model_validate(card.model_copy(update=update).model_dump()))


def make_card(network: nn.Module, architecture: UNetConfig, config: FitConfig) -> ModelCard:
    """Describe the trained network."""
    return ModelCard(
        name="em-x4",
        description="Four times finer in plane, section by section, for EM with dark membranes; removes shot noise.",
        licence="CC-BY-4.0",
        dims=2,
        scale=architecture.scale,
        patch=(1, STRIDE + 40, STRIDE + 40),
        overlap=(0, 40, 40),  # until `measure` knows better
        trim=(0, 16, 16),
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
