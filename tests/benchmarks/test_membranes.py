"""A membrane that is drawn where the truth has none counts; grains, noise, edges, spots and true membranes do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from membranes import false_membranes
from numpy.typing import NDArray
from scipy import ndimage

from volumetool.evaluation.scores.resample import enlarge
from volumetool.training.data.textures import draw_textures

SHAPE = (1, 192, 192)
Y, X = np.mgrid[:192, :192]
CURVED = np.abs(np.hypot(Y - 200, X - 96) - 110)
"""Distance in voxels to an arc across the section."""

Section = NDArray[Any]


def textured(kind: str, seed: int = 1) -> Section:
    return draw_textures(SHAPE, (8.0, 8.0, 8.0), (kind,), seed)[0].astype(np.float32)


def stained(section: Section, away: Section, depth: float = 60, width: float = 1.2) -> Section:
    """Return the section with something dark drawn where `away`, in voxels, is small."""
    return section - depth * np.exp(-0.5 * (away / width) ** 2)


def count(restored: Section, truth: Section) -> int:
    return int(false_membranes(restored, truth).max())


@pytest.mark.thin(2)
@pytest.mark.parametrize("kind", ["resin", "granules", "chromatin"])
@pytest.mark.parametrize("away", [np.abs(X - 0.4 * Y - 60), CURVED], ids=["straight", "curved"])
def test_a_membrane_counts_that_is_drawn_over_wiped_out_texture(kind: str, away: Section) -> None:
    truth = textured(kind)
    wiped = ndimage.gaussian_filter(truth, 4)
    assert count(wiped, truth) == 0
    found = false_membranes(stained(wiped, away, depth=30), truth)
    assert 1 <= found.max() <= 3  # where texture joins it, it is cut
    assert away[found > 0].max() < 4


def test_all_of_a_membrane_is_found_where_nothing_joins_it() -> None:
    truth = textured("resin")
    found = false_membranes(stained(truth, CURVED), truth)
    assert found.max() == 1
    assert np.count_nonzero(found) > 150


def test_a_membrane_of_the_truth_is_no_false_one_even_if_it_moves_a_little() -> None:
    truth = textured("granules")
    wiped = ndimage.gaussian_filter(truth, 4)
    assert count(stained(wiped, np.abs(X - 96)), truth) > 0
    assert count(stained(wiped, np.abs(X - 96)), stained(truth, np.abs(X - 97.5))) == 0


@pytest.mark.parametrize("kind", ["granules", "chromatin", "resin"])
def test_texture_that_is_not_the_truths_is_no_membrane(kind: str) -> None:
    assert count(textured(kind, seed=2), textured(kind, seed=1)) == 0


@pytest.mark.parametrize("scale", [1, 4])
def test_noise_is_no_membrane_enlarged_or_not(scale: int) -> None:
    noise = np.random.default_rng(4).normal(150, 25, (192 // scale, 192 // scale))
    assert count(enlarge(noise, (scale, scale), "linear"), np.full(SHAPE[1:], 150.0)) == 0


def test_spots_edges_and_short_lines_are_no_membranes() -> None:
    truth = textured("resin")
    spot = np.maximum(np.hypot(Y - 50, X - 50) - 12, 0)
    short = np.hypot(np.maximum(np.abs(Y - 150) - 10, 0), X - 60)
    dark = stained(stained(truth, short), spot)
    assert count(np.where(X > 120, dark - 70, dark), truth) == 0


def test_grey_levels_of_any_scale_give_the_same_lines() -> None:
    truth = textured("granules")
    restored = stained(ndimage.gaussian_filter(truth, 4), CURVED)
    wide = false_membranes(restored * 257, truth * 257, data_range=65535)
    assert np.array_equal(wide > 0, false_membranes(restored, truth) > 0)
