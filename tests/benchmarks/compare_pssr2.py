"""volumetool against PSSR2: the same images, the same recipes, the same time to learn; then sections that neither has seen.

PSSR2 (github.com/ucsdmanorlab/PSSR2, version 2.4) lives in an environment of its own, given as a Python interpreter; the two
exchange files alone, and `pssr2_process.py` is its side. pytest does not collect these files. To run them::

    python -m venv PSSR && PSSR/bin/pip install torch==2.13.0 pssr==2.4.0
    python tests/benchmarks/compare_pssr2.py train DATA FOLDER --pssr2 PSSR/bin/python --minutes 40 --threads 1
    python tests/benchmarks/compare_pssr2.py score DATA FOLDER --pssr2 PSSR/bin/python --model em-x4

`train` can be stopped and started again; the minutes are of CPU time, and count over all starts.

What is the same for both
    The images: two FIB-SEM cubes, cut along all three planes, and one SEM field. The recipes: `TRAINED_ON`. The range of gamma,
    contrast and brightness, without which PSSR2, that normalises nothing, would have seen one contrast alone. The sections they
    are scored on, crappified once for both, 8 bit; each network sees a section whole and mirrored beyond its faces.
What is in PSSR2's favour
    The noise of its pairs has just the strength at which both are scored, and none of them repeats. Its crappifiers would move
    the noise and the grid by their own ways of resizing; with the recipes of volumetool it learns the very noise of the test.
What remains its own
    Network, loss, optimiser, schedule, batches, flips and rotations: see `pssr2_process.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from volumetool.training.crappifiers import RECIPES

TRAINING_SET = (
    "fib25-fibsem/fib25_train1.tif",
    "fib25-fibsem/fib25_train2.tif",
    "emdiffuse-brain-pair/brain_4w_07_clean.tif",
)
TRAINED_ON = ("pssr-em", "pssr2-poisson", "sem-fast")
SCALE = 4
CROP = 192  # fine pixels: four poolings, and the five scales of MS-SSIM, fit; 256 would not fit into the cubes
PAIRS = 9600
GAMMA, CONTRAST, BRIGHTNESS = (0.7, 1.4), (0.6, 1.2), (-0.1, 0.1)

Bytes = NDArray[np.uint8]


def main() -> None:
    """Train PSSR2, or score it beside our model."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.task == "train":
        if not (options.folder / "coarse.npy").exists():
            write_pairs(options.data, options.folder)
        ask_pssr2(options, "train", "--minutes", str(options.minutes), "--threads", str(options.threads))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "score"))
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    parser.add_argument("folder", type=Path, help="where PSSR2's pairs and weights lie")
    parser.add_argument("--pssr2", required=True, help="Python interpreter of the environment in which PSSR2 is installed")
    parser.add_argument("--minutes", type=float, default=40.0, help="CPU time for PSSR2 to learn")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def ask_pssr2(options: argparse.Namespace, task: str, *more: str) -> None:
    """Run PSSR2's side in its own environment."""
    side = Path(__file__).with_name("pssr2_process.py")
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    subprocess.run([options.pssr2, str(side), task, str(options.folder), *more], check=True, env=quiet)


# The pairs.


def write_pairs(data: Path, folder: Path) -> None:
    """Write the pairs that PSSR2 learns from: fine.npy and coarse.npy, uint8 (pairs, y, x)."""
    sources = [np.atleast_3d(tifffile.imread(data / name)) for name in TRAINING_SET]
    sources = [np.moveaxis(volume, -1, 0) if volume.shape[-1] == 1 else volume for volume in sources]
    rng = np.random.default_rng(2)
    fine = np.empty((PAIRS, CROP, CROP), np.uint8)
    coarse = np.empty((PAIRS, CROP // SCALE, CROP // SCALE), np.uint8)
    for number in range(PAIRS):
        fine[number] = recontrast(draw_crop(sources[rng.integers(len(sources))], rng), rng)
        recipe = RECIPES[TRAINED_ON[rng.integers(len(TRAINED_ON))]]
        coarse[number] = crappify_section(fine[number], recipe.name, number)
    np.save(folder / "fine.npy", fine)
    np.save(folder / "coarse.npy", coarse)


def draw_crop(volume: Bytes, rng: np.random.Generator) -> Bytes:
    """Draw a square crop in any plane that is large enough."""
    across = [axis for axis in range(3) if min(np.delete(volume.shape, axis)) >= CROP]
    turned = np.moveaxis(volume, across[rng.integers(len(across))], 0)
    z, y, x = (int(rng.integers(size)) for size in np.subtract(turned.shape, (1, CROP, CROP)) + 1)
    crop: Bytes = turned[z, y : y + CROP, x : x + CROP]
    return crop


def recontrast(fine: Bytes, rng: np.random.Generator) -> Bytes:
    """Change gamma, contrast and brightness within the ranges of our own training."""
    gamma, contrast, brightness = (rng.uniform(*span) for span in (GAMMA, CONTRAST, BRIGHTNESS))
    curve = ((np.arange(256) / 255) ** gamma - 0.5) * contrast + 0.5 + brightness
    table = np.rint(np.clip(curve, 0, 1) * 255).astype(np.uint8)
    changed: Bytes = table[fine]
    return changed


def crappify_section(fine: Bytes, recipe: str, seed: int) -> Bytes:
    """Crappify one section by a built-in recipe, to 8 bit."""
    block = fine.astype(np.float32)[None] / np.float32(255)  # (1, y, x)
    grey = RECIPES[recipe].apply(block, scale=(1, SCALE, SCALE), seed=seed)[0]
    coarse: Bytes = np.rint(np.clip(grey, 0, 1) * 255).astype(np.uint8)
    return coarse


if __name__ == "__main__":
    main()
