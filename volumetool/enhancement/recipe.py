"""The recipe: everything that decides a voxel of the output, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from volumetool.enhancement.statistics import Statistics
from volumetool.geometry import Box, Lattice, LevelGrid, Region, Triple


@dataclass(frozen=True)
class Recipe:
    """How the voxels of a job are made.

    Parameters
    ----------
    lattice : Lattice
        Positions of all patches.
    statistics : Statistics
        Percentiles of every section of the input.
    levels : tuple of LevelGrid
        Levels of the output.
    dtype : str
        NumPy name of the output's dtype.
    origin : tuple of int
        Voxel of the full output at which this output begins; (0, 0, 0) unless it is cropped.
    nodata : float, optional
        Input value that marks missing voxels; ``nan`` marks NaN.
    fill : float
        Output value of missing voxels.
    gaps : bool
        Voxels of chunks that are not stored are missing, too.
    flatten : bool
        Give all sections the volume's median contrast on output, instead of each its own.
    invert : bool
        The volume's polarity is opposite to the model's: turned before the network and back after it.
    """

    lattice: Lattice
    statistics: Statistics
    levels: tuple[LevelGrid, ...]
    dtype: str
    origin: Triple = (0, 0, 0)
    nodata: float | None = None
    fill: float = 0.0
    gaps: bool = False
    flatten: bool = False
    invert: bool = False

    @cached_property
    def fused(self) -> tuple[LevelGrid, ...]:
        """The levels that a region writes itself."""
        return tuple(level for level in self.levels if level.fused)

    @property
    def may_miss(self) -> bool:
        """Whether voxels of the input may be missing."""
        return self.nodata is not None or self.gaps

    def core(self, region: Region) -> Box:
        """Return the voxels of the full output that a region computes."""
        return region.box.shifted(self.origin)

    def input_scale(self, channel: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return per section (zero, span): the network sees ``(voxel - zero) / span``."""
        return self._scale(self.statistics.low[channel], self.statistics.high[channel])

    def output_scale(self, channel: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return per input section (zero, span): a voxel is ``network * span + zero``."""
        low, high = self.statistics.low[channel], self.statistics.high[channel]
        if self.flatten:
            low, high = np.full_like(low, np.median(low)), np.full_like(high, np.median(high))
        return self._scale(low, high)

    def _scale(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        zero, span = (high, low - high) if self.invert else (low, high - low)
        return zero.astype(np.float32), span.astype(np.float32)
