"""Crappifiers are pixel-centred, seeded, and as noisy as their papers say."""

from __future__ import annotations

import numpy as np
import pytest

from volumetool.errors import ConfigError
from volumetool.training.crappify import RECIPES, block_mean, crappify, sample_centres


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_the_seed_decides_every_byte(recipe: str) -> None:
    fine = np.random.default_rng(0).integers(0, 256, (2, 40, 48), dtype=np.uint8)
    first, again, other = (crappify(fine, recipe, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.dtype == np.uint8
    assert first.shape == (2, 10, 12)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_without_noise_a_ramp_is_sampled_at_the_block_centres(recipe: str, scale: int) -> None:
    fine = np.broadcast_to(np.arange(60, dtype=np.uint8) * 4, (60, 60))
    coarse = crappify(fine, recipe, np.random.default_rng(0), scale=scale, strength=0)
    centres = 4 * (np.arange(60 // scale) * scale + (scale - 1) / 2)
    assert np.array_equal(coarse[0], np.rint(centres).astype(np.uint8))


@pytest.mark.parametrize("reduce", [sample_centres, block_mean])
def test_reduction_does_not_depend_on_the_size_of_the_array(reduce: object) -> None:
    assert callable(reduce)
    fine = np.random.default_rng(0).random((41, 43), dtype=np.float32)
    assert np.array_equal(reduce(fine, 4)[2:5, 3:6], reduce(fine[8:20, 12:24], 4))


def test_sampling_takes_the_two_by_two_central_pixels() -> None:
    fine = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert sample_centres(fine, 4)[0, 0] == (5 + 6 + 9 + 10) / 4
    assert sample_centres(fine, 3)[0, 0] == 5
    assert block_mean(fine, 4)[0, 0] == 7.5


def test_pssr_em_noise_has_the_published_variance() -> None:
    # 0.05 x 0.5 per fine pixel, averaged over 2 x 2: sd 0.079, less the little that clipping takes away.
    coarse = crappify(np.full((800, 800), 128, np.uint8), "pssr-em", np.random.default_rng(0))
    assert coarse.std() / 255 == pytest.approx(np.sqrt(0.05 * 0.5) / 2, rel=0.03)
    assert coarse.mean() == pytest.approx(128, abs=0.5)


def test_pssr_em_is_noisier_where_it_is_brighter() -> None:
    dark, bright = (
        crappify(np.full((400, 400), grey, np.uint8), "pssr-em", np.random.default_rng(0)).std() for grey in (40, 140)
    )
    assert bright > 1.3 * dark


def test_poisson_noise_has_the_variance_of_the_count() -> None:
    coarse = crappify(np.full((800, 800), 100, np.uint8), "pssr2-poisson", np.random.default_rng(0))
    assert coarse.std() == pytest.approx(10, rel=0.03)


@pytest.mark.parametrize("recipe", sorted(RECIPES))
def test_strength_scales_the_noise(recipe: str) -> None:
    fine = np.full((400, 400), 120, np.uint8)
    mild, full = (crappify(fine, recipe, np.random.default_rng(0), strength=s).std() for s in (0.5, 1.0))
    assert full == pytest.approx(2 * mild, rel=0.05)


def test_noise_is_as_strong_everywhere() -> None:
    # Endpoint-pinned resizing would leave a slow moire in the noise.
    coarse = crappify(np.full((64, 8000), 128, np.uint8), "pssr-em", np.random.default_rng(0)).astype(float)
    spread = coarse.reshape(16, 40, 50).std(axis=(0, 2))
    assert spread.max() / spread.min() < 1.25


def test_an_unknown_recipe_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="pssr-em") as caught:
        crappify(np.zeros((8, 8), np.uint8), "blur", np.random.default_rng(0))
    assert caught.value.code == "config.recipe"
