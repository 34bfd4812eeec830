"""Nothing of a hidden voxel reaches its guess, and guessing is enough to learn to denoise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError
from scipy import ndimage
from torch import Tensor

from volumetool.models import UNet, UNetConfig
from volumetool.training.blind_spot import BlindSpotConfig, blind_spot_loss, mask_batch
from volumetool.training.data.phantom import phantom

FLAT = UNetConfig(scale=(1, 1, 1), width=8, pools=((1, 2, 2),))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(3, 1, 64, 56), (2, 1, 5, 32, 48)], ids=["2d", "3d"])
@pytest.mark.parametrize("share", [0.01, 1 / 64, 0.05])
def test_the_share_is_kept_and_every_section_has_its_own_voxels(shape: tuple[int, ...], share: float) -> None:
    noisy = torch.rand(shape, generator=seeded())
    masked, scored = mask_batch(noisy, seeded(1), BlindSpotConfig(share=share))
    assert scored.dtype == torch.bool
    assert masked.shape == scored.shape == noisy.shape
    assert float(scored.float().mean()) == pytest.approx(share, rel=0.2)
    assert torch.equal(masked[~scored], noisy[~scored])
    assert (masked[scored] != noisy[scored]).float().mean() > 0.99
    sections = scored.view(-1, *shape[-2:])
    assert not torch.equal(sections[0], sections[1])


def test_every_place_is_hidden_as_often_as_any_other() -> None:
    noisy = torch.rand(16000, 1, 11, 13, generator=seeded())
    rate = mask_batch(noisy, seeded(2), BlindSpotConfig(share=1 / 16))[1].float().mean(dim=0)
    assert torch.all((rate - 1 / 16).abs() < 0.01)  # five standard deviations


def test_the_same_generator_hides_the_same_voxels() -> None:
    noisy = torch.rand(2, 1, 32, 32, generator=seeded())
    first, again, other = (mask_batch(noisy, seeded(seed), BlindSpotConfig()) for seed in (4, 4, 5))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@settings(max_examples=20)
@example(seed=783, radius=1, run=7)
@given(seed=st.integers(0, 999), radius=st.integers(1, 3), run=st.sampled_from([1, 3, 7]))
def test_replacements_come_from_the_neighbourhood_and_from_no_hidden_voxel(seed: int, radius: int, run: int) -> None:
    noisy = torch.randperm(24 * 32, generator=seeded(seed)).view(1, 1, 24, 32).float()  # no value comes twice
    masked, scored = mask_batch(noisy, seeded(seed), BlindSpotConfig(radius=radius, run=run))
    runs = torch.nn.functional.max_pool2d(scored.float(), (1, run), 1, (0, run // 2)) > 0
    assert torch.equal(masked != noisy, runs)
    place = {float(value): divmod(index, 32) for index, value in enumerate(noisy.flatten())}
    for _, _, y, x in runs.nonzero().tolist():
        value = float(masked[0, 0, y, x])
        if runs[0, 0, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].all():
            assert value == pytest.approx(float(noisy[~runs].mean()))  # runs on neighbouring lines may hide all there is
            continue
        there = place[value]
        assert not runs[0, 0, there[0], there[1]]
        assert max(abs(there[0] - y), abs(there[1] - x)) <= radius


def test_the_median_is_that_of_the_neighbours_without_the_voxel() -> None:
    noisy = torch.rand(1, 1, 24, 24, generator=seeded())
    masked, scored = mask_batch(noisy, seeded(3), BlindSpotConfig(replacement="median", radius=2))
    spots = [(y, x) for _, _, y, x in scored.nonzero().tolist() if 2 <= y < 22 and 2 <= x < 22]
    assert spots
    for y, x in spots:
        window, hidden = (part[0, 0, y - 2 : y + 3, x - 2 : x + 3].numpy() for part in (noisy, scored))
        assert float(masked[0, 0, y, x]) == pytest.approx(float(np.median(window[~hidden])))


@pytest.mark.parametrize("replacement", ["uniform", "median"])
@pytest.mark.parametrize("run", [1, 5])
def test_no_guess_depends_on_the_voxel_that_it_is_compared_with(replacement: str, run: int) -> None:
    torch.manual_seed(0)
    network = UNet(FLAT)
    noisy = torch.rand(1, 1, 32, 32, generator=seeded(), requires_grad=True)
    config = BlindSpotConfig.model_validate({"replacement": replacement, "run": run, "share": 0.03})
    masked, scored = mask_batch(noisy, seeded(1), config)
    restored = network(masked)
    for _, _, y, x in scored.nonzero().tolist():
        (slope,) = torch.autograd.grad(restored[0, 0, y, x], noisy, retain_graph=True)
        hidden = slice(max(0, x - run // 2), x + run // 2 + 1)
        assert not slope[0, 0, y, hidden].any()
        assert slope.any()
    # The check can fail: without a mask the centre counts most.
    (slope,) = torch.autograd.grad(network(noisy)[0, 0, 9, 9], noisy)
    assert slope[0, 0, 9, 9] != 0


def test_the_loss_counts_scored_voxels_alone() -> None:
    noisy = torch.zeros(1, 1, 4, 4)
    scored = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    scored[0, 0, 1, 2] = scored[0, 0, 3, 0] = True
    restored = torch.full_like(noisy, 100.0)
    restored[0, 0, 1, 2], restored[0, 0, 3, 0] = 1.0, 3.0
    assert float(blind_spot_loss(restored, noisy, scored)) == 5
    assert float(blind_spot_loss(restored, noisy, scored, BlindSpotConfig(loss="l1"))) == 2


@pytest.mark.parametrize("wrong", [{"run": 4}, {"run": 41}, {"share": 0}, {"radius": 0}, {"replacement": "mean"}])
def test_a_config_that_says_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BlindSpotConfig.model_validate(wrong)


@pytest.fixture(scope="module")
def clean() -> Tensor:
    return torch.from_numpy(phantom((8, 160, 160), seed=3).astype(np.float32) / 255)  # (8, 160, 160)


def noise_along_x(shape: torch.Size, weights: list[float]) -> Tensor:
    noise: NDArray[np.float32] = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    noise = ndimage.convolve1d(noise, np.array(weights), axis=2)
    return torch.from_numpy(0.12 * noise / noise.std())


def denoise(noisy: Tensor, config: BlindSpotConfig, steps: int) -> Tensor:
    """Train on noisy sections alone, then restore them without hiding anything."""
    torch.manual_seed(0)
    generator, crop = seeded(), 48
    network = UNet(FLAT)
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        spots = zip(*(torch.randint(n, (4,), generator=generator).tolist() for n in (8, 113, 113)), strict=True)
        batch = torch.stack([noisy[z, y : y + crop, x : x + crop] for z, y, x in spots])[:, None]  # (4, 1, crop, crop)
        masked, scored = mask_batch(batch, generator, config)
        loss = blind_spot_loss(network(masked), batch, scored, config)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        restored: Tensor = network(noisy[:, None])[:, 0]
    return restored


def psnr(restored: Tensor, clean: Tensor) -> float:
    return float(-10 * (restored - clean).square().mean().log10())


@pytest.fixture(scope="module")
def noisy(clean: Tensor) -> Tensor:
    return clean + noise_along_x(clean.shape, [1.0])


@pytest.fixture(scope="module")
def denoised(noisy: Tensor, clean: Tensor) -> float:
    """Train with the config as it is, and return the PSNR."""
    return psnr(denoise(noisy, BlindSpotConfig(), 60), clean)


def test_noisy_sections_alone_teach_to_denoise(noisy: Tensor, clean: Tensor, denoised: float) -> None:
    assert denoised > psnr(noisy, clean) + 4


@pytest.mark.slow
def test_noise_that_is_correlated_along_x_needs_runs(clean: Tensor) -> None:
    noisy = clean + noise_along_x(clean.shape, [0.5, 1.0, 0.5])  # reaches two voxels
    plain, runs = (psnr(denoise(noisy, BlindSpotConfig(run=run), 80), clean) for run in (1, 5))
    assert runs > plain + 2
    assert runs > psnr(noisy, clean) + 2


@pytest.mark.slow
def test_a_median_teaches_a_network_with_a_straight_path_to_let_noise_through(
    noisy: Tensor, clean: Tensor, denoised: float
) -> None:
    assert BlindSpotConfig().replacement == "uniform"
    assert denoised > psnr(denoise(noisy, BlindSpotConfig(replacement="median"), 60), clean) + 2
