"""Pairs that were shifted on purpose come back to their place, real ones come closer, and wrong ones are left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from volumetool.errors import InputError
from volumetool.evaluation.scores.metrics import psnr
from volumetool.training.data.phantom import phantom
from volumetool.training.data.registration import Registration, align_pairs, match_contrast, move, register

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def field() -> Floats:
    return phantom((1, 260, 280), seed=3)[0].astype(np.float32)


def shifted_pair(field: Floats, shift: tuple[float, float], sd: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Return a noisy and a clean image; the noisy one must be shifted by `shift` to lie on the clean one."""
    moved = ndimage.shift(field, np.negative(shift), order=5)[20:-20, 20:-20]
    noise = np.random.default_rng(seed).normal(0, sd, moved.shape)
    return (moved + noise).astype(np.float32), field[20:-20, 20:-20]


@settings(max_examples=12)
@given(y=st.floats(-9, 9), x=st.floats(-9, 9), seed=st.integers(0, 99))
def test_planted_shifts_are_found_to_a_tenth_of_a_voxel(field: Floats, y: float, x: float, seed: int) -> None:
    noisy, clean = shifted_pair(field, (y, x), 60, seed)  # the field's own standard deviation is about 35
    found = register(noisy, clean)
    assert found.accepted
    assert found.shift == pytest.approx((y, x), abs=0.1)


def test_gain_offset_and_dtype_do_not_matter(field: Floats) -> None:
    noisy, clean = shifted_pair(field, (1.3, -2.6), 20)
    found = register(np.rint(40 * noisy + 9000).astype(np.uint16), clean.astype(np.uint8))
    assert found.accepted
    assert found.shift == pytest.approx((1.3, -2.6), abs=0.1)


def test_a_shift_alone_is_not_taken_for_a_stretch(field: Floats) -> None:
    noisy, clean = shifted_pair(field, (2.5, 0.5), 60)
    assert not np.any(register(noisy, clean).stretch)


def test_another_magnification_is_found(field: Floats) -> None:
    centre = (np.array(field.shape) - 1) / 2
    matrix = np.diag([1.006, 0.996])
    shift = np.array([1.2, -0.7])
    noisy = ndimage.affine_transform(field, matrix, centre + shift - matrix @ centre, order=5)[20:-20, 20:-20]
    noisy += np.random.default_rng(5).normal(0, 10, noisy.shape).astype(np.float32)
    found = register(noisy, field[20:-20, 20:-20])
    assert found.shift == pytest.approx(shift, abs=0.1)
    assert np.array(found.stretch) == pytest.approx(matrix - np.eye(2), abs=5e-4)
    worst = np.abs(move(field[20:-20, 20:-20], found) - noisy)[8:-8, 8:-8]
    assert worst.mean() < 10  # what is left is the noise, whose mean absolute value is 8


def test_moving_the_clean_image_undoes_the_shift_up_to_the_border(field: Floats) -> None:
    noisy, clean = shifted_pair(field, (2.4, -3.7), 0)
    moved = move(clean, Registration((2.4, -3.7), 1.0))
    assert np.abs(moved - noisy)[8:-8, 8:-8].mean() < 1.0


@pytest.mark.parametrize("scale", [2, 4])
def test_coarse_and_fine_are_registered_on_the_coarse_grid(scale: int) -> None:
    fine = phantom((1, 96 * scale, 88 * scale), seed=7)[0].astype(np.float32)
    planted = np.array([0.75, -1.4])  # coarse voxels
    there = ndimage.shift(fine, -planted * scale, order=5, mode="mirror")
    coarse = there.reshape(96, scale, 88, scale).mean((1, 3)) + np.random.default_rng(1).normal(0, 10, (96, 88))
    found = register(coarse, fine, scale=scale)
    assert found.shift == pytest.approx(planted, abs=0.1)
    pairs = align_pairs(coarse[None], fine[None], scale=scale)
    _, y, x = pairs.noisy.shape
    assert pairs.clean.shape == (1, y * scale, x * scale)
    margin = (96 - y) // 2
    assert np.array_equal(pairs.noisy[0], coarse[margin:-margin, margin:-margin])
    inner = there[margin * scale : -margin * scale, margin * scale : -margin * scale]
    assert (
        psnr(pairs.clean[0], inner) > psnr(fine[margin * scale : -margin * scale, margin * scale : -margin * scale], inner) + 6
    )


def test_bad_pairs_are_left_out_and_say_why(field: Floats) -> None:
    good = [shifted_pair(field, shift, 20, seed) for seed, shift in enumerate([(0.4, 1.0), (-2.0, 0.0)])]
    noisy, clean = good[0]
    far = ndimage.shift(field, (-19, 0), order=1)[20:-20, 20:-20]
    gap = noisy.copy()
    gap[3, 3] = np.nan
    cases = [good[0], (noisy, np.rot90(clean, 2)), (np.clip(noisy, 100, 150), clean), (far, clean), good[1], (gap, clean)]
    pairs = align_pairs(*(np.stack(part) for part in zip(*cases, strict=True)))
    assert pairs.kept == (0, 4)
    assert [index for index, _ in pairs.dropped] == [1, 2, 3, 5]
    reasons = [reason for _, reason in pairs.dropped]
    assert reasons[0].startswith(("unlike", "unsure"))
    assert reasons[1].startswith("the noisy image is saturated")
    assert reasons[2].startswith("too far: 19.0 voxels")
    assert reasons[3] == "the noisy image is not finite everywhere"
    assert len(pairs.noisy) == len(pairs.clean) == 2


