"""Sums over blocks, from which every score follows: of a block, a section, the whole, or any draw of the bootstrap.

Scores are ratios of sums, so nothing needs to be in memory at once, and the result does not depend on how it was cut. For
integer dtypes the sums of the first pass are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from volumetool.evaluation.scores.metrics import Scores
from volumetool.evaluation.scores.ssim import (
    TAPS,
    WINDOW,
    Doubles,
    combine_scales,
    ms_ssim_maps,
    scales_that_fit,
    ssim_maps,
)
from volumetool.evaluation.scores.tiling import Tile
from volumetool.geometry import Box

BLOCK = 128
"""Side of a block of the bootstrap, in voxels, as long as there are at most `MOST_BLOCKS`."""

MOST_BLOCKS = 2**14

_N, _R, _T, _RR, _TT, _RT, _SSIM_N, _SSIM, _SSIM_AFFINE, _SCALES = range(10)
METRICS = tuple(field.name for field in fields(Scores))


class Sums:
    """Sums of one row of the table, per section and block.

    Parameters
    ----------
    box : Box
        The part that is evaluated, in voxels of the truth.
    sections : int
        Number of sections of the box that are evaluated.
    data_range : float
        Difference between the largest and the smallest possible value.

    Attributes
    ----------
    edge : int
        Side of a block, in voxels.
    scales : int
        Scales of MS-SSIM that fit.
    table : numpy.ndarray of float64, shape (sections, blocks along y, blocks along x, columns)
        The sums; columns are moments, SSIM and the scales of MS-SSIM.
    """

    def __init__(self, box: Box, sections: int, data_range: float) -> None:
        self.data_range = data_range
        self.scales = scales_that_fit(box.shape[1:])
        self.edge = block_edge(box.shape[1:], sections)
        self._box = box
        y, x = (-(-size // self.edge) for size in box.shape[1:])
        self.table = np.zeros((sections, y, x, _SCALES + 2 * self.scales))

    def add_moments(self, tile: Tile, restored: NDArray[Any], truth: NDArray[Any]) -> None:
        """Add sums and products of the grey values that a tile owns: the first pass.

        Parameters
        ----------
        tile : Tile
            Part of one section; only what it owns is added.
        restored, truth : numpy.ndarray, shape (y, x)
            Grey values of all voxels that the tile sees, on the same intensity scale.
        """
        own = tile.owned.shifted((-tile.seen.start[0], -tile.seen.start[1], -tile.seen.start[2])).slices[1:]
        r, t = restored[own].astype(np.float64), truth[own].astype(np.float64)  # (y, x) owned
        ys, xs = (np.arange(a, b) for a, b in self._local(tile))
        for column, values in ((_N, np.ones_like(r)), (_R, r), (_T, t), (_RR, r * r), (_TT, t * t), (_RT, r * t)):
            self._add(tile.number, column, values, ys, xs)

    def add_structure(self, tile: Tile, restored: NDArray[Any], truth: NDArray[Any]) -> None:
        """Add SSIM, raw and affine, and MS-SSIM at the positions that a tile owns: the second pass.

        It needs the affine map, so all tiles must have gone through :meth:`add_moments` before.

        Parameters
        ----------
        tile, restored, truth
            As for :meth:`add_moments`.
        """
        raw, fitted = ssim_maps(restored, truth, data_range=self.data_range, affines=((1.0, 0.0), self.affine))
        ones = np.ones_like(raw)
        for column, values in ((_SSIM_N, ones), (_SSIM, raw), (_SSIM_AFFINE, fitted)):
            self._add_owned(tile, column, values, scale=0, edge=WINDOW // 2)
        for scale, values in enumerate(ms_ssim_maps(restored, truth, data_range=self.data_range, scales=self.scales)):
            self._add_owned(tile, _SCALES + 2 * scale, np.ones_like(values), scale=scale, edge=TAPS // 2)
            self._add_owned(tile, _SCALES + 2 * scale + 1, values, scale=scale, edge=TAPS // 2)

    @property
    def affine(self) -> tuple[float, float]:
        """Gain and offset fitted by least squares over everything that was added."""
        n, r, t, rr, _, rt = self.table.sum(axis=(0, 1, 2))[:_SSIM_N]  # (6,)
        variance = n * rr - r * r
        gain = float((n * rt - r * t) / variance) if variance > 0 else 0.0
        return gain, float((t - gain * r) / n)

    @property
    def blocks(self) -> Doubles:
        """Sums per block, float64 (blocks, columns)."""
        blocks: Doubles = self.table.reshape(-1, self.table.shape[-1])  # (blocks, columns)
        return blocks

    def score(self, sums: Doubles, metric: str) -> Doubles:
        """Return a score from sums.

        Parameters
        ----------
        sums : numpy.ndarray of float64, shape (..., columns)
            Sums over any set of blocks.
        metric : str
            One of `METRICS`.

        Returns
        -------
        numpy.ndarray of float64, shape (...)
            Infinite where nothing differs; NaN where the blocks are too small to hold a window.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            if metric == "ms_ssim":
                return combine_scales([sums[..., c + 1] / sums[..., c] for c in range(_SCALES, sums.shape[-1], 2)])
            if metric.startswith("ssim"):
                return np.asarray(sums[..., _SSIM if metric == "ssim" else _SSIM_AFFINE] / sums[..., _SSIM_N])
            error = self.squared_error(sums, self.affine if metric == "psnr_affine" else (1.0, 0.0)) / sums[..., _N]
            return np.asarray(10 * np.log10(self.data_range**2 / error))

    def scores(self, sums: Doubles) -> Scores:
        """Return all scores of one set of blocks, sums of shape (columns,)."""
        return Scores(**{metric: float(self.score(sums, metric)) for metric in METRICS})

    def squared_error(self, sums: Doubles, affine: tuple[float, float] = (1.0, 0.0)) -> Doubles:
        """Return the sum of ``(gain * restored + offset - truth)**2``, never below 0.

        Parameters
        ----------
        sums : numpy.ndarray of float64, shape (..., columns)
            Sums over any set of blocks.
        affine : tuple of float
            Gain and offset.

        Returns
        -------
        numpy.ndarray of float64, shape (...)
            Squared grey levels.
        """
        gain, offset = affine
        n, r, t, rr, tt, rt = np.moveaxis(sums[..., :_SSIM_N], -1, 0)  # (...) each
        error = gain * gain * rr + tt + offset * offset * n + 2 * (gain * offset * r - gain * rt - offset * t)
        return np.asarray(np.maximum(error, 0.0))

    def _local(self, tile: Tile) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return the owned rows and columns, counted from the corner of what is evaluated."""
        _, top, left = self._box.start
        (_, y0, x0), (_, y1, x1) = tile.owned.start, tile.owned.stop
        return (y0 - top, y1 - top), (x0 - left, x1 - left)

    def _add_owned(self, tile: Tile, column: int, values: Doubles, *, scale: int, edge: int) -> None:
        places, cuts = [], []
        for axis, (start, stop) in enumerate(self._local(tile), start=1):
            first = (tile.seen.start[axis] - self._box.start[axis] >> scale) + edge  # of the map, in pixels of the scale
            index = np.arange(values.shape[axis - 1]) + first
            own = slice(*np.searchsorted(index, (start >> scale, stop >> scale)))
            cuts.append(own)
            places.append(index[own] << scale)
        self._add(tile.number, column, values[tuple(cuts)], *places)

    def _add(self, number: int, column: int, values: Doubles, ys: NDArray[np.intp], xs: NDArray[np.intp]) -> None:
        if not values.size:
            return
        rows, row_starts = np.unique(ys // self.edge, return_index=True)
        columns, column_starts = np.unique(xs // self.edge, return_index=True)
        block = np.add.reduceat(np.add.reduceat(values, row_starts, axis=0), column_starts, axis=1)  # (rows, columns)
        self.table[number, rows[:, None], columns[None], column] += block


def block_edge(shape: Sequence[int], sections: int) -> int:
    """Return the side of a block: `BLOCK`, doubled until no more than `MOST_BLOCKS` cover all sections."""
    edge = BLOCK
    while sections * math.prod(-(-size // edge) for size in shape) > MOST_BLOCKS and edge < max(shape):
        edge *= 2
    return edge
