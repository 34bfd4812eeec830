"""Training pairs are aligned, normalised together, drawn from all planes, and decided by their key alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from small import ARCHITECTURE, small_options, small_training

from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import open_sources

PLAIN = {"gamma": [1, 1], "contrast": [1, 1], "brightness": [0, 0], "grain": [0, 0]}
QUIET: dict[str, Any] = {
    "neighbours": {"displaced": 0, "spoilt": 0, "tone": 0},
    "degradation": {"recipes": ["pssr2-poisson"], "noise": [0.01, 0.011]},
    "augmentation": PLAIN,
    "jitter": 0,
}


@pytest.fixture
def unscaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave grey values as they are, so that they can be told from each other."""
    monkeypatch.setattr(Sampler, "_normalise", lambda _self, coarse, fine, _rng: (coarse, fine))


def sampler(folder: Path, **changes: Any) -> Sampler:
    config = small_training(folder, **changes)
    return Sampler(open_sources(config), config)


def source_of(folder: Path, volume: NDArray[np.uint8], **changes: Any) -> dict[str, Any]:
    tifffile.imwrite(folder / "made.tif", volume)
    return small_options(folder)["sources"][0] | {"path": str(folder / "made.tif")} | changes


def block_mean(image: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    y, x = (n // factor for n in image.shape)
    return image.reshape(y, factor, x, factor).mean((1, 3))


def test_shapes_and_types(tmp_path: Path) -> None:
    for architecture, crop, coarse_shape, fine_shape in (
        (ARCHITECTURE, [1, 16, 16], (4, 1, 16, 16), (4, 1, 64, 64)),
        (ARCHITECTURE | {"z_context": 2}, [1, 16, 16], (4, 5, 16, 16), (4, 1, 64, 64)),
        (
            {"dims": 3, "scale": [2, 2, 2], "width": 4, "pools": [[2, 2, 2]]},
            [8, 16, 16],
            (4, 1, 8, 16, 16),
            (4, 1, 16, 32, 32),
        ),
        ({"dims": 3, "scale": [4, 1, 1], "width": 4, "pools": [[1, 2, 2]]}, [3, 16, 12], (4, 1, 3, 16, 12), (4, 1, 12, 16, 12)),
    ):
        sampling = {"crop": crop, "acquisitions": 2, "crops": 2}
        coarse, fine = sampler(tmp_path, architecture=architecture, sampling=sampling).draw("training", 0)
        assert (coarse.shape, fine.shape) == (coarse_shape, fine_shape)
        assert coarse.dtype == fine.dtype == np.float32


def test_the_key_decides_the_batch(tmp_path: Path) -> None:
    drawn = sampler(tmp_path)
    first = drawn.draw("training", 5, 0)
    drawn.draw("training", 6, 0)
    again, other, next_device = (drawn.draw("training", *key) for key in ((5, 0), (6, 0), (5, 1)))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], next_device[0])


def test_coarse_and_fine_are_aligned_and_on_one_scale(tmp_path: Path) -> None:
    coarse, fine = sampler(tmp_path, **QUIET).draw("training", 1)
    for small, large in zip(coarse[:, 0], fine[:, 0], strict=True):
        assert np.abs(block_mean(large, 4) - small).max() < 0.05
    # Were they shifted by one coarse voxel, the difference would be as large as the image's own contrast.
    assert np.abs(block_mean(np.roll(fine[0, 0], 4, axis=1), 4) - coarse[0, 0]).max() > 0.3


def test_percentiles_of_each_acquisition_become_zero_and_one(tmp_path: Path) -> None:
    coarse, _ = sampler(tmp_path, **QUIET).draw("training", 2)
    for acquisition in coarse.reshape(2, -1):
        assert np.percentile(acquisition, 1) == pytest.approx(0, abs=0.01)
        assert np.percentile(acquisition, 99) == pytest.approx(1, abs=0.01)