def test_the_noisy_voxels_stay_as_they_were(field: Floats) -> None:
    noisy, clean = shifted_pair(field, (3.5, -0.5), 20)
    bytes_ = np.clip(noisy, 0, 255).astype(np.uint8)
    pairs = align_pairs(bytes_[None], clean[None])
    assert pairs.noisy.dtype == np.uint8
    margin = (bytes_.shape[0] - pairs.noisy.shape[1]) // 2
    assert margin == 4 + 3  # the shift, rounded up, and what the spline reaches for
    assert np.array_equal(pairs.noisy[0], bytes_[margin:-margin, margin:-margin])


def test_contrast_is_matched_in_spite_of_noise_and_dirt(field: Floats) -> None:
    rng = np.random.default_rng(3)
    noisy = 0.6 * field + 50 + rng.normal(0, 25, field.shape)
    noisy[:40, :60] = 255  # a charged corner, 3 % of the field
    assert np.abs(match_contrast(noisy, field) - (0.6 * field + 50)).max() < 1


def test_contrast_is_matched_across_scales(field: Floats) -> None:
    coarse = field.reshape(65, 4, 70, 4).mean((1, 3))
    assert np.abs(match_contrast(2 * coarse - 7, field, scale=4) - (2 * field - 7)).max() < 1e-2


@pytest.mark.parametrize(
    ("noisy", "clean", "scale"), [((40, 40), (40, 44), 1), ((40, 40), (40, 40), 2), ((20, 40), (20, 40), 1)]
)
def test_shapes_that_do_not_belong_together_are_refused(noisy: tuple[int, int], clean: tuple[int, int], scale: int) -> None:
    with pytest.raises(InputError, match=str(noisy[0])) as caught:
        register(np.zeros(noisy), np.zeros(clean), scale=scale)
    assert caught.value.code == "input.pair-shape"


def test_stacks_without_one_good_pair_are_refused(field: Floats) -> None:
    with pytest.raises(InputError, match="none of the 1 pairs fits") as caught:
        align_pairs(field[None], np.rot90(field, 2)[None])
    assert caught.value.code == "input.pairs"


def kriss(data: Path, kind: str, pages: list[int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float64]]:
    folder = data / "kriss-sem-pairs"
    noisy, clean = (tifffile.imread(folder / f"{kind}_{part}.tif", key=pages) for part in ("noisy", "clean"))
    table = np.loadtxt(folder / f"{kind}_shifts.csv", delimiter=",", skiprows=1)
    return noisy, clean, table[pages, 2:4]


@pytest.mark.parametrize("kind", ["line", "time"])
def test_real_pairs_come_closer_than_by_plain_phase_correlation(data: Path, kind: str) -> None:
    noisy, clean, published = kriss(data, kind, [0, 14, 28])
    noisy, clean = noisy[:, :300, :320], clean[:, :300, :320]
    inner = np.s_[12:-12, 12:-12]
    ours, theirs, raw = [], [], []
    for one, other, shift in zip(noisy, clean, published, strict=True):
        registrations = (register(one, other), Registration((shift[0], shift[1]), 1.0), Registration((0.0, 0.0), 1.0))
        # The published shifts were found without a window: they lean towards none.
        assert registrations[0].accepted
        assert registrations[0].shift == pytest.approx(shift, abs=1.5)
        each = [psnr(one[inner], match_contrast(one, move(other, found))[inner]) for found in registrations]
        for row, value in zip((ours, theirs, raw), each, strict=True):
            row.append(value)
    assert min(np.subtract(ours, theirs)) > -0.02
    assert np.mean(ours) > np.mean(theirs) + 0.2
    assert np.mean(theirs) > np.mean(raw) + 1


def test_the_quarters_of_real_pairs_agree_with_the_whole(data: Path) -> None:
    noisy, clean, _ = kriss(data, "line", [0, 28])
    for one, other in zip(noisy, clean, strict=True):
        whole = register(one, other)
        for y in (0, 218):
            for x in (0, 252):
                quarter = register(one[y : y + 218, x : x + 252], other[y : y + 218, x : x + 252])
                assert quarter.shift == pytest.approx(whole.shift, abs=0.2)


def test_real_pairs_of_different_fields_are_left_out(data: Path) -> None:
    noisy, clean, _ = kriss(data, "line", [0, 7, 14, 21])
    clean[1:3] = clean[[2, 1]]
    pairs = align_pairs(noisy[:, :300, :300], clean[:, :300, :300])
    assert pairs.kept == (0, 3)


def test_a_pair_published_as_registered_is(data: Path) -> None:
    folder = data / "emdiffuse-brain-pair"
    noisy, clean = (tifffile.imread(folder / f"brain_4w_07_{part}.tif") for part in ("noisy", "clean"))
    found = register(noisy[:400, :400], clean[:400, :400])
    assert found.accepted
    assert np.abs(found.shift).max() < 0.3
