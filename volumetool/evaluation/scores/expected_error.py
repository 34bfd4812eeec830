"""Expected errors of a network, held against the errors that it makes.

The second output of a network is the logarithm of the scale b of a Laplace distribution, ``exp(-|e| / b) / (2 b)``, that its
errors e are taken to follow; see `volumetool.training.losses.expected_error_loss`. Hence b is the expected absolute error. It
also gives intervals: ``P(|e| > t) = exp(-t / b)``, so that a share p of them lies within ``-b ln(1 - p)``, for 90 % within
2.303 b.

Networks may be too sure of what they learnt, and errors are more like Gaussian ones, of which 93.4 % lie within. One number
per model mends both: the factor on b with which 90 % of the errors on data that the network did not learn from lie within the
interval, whatever their distribution. The card keeps it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from volumetool.evaluation.scores.resample import Floats

LEVEL = 0.9
HALF_WIDTH = -math.log(1 - LEVEL)
"""Half of the interval that holds so many of the errors, in expected absolute errors."""

BLOCK = 32
"""Side of the squares, in voxels, whose mean errors are ranked."""

MOST_BLOCKS = 2**18
"""Blocks to rank, at most; of more, evenly spread ones are taken."""


@dataclass(frozen=True)
class ExpectedError:
    """The quality of a network's expected errors on the data scored.

    Attributes
    ----------
    coverage : float
        Share of the voxels whose truth lies in the 90 % interval, as the network says it.
    factor : float or None
        The card's calibration.
    calibrated_coverage : float or None
        The share with that factor.
    expected, made : float
        Mean absolute error, in grey levels: expected, not calibrated; and made.
    correlation : float
        Spearman's rank correlation of both, taken over blocks; NaN where there are no two blocks that differ.
    blocks : int
        Squares of 32 x 32 voxels that were ranked.
    """

    coverage: float
    factor: float | None
    calibrated_coverage: float | None
    expected: float
    made: float
    correlation: float
    blocks: int

    @property
    def words(self) -> str:
        """The findings as a sentence."""
        calibrated = (
            "the card has no calibration"
            if self.calibrated_coverage is None
            else f"{self.calibrated_coverage:.1%} with the card's factor {self.factor:.3g}"
        )
        return (
            f"90 % intervals hold {self.coverage:.1%} of the voxels as the network says them, {calibrated}; expected "
            f"{self.expected:.3g} grey levels, made {self.made:.3g}; rank correlation over {self.blocks} blocks "
            f"{self.correlation:.2f}"
        )


def covering_factor(expected: Floats, made: Floats) -> float:
    """Return the factor on expected absolute errors with which 90 % of the errors made lie within their intervals."""
    return float(np.quantile(np.abs(made) / expected, LEVEL)) / HALF_WIDTH


class ErrorTally:
    """Gathers expected and real errors, tile by tile.

    Parameters
    ----------
    factor : float or None
        Calibration of the expected errors.
    most_blocks : int
        Most blocks of one tile that are ranked.
    """

    def __init__(self, factor: float | None, most_blocks: int) -> None:
        self._factor = factor
        self._most = max(1, most_blocks)
        self._sums = np.zeros(5)  # voxels; those in the interval, raw and calibrated; expected and real error
        self._blocks: list[Floats] = []

    def add(self, expected: Floats, made: Floats) -> None:
        """Add a tile: float32 (y, x) expected absolute errors, and absolute errors, in grey levels."""
        inside = [np.count_nonzero(made <= HALF_WIDTH * f * expected) for f in (1.0, self._factor or 1.0)]
        self._sums += (made.size, *inside, expected.sum(dtype=np.float64), made.sum(dtype=np.float64))
        rows, columns = (size // BLOCK for size in made.shape)
        cut = np.stack([expected, made])[:, : rows * BLOCK, : columns * BLOCK]  # (2, y, x)
        means = cut.reshape(2, rows, BLOCK, columns, BLOCK).mean(axis=(2, 4)).reshape(2, -1)  # (2, blocks)
        self._blocks.append(means[:, :: max(1, -(-means.shape[1] // self._most))])

    def result(self) -> ExpectedError:
        """Return what was found."""
        count, *sums = self._sums.tolist()
        raw, calibrated, expected, made = (total / count for total in sums)
        ranked = np.concatenate(self._blocks, axis=1)  # (2, blocks)
        differ = ranked.shape[1] > 1 and bool((np.ptp(ranked, axis=1) > 0).all())
        return ExpectedError(
            coverage=raw,
            factor=self._factor,
            calibrated_coverage=None if self._factor is None else calibrated,
            expected=expected,
            made=made,
            correlation=float(stats.spearmanr(*ranked).statistic) if differ else float("nan"),
            blocks=ranked.shape[1],
        )
