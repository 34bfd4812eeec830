"""Confidence intervals by the bootstrap over blocks.

Voxels of one section are no independent samples, and neither are neighbouring sections of one piece of tissue. What is
drawn with replacement is therefore the block, a field much larger than the distance over which errors correlate.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]
Statistic = Callable[[Doubles], Doubles]
"""A function from sums over blocks, float64 (resamples, columns), to one number per resample."""

RESAMPLES = 2000
_AT_ONCE = 2**22  # draws held in memory


def bootstrap(
    block_errors: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    seed: int = 0,
    statistic: Statistic | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of a statistic of blocks (Efron's percentile bootstrap).

    Parameters
    ----------
    block_errors : array, shape (blocks,) or (blocks, columns)
        One number per block, such as its mean square error; or, with `statistic`, sums over each block.
    weights : array, shape (blocks,), optional
        Without `statistic`: voxels per block; the statistic is then the weighted mean.
    seed : int
        The same seed gives the same interval. Two methods compared over the same blocks see the same draws.
    statistic : callable, optional
        From the sums over the drawn blocks, float64 (resamples, columns), to (resamples,); by default the (weighted) mean.
    level : float
        Coverage of the interval, between 0 and 1.

    Returns
    -------
    tuple of float
        Lower and upper end. Draws for which the statistic is not a number are left out; without others both are NaN.

    Examples
    --------
    >>> bootstrap([2.0, 2.0, 2.0])
    (2.0, 2.0)
    """
    sums = np.asarray(block_errors, np.float64)
    if statistic is None:
        weight = np.ones(len(sums)) if weights is None else np.asarray(weights, np.float64)
        sums, statistic = np.stack([sums * weight, weight], axis=1), _ratio
    return interval(statistic(draw_sums(sums if sums.ndim == 2 else sums[:, None], seed)), level)


def draw_sums(table: Doubles, seed: int) -> Doubles:
    """Draw blocks with replacement, as many as there are, and add up their columns.

    Parameters
    ----------
    table : numpy.ndarray of float64, shape (blocks, columns)
        Sums over each block.
    seed : int
        The same seed draws the same blocks.

    Returns
    -------
    numpy.ndarray of float64, shape (RESAMPLES, columns)
        Sums over the blocks drawn, one row per draw.
    """
    blocks = len(table)
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // blocks)
    drawn = []
    for start in range(0, RESAMPLES, at_once):
        counts = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=min(at_once, RESAMPLES - start))
        drawn.append(counts.astype(np.float64) @ table)  # (resamples, columns)
    return np.concatenate(drawn)


def interval(values: Doubles, level: float = 0.95) -> tuple[float, float]:
    """Return the ends of the middle part of the values that are numbers.

    Parameters
    ----------
    values : numpy.ndarray of float64, shape (resamples,)
        Values of a statistic; NaN is left out.
    level : float
        Share of the values between the ends, between 0 and 1.

    Returns
    -------
    tuple of float
        Lower and upper end; both NaN where no value is a number.
    """
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, ((1 - level) / 2, (1 + level) / 2), method="inverted_cdf")  # PSNR may be infinite
    return float(low), float(high)


def _ratio(sums: Doubles) -> Doubles:
    return sums[:, 0] / sums[:, 1]
