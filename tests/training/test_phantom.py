"""The phantom is repeatable and looks like EM in its numbers."""

from __future__ import annotations

import numpy as np
import pytest

from volumetool.training.data.phantom import draw_phantom, phantom


def test_seed_and_shape_decide_the_volume() -> None:
    first, again, other = (phantom((16, 48, 40), seed) for seed in (3, 3, 4))
    assert first.shape == (16, 48, 40)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_grey_values_are_those_of_em() -> None:
    volume = phantom((40, 160, 160), seed=0)
    dark, middle, bright = np.percentile(volume, (1, 50, 99))
    assert 30 < dark < 90 < middle < 165 < bright < 230


def test_voxels_are_isotropic() -> None:
    volume = phantom((96, 96, 96), seed=2).astype(float)
    steps = [float(np.abs(np.diff(volume, axis=axis)).mean()) for axis in range(3)]
    assert max(steps) / min(steps) < 1.25


def test_neighbouring_sections_are_alike_and_far_ones_are_not() -> None:
    volume = phantom((96, 96, 96), seed=2).astype(float)
    near = np.corrcoef(volume[:-1].ravel(), volume[1:].ravel())[0, 1]
    far = np.corrcoef(volume[:-60].ravel(), volume[60:].ravel())[0, 1]
    assert near > 0.9
    assert abs(far) < 0.25


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 5, 7), (33, 31, 29)])
def test_any_shape_will_do(shape: tuple[int, int, int]) -> None:
    assert phantom(shape).shape == shape


def test_what_is_drawn_is_known() -> None:
    scene = draw_phantom((24, 96, 96), seed=6)
    assert np.array_equal(scene.grey, phantom((24, 96, 96), seed=6))
    assert scene.labels.shape == scene.grey.shape
    assert scene.labels.min() >= 1
    inside = scene.labels[:, 1:-1, 1:-1]
    same = (inside == scene.labels[:, 2:, 1:-1]) & (inside == scene.labels[:, 1:-1, 2:])
    assert scene.grey[:, 1:-1, 1:-1][same].mean() > scene.grey[:, 1:-1, 1:-1][~same].mean() + 20  # borders are dark


def test_vesicles_lie_where_it_says() -> None:
    scene = draw_phantom((40, 128, 128), seed=7, room=9)
    voxels = np.rint(scene.vesicles).astype(int)
    voxels = voxels[np.all((voxels >= 3) & (voxels < np.array(scene.grey.shape) - 3), axis=1)]
    assert len(voxels) > 10
    shells = [
        scene.grey[tuple((voxels + step).T)].mean() for step in 3 * np.vstack([np.eye(3, dtype=int), -np.eye(3, dtype=int)])
    ]
    assert np.mean(shells) < scene.grey[tuple(voxels.T)].mean() - 5  # dark around a bright lumen
