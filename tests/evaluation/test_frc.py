"""FRC and FSC fall where two noisy images stop agreeing, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from volumetool.evaluation.scores.frc import HANN_INDEPENDENT, FourierCorrelation, Shells, half_bit, spread_boxes, squares
from volumetool.geometry import Box


def _band_limited(shape: tuple[int, ...], cut: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """White noise of unit variance per coefficient up to `cut` cycles per voxel, and nothing beyond."""
    spectrum = np.fft.fftn(rng.standard_normal(shape))
    radius = np.sqrt(sum(np.square(f) for f in np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij", sparse=True)))
    return np.real(np.fft.ifftn(np.where(radius <= cut, spectrum, 0)))


@pytest.mark.parametrize(("shape", "patches"), [((128, 128), 6), ((40, 40, 40), 3)])
@pytest.mark.parametrize("cut", [0.15, 0.3])
def test_the_curve_falls_where_the_image_was_cut(shape: tuple[int, ...], patches: int, cut: float) -> None:
    rng = np.random.default_rng(0)
    total = FourierCorrelation(Shells(shape, (8.0,) * len(shape)))
    for _ in range(patches):
        image = 40 * _band_limited(shape, cut, rng)
        total.add(image + 10 * rng.standard_normal(shape), image + 10 * rng.standard_normal(shape))
    found = total.result()
    values, per_voxel = np.array(found.correlation), np.array(found.per_voxel)
    inside = (per_voxel > 0.05) & (per_voxel < cut - 0.04)
    # Signal to noise power is 16, so that the expected correlation is 16 / 17.
    assert np.mean(values[inside]) == pytest.approx(16 / 17, abs=0.02)
    assert np.abs(values[per_voxel > cut + 0.04]).max() < 0.2
    for crossing in found.crossings:
        assert crossing.nm is not None
        assert abs(8 / crossing.nm - cut) < 2 / shape[0]  # a Hann window smears over two shells


def test_noise_alone_has_no_resolution_and_equal_images_have_all() -> None:
    rng = np.random.default_rng(1)
    shells = Shells((64, 64), (4.0, 4.0))
    noise, same = FourierCorrelation(shells), FourierCorrelation(shells)
    for _ in range(8):
        image = rng.standard_normal((64, 64))
        noise.add(image, rng.standard_normal((64, 64)))
        same.add(image, 3 * image + 5)
    assert [crossing.nm for crossing in noise.result().crossings] == [None, None]
    assert np.array(same.result().correlation)[1:] == pytest.approx(1.0)
    assert all("finer than 8 nm" in crossing.words for crossing in same.result().crossings)


def test_frequencies_are_physical_on_voxels_of_unequal_sides() -> None:
    shells = Shells((32, 64, 128), (16.0, 8.0, 4.0))
    assert shells.per_nm[-1] == pytest.approx(1 / 32)  # Nyquist of the coarsest axis
    assert shells.per_voxel[-1] == 0.5
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip((32, 64, 128), (16, 8, 4), strict=True)), indexing="ij")
    for axis in (z, y, x):
        power = shells.power(np.cos(2 * np.pi * axis / 64))
        assert shells.per_nm[np.argmax(power)] == pytest.approx(1 / 64)


def test_power_of_white_noise_is_its_variance_at_every_frequency() -> None:
    rng = np.random.default_rng(2)
    shells = Shells((96, 96), (1.0, 1.0))
    power = np.mean([shells.power(rng.normal(100, 7, (96, 96))) for _ in range(20)], axis=0)
    assert np.mean(power[2:]) == pytest.approx(49, rel=0.02)
    assert power[4:] == pytest.approx(49, rel=0.2)


def test_the_half_bit_threshold_is_that_of_the_paper() -> None:
    assert half_bit(np.array([1e12]))[0] == pytest.approx(0.1716, abs=1e-4)  # SNR 0.2071 per half: 0.2071 / 1.2071
    assert np.all(np.diff(half_bit(np.arange(1.0, 500.0))) < 0)
    window = np.hanning(1025)[:-1]
    assert pytest.approx(np.mean(window**2) ** 2 / np.mean(window**4), rel=1e-6) == HANN_INDEPENDENT


def test_patches_lie_inside_and_do_not_overlap() -> None:
    taken = np.zeros((100, 70), int)
    for cut in squares(taken.shape, 32):
        taken[cut] += 1
    assert (taken.max(), taken.sum()) == (1, 6 * 32 * 32)
    boxes = spread_boxes(Box((5, 0, 0), (45, 300, 500)), (24.0, 8.0, 8.0))
    assert all(Box((5, 0, 0), (45, 300, 500)).contains(box) and box.shape == (32, 96, 96) for box in boxes)
    assert len(boxes) == 5
    assert spread_boxes(Box((0, 0, 0), (9, 300, 500)), (24.0, 8.0, 8.0)) == []
