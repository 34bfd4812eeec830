"""How the benchmarks of the method score: sums over blocks, from which every score and every interval follows.

A block has 128 x 128 fine voxels, or what is left of it at a face. PSNR is that of the mean square error over all voxels of a
set; SSIM is the mean of its map. The affine scores come after the least-squares affine fit of each section to its truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.evaluation.baselines import METHODS, Strength, restore, tune
from volumetool.evaluation.evaluate import bootstrap
from volumetool.evaluation.scores.metrics import as_stored, fit_affine
from volumetool.evaluation.scores.ssim import WINDOW, ssim_maps

BLOCK = 128
RANGE = 255.0

Bytes = NDArray[np.uint8]
Sums = NDArray[np.float64]
"""float64 (blocks, 6): voxels, squared error, squared error after the affine fit, windows of SSIM, SSIM, SSIM after the fit."""

Score = Callable[[Sums], NDArray[np.float64]]
"""From sums (n, 6) to scores (n,)."""


def _psnr(error: int) -> Score:
    return lambda sums: 10 * np.log10(RANGE**2 * sums[:, 0] / np.maximum(sums[:, error], 1e-9))


def _mean(column: int) -> Score:
    return lambda sums: sums[:, column] / sums[:, 3]


SCORES: dict[str, Score] = {"psnr": _psnr(1), "psnr_affine": _psnr(2), "ssim": _mean(4), "ssim_affine": _mean(5)}


def sum_blocks(restored: NDArray[Any], truth: Bytes) -> Sums:
    """Score one section, rounded to 8 bit, block by block.

    Parameters
    ----------
    restored : ndarray
        (y, x) grey values.
    truth : ndarray
        uint8 (y, x).
    """
    stored = as_stored(restored, truth.dtype)
    gain, offset = fit_affine(stored, truth)
    grey, fine = stored.astype(np.float64), truth.astype(np.float64)
    ssim = ssim_maps(stored, truth, data_range=RANGE, affines=((1.0, 0.0), (gain, offset)))
    maps = [np.ones_like(fine), (grey - fine) ** 2, (gain * grey + offset - fine) ** 2]
    maps += [np.pad(each, WINDOW // 2) for each in (np.ones_like(ssim[0]), *ssim)]
    places = [np.arange(0, size, BLOCK) for size in truth.shape]
    sums = [np.add.reduceat(np.add.reduceat(each, places[0], 0), places[1], 1).ravel() for each in maps]
    return np.stack(sums, axis=1)  # (blocks, 6)


def scores_of(sums: Sums) -> dict[str, float]:
    """Return every score of pooled blocks."""
    return {name: float(score(sums.sum(axis=0)[None])[0]) for name, score in SCORES.items()}


def difference(ours: Sums, theirs: Sums, score: str) -> dict[str, float]:
    """Return how much better ours is, with the 95 % interval of the bootstrap over blocks."""
    both = np.concatenate([ours, theirs], axis=1)  # (blocks, 12)

    def apart(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        return SCORES[score](sums[:, :6]) - SCORES[score](sums[:, 6:])

    low, high = bootstrap(both, statistic=apart)
    return {"mean": float(apart(both.sum(axis=0)[None])[0]), "low": low, "high": high}


Found = dict[str, tuple[Strength, Sums]]
"""By method its strength and its sums over the blocks of all sections."""


def classical(coarse: Sequence[Bytes], truths: Sequence[Bytes], only: Sequence[str] = ()) -> Found:
    """Run every classical method that is installed, each at the strength that is best on these very sections.

    Parameters
    ----------
    coarse, truths : sequence of ndarray
        uint8 (y, x) sections and their truths. With neighbours, (z, y, x) with the section in the middle, methods that look at
        these run too.
    only : sequence of str
        Methods to run; all by default.
    """
    pairs = list(zip(coarse, truths, strict=True))
    found = {}
    for name, method in METHODS.items():
        if method.installed and (not only or name in only) and not (method.reach and coarse[0].ndim == 2):
            strength = tune(name, pairs)
            sums = [sum_blocks(restore(name, low, fine.shape[0] // low.shape[-2], strength), fine) for low, fine in pairs]
            found[name] = (strength, np.concatenate(sums))
    return found


def best(found: Found, score: str) -> str:
    """Return the method with the best score."""
    return max(found, key=lambda name: scores_of(found[name][1])[score])
