"""What a sample shows besides intensities: NaN with its place, exact zeros, polarity of membranes, likeness of sections."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from volumetool.geometry import Box
from volumetool.processing.survey import CERTAIN, LIKELY, MOST_PAIRS, PIECE, Evidence, Survey, dark_lines
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


def evidence_of(sections: np.ndarray, nodata: float | None = None) -> Evidence | None:
    """Look at each section with the one before it."""
    survey = Survey(Box.whole(sections.shape), len(sections), nodata)
    for z in range(max(1, len(sections) - 1)):
        survey.add(0, Box((z, 0, 0), (z + 2, *sections.shape[1:])), sections[z : z + 2])
    return survey.evidence


def noisy(sections: np.ndarray, sd: float) -> np.ndarray:
    return sections + np.random.default_rng(1).normal(0, sd, sections.shape).astype(np.float32)


def moved(sections: np.ndarray, by: int) -> np.ndarray:
    return np.stack([np.roll(section, by * (z % 2), axis=1) for z, section in enumerate(sections)])


@pytest.fixture(scope="module")
def drawn() -> np.ndarray:
    """Draw sections that change slowly, smoothed to what a microscope resolves."""
    return ndimage.gaussian_filter(phantom((40, 192, 192), seed=2).astype(np.float32), 1.0)


def test_sections_that_lie_farther_apart_are_less_alike(drawn: np.ndarray) -> None:
    found = [evidence_of(drawn[::step]) for step in (1, 4, 12)]
    near, middle, far = (each.neighbours for each in found if each is not None and each.neighbours is not None)
    assert near > 0.9 > middle > far + 0.1


@pytest.mark.parametrize("sd", [5, 15])
def test_noise_is_measured_and_does_not_make_sections_less_alike(drawn: np.ndarray, sd: float) -> None:
    clean, found = evidence_of(drawn[::4]), evidence_of(noisy(drawn[::4], sd))
    assert clean is not None
    assert found is not None
    assert found.noise > clean.noise + sd / 100
    assert found.neighbours == pytest.approx(clean.neighbours, abs=0.06)
    assert found.sharpness == pytest.approx(clean.sharpness, abs=0.06)


def test_a_blurred_volume_is_less_sharp(drawn: np.ndarray) -> None:
    sharp, dull = evidence_of(noisy(drawn, 3)), evidence_of(noisy(ndimage.gaussian_filter(drawn, (0, 3, 3)), 3))
    assert sharp is not None
    assert dull is not None
    assert dull.sharpness < 0.7 * sharp.sharpness


def test_sections_that_do_not_lie_on_each_other_are_alike_after_the_best_shift(drawn: np.ndarray) -> None:
    lying, found = evidence_of(drawn), evidence_of(moved(drawn, 2))
    assert lying is not None
    assert found is not None
    assert found.shift == 2
    assert found.aligned == pytest.approx(lying.aligned, abs=0.02)
    assert found.neighbours is not None
    assert lying.neighbours is not None
    assert found.neighbours < lying.neighbours - 0.1


def test_a_large_sample_is_thinned_evenly_and_shows_the_same_again(drawn: np.ndarray) -> None:
    many = np.concatenate([noisy(drawn, 3)] * 4)
    survey = Survey(Box.whole(many.shape), len(many))
    for z in range(len(many) - 1):
        survey.add(0, Box((z, 0, 0), (z + 2, *many.shape[1:])), many[z : z + 2])
    assert MOST_PAIRS / 2 <= len(survey.pairs) < MOST_PAIRS
    assert survey.evidence == evidence_of(many)


def test_of_single_sections_and_of_nothing_no_likeness_is_said(drawn: np.ndarray) -> None:
    one = evidence_of(noisy(drawn[:1], 3))
    assert one is not None
    assert one.neighbours is None
    assert evidence_of(np.zeros((20, 128, 128), np.uint8)) is None
    assert evidence_of(noisy(np.full((20, 128, 128), 100, np.float32), 9)) is None  # noise alone
    assert evidence_of(drawn, nodata=float(drawn[20, 5, 5])) != evidence_of(drawn)
