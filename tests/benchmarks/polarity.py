"""How often the plan tells dark membranes from bright ones, on real data, fine and degraded, as they are and inverted.

    python tests/benchmarks/polarity.py DATA

All sets have dark membranes. Each is reduced by 1, 2 and 4 in plane: by block means, and with the recipes for noise. Each
volume is shown to the survey of a plan as it is and inverted, at most four sections of it. An answer needs at least three
standard errors.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console

from volumetool.degradation import load_recipe
from volumetool.geometry import Box
from volumetool.processing.survey import CERTAIN, LIKELY, Survey

SETS = (
    "cdeep3m-sbem/cdeep3m_sbem_z020-037.tif",
    "cem500k-patches/cem500k_examples.tif",
    "emdiffuse-brain-pair/brain_4w_07_clean.tif",
    "emdiffuse-brain-pair/brain_4w_07_noisy.tif",
    "emdiffuse-noisy-u16/brain_4w_03_noisy_u16.tif",
    "fib25-fibsem/fib25_train1.tif",
    "fib25-fibsem/fib25_train2.tif",
    "fib25-fibsem/fib25_val_z0-199_y0-339.tif",
    "isbi2012-sstem/isbi2012_train.tif",
    "kasthuri15-atum-sem/kasthuri15_s0001-0060.tif",
    "n2v-sem-noisy/n2v_sem_noisy_u16.tif",
    "temca-fly-tiles/tiles_col0060-0061_row0140-0141_level1.tif",
    "vemstitch-mussel-sem/mussel_tiles.tif",
)
WAYS = (
    (1, None),
    (2, None),
    (4, None),
    *((factor, name) for factor in (2, 4) for name in ("pssr2-poisson", "sem-fast", "pssr-em")),
)


def main(folder: Path) -> None:
    """Print a line per set, and the sums."""
    total, console = np.zeros(5, int), Console(width=120, highlight=False)
    for name in SETS:
        counts = np.zeros(5, int)
        stack = tifffile.imread(folder / name)
        stack = stack[None] if stack.ndim == 2 else stack[np.linspace(0, len(stack) - 1, min(4, len(stack))).astype(int)]
        for factor, recipe in WAYS:
            made = reduced(stack, factor, recipe)
            for sign in (1, -1):  # dark membranes, bright ones
                polarity = sign * surveyed(made if sign > 0 else made.max() - made)
                counts += [polarity >= LIKELY, polarity >= CERTAIN, abs(polarity) < LIKELY, polarity <= -LIKELY, 1]
        console.print(f"{Path(name).stem:<44}" + words(counts))
        total += counts
    console.print(f"{'all':<44}" + words(total))


def words(counts: NDArray[np.int_]) -> str:
    """Write what was counted."""
    right, certain, silent, wrong, count = counts
    return f"{count:>4} volumes: right {right}, {certain} of them certain; no answer {silent}; wrong {wrong}"


def reduced(stack: NDArray[Any], factor: int, recipe: str | None) -> NDArray[np.float32]:
    """Return sections, grey 0 to 1, coarser in plane: block means, or what a recipe makes of them."""
    height, width = (n // (2 * factor) * 2 * factor for n in stack.shape[1:])
    low, high = np.percentile(stack, (0.1, 99.9))
    fine = ((stack[:, :height, :width].astype(np.float32) - low) / (high - low)).clip(0, 1)
    if recipe is not None:
        return np.asarray(load_recipe(recipe).apply(fine, scale=(1, factor, factor), seed=1))
    return fine.reshape(len(fine), height // factor, factor, width // factor, factor).mean(axis=(2, 4))


def surveyed(voxels: NDArray[np.float32]) -> float:
    """Return what the survey says of sections: standard errors from no polarity, above 0 for dark membranes."""
    grey = np.rint(voxels * 254 + 1).clip(1, 255).astype(np.uint8)  # no exact zeros
    survey = Survey(Box.whole(grey.shape), len(grey))
    for z in range(len(grey)):
        survey.add(0, Box((z, 0, 0), (z + 1, *grey.shape[1:])), grey[z : z + 1])
    return survey.polarity


if __name__ == "__main__":
    main(Path(sys.argv[1]))
