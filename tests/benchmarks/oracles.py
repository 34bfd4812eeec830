"""What bounds figures 1 and 2 of `method.py`: how far a network comes that was trained on the very tissue it is tested on.

For each set, em-x4 goes on learning on the first two thirds of its sections, at the noise of the test; then both, and the
classical methods tuned on the sections shown, restore the rest. Such a network is of no use elsewhere and is not shipped. Where
not even it is far above the classical methods, no built-in model can be. On FIB-25 they see neighbouring sections.
pytest does not collect this file. To run it::

    python tests/benchmarks/oracles.py DATA FOLDER
    python tests/benchmarks/oracles.py DATA FOLDER --sets fib25-val --steps 1600

Two to three minutes per set on one core, for 800 steps; FOLDER keeps the trained models.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from rich.console import Console
from rich.table import Table
from scoring import Sums, best, classical, difference, scores_of, sum_blocks
from unseen import PHANTOM_SHAPE, REACH, SOURCES, Net, Sample, centred, degrade, load_net, phantom_samples, restore_centre

from volumetool.degradation import RECIPES
from volumetool.models import load_model
from volumetool.training.config import make_config
from volumetool.training.data.phantom import phantom
from volumetool.training.train import train

SETS = ("isbi2012", "cdeep3m-sbem", "temca", "phantom", "fib25-val")
SHOWN = ("pssr-em", "pssr2-poisson", "sem-fast")
METHODS = ("bilinear", "gauss+bicubic", "bm3d", "z-gauss+bicubic")
THIN = ("fib25-val",)
"""Sets whose sections are thin enough to be seen with their neighbours."""

PHANTOM_TRAINING_SEEDS = (1, 2)


def main() -> None:
    """Train and score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    parser.add_argument("folder", type=Path, help="where the trained models are kept")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ours = load_net("em-x4")
    table = Table(title="PSNR in dB / affine SSIM on the last third; gain over the best classical method", title_justify="left")
    for column in ("", "best classical", "em-x4", "oracle", "em-x4 gains", "oracle gains"):
        table.add_column(column)
    for name in options.sets:
        oracle = load_net(str(teach(options.data, options.folder, name, options.steps)))
        samples = phantom_samples() if name == "phantom" else last_third(options.data, name)
        for recipe in SHOWN:
            table.add_row(f"{name}, {recipe}, {len(samples)} sections", *score(samples, recipe, ours, oracle))
    Console(width=160).print(table)


def teach(data: Path, folder: Path, name: str, steps: int) -> Path:
    """Return the model that went on learning on two thirds of a set, or on other phantoms."""
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    files = []
    for seed in PHANTOM_TRAINING_SEEDS if name == "phantom" else (0,):
        files.append(place / f"fine-{seed}.tif")
        if not files[-1].exists():
            tifffile.imwrite(files[-1], phantom(PHANTOM_SHAPE, seed) if name == "phantom" else first_two_thirds(data, name))
    options = {
        "name": f"oracle-{name}",
        "start": "em-x4",
        "architecture": load_model("em-x4").card.architecture.model_dump(mode="json") if name in THIN else {},
        "sources": [{"path": str(file), "voxel_size": "8,8,8"} for file in files],
        "degradation": {"recipes": SHOWN, "noise": [0.9, 1.1]},
        "augmentation": {"contrast": [0.9, 1.1], "gamma": [1, 1], "brightness": [0, 0], "grain": [0, 0]},
        "optimiser": {"learning_rate": 1e-3, "ema": 0.995},
        "validation": {"share": 0},
        "steps": steps,
        "threads": 1,
    }
    return train(make_config(options), place / "training")


def first_two_thirds(data: Path, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return the sections to learn from, uint8 (z, y, x)."""
    volume = _volume(data, name)
    return volume[: 2 * len(volume) // 3]


def last_third(data: Path, name: str) -> list[Sample]:
    """Return at most four sections to score, with neighbours where they are thin."""
    volume, reach = _volume(data, name), REACH if name in THIN else 0
    rest = volume[2 * len(volume) // 3 :]
    places = range(reach, len(rest) - reach, -(-(len(rest) - 2 * reach) // 4))
    return [Sample(rest[z - reach : z + reach + 1], reach, z) for z in places]


def _volume(data: Path, name: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    volume, border = tifffile.imread(data / SOURCES[name].files[0]), SOURCES[name].border
    y, x = (border + (size - 2 * border) // 16 * 16 for size in volume.shape[1:])
    inside: np.ndarray[Any, np.dtype[np.uint8]] = volume[:, border:y, border:x]
    return inside


def score(samples: list[Sample], recipe: str, ours: Net, oracle: Net) -> list[str]:
    """Return a row of the table."""
    slabs = [degrade(sample.fine, RECIPES[recipe], sample.seed) for sample in samples]
    seen = [centred(slab, sample.centre) for slab, sample in zip(slabs, samples, strict=True)]
    found = classical(seen, [sample.truth for sample in samples], METHODS)
    winner = best(found, "psnr")
    sums = [found[winner][1], *(_restored(net, samples, slabs) for net in (ours, oracle))]
    scores = [scores_of(each) for each in sums]
    gains = [difference(each, sums[0], "psnr") for each in sums[1:]]
    named = [f"{each['psnr']:.2f} / {each['ssim_affine']:.3f}" for each in scores]
    named[0] += f" ({winner})"
    return named + [f"{gain['mean']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}]" for gain in gains]


def _restored(net: Net, samples: list[Sample], slabs: list[Any]) -> Sums:
    pairs = zip(samples, slabs, strict=True)
    return np.concatenate([sum_blocks(restore_centre(net, slab, each.centre), each.truth) for each, slab in pairs])


if __name__ == "__main__":
    main()
