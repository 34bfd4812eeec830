"""Each loss is what its formula says, and its slope points from worse to better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from volumetool.errors import ConfigError
from volumetool.training.data.phantom import phantom
from volumetool.training.losses import LossConfig, focal_frequency, make_loss, minus_psnr, ms_ssim, ms_ssim_mix

CONFIGS = [
    LossConfig(kind=kind, frequency=frequency)  # type: ignore[arg-type]
    for kind in ("psnr", "l1", "mse", "ms-ssim-mix")
    for frequency in (0.0, 0.5)
]


@pytest.fixture(scope="module")
def truth() -> Tensor:
    return torch.from_numpy(phantom((3, 64, 56), seed=4).astype(np.float32) / 255)[:, None]  # (3, 1, 64, 56)


def noise_like(patches: Tensor, seed: int = 0) -> Tensor:
    return torch.randn(patches.shape, generator=torch.Generator().manual_seed(seed))


def test_minus_psnr_is_the_mean_of_the_decibels(truth: Tensor) -> None:
    restored = truth + torch.tensor([0.02, 0.1, 0.3]).view(3, 1, 1, 1) * noise_like(truth)
    each = [peak_signal_noise_ratio(t.numpy(), r.numpy(), data_range=1.0) for t, r in zip(truth, restored, strict=True)]
    assert float(minus_psnr(restored, truth)) == pytest.approx(-np.mean(each), abs=0.02)


def test_one_scale_is_the_ssim_of_scikit_image(truth: Tensor) -> None:
    section, noisy = truth[:1, :, :21, :20], truth[:1, :, :21, :20] + 0.1 * noise_like(truth[:1, :, :21, :20])
    theirs = structural_similarity(
        section[0, 0].double().numpy(),
        noisy[0, 0].double().numpy(),
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert float(ms_ssim(noisy, section)) == pytest.approx(theirs, abs=1e-5)


def test_several_scales_are_the_product_of_the_published_formula(truth: Tensor) -> None:
    noisy = truth + 0.1 * noise_like(truth)
    expected = np.mean([by_hand(r, t) for r, t in zip(noisy[:, 0].numpy(), truth[:, 0].numpy(), strict=True)])
    assert float(ms_ssim(noisy, truth)) == pytest.approx(float(expected), abs=1e-5)


def by_hand(restored: np.ndarray, truth: np.ndarray) -> float:
    """MS-SSIM on three scales, place by place, in double precision; 56 >> 2 = 14 holds the window, 56 >> 3 = 7 does not."""
    steps = np.arange(-5, 6)
    window = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    window /= window.sum()
    exponents = np.array([0.0448, 0.2856, 0.3001]) / (0.0448 + 0.2856 + 0.3001)
    product = 1.0
    for scale in range(3):
        r, t = (np.lib.stride_tricks.sliding_window_view(np.float64(part), (11, 11)) for part in (restored, truth))
        mr, mt = ((part * window).sum((-2, -1)) for part in (r, t))
        vr, vt = ((part**2 * window).sum((-2, -1)) - m**2 for part, m in ((r, mr), (t, mt)))
        both = (r * t * window).sum((-2, -1)) - mr * mt
        value = (2 * both + 9e-4) / (vr + vt + 9e-4)
        if scale == 2:
            value = value * (2 * mr * mt + 1e-4) / (mr**2 + mt**2 + 1e-4)
        product *= value.mean() ** exponents[scale]
        restored, truth = (part.reshape(part.shape[0] // 2, 2, -1, 2).mean((1, 3)) for part in (restored, truth))
    return product


def test_the_mix_is_made_of_its_two_parts(truth: Tensor) -> None:
    noisy = truth + 0.1 * noise_like(truth)
    similar, absolute = ms_ssim_mix(noisy, truth, 1.0), ms_ssim_mix(noisy, truth, 0.0)
    assert float(similar) == pytest.approx(1 - float(ms_ssim(noisy, truth)))
    # The window sums to 1, so an even difference comes through as it is.
    assert float(ms_ssim_mix(truth + 0.25, truth, 0.0)) == pytest.approx(0.25)
    assert float(make_loss(LossConfig(kind="ms-ssim-mix"))(noisy, truth)) == pytest.approx(
        float(0.8 * similar + 0.2 * absolute), rel=1e-5
    )


def test_focal_frequency_is_the_published_sum() -> None:
    restored, truth = (torch.rand(2, 1, 6, 5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = []
    for r, t in zip(restored[:, 0].double().numpy(), truth[:, 0].double().numpy(), strict=True):
        y, x = r.shape
        wave_y, wave_x = (np.exp(-2j * np.pi * np.outer(range(n), range(n)) / n) / np.sqrt(n) for n in (y, x))
        distance = np.abs(wave_y @ r @ wave_x - wave_y @ t @ wave_x)
        expected.append((distance / distance.max() * distance**2).mean())
    assert float(focal_frequency(restored, truth)) == pytest.approx(np.mean(expected), rel=1e-5)


def test_one_wrong_wave_costs_its_mean_square_and_many_cost_less(truth: Tensor) -> None:
    wave = 0.1 * torch.cos(2 * torch.pi * 5 * torch.arange(64) / 64).view(1, 1, -1, 1).expand_as(truth)
    spread = noise_like(truth)
    spread *= (wave.square().mean() / spread.square().mean()).sqrt()
    assert float(focal_frequency(truth + wave, truth)) == pytest.approx(float(wave.square().mean()), rel=1e-4)
    assert float(focal_frequency(truth + spread, truth)) < 0.5 * float(wave.square().mean())


def test_beside_decibels_the_frequency_term_counts_in_decibels(truth: Tensor) -> None:
    plain, term = make_loss(LossConfig()), make_loss(LossConfig(frequency=0.5))
    near, far = truth + 0.1 * noise_like(truth), truth + 0.2 * noise_like(truth)
    # Twice the error is 6.02 dB, and half of that once more.
    assert float(plain(far, truth) - plain(near, truth)) == pytest.approx(6.02, abs=0.01)
    assert float(term(far, truth) - term(near, truth)) == pytest.approx(1.5 * 6.02, abs=0.02)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@settings(max_examples=10)
@given(seed=st.integers(0, 99), sd=st.floats(0.01, 0.3))
def test_equal_costs_least_and_more_noise_costs_more(truth: Tensor, config: LossConfig, seed: int, sd: float) -> None:
    loss, noise = make_loss(config), noise_like(truth, seed)
    costs = [float(loss(truth + sd * step * noise, truth)) for step in (0.0, 1.0, 2.0)]
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_restored_and_truth_may_change_places(truth: Tensor, config: LossConfig) -> None:
    loss, noisy = make_loss(config), truth + 0.1 * noise_like(truth)
    assert float(loss(noisy, truth)) == pytest.approx(float(loss(truth, noisy)), rel=1e-4)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("case", ["noisy", "equal", "inverted", "constant"])
def test_the_slope_is_finite_everywhere(truth: Tensor, config: LossConfig, case: str) -> None:
    start = {"noisy": truth + 0.1, "equal": truth, "inverted": 1 - truth, "constant": torch.zeros_like(truth)}[case]
    restored = start.clone().requires_grad_()
    cost = make_loss(config)(restored, truth)
    cost.backward()  # type: ignore[no-untyped-call]
    assert restored.grad is not None
    assert torch.isfinite(restored.grad).all()
    assert cost.dtype == torch.float32
    assert cost.shape == ()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_a_step_down_the_slope_pays(truth: Tensor, config: LossConfig) -> None:
    loss, restored = make_loss(config), (truth + 0.1 * noise_like(truth)).requires_grad_()
    before = loss(restored, truth)
    (slope,) = torch.autograd.grad(before, restored)
    assert loss(restored - 0.5 * slope / slope.norm(), truth) < before


@pytest.mark.parametrize("config", [LossConfig(kind="ms-ssim-mix"), LossConfig(kind="mse", frequency=1.0)], ids=str)
def test_a_block_is_judged_section_by_section(truth: Tensor, config: LossConfig) -> None:
    loss, noisy = make_loss(config), truth + 0.1 * noise_like(truth)
    block, noisy_block = (part.transpose(0, 1)[None] for part in (truth, noisy))  # (1, 1, 3, y, x)
    assert float(loss(noisy_block, block)) == pytest.approx(float(loss(noisy, truth)), rel=1e-5)


def test_a_block_has_one_psnr(truth: Tensor) -> None:
    block = truth.transpose(0, 1)[None]  # (1, 1, 3, y, x)
    off = torch.tensor([0.0, 0.0, 0.3]).view(1, 1, 3, 1, 1)
    assert float(minus_psnr(block + off, block)) == pytest.approx(10 * np.log10(0.03), abs=1e-3)


def test_crops_below_the_window_are_refused_with_both_sizes() -> None:
    small = torch.rand(1, 1, 10, 40)
    with pytest.raises(ConfigError, match=r"10 fine voxels.*window of MS-SSIM, 11"):
        ms_ssim(small, small)


@pytest.mark.parametrize("wrong", [{"kind": "ssim"}, {"frequency": -1}, {"ms_ssim_weight": 1.1}, {"weight": 1}])
def test_a_config_that_says_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LossConfig.model_validate(wrong)
