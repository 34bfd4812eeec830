"""What the gate says of volumes that suit em-x4, and of volumes that do not; and whether a voxel size that is off by two shows.

    python tests/benchmarks/gate.py DATA

Twelve volumes suit: six tissues, each degraded by two recipes. Fifteen do not: bright membranes, light microscopy, labels,
tissue of another voxel size than is said, images that are sharp already, and clipped ones. At most four sections of each. Of
tissue, the gain of em-x4 over bilinear enlargement is printed, too. The last table has the correlation length of tissues at
several voxel sizes: the distance at which the correlation of the structure, without its noise, has fallen to one half.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.color
import skimage.data
import tifffile
from numpy.typing import NDArray
from rich.console import Console
from scipy import ndimage

import volumetool as vt
from volumetool.degradation import load_recipe
from volumetool.evaluation.scores.resample import enlarge
from volumetool.geometry import Box
from volumetool.jobs.planning.choice import judge
from volumetool.models import load_model
from volumetool.processing.survey import Survey

Stack = NDArray[np.float32]
SETS = {
    "FIB-25": ("fib25-fibsem/fib25_val_z0-199_y0-339.tif", 8),
    "ISBI 2012": ("isbi2012-sstem/isbi2012_train.tif", 4),
    "TEMCA": ("temca-fly-tiles/tiles_col0060-0061_row0140-0141_level1.tif", 8),
    "CDeep3M": ("cdeep3m-sbem/cdeep3m_sbem_z020-037.tif", None),
    "Kasthuri": ("kasthuri15-atum-sem/kasthuri15_s0001-0060.tif", 6),
    "mussel": ("vemstitch-mussel-sem/mussel_tiles.tif", None),
}
"""Files of tissues, and their voxel size in nm in plane, where it is known."""

SECTIONS, LARGEST = 4, 1024


def main(folder: Path) -> None:
    """Print the verdicts, the gains, and the correlation lengths."""
    console = Console(width=140, highlight=False)
    tissues = {name: load(folder / file) for name, (file, _) in SETS.items()}
    card = load_model("em-x4").card
    for title, volumes in (("suits", suiting(tissues)), ("does not", misfits(tissues))):
        counts = {"in": 0, "edge": 0, "out": 0}
        for name, coarse, truth in volumes:
            found = judge(card, surveyed(coarse))
            assert found is not None
            counts[found.verdict] += 1
            gain = "" if truth is None else f"{gain_of(coarse, truth):+5.2f} dB"
            why = "; ".join(reason.split(",")[0] for reason in found.reasons)
            console.print(f"{title:<9}{name:<30}{found.verdict:<6}{gain:<10}{why}")
        console.print(f"{title}: {counts}\n")
    for name, (_, size) in SETS.items():
        if size is not None:
            lengths = ((size * n, correlation_length(mean(tissues[name], n))) for n in (1, 2, 3, 4, 6, 8))
            told = ", ".join(f"{nm} nm {voxels:.2f}" for nm, voxels in lengths if nm <= 64)
            console.print(f"correlation length in voxels, {name}: {told}")


def load(file: Path) -> Stack:
    """Return a few sections, evenly spread, grey 0 to 255."""
    stack = tifffile.imread(file)
    chosen = stack[np.linspace(0, len(stack) - 1, SECTIONS).astype(int)]
    return np.asarray(chosen[:, :LARGEST, :LARGEST], np.float32)


def mean(stack: Stack, factor: int) -> Stack:
    """Return means over blocks in plane."""
    height, width = (n // factor for n in stack.shape[1:])
    cut = stack[:, : height * factor, : width * factor]
    return np.asarray(cut.reshape(len(cut), height, factor, width, factor).mean(axis=(2, 4)), np.float32)


def degraded(stack: Stack, recipe: str) -> tuple[Stack, Stack]:
    """Return what a fast microscope would see, four times coarser in plane, and the part that it sees."""
    fine = stack[:, : stack.shape[1] // 8 * 8, : stack.shape[2] // 8 * 8]
    coarse = load_recipe(recipe).apply(fine / 255, scale=(1, 4, 4), seed=1) * 255
    return np.asarray(np.rint(coarse.clip(0, 255)), np.float32), fine


def suiting(tissues: dict[str, Stack]) -> Iterator[tuple[str, Stack, Stack | None]]:
    """Yield name, coarse volume and truth of what suits."""
    for name, stack in tissues.items():
        for recipe in ("sem-fast", "pssr-em"):
            yield f"{name}, {recipe}", *degraded(stack, recipe)


def misfits(tissues: dict[str, Stack]) -> Iterator[tuple[str, Stack, Stack | None]]:
    """Yield the same of what does not; the truth only of tissue whose voxel size is off by two."""
    for name, recipe in (("FIB-25", "sem-fast"), ("TEMCA", "pssr-em")):
        yield f"{name}, bright membranes", 255 - degraded(tissues[name], recipe)[0], None
    yield "cell, phase contrast", skimage.data.cell()[None].astype(np.float32), None
    for name, image in (("tissue, stained", skimage.data.immunohistochemistry()), ("retina", skimage.data.retina())):
        yield name, np.asarray(skimage.color.rgb2gray(image)[None, :600, :600] * 255, np.float32), None
    smooth = ndimage.gaussian_filter(tissues["FIB-25"], (0, 2, 2)), ndimage.gaussian_filter(tissues["ISBI 2012"], (0, 3, 3))
    labels = np.stack([ndimage.label(section > np.median(section))[0] % 251 for section in smooth[0]])
    yield "labels", np.asarray(labels[:, ::4, ::4], np.float32), None
    yield "mask of membranes", np.asarray((smooth[1] > np.median(smooth[1]))[:, ::2, ::2] * 255, np.float32), None
    yield "Kasthuri, 48 nm for 24", *degraded(mean(tissues["Kasthuri"], 2), "sem-fast")
    yield "TEMCA, 64 nm for 32", *degraded(mean(tissues["TEMCA"], 2), "sem-fast")
    yield "ISBI 2012, 8 nm for 16", *degraded(ndimage.zoom(tissues["ISBI 2012"], (1, 2, 2), order=1), "sem-fast")
    yield "TEMCA, every 4th pixel", tissues["TEMCA"][:, ::4, ::4], None
    yield "ISBI 2012 as it is", tissues["ISBI 2012"], None
    yield "TEMCA as it is", tissues["TEMCA"][:, :512, :512], None
    for name, recipe in (("FIB-25", "sem-fast"), ("CDeep3M", "pssr-em")):
        coarse = degraded(tissues[name], recipe)[0]
        low, high = np.percentile(coarse, (25, 75))
        yield f"{name}, clipped", np.asarray(((coarse - low) / (high - low) * 255).clip(0, 255), np.float32), None


def surveyed(stack: Stack) -> Survey:
    """Return the survey of sections that are no neighbours."""
    grey = np.rint(stack.clip(0, 255)).astype(np.uint8)
    survey = Survey(Box.whole(grey.shape), len(grey))
    for z in range(len(grey)):
        survey.add(0, Box((z, 0, 0), (z + 1, *grey.shape[1:])), grey[z : z + 1])
    return survey


def gain_of(coarse: Stack, truth: Stack) -> float:
    """Return what em-x4 gains over bilinear enlargement of single sections, in dB of PSNR."""
    errors = np.zeros(2)
    for low, high in zip(coarse, truth, strict=True):
        made: Any = vt.enhance(low[None].astype(np.uint8), model="em-x4", voxel_size=(30, 32, 32), gate="off", device="cpu")
        errors += [((each - high) ** 2).sum() for each in (made[0].astype(np.float32), enlarge(low, (4, 4), "linear"))]
    return float(10 * np.log10(errors[1] / errors[0]))


def correlation_length(stack: Stack) -> float:
    """Return the lag at which correlation along rows and columns falls to one half of that without noise, in voxels."""
    lags = np.zeros(24)
    for section in stack:
        centred = section - section.mean()
        for lag in range(len(lags)):
            rows, columns = centred[lag:] * centred[: len(centred) - lag], centred[:, lag:] * centred[:, : -lag or None]
            lags[lag] += rows.mean() + columns.mean()
    lags[0] = min(lags[0], 2 * lags[1] - lags[2])  # without the noise, which no neighbour shares
    lags /= lags[0]
    first = int(np.argmax(lags < 0.5))
    return first - 1 + float((lags[first - 1] - 0.5) / (lags[first - 1] - lags[first]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
