"""Classical methods sit on the pixel-centred grid, and their strengths do what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional as F  # noqa: N812

from volumetool.errors import ConfigError
from volumetool.evaluation import baselines
from volumetool.evaluation.baselines import METHODS, restore, tune, z_gauss
from volumetool.evaluation.scores.resample import enlarge

HERE = [name for name, method in METHODS.items() if method.installed]


def _noisy(sd: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    y, x = np.mgrid[:96, :112]
    truth = (128 + 50 * np.sin(y / 9) * np.cos(x / 11)).astype(np.float32)
    coarse = truth.reshape(24, 4, 28, 4).mean(axis=(1, 3))
    return (coarse + np.random.default_rng(seed).normal(0, sd, coarse.shape)).astype(np.float32), truth


@pytest.mark.parametrize(("name", "mode"), [("bilinear", "bilinear"), ("bicubic", "bicubic"), ("nearest", "nearest")])
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_enlargement_is_torch_s_with_pixel_centres(name: str, mode: str, scale: int) -> None:
    section = np.random.default_rng(1).uniform(0, 255, (13, 9)).astype(np.float32)
    corners = {} if mode == "nearest" else {"align_corners": False}
    expected = F.interpolate(torch.from_numpy(section)[None, None], scale_factor=float(scale), mode=mode, **corners)[0, 0]
    np.testing.assert_allclose(restore(name, section, scale), expected.numpy(), atol=2e-4)


@pytest.mark.parametrize("kind", ["nearest", "linear", "cubic"])
def test_a_volume_is_enlarged_axis_by_axis(kind: str) -> None:
    volume = np.random.default_rng(2).uniform(0, 255, (4, 5, 6)).astype(np.float32)
    fine = enlarge(volume, (2, 1, 3), kind)  # type: ignore[arg-type]
    assert fine.shape == (8, 5, 18)
    again = np.stack([enlarge(plane, (2, 3), kind) for plane in volume.transpose(1, 0, 2)], axis=1)  # type: ignore[arg-type]
    np.testing.assert_array_equal(fine, again)


@pytest.mark.parametrize("name", HERE)
def test_a_flat_section_stays_flat_and_brightness_passes_through(name: str) -> None:
    flat = np.full((20, 24), 77, np.float32)
    np.testing.assert_allclose(restore(name, flat, (2, 3)), np.full((40, 72), 77), atol=1e-3)
    coarse, _ = _noisy(8)
    np.testing.assert_allclose(restore(name, 3 * coarse + 40, 4), 3 * restore(name, coarse, 4) + 40, atol=0.2)


@pytest.mark.parametrize("name", ["gauss+bicubic", "nlm", "tv"])
def test_denoising_helps_where_there_is_noise(name: str) -> None:
    coarse, truth = _noisy(20)
    strength = tune(name, [(coarse, truth)])
    error = np.mean((restore(name, coarse, 4, strength) - truth) ** 2)
    assert error < 0.5 * np.mean((restore("bicubic", coarse, 4) - truth) ** 2)


def test_tuning_takes_the_best_of_the_grid() -> None:
    coarse, truth = _noisy(20)
    best = tune("gauss+bicubic", [(coarse, truth)])
    errors = {s: np.mean((restore("gauss+bicubic", coarse, 4, s) - truth) ** 2) for s in METHODS["gauss+bicubic"].grid}
    assert best == min(errors, key=lambda strength: errors[strength])
    assert tune("gauss+bicubic", [_noisy(0.1)]) == METHODS["gauss+bicubic"].grid[0]
    assert tune("bilinear", [(coarse, truth)]) == ()


def _noisy_stack(sd: float, sections: int = 11) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Make sections that show the same, each with noise of its own."""
    return np.stack([_noisy(sd, seed)[0] for seed in range(sections)]), _noisy(sd)[1]


@pytest.mark.parametrize("name", ["z-gauss+bicubic", "nlm-3d", "tv-3d"])
def test_methods_that_see_neighbours_gain_by_those_that_show_the_same(name: str) -> None:
    stack, truth = _noisy_stack(20)
    strangers = np.random.default_rng(1).uniform(0, 255, stack.shape).astype(np.float32)
    strangers[5] = stack[5]

    def error(method: str, sections: NDArray[np.float32]) -> float:
        strength = tune(method, [(sections, truth)])
        return float(np.mean((restore(method, sections, 4, strength) - truth) ** 2))

    assert error(name, stack) < 0.7 * error(name, strangers)


def test_a_gaussian_along_z_averages_by_its_weights_and_at_0_leaves_the_section_alone() -> None:
    stack, _ = _noisy_stack(20, 3)
    near = np.exp(-0.5 / 0.8**2)
    np.testing.assert_allclose(z_gauss(stack, 0.8), (near * (stack[0] + stack[2]) + stack[1]) / (1 + 2 * near), rtol=1e-5)
    alone = restore("gauss+bicubic", stack[1], 4, (0.8,))
    np.testing.assert_allclose(restore("z-gauss+bicubic", stack, 4, (0.0, 0.8)), alone, rtol=1e-5)


def test_the_noise_is_found_and_structure_is_not_taken_for_noise() -> None:
    assert baselines.noise_sd(_noisy(10)[0] * 2) == pytest.approx(20, rel=0.1)
    assert baselines.noise_sd(_noisy(0)[0]) < 1


def test_an_unknown_method_is_refused_with_the_list() -> None:
    with pytest.raises(ConfigError, match="unsharp"):
        restore("magic", np.zeros((8, 8), np.float32), 2)


def test_a_method_without_its_package_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match="pip install"):
        restore("bm3d", np.zeros((8, 8), np.float32), 2)
