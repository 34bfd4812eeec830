"""Every built-in model on the FIB-25 validation cube, of which none has seen a voxel, beside linear and cubic enlargement.

pytest does not collect this file. To run it::

    python tests/benchmarks/models.py DATA                # neighbouring sections 8 nm apart
    python tests/benchmarks/models.py DATA --z-step 4 --models em-x4    # 32 nm apart

Raw PSNR in dB, 8 bit, data range 255, over 8 sections of 160 x 160 voxels, at the recipes' own noise.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import tifffile
import torch
from rich.console import Console
from rich.table import Table

from volumetool.degradation import RECIPES
from volumetool.evaluation.scores.metrics import as_stored, psnr
from volumetool.evaluation.scores.resample import enlarge
from volumetool.models import UNet, list_models, load_model
from volumetool.training.restore import restore_volume

SECTIONS, SIDE, CORE = 32, 160, slice(12, 20)


def main() -> None:
    """Print a row for every model and recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with fib25-fibsem/")
    parser.add_argument("--z-step", type=int, default=1, help="sections from one to the next")
    parser.add_argument("--models", nargs="+", default=[card.name for card in list_models()])
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = 60 - 12 * (options.z_step - 1)  # the core begins at the same section
    pages = range(start, start + SECTIONS * options.z_step, options.z_step)
    fine = tifffile.imread(options.data / "fib25-fibsem" / "fib25_val_z0-199_y0-339.tif", key=pages)[:, :SIDE, :SIDE]
    table = Table("model", "recipe", "linear", "cubic", "net")
    for name in options.models:
        model = load_model(name)
        network, scale = model.network(), model.card.scale
        assert isinstance(network, UNet)
        for recipe in ("pssr-em", "pssr2-poisson", "sem-fast"):
            unit = RECIPES[recipe].apply(fine.astype(np.float32) / 255, scale=scale, seed=5)
            coarse = np.rint(unit * 255).astype(np.uint8)
            images = [enlarge(coarse, scale, kind) for kind in ("linear", "cubic")]
            images.append(restore_volume(network, coarse, model.card.normalisation))
            scores = (psnr(as_stored(image[CORE], fine.dtype), fine[CORE]) for image in images)
            table.add_row(name, recipe, *(f"{score:.2f}" for score in scores))
    Console().print(table)


if __name__ == "__main__":
    main()
