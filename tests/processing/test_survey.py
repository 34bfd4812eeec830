"""What a sample shows besides intensities: NaN with its place, exact zeros, and the polarity of membranes."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from volumetool.geometry import Box
from volumetool.processing.survey import CERTAIN, LIKELY, PIECE, Survey, dark_lines
from volumetool.training.data.phantom import phantom

SHAPE = (2, 8 * PIECE, 8 * PIECE)


def surveyed(voxels: np.ndarray, nodata: float | None = None) -> Survey:
    """Look at a whole volume as one tile per section."""
    whole = Box.whole(voxels.shape)
    survey = Survey(whole, len(voxels), nodata)
    for z in range(len(voxels)):
        survey.add(0, Box((z, 0, 0), (z + 1, *voxels.shape[1:])), voxels[z : z + 1])
    return survey


@given(st.integers(0, 2**32))
def test_an_inverted_piece_has_the_opposite_lines(seed: int) -> None:
    piece = np.random.default_rng(seed).normal(size=(PIECE, PIECE))
    first, second = dark_lines(piece), dark_lines(-piece)
    assert first is not None
    assert second == pytest.approx(-first, abs=1e-12)


def test_dark_membranes_are_told_from_bright_ones() -> None:
    drawn = phantom((8, 8 * PIECE, 8 * PIECE))[::4]
    assert surveyed(drawn).polarity > CERTAIN
    assert surveyed(255 - drawn).polarity < -CERTAIN


def test_noise_has_no_polarity() -> None:
    noise = np.random.default_rng(3).normal(100, 20, SHAPE).astype(np.float32)
    assert abs(surveyed(noise).polarity) < LIKELY


@pytest.mark.parametrize("shape", [(1, 24, 24), (1, PIECE, 2 * PIECE)])
def test_of_too_little_nothing_is_said(shape: tuple[int, int, int]) -> None:
    assert surveyed(phantom((8, 128, 128))[:1, : shape[1], : shape[2]]).polarity == 0.0


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize(
    "file",
    ["fib25-fibsem/fib25_train1.tif", "isbi2012-sstem/isbi2012_train.tif", "kasthuri15-atum-sem/kasthuri15_s0001-0060.tif"],
)
def test_the_polarity_of_real_membranes_is_found(data: object, file: str, *, inverted: bool) -> None:
    voxels = tifffile.imread(f"{data}/{file}", key=range(0, 30, 10))
    polarity = surveyed(255 - voxels if inverted else voxels).polarity
    assert -polarity > LIKELY if inverted else polarity > LIKELY


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_first_voxel_that_is_no_number_is_named_where_it_lies(bad: float) -> None:
    voxels = np.ones((3, 9, 9), np.float32)
    voxels[2, 3, 4] = voxels[2, 8, 8] = bad
    survey = surveyed(voxels)
    assert survey.strange is not None
    assert survey.strange[:2] == (0, (2, 3, 4))
    assert str(survey.strange[2]) == str(bad)


def test_nan_that_means_no_data_is_no_surprise_but_infinity_is() -> None:
    voxels = np.ones((1, 9, 9), np.float32)
    voxels[0, 1, 1] = np.nan
    assert surveyed(voxels, nodata=np.nan).strange is None
    voxels[0, 2, 2] = np.inf
    strange = surveyed(voxels, nodata=np.nan).strange
    assert strange is not None
    assert strange[1] == (0, 2, 2)


def test_outside_of_what_is_asked_for_nan_harms_nobody() -> None:
    voxels = np.ones((1, 9, 9), np.float32)
    voxels[0, 1, 1] = voxels[0, 7, 7] = np.nan
    survey = Survey(Box((0, 5, 5), (1, 9, 9)), 1)
    survey.add(0, Box.whole((1, 9, 9)), voxels)
    assert survey.strange is not None
    assert survey.strange[1] == (0, 7, 7)


@given(st.integers(0, 100))
def test_zeros_are_counted_among_voxels_with_data(zeros: int) -> None:
    voxels = np.full(200, 7, np.uint8)
    voxels[:zeros], voxels[100:150] = 0, 9
    assert surveyed(voxels.reshape(2, 10, 10), nodata=9).zero_share == pytest.approx(zeros / 150)
