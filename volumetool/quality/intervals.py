"""Confidence intervals by the bootstrap over blocks.

Voxels of one section are no independent samples, and neither are neighbouring sections of one piece of tissue. What is
drawn with replacement is therefore the block, a field much larger than the distance over which errors correlate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Doubles = NDArray[np.float64]
Statistic = Callable[[Doubles], Doubles]
"""From sums over blocks, float64 (resamples, columns), to one number per resample."""

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
        Same seed, same interval. Two methods compared over the same blocks see the same draws.
    statistic : callable, optional
        From the sums over the drawn blocks, float64 (resamples, columns), to (resamples,); by default the (weighted) mean.
    level : float
        Coverage.

    Returns
    -------
    tuple of float
        Lower and upper end.

    Examples
    --------
    >>> bootstrap([2.0, 2.0, 2.0])
    (2.0, 2.0)
    """
    sums = np.asarray(block_errors, np.float64)
    if statistic is None:
        weight = np.ones(len(sums)) if weights is None else np.asarray(weights, np.float64)
        sums, statistic = np.stack([sums * weight, weight], axis=1), _ratio
    table = sums if sums.ndim == 2 else sums[:, None]
    values = np.concatenate([statistic(draws @ table) for draws in _draws(len(table), seed)])
    low, high = np.quantile(values, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def _draws(blocks: int, seed: int) -> Any:
    """Yield float64 (some resamples, blocks): how often each block was drawn."""
    rng = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // blocks)
    for start in range(0, RESAMPLES, at_once):
        count = min(at_once, RESAMPLES - start)
        yield rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=count).astype(np.float64)


def _ratio(sums: Doubles) -> Doubles:
    return sums[:, 0] / sums[:, 1]
