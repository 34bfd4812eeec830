"""What networks make of tissue that they do not know: noise-free granules and chromatin, and tiles of many tissues.

pytest does not collect this file. To run it::

    python tests/benchmarks/made_up.py DATA --models em-x4 --pictures FOLDER

Each set is degraded by three recipes. The first table is raw PSNR beside classical methods, each tuned on the very sections
that are shown. The second counts membranes that the truth does not have, per million pixels, see `membranes`; bilinear and
bicubic enlargement of a noisy section show how many are found by chance.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
import torch
from membranes import false_membranes
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from scoring import Found, best, classical, difference, scores_of, sum_blocks
from unseen import SCALE, degrade, load_net, restore_all

from volumetool.degradation import RECIPES
from volumetool.evaluation.baselines import restore
from volumetool.evaluation.scores.metrics import as_stored
from volumetool.training.data.textures import draw_textures

Bytes = NDArray[np.uint8]

SHOWN = ("pssr-em", "pssr2-poisson", "sem-fast")
SIDE = 512
SEED = 2000
"""Drawn for this benchmark alone: the detector's limits were chosen on another."""

PLAIN = ("bilinear", "bicubic")
QUICK = (*PLAIN, "gauss+bicubic", "unsharp+bicubic")


def sets(data: Path) -> Iterator[tuple[str, list[Bytes]]]:
    """Give each set's name and its sections, uint8 (y, x): phantoms of two voxel sizes, then tiles."""
    for kind in ("granules", "chromatin"):
        for nm in (4.0, 8.0):
            volume = draw_textures((24, SIDE, SIDE), (nm, nm, nm), (kind,), SEED)
            yield f"{kind}, {nm:g} nm", [volume[z] for z in (2, 12, 22)]
    yield "cem500k", list(tifffile.imread(data / "cem500k-patches" / "cem500k_examples.tif"))
    tiles = tifffile.imread(data / "vemstitch-mussel-sem" / "mussel_tiles.tif")
    yield "mussel", [tile[y : y + SIDE, x : x + SIDE] for tile in tiles for y, x in ((200, 200), (1000, 1400))]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    parser.add_argument("--models", nargs="+", default=["em-x4"], help="names or files, scale 1 x 4 x 4")
    parser.add_argument("--quick", action="store_true", help="no slow classical methods")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for pictures with the false membranes in red")
    options = parser.parse_args()
    torch.set_num_threads(1)
    nets = [load_net(spec) for spec in options.models]
    scores = Table("PSNR", "recipe", *PLAIN, "best classical", *(f"{net.name} (over bilinear)" for net in nets))
    counts = Table("false membranes per Mpx", "recipe", *PLAIN, *(net.name for net in nets))
    for name, truths in sets(options.data):
        for recipe in SHOWN:
            coarse = [degrade(truth[None], RECIPES[recipe], seed)[0] for seed, truth in enumerate(truths)]
            found = classical(coarse, truths, QUICK if options.quick else ())
            images = {method: [as_stored(restore(method, low, SCALE), low.dtype) for low in coarse] for method in PLAIN}
            images |= {net.name: [restore_all(net, low[None])[0] for low in coarse] for net in nets}
            scores.add_row(name, recipe, *_scores(found, [images[net.name] for net in nets], truths))
            lines = {method: list(map(false_membranes, each, truths)) for method, each in images.items()}
            area = sum(truth.size for truth in truths) / 1e6
            counts.add_row(name, recipe, *(f"{sum(int(line.max()) for line in each) / area:.1f}" for each in lines.values()))
            if options.pictures is not None:
                options.pictures.mkdir(parents=True, exist_ok=True)
                shown = [truths[-1], *(_marked(images[method][-1], lines[method][-1]) for method in images)]
                _draw(options.pictures / f"{name.replace(', ', '-').replace(' ', '')}-{recipe}.png", shown)
    for table in (scores, counts):
        Console(width=160).print(table)


def _scores(found: Found, restored: list[list[Bytes]], truths: list[Bytes]) -> list[str]:
    leader = best(found, "psnr")
    cells = [f"{scores_of(found[method][1])['psnr']:.2f}" for method in (*PLAIN, leader)]
    cells[-1] += f" {leader}"
    for images in restored:
        sums = np.concatenate(list(map(sum_blocks, images, truths)))
        gain = difference(sums, found["bilinear"][1], "psnr")
        cells.append(f"{scores_of(sums)['psnr']:.2f} ({gain['mean']:+.2f} [{gain['low']:+.2f}, {gain['high']:+.2f}])")
    return cells


def _marked(image: Bytes, lines: NDArray[np.int32]) -> Bytes:
    """Return an image (y, x) as red, green and blue (y, x, 3), its false membranes red."""
    colours = np.repeat(image[..., None], 3, axis=2)
    colours[lines > 0] = (255, 40, 40)
    return colours


def _draw(place: Path, images: list[Bytes]) -> None:
    """Draw images side by side, stretched as the first is."""
    low, high = np.percentile(images[0], (0.5, 99.5))
    row = []
    for image in images:
        colours = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
        grey = np.rint(np.clip((colours.astype(np.float32) - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        row.append(np.where((colours == (255, 40, 40)).all(axis=2)[..., None], colours, grey))
    Image.fromarray(np.hstack(row)).save(place)


if __name__ == "__main__":
    main()
