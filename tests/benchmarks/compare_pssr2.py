"""volumetool against PSSR2: the same images, the same recipes, the same time to learn; then sections that neither has seen.

PSSR2 (github.com/ucsdmanorlab/PSSR2, version 2.4) lives in an environment of its own, given as a Python interpreter; the two
exchange files alone, and `pssr2_process.py` is its side. pytest does not collect these files. To run them::

    python -m venv PSSR && PSSR/bin/pip install torch==2.13.0 pssr==2.4.0
    python tests/benchmarks/compare_pssr2.py train DATA FOLDER --pssr2 PSSR/bin/python --minutes 40 --threads 1
    python tests/benchmarks/compare_pssr2.py score DATA FOLDER --pssr2 PSSR/bin/python --model em-x4

`train` can be stopped and started again; the minutes are of CPU time, and count over all starts. `score` takes the weights of
the last checkpoint, and says how far training has come.

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
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scoring import Sums, difference, scores_of, sum_blocks
from unseen import SCALE, SOURCES, Net, Sample, degrade, load_net, load_samples, restore_centre

from volumetool.degradation import RECIPES
from volumetool.evaluation.baselines import restore

TRAINING_SET = (
    "fib25-fibsem/fib25_train1.tif",
    "fib25-fibsem/fib25_train2.tif",
    "emdiffuse-brain-pair/brain_4w_07_clean.tif",
)
TRAINED_ON = ("pssr-em", "pssr2-poisson", "sem-fast")
CROP = 192  # fine pixels: four poolings, and the five scales of MS-SSIM, fit; 256 would not fit into the cubes
PAIRS = 9600
RATE_SIDE = 256  # coarse pixels of the section on which the rates are taken
GAMMA, CONTRAST, BRIGHTNESS = (0.7, 1.4), (0.6, 1.2), (-0.1, 0.1)

Bytes = NDArray[np.uint8]


def main() -> None:
    """Train PSSR2, or score it beside our model."""
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    if options.task == "train":
        if not (options.folder / "coarse.npy").exists():
            write_pairs(options.data, options.folder)
        ask_pssr2(options, "train", "--minutes", str(options.minutes))
        return
    net = load_net(options.model)
    figures = {"training": ask_pssr2(options, "progress"), "sets": score_sets(options, net), "rates": take_rates(options, net)}
    show(figures)
    if options.output is not None:
        options.output.write_text(json.dumps(figures, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("train", "score"))
    parser.add_argument("data", type=Path, help="folder with the real data, as the tests take it")
    parser.add_argument("folder", type=Path, help="where PSSR2's pairs and weights lie")
    parser.add_argument("--pssr2", required=True, help="Python interpreter of the environment in which PSSR2 is installed")
    parser.add_argument("--minutes", type=float, default=40.0, help="CPU time for PSSR2 to learn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="em-x4", help="score: our model, a name or a file")
    parser.add_argument("--rounds", type=int, default=3, help="score: turns in which the rates are taken")
    parser.add_argument("--quick", action="store_true", help="score: two small sections per set")
    parser.add_argument("--output", type=Path, default=None, help="score: file for the figures as JSON")
    return parser.parse_args()


def ask_pssr2(options: argparse.Namespace, task: str, *more: str) -> dict[str, Any]:
    """Run PSSR2's side in its own environment; return its answer, the last line of what it says."""
    side = Path(__file__).with_name("pssr2_process.py")
    command = [options.pssr2, str(side), task, str(options.folder), "--threads", str(options.threads), *more]
    quiet = {**os.environ, "TQDM_DISABLE": "1"}
    if task == "train":
        subprocess.run(command, check=True, env=quiet)
        return {}
    done = subprocess.run(command, check=True, env=quiet, stdout=subprocess.PIPE, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


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
        coarse[number] = degrade(fine[number][None], recipe, number)[0]
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


# The scores.


def score_sets(options: argparse.Namespace, net: Net) -> dict[str, Any]:
    """Return by set and recipe the scores of both and of bilinear enlargement, and how much better ours is than PSSR2's."""
    torch.set_num_threads(options.threads)
    cases = [(name, recipe) for name in SOURCES for recipe in TRAINED_ON]
    samples = {name: load_samples(options.data, name, quick=options.quick) for name in SOURCES}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ours, linear = {}, {}
        for name, recipe in cases:
            slabs = [degrade(each.fine, RECIPES[recipe], each.seed) for each in samples[name]]
            coarse = [slab[each.centre] for slab, each in zip(slabs, samples[name], strict=True)]
            for number, section in enumerate(coarse):
                np.save(place / f"{name}.{recipe}.{number}.coarse.npy", section)
            pairs = list(zip(slabs, samples[name], strict=True))
            ours[name, recipe] = _sums([restore_centre(net, slab, each.centre) for slab, each in pairs], samples[name])
            linear[name, recipe] = _sums([restore("bilinear", section, SCALE) for section in coarse], samples[name])
        ask_pssr2(options, "restore", "--sections", folder)
        found = {}
        for name, recipe in cases:
            images = [np.load(place / f"{name}.{recipe}.{number}.pssr2.npy") for number in range(len(samples[name]))]
            theirs, mine = _sums(images, samples[name]), ours[name, recipe]
            found[f"{name}, {recipe}"] = {
                "scores": {"bilinear": scores_of(linear[name, recipe]), "pssr2": scores_of(theirs), net.name: scores_of(mine)},
                "better by": {score: difference(mine, theirs, score) for score in ("psnr", "ssim")},
            }
    return found


def _sums(images: Sequence[NDArray[Any]], samples: Sequence[Sample]) -> Sums:
    return np.concatenate([sum_blocks(image, sample.truth) for image, sample in zip(images, samples, strict=True)])


def take_rates(options: argparse.Namespace, net: Net) -> dict[str, Any]:
    """Return output megapixels per second of both networks, medians over the rounds, in float32 and bfloat16."""
    section = np.random.default_rng(0).integers(0, 256, (RATE_SIDE, RATE_SIDE), np.uint8)
    np.save(options.folder / "rate.npy", section)
    rounds: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for precision in ("float32", "bfloat16"):
            more = ("--bfloat16",) if precision == "bfloat16" else ()
            rounds.setdefault(f"pssr2 {precision}", []).append(ask_pssr2(options, "rate", *more)["mpx_per_s"])
            rounds.setdefault(f"{net.name} {precision}", []).append(_our_rate(net, section, bfloat16=bool(more)))
    parameters = sum(weights.numel() for weights in net.network.parameters())
    return {"mpx_per_s": {name: statistics.median(each) for name, each in rounds.items()}, "our parameters": parameters}


def _our_rate(net: Net, section: Bytes, *, bfloat16: bool) -> float:
    channels = 2 * net.card.z_context + 1
    x = torch.from_numpy(section.astype(np.float32) / np.float32(255))[None, None].repeat(1, channels, 1, 1)  # (1, c, y, x)
    network = net.network.to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(4):  # as on PSSR2's side: the best of three after one to warm up
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            started = time.perf_counter()
            pixels = network(x).numel()
            seconds.append(time.perf_counter() - started)
    return float(pixels / min(seconds[1:]) / 1e6)


def show(figures: dict[str, Any]) -> None:
    """Print the figures as tables."""
    names = list(next(iter(figures["sets"].values()))["scores"])
    title = "PSNR in dB / SSIM, raw; PSSR2 after {cpu_seconds:.0f} CPU s, {batches} batches".format(**figures["training"])
    table = Table(title=title, title_justify="left")
    for column in ("", *names, "PSNR better by", "SSIM better by"):
        table.add_column(column)
    for case, found in figures["sets"].items():
        cells = [f"{found['scores'][name]['psnr']:.2f} / {found['scores'][name]['ssim']:.3f}" for name in names]
        better = [f"{each['mean']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]" for each in found["better by"].values()]
        table.add_row(case, *cells, *better)
    rates = Table(title="output Mpx/s of the networks alone, medians", title_justify="left")
    for column in ("", "Mpx/s"):
        rates.add_column(column)
    for name, rate in figures["rates"]["mpx_per_s"].items():
        rates.add_row(name, f"{rate:.2f}")
    console = Console(width=160)
    console.print(table)
    console.print(rates)


if __name__ == "__main__":
    main()
