"""Training pairs are aligned, normalised together, and drawn from all planes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from volumetool.training.crappify import block_mean
from volumetool.training.pairs import PairsConfig, draw_batch

QUIET = PairsConfig(
    crop=16, acquisitions=2, crops=3, strength=(0.01, 0.011), jitter=0, grain=(0, 0), recipes=("pssr2-poisson",)
)


def source(seed: int = 0, shape: tuple[int, int, int] = (80, 96, 88)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(30, 220, shape, dtype=np.uint8)


def test_shapes_and_types() -> None:
    coarse, fine = draw_batch([source()], PairsConfig(crop=16, acquisitions=2, crops=3), np.random.default_rng(0))
    assert (coarse.shape, fine.shape) == ((6, 1, 16, 16), (6, 1, 64, 64))
    assert coarse.dtype == fine.dtype == np.float32


def test_the_seed_decides_the_batch() -> None:
    first, again = (draw_batch([source()], QUIET, np.random.default_rng(5)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_coarse_and_fine_are_aligned_and_on_one_scale() -> None:
    coarse, fine = draw_batch([source()], QUIET, np.random.default_rng(1))
    for small, large in zip(coarse[:, 0], fine[:, 0], strict=True):
        assert np.abs(block_mean(large, 4) - small).max() < 0.05
    # Were they shifted by one coarse voxel, the difference would be as large as the image's own contrast.
    assert np.abs(block_mean(np.roll(fine[0, 0], 4, axis=1), 4) - coarse[0, 0]).max() > 0.3


def test_percentiles_of_each_acquisition_become_zero_and_one() -> None:
    coarse, _ = draw_batch([source()], QUIET, np.random.default_rng(2))
    for acquisition in coarse.reshape(2, -1):
        assert np.percentile(acquisition, 1) == pytest.approx(0, abs=0.01)
        assert np.percentile(acquisition, 99) == pytest.approx(1, abs=0.01)


def test_all_three_planes_of_a_volume_are_used() -> None:
    # Grey values that differ between planes: constant along x, along y, or along z in the crop tell which plane it is.
    volume = np.zeros((64, 64, 64), np.uint8)
    volume[:] = (np.arange(64) * 3)[:, None, None]
    batch = draw_batch([volume], QUIET.model_copy(update={"acquisitions": 12}), np.random.default_rng(3))[1]
    flat = [float(np.ptp(crop)) < 1e-3 for crop in batch]
    assert any(flat)  # cut across z: one grey value
    assert not all(flat)  # cut along z: a ramp


def test_a_single_section_is_cut_in_its_own_plane() -> None:
    _, fine = draw_batch([source(shape=(1, 64, 70))], QUIET, np.random.default_rng(4))
    assert fine.shape == (6, 1, 64, 64)


def test_membranes_stay_dark() -> None:
    volume = np.full((64, 64, 64), 180, np.uint8)
    volume[:, ::8] = 60
    volume[:, :, ::8] = 60
    _, fine = draw_batch([volume], PairsConfig(crop=16, grain=(0, 0)), np.random.default_rng(0))
    for crop in fine[:, 0]:
        assert np.median(crop) >= crop.mean() - 1e-4
