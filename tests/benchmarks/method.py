"""Whether the method works: nets against classical methods on sections that no net has seen, as tables with intervals.

The data are those of the tests; without BM3D (``pip install 'volumetool[bm3d]'``) its rows are missing. pytest does not collect
this file. To run it::

    python tests/benchmarks/method.py DATA --output FOLDER
    python tests/benchmarks/method.py DATA --figure 1 --figure 2 --models em-x4 --pictures FOLDER
    python tests/benchmarks/method.py DATA --figure 6 --recipe-models pssr-em=FILE sem-fast=FILE

With `--output`, each part of a figure is kept in ``figure-N.json`` and not computed again for the same weights and options.

Figures
    1
        Five sets that no net was trained on, degraded by three recipes. Every classical method is tuned on the very sections
        that are shown, which favours it. What counts is the difference to the best of them.
    2
        The same on phantoms, whose truth is free of noise.
    3
        Real pairs at equal voxel size, where no recipe stands between: noisy and clean scans of one field. Their contrast
        differs, hence PSNR raw and after an affine fit. No part of them was learned from by em-denoise; the KRISS pairs show
        metal spheres.
    5
        Tasks, see `tasks`: cells on membranes, vesicles, correlation of neighbouring sections. The share is
        how much of what bilinear enlargement loses is lost all the same. Where the truth itself is noisy (isbi2012), restored
        neighbours correlate more than true ones do, and the share counts that as a loss.
    6
        Mismatch: nets of one recipe each, and the one of all, on every recipe and on its stronger, weaker and blurrier forms;
        gain in dB over bilinear enlargement, three sets pooled.

(Figure 4, against PSSR2, is `compare_pssr2.py`.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from mismatch import mismatch
from numpy.typing import NDArray
from scoring import Found, Sums, best, classical, difference, scores_of, sum_blocks
from showing import save_blocks, show_denoising, show_mismatch, show_scores, show_tasks
from task_figure import tasks
from unseen import SOURCES, Net, Sample, centred, degrade, load_net, load_samples, phantom_samples, restore_all, restore_centre

from volumetool.degradation import RECIPES
from volumetool.training.data.registration import align_pairs

SHOWN = ("pssr-em", "pssr2-poisson", "sem-fast")
QUICK_METHODS = ("bilinear", "bicubic", "gauss+bicubic", "unsharp+bicubic", "z-gauss+bicubic")
DENOISING = ("nearest", "gauss+bicubic", "tv", "bm3d")
FIGURES = (1, 2, 3, 5, 6)

Part = dict[str, Any]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Bench:
    """What is measured, on what, and where the figures go."""

    data: Path
    nets: tuple[Net, ...]
    denoisers: tuple[Net, ...]
    recipe_nets: tuple[Net, ...]
    quick: bool
    output: Path | None
    pictures: Path | None

    def kept(self, figure: int, key: str, nets: tuple[Net, ...], compute: Callable[[], Part]) -> Part:
        """Return a part of a figure, computed or from an earlier run with the same weights."""
        identity = "/".join([key, *(f"{net.name}:{net.sha256[:12]}" for net in nets), *(["quick"] if self.quick else [])])
        file = None if self.output is None else self.output / f"figure-{figure}.json"
        parts: dict[str, Part] = json.loads(file.read_text()) if file is not None and file.exists() else {}
        if identity not in parts:
            parts[identity] = compute()
            if file is not None:
                file.write_text(json.dumps(parts, indent=1))
        return parts[identity]


def main() -> None:
    """Compute the figures that were asked for, and print each as tables."""
    options = _options()
    torch.set_num_threads(options.threads)
    for folder in (options.output, options.pictures):
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
    figures = options.figure or list(FIGURES)
    pairs = [text.partition("=") for text in options.recipe_models]
    bench = Bench(
        data=options.data,
        nets=tuple(map(load_net, options.models)),
        denoisers=tuple(map(load_net, options.denoisers)) if 3 in figures else (),
        recipe_nets=tuple(load_net(file, name) for name, _, file in pairs),
        quick=options.quick,
        output=options.output,
        pictures=options.pictures,
    )
    for figure in figures:
        {1: figure_1, 2: figure_2, 3: figure_3, 5: figure_5, 6: figure_6}[figure](bench)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    parser.add_argument(
        "--figure", type=int, action="append", choices=FIGURES, help="may be given several times; all by default"
    )
    parser.add_argument("--models", nargs="+", default=["em-x4"], help="names or files, scale 1 x 4 x 4")
    parser.add_argument("--denoisers", nargs="+", default=["em-denoise"], help="names or files, scale 1, for figure 3")
    parser.add_argument("--recipe-models", nargs="*", default=[], metavar="RECIPE=FILE", help="for figure 6")
    parser.add_argument("--quick", action="store_true", help="two small sections per set, no slow methods")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=None, help="folder for the figures as JSON")
    parser.add_argument("--pictures", type=Path, default=None, help="folder for pictures of good, middling and bad blocks")
    return parser.parse_args()


# Figures 1 and 2: nets against classical methods.


def figure_1(bench: Bench) -> None:
    """Score sets that no net has seen."""
    for name in SOURCES:
        for recipe in SHOWN:
            samples = load_samples(bench.data, name, quick=bench.quick)
            part = bench.kept(1, f"{name}/{recipe}", bench.nets, lambda s=samples, n=name, r=recipe: _compare(bench, n, s, r))
            show_scores(f"figure 1: {name}, {recipe}, {len(samples)} sections", part)


def figure_2(bench: Bench) -> None:
    """Score phantoms, whose truth is free of noise."""
    for recipe in SHOWN:

        def compute(recipe: str = recipe) -> Part:
            return _compare(bench, "phantom", phantom_samples(quick=bench.quick), recipe)

        show_scores(f"figure 2: phantom, {recipe}", bench.kept(2, f"phantom/{recipe}", bench.nets, compute))


def _compare(bench: Bench, name: str, samples: list[Sample], recipe: str) -> Part:
    slabs = [degrade(sample.fine, RECIPES[recipe], sample.seed) for sample in samples]
    truths = [sample.truth for sample in samples]
    coarse = [slab[sample.centre] for slab, sample in zip(slabs, samples, strict=True)]
    seen = [centred(slab, sample.centre) for slab, sample in zip(slabs, samples, strict=True)]
    found = classical(seen, truths, QUICK_METHODS if bench.quick else ())
    rows: dict[str, Part] = {method: {"strength": value, **scores_of(sums)} for method, (value, sums) in found.items()}
    differences = {}
    for net in bench.nets:
        restored = [restore_centre(net, slab, sample.centre) for slab, sample in zip(slabs, samples, strict=True)]
        sums = np.concatenate([sum_blocks(image, truth) for image, truth in zip(restored, truths, strict=True)])
        rows[net.name] = {"strength": (), **scores_of(sums)}
        differences[net.name] = _differences(sums, found)
        if bench.pictures is not None:
            place = bench.pictures / f"{name}-{recipe}-{net.name}.png"
            save_blocks(place, list(zip(coarse, restored, truths, strict=True)), net.name)
    return {"sections": len(samples), "blocks": len(sums), "rows": rows, "differences": differences}


def _differences(sums: Sums, found: Found) -> Part:
    against = {score: best(found, score) for score in ("psnr", "ssim", "ssim_affine")}
    return {score: {"best": name, **difference(sums, found[name][1], score)} for score, name in against.items()}


# Figure 3: real pairs.


def figure_3(bench: Bench) -> None:
    """Score denoising on noisy and clean scans of one field."""
    for name in ("kriss-line", "kriss-time", "brain"):
        part = bench.kept(3, name, bench.denoisers, lambda n=name: _denoise(bench, n))
        show_denoising(f"figure 3: {name}", part)


def _real_pairs(bench: Bench, name: str) -> tuple[Bytes, Bytes]:
    if name == "brain":
        folder = bench.data / "emdiffuse-brain-pair"
        noisy, clean = (tifffile.imread(folder / f"brain_4w_07_{kind}.tif")[None] for kind in ("noisy", "clean"))
    else:
        kind, pages = name.removeprefix("kriss-"), range(0, 32, 16)
        folder = bench.data / "kriss-sem-pairs"
        noisy, clean = (tifffile.imread(folder / f"{kind}_{each}.tif", key=pages) for each in ("noisy", "clean"))
    pairs = align_pairs(noisy, clean)
    y, x = (size // 8 * 8 for size in pairs.noisy.shape[1:])
    return pairs.noisy[:, :y, :x], np.rint(np.clip(pairs.clean, 0, 255)).astype(np.uint8)[:, :y, :x]


def _denoise(bench: Bench, name: str) -> Part:
    noisy, clean = _real_pairs(bench, name)
    found = classical(list(noisy), list(clean), DENOISING[:2] if bench.quick else DENOISING)
    rows: dict[str, Part] = {method: {"strength": value, **scores_of(sums)} for method, (value, sums) in found.items()}
    rows["noisy"] = rows.pop("nearest")  # at scale 1 it is the image itself
    differences = {}
    for net in bench.denoisers:
        # Pages are fields of their own, no neighbours.
        sums = np.concatenate(
            [sum_blocks(restore_all(net, one[None])[0], truth) for one, truth in zip(noisy, clean, strict=True)]
        )
        rows[net.name] = {"strength": (), **scores_of(sums)}
        others = {"noisy": found["nearest"][1], **({"bm3d": found["bm3d"][1]} if "bm3d" in found else {})}
        differences[net.name] = {
            f"{score} over {other}": difference(sums, theirs, score)
            for score in ("psnr", "psnr_affine", "ssim_affine")
            for other, theirs in others.items()
        }
    return {"pairs": len(noisy), "rows": rows, "differences": differences}


# Figures 5 and 6: see their modules.


def figure_5(bench: Bench) -> None:
    """Score what is done with the image afterwards."""
    for name in ("fib25-val", "isbi2012", "phantom"):
        for recipe in SHOWN:

            def compute(name: str = name, recipe: str = recipe) -> Part:
                return tasks(bench.data, bench.nets, name, recipe, quick=bench.quick)

            show_tasks(f"figure 5: {name}, {recipe}", bench.kept(5, f"{name}/{recipe}", bench.nets, compute))


def figure_6(bench: Bench) -> None:
    """Score nets of one recipe on other recipes."""
    nets = (*bench.nets[:1], *bench.recipe_nets)
    columns = bench.kept(6, "mismatch", nets, lambda: mismatch(bench.data, nets, SHOWN, quick=bench.quick))
    show_mismatch("figure 6: gain over bilinear enlargement in dB, [95 % interval]", columns)


if __name__ == "__main__":
    main()