def test_all_three_planes_of_a_volume_are_used(tmp_path: Path) -> None:
    volume = np.zeros((64, 64, 64), np.uint8)
    volume[:] = (np.arange(64) * 3)[:, None, None]
    source = source_of(tmp_path, volume)
    fine = sampler(tmp_path, **QUIET, sources=[source], sampling={"crop": [1, 8, 8], "acquisitions": 12}).draw("training", 3)[1]
    flat = [float(np.ptp(crop)) < 1e-3 for crop in fine]
    assert any(flat)  # cut across z: one grey value
    assert not all(flat)  # cut along z: a ramp


def test_neighbouring_sections_come_in_order_and_at_one_distance(tmp_path: Path) -> None:
    volume = np.zeros((64, 64, 64), np.uint8)
    volume[:] = (np.arange(64) * 3 + 20)[:, None, None]
    volume[:, ::7] += 40  # something to normalise by
    source = source_of(tmp_path, volume, planes="z", z_step=[2, 2])
    coarse, fine = sampler(tmp_path, **QUIET, sources=[source], architecture=ARCHITECTURE | {"z_context": 1}).draw(
        "training", 0
    )
    means = coarse.mean(axis=(2, 3))  # (b, sections)
    steps = np.diff(means, axis=1)
    assert np.allclose(steps, steps[:, :1], atol=0.02)
    assert np.all(np.abs(steps) > 0.02)
    assert np.allclose(means[:, 1], fine.mean(axis=(1, 2, 3)), atol=0.02)


@pytest.mark.usefixtures("unscaled")
def test_thick_sections_are_means(tmp_path: Path) -> None:
    volume = np.zeros((64, 64, 64), np.uint8)
    volume[::2] = 200
    source = source_of(tmp_path, volume, planes="z", slab=[2, 2])
    fine = sampler(tmp_path, **QUIET, sources=[source]).draw("training", 0)[1]
    assert np.allclose(fine * 255, 100, atol=0.5)


@pytest.mark.usefixtures("unscaled")
def test_a_zoom_enlarges_what_is_seen(tmp_path: Path) -> None:
    volume = np.zeros((64, 64, 64), np.uint8)
    volume[:, :, 32:] = 200  # one edge; twice as far from the next mirrored one when enlarged
    source = source_of(tmp_path, volume, planes="z")
    options = QUIET | {"sources": [source], "validation": {"share": 0}}
    for zoom, share in ((1.0, 0.5), (4.0, None)):
        fine = sampler(tmp_path, **options | {"augmentation": PLAIN | {"zoom": [zoom, zoom]}}).draw("training", 0)[1]
        filled = (fine > 0.4).mean(axis=(1, 2, 3))
        assert fine.shape == (4, 1, 64, 64)
        if share is not None:
            assert np.allclose(filled, share, atol=0.01)
        else:
            assert np.ptp(filled) > 0.1  # a quarter of the field: now here, now there


@pytest.mark.usefixtures("unscaled")
def test_validation_crops_come_from_the_validation_part(tmp_path: Path) -> None:
    volume = np.full((64, 64, 64), 50, np.uint8)
    volume[40:] = 150
    source = source_of(tmp_path, volume, planes="z")
    options = QUIET | {"sources": [source], "validation": {"share": 0.25, "gap": 8}}
    drawn = sampler(tmp_path, **options)
    assert np.allclose(drawn.draw("training", 0)[1] * 255, 50, atol=0.5)
    assert np.allclose(drawn.draw("validation", 0)[1] * 255, 150, atol=0.5)


def test_real_pairs_are_cut_at_one_place(tmp_path: Path) -> None:
    clean = tifffile.imread(small_options(tmp_path)["sources"][0]["path"])[:2]
    noisy = np.clip(clean + np.random.default_rng(0).normal(0, 3, clean.shape), 0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "noisy.tif", noisy)
    source = source_of(tmp_path, clean, noisy=str(tmp_path / "noisy.tif"), planes="z")
    architecture = ARCHITECTURE | {"scale": [1, 1, 1]}
    coarse, fine = sampler(tmp_path, sources=[source], architecture=architecture, jitter=0).draw("training", 0)
    for a, b in zip(coarse, fine, strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97
