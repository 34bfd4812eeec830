"""Random numbers of a position have the distributions that they claim."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from volumetool.degradation.arrays import BlockPosition
from volumetool.degradation.counter_rng import INVERTED, hashes, normal, poisson, uniform

SHAPE = (4, 500, 500)
MILLION = 10**6


def place(seed: int = 1, number: int = 0, origin: tuple[int, int, int] = (0, 0, 0)) -> BlockPosition:
    return BlockPosition(origin, (1, 1, 1), seed, number)


def bits(**where: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    return np.asarray(hashes(np.empty(SHAPE), place(**where)))


def distance(sample: np.ndarray[tuple[int, ...], np.dtype[np.float64]], distribution: object) -> float:
    """Return the Kolmogorov-Smirnov distance; 0.0020 is exceeded once in a thousand times by a million true samples."""
    return float(stats.kstest(sample.ravel(), distribution.cdf).statistic)  # type: ignore[attr-defined]


def test_uniform_numbers_are_uniform() -> None:
    assert distance(uniform(bits()), stats.uniform) < 0.0020


def test_normal_numbers_are_normal() -> None:
    drawn = normal(bits()).astype(float)
    assert distance(drawn, stats.norm) < 0.0020
    assert stats.kurtosis(drawn.ravel()) == pytest.approx(0, abs=0.03)
    assert np.isfinite(drawn).all()


@pytest.mark.parametrize("mean", [0.0, 0.03, 1.0, 7.5, INVERTED - 0.01, INVERTED, 20.0, 255.0, 5000.0])
def test_poisson_numbers_are_those_of_scipy(mean: float) -> None:
    drawn = poisson(np.full(SHAPE, mean, np.float32), bits())
    assert np.array_equal(drawn, np.rint(drawn))
    counts = np.arange(0, int(drawn.max()) + 2)
    seen = np.cumsum(np.bincount(drawn.ravel().astype(int), minlength=len(counts))) / drawn.size
    assert np.abs(seen - stats.poisson.cdf(counts, np.float32(mean))).max() < 0.0020
    assert drawn.mean(dtype=float) == pytest.approx(mean, abs=4 * np.sqrt(mean / MILLION) + 1e-12)
    assert drawn.var(dtype=float) == pytest.approx(mean, rel=0.01, abs=0.001)


def test_poisson_numbers_below_the_threshold_are_exact() -> None:
    chance = bits()[0]
    drawn = poisson(np.full(chance.shape, 5.3, np.float32), chance)
    assert np.array_equal(drawn, stats.poisson.ppf(uniform(chance), np.float32(5.3)))


@pytest.mark.parametrize("mean", [12.0, 30.0, 255.0])
def test_the_expansion_errs_by_less_than_it_says(mean: float) -> None:
    # Every normal number in the place of random ones: the distribution function is seen without chance.
    share = (np.arange(MILLION) + 0.5) / MILLION
    z = stats.norm.ppf(share)
    root = np.sqrt(mean)
    counts = np.floor(mean + root * z + z * z / 6 + 1 / 3 - z * (2 + z * z) / (72 * root))
    ranks = np.arange(0, int(counts.max()) + 1)
    error = np.searchsorted(counts, ranks, side="right") / MILLION - stats.poisson.cdf(ranks, mean)
    assert np.abs(error).max() < 2e-4 + 1e-6


@pytest.mark.parametrize("other", [{"seed": 2}, {"number": 1}, {"seed": -1}])
def test_seeds_and_steps_are_independent(other: dict[str, int]) -> None:
    first, second = normal(bits()), normal(bits(**other))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.004


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("lag", [1, 2, 3])
def test_neighbours_are_independent(axis: int, lag: int) -> None:
    drawn = np.moveaxis(normal(bits()), axis, 0)
    assert abs(np.corrcoef(drawn[lag:].ravel(), drawn[:-lag].ravel())[0, 1]) < 0.005


def test_a_position_far_out_has_its_own_numbers() -> None:
    far = hashes(np.empty((1, 4, 4)), place(origin=(10**6, 10**7, 10**7)))
    near = hashes(np.empty((1, 3, 3)), place(origin=(10**6, 10**7 + 1, 10**7 + 1)))
    assert np.array_equal(far[:, 1:, 1:], near)
    assert len(np.unique(far)) == far.size
