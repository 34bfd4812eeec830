"""Metrics are what their papers and scikit-image say they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from volumetool.errors import InputError
from volumetool.evaluation.evaluate import bootstrap, score
from volumetool.evaluation.scores.metrics import fit_affine
from volumetool.evaluation.scores.ssim import SCALE_WEIGHTS, scales_that_fit


def _pair(shape: tuple[int, int] = (180, 190), seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    truth = np.add.outer(60 * np.sin(np.arange(shape[0]) / 5), 40 * np.cos(np.arange(shape[1]) / 7)) + 128
    noisy = 0.7 * truth + 20 + rng.normal(0, 12, shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), np.clip(truth, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(180, 190), (33, 61)])
def test_psnr_and_ssim_are_those_of_scikit_image(shape: tuple[int, int]) -> None:
    restored, truth = _pair(shape)
    scores = score(restored, truth, data_range=255)
    assert scores.psnr == pytest.approx(peak_signal_noise_ratio(truth, restored, data_range=255), abs=1e-9)
    assert scores.ssim == pytest.approx(structural_similarity(truth, restored, data_range=255), abs=1e-9)
    gain, offset = np.polyfit(restored.ravel().astype(float), truth.ravel().astype(float), 1)
    fitted = gain * restored + offset
    assert scores.psnr_affine == pytest.approx(peak_signal_noise_ratio(truth.astype(float), fitted, data_range=255), abs=1e-9)
    expected = structural_similarity(truth.astype(float), fitted, data_range=255)
    assert scores.ssim_affine == pytest.approx(expected, abs=1e-9)


def _brute_ms_ssim(restored: NDArray[np.uint8], truth: NDArray[np.uint8], scales: int) -> float:
    """Windows cut out one by one, as the paper draws them."""
    bell = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window = np.outer(bell, bell) / bell.sum() ** 2
    r, t, product = restored.astype(float), truth.astype(float), 1.0
    weights = np.array(SCALE_WEIGHTS[:scales]) * sum(SCALE_WEIGHTS) / sum(SCALE_WEIGHTS[:scales])
    for scale in range(scales):
        if scale:
            r, t = (
                (a[: len(a) // 2 * 2, : a.shape[1] // 2 * 2]).reshape(len(a) // 2, 2, -1, 2).mean(axis=(1, 3)) for a in (r, t)
            )
        rs, ts = sliding_window_view(r, (11, 11)), sliding_window_view(t, (11, 11))
        mean_r, mean_t = (rs * window).sum((-2, -1)), (ts * window).sum((-2, -1))
        dr, dt = rs - mean_r[..., None, None], ts - mean_t[..., None, None]
        var_r, var_t, cov = ((a * b * window).sum((-2, -1)) for a, b in ((dr, dr), (dt, dt), (dr, dt)))
        c1, c2 = 2.55**2, 7.65**2
        factor = (2 * cov + c2) / (var_r + var_t + c2)
        if scale == scales - 1:
            factor *= (2 * mean_r * mean_t + c1) / (mean_r**2 + mean_t**2 + c1)
        product *= factor.mean() ** weights[scale]
    return product


@pytest.mark.parametrize(("shape", "scales"), [((181, 190), 5), ((60, 71), 3), ((11, 30), 1)])
def test_ms_ssim_is_the_paper_s_product_with_as_many_scales_as_fit(shape: tuple[int, int], scales: int) -> None:
    restored, truth = _pair(shape)
    assert scales_that_fit(shape) == scales
    assert score(restored, truth, data_range=255).ms_ssim == pytest.approx(_brute_ms_ssim(restored, truth, scales), abs=1e-9)


def test_equal_sections_score_perfectly() -> None:
    _, truth = _pair()
    scores = score(truth, truth, data_range=255)
    assert (scores.psnr, scores.ssim, scores.ms_ssim) == (float("inf"), 1.0, pytest.approx(1.0))


def test_a_constant_section_is_scored_without_a_warning() -> None:
    _, truth = _pair()
    flat = np.full_like(truth, 7)
    assert fit_affine(flat, truth) == (0.0, pytest.approx(float(truth.mean())))
    assert score(flat, truth, data_range=255).psnr_affine > score(flat, truth, data_range=255).psnr


@given(gain=st.floats(0.05, 20), offset=st.floats(-500, 500), seed=st.integers(0, 9))
def test_affine_scores_do_not_change_with_brightness_and_contrast(gain: float, offset: float, seed: int) -> None:
    restored, truth = (part.astype(np.float64) for part in _pair((40, 48), seed))
    plain = score(restored, truth, data_range=255)
    changed = score(gain * restored + offset, truth, data_range=255)
    assert changed.psnr_affine == pytest.approx(plain.psnr_affine, abs=1e-6)
    assert changed.ssim_affine == pytest.approx(plain.ssim_affine, abs=1e-6)


def test_floats_are_rounded_and_clipped_to_the_dtype_of_the_truth() -> None:
    _, truth = _pair((32, 32))
    off = truth.astype(np.float32) + np.float32(0.4)
    off[truth == truth.max()] += 0.05
    assert score(off, truth, data_range=255).psnr == float("inf")
    assert score(np.full(truth.shape, 1e9), np.full_like(truth, 255), data_range=255).psnr == float("inf")


def test_other_shapes_and_tiny_sections_are_refused() -> None:
    restored, truth = _pair((32, 32))
    with pytest.raises(InputError, match=r"\(31, 32\).*\(32, 32\)"):
        score(restored[1:], truth, data_range=255)
    with pytest.raises(InputError, match="10 x 32"):
        score(restored[:10], truth[:10], data_range=255)


def test_the_bootstrap_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        low, high = bootstrap(rng.gamma(2.0, 3.0, 80), seed=trial)
        covered += low <= 6.0 <= high
    assert 178 <= covered <= 200  # 95 % of 200 is 190; four standard deviations are 12


def test_the_bootstrap_weighs_blocks_and_repeats_itself() -> None:
    errors, sizes = np.arange(1.0, 41.0), np.where(np.arange(40) < 20, 100, 1)
    low, high = bootstrap(errors, sizes, seed=4)
    assert (low, high) == bootstrap(errors, sizes, seed=4)
    assert low <= np.average(errors, weights=sizes) <= high < 15
    assert bootstrap(errors, sizes, seed=5) != (low, high)
