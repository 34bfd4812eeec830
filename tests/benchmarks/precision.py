"""What bfloat16 changes: every built-in model in bfloat16 against float32, on the FIB-25 validation cube, degraded.

The last convolution, the sum with the enlarged input and the ramps are float32 in both. pytest does not collect this file. To
run it::

    python tests/benchmarks/precision.py DATA

Columns: 99.9 % and all voxels differ by at most so much, in grey levels of 255 and as a share of the data window (percentiles 1
to 99, what uint16 data are normalised by); voxels whose 8-bit value differs by more than 1; how much PSNR is lost.
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
from volumetool.models import UNet, list_models, load_model
from volumetool.training.restore import restore_volume

SECTIONS, SIDE = 16, 160


def main() -> None:
    """Print a row for every model and recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with fib25-fibsem/")
    parser.add_argument("--models", nargs="+", default=[card.name for card in list_models()])
    options = parser.parse_args()
    pages = range(60, 60 + SECTIONS)
    fine = tifffile.imread(options.data / "fib25-fibsem" / "fib25_val_z0-199_y0-339.tif", key=pages)[:, :SIDE, :SIDE]
    table = Table(
        "model", "recipe", "99.9 %: grey levels", "of the window", "all: grey levels", "8 bit off by > 1", "PSNR lost, dB"
    )
    for name in options.models:
        model = load_model(name)
        network = model.network()
        assert isinstance(network, UNet)
        for recipe in ("pssr-em", "pssr2-poisson", "sem-fast"):
            unit = RECIPES[recipe].apply(fine.astype(np.float32) / 255, scale=model.card.scale, seed=5)
            coarse = np.rint(unit * 255).astype(np.uint8)
            exact = restore_volume(network, coarse, model.card.normalisation)
            with torch.autocast("cpu", torch.bfloat16):
                short = restore_volume(network, coarse, model.card.normalisation)
            window = float(np.subtract(*np.percentile(coarse, (99, 1))))
            away = np.abs(short - exact)
            most, stored = np.quantile(away, 0.999), [as_stored(image, fine.dtype) for image in (exact, short)]
            off = np.mean(np.abs(stored[0].astype(int) - stored[1]) > 1)
            lost = psnr(stored[0], fine) - psnr(stored[1], fine)
            cells = (f"{most:.3f}", f"{100 * most / window:.3f} %", f"{away.max():.3f}", f"{100 * off:.4f} %", f"{lost:+.4f}")
            table.add_row(name, recipe, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
