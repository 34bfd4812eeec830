"""What part of the squared error the boxes hold that `rescan` names.

Real pairs of a noisy and a clean scan of one field: the noisy one, averaged to pixels 4 times as wide, is the fast scan, em-x4
restores it with its expected error, and the clean one says what is wrong. Beside the boxes that `rescan` names stand those of
the largest real error (no ranking can do better) and those of the largest variance of the output. For comparison, a volume of
real tissue that a recipe degraded.

    python tests/benchmarks/rescanning.py DATA WORK
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from rich.console import Console

import volumetool as vt
from volumetool.training.data.registration import align_pairs

SCALE = 4
SIDES = (8, 16, 32, 64)
FRACTION = 0.1
PAGES = range(0, 32, 8)
Floats = NDArray[np.float32]

console = Console(width=160)


def pairs(data: Path) -> Iterator[tuple[str, NDArray[Any], Floats]]:
    """Yield name, coarse noisy scan and fine clean scan; clean ones have the grey values of the noisy ones."""
    folder = data / "emdiffuse-brain-pair"
    found = {"brain": [tifffile.imread(folder / f"brain_4w_07_{kind}.tif")[None] for kind in ("noisy", "clean")]}
    for name in ("line", "time"):
        files = [data / "kriss-sem-pairs" / f"{name}_{kind}.tif" for kind in ("noisy", "clean")]
        found[name] = [tifffile.imread(file, key=PAGES) for file in files]
    for name, (noisy, clean) in found.items():
        aligned = align_pairs(noisy, clean)
        z, y, x = (size // side * side for size, side in zip(aligned.noisy.shape, (1, SCALE, SCALE), strict=True))
        blocks = aligned.noisy[:, :y, :x].reshape(z, y // SCALE, SCALE, x // SCALE, SCALE)
        yield name, np.rint(blocks.mean(axis=(2, 4))).astype(np.uint8), np.asarray(aligned.clean[:, :y, :x], np.float32)


def degraded(data: Path, work: Path) -> tuple[str, NDArray[Any], Floats]:
    """Return the same of a volume that a recipe degraded."""
    truth = tifffile.imread(data / "kasthuri15-atum-sem/kasthuri15_s0001-0060.tif")[:8, :512, :512]
    np.save(work / "truth.npy", truth)
    fine = vt.convert(work / "truth.npy", work / "truth.zarr", voxel_size=(30, 6, 6), overwrite=True)
    low = vt.crappify(fine.url, work / "degraded.zarr", scale=(1, SCALE, SCALE), overwrite=True)
    return "kasthuri15, degraded", low[:], truth.astype(np.float32)


def measure(name: str, low: NDArray[Any], truth: Floats, work: Path) -> None:
    """Restore, rank, and print a row for each size of boxes."""
    np.save(work / "low.npy", low)
    output = work / "out.zarr"
    model = "em-x4;expected_error=true"
    vt.enhance(work / "low.npy", output, model=model, voxel_size=(30, 24, 24), workers=1, device="cpu", overwrite=True)
    volume = vt.open_volume(output)
    image = np.asarray(volume[0], np.float32)
    squares = (image - truth) ** 2
    for side in SIDES:
        z, y, x = volume.voxel_size
        found = vt.rescan(output, size=(z, side * y, side * x), fraction=FRACTION)
        named = sum(float(squares[each.box.slices].sum()) for each in found.boxes) / float(squares.sum())
        best = largest(squares, side)
        local = largest((image - block_means(image, side)) ** 2, side, squares)
        console.print(f"| {name} | {side} | {100 * named:.1f} % | {100 * best:.1f} % | {100 * local:.1f} % |")


def block_means(image: Floats, side: int) -> Floats:
    """Return the mean of each square, repeated; what the squares do not fill keeps its values."""
    _, y, x = (size // side * side for size in image.shape)
    means = image.copy()
    blocks = image[:, :y, :x].reshape(len(image), y // side, side, x // side, side).mean(axis=(2, 4))
    means[:, :y, :x] = blocks.repeat(side, axis=1).repeat(side, axis=2)
    return means


def largest(figure: Floats, side: int, squares: Floats | None = None) -> float:
    """Return the share of the squared error in the squares with the largest sum of a figure, by default the error itself."""
    shape = figure.shape
    cuts = [np.arange(0, size, side) for size in shape[1:]]

    def sums(values: Floats) -> NDArray[np.float64]:
        rows = np.add.reduceat(values.astype(np.float64), cuts[0], axis=1)
        return np.asarray(np.add.reduceat(rows, cuts[1], axis=2)).ravel()

    order = np.argsort(-sums(figure))
    area = np.cumsum(sums(np.ones(shape, np.float32))[order]) / np.prod(shape)
    errors = sums(figure if squares is None else squares)[order]
    return float(errors[: int(np.searchsorted(area, FRACTION)) + 1].sum() / errors.sum())


if __name__ == "__main__":
    source, folder = map(Path, sys.argv[1:3])
    folder.mkdir(parents=True, exist_ok=True)
    console.print("| data | side, voxels | named | largest error | largest variance |\n|---|---|---|---|---|")
    for row in pairs(source):
        measure(*row, folder)
    measure(*degraded(source, folder), folder)
