"""The textures are repeatable, as large in nm as they should be, and free of membranes where they say so."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from volumetool.training.data.textures import TEXTURES, draw_textures, main

CUBIC = (8.0, 8.0, 8.0)


def test_the_arguments_decide_the_volume() -> None:
    first, again, other = (draw_textures((3, 96, 80), CUBIC, seed=seed) for seed in (3, 3, 4))
    assert first.shape == (3, 96, 80)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 5, 7)])
@pytest.mark.parametrize("voxel_size", [(4.0, 4.0, 4.0), (30.0, 6.0, 6.0)])
def test_any_shape_and_voxel_size_will_do(shape: tuple[int, int, int], voxel_size: tuple[float, float, float]) -> None:
    assert draw_textures(shape, voxel_size).shape == shape


@pytest.mark.parametrize("kind", sorted(set(TEXTURES) - {"resin"}))
def test_every_texture_stands_out_from_empty_resin(kind: str) -> None:
    resin, drawn = (draw_textures((6, 200, 200), CUBIC, (each,), seed=1) for each in ("resin", kind))
    assert resin.min() > 160
    assert drawn.std() > 2 * resin.std()
    assert drawn.min() < 110


@pytest.mark.parametrize(("kind", "within"), [("granules", (15, 30)), ("chromatin", (12, 40))])
def test_grains_are_as_wide_in_nm_whatever_the_voxels(kind: str, within: tuple[float, float]) -> None:
    for voxel in (2.0, 4.0):
        drawn = draw_textures((1, 240, 240), (voxel,) * 3, (kind,), seed=2)[0].astype(float)
        darker = drawn < ndimage.median_filter(drawn, int(80 / voxel)) - 25
        label, _ = ndimage.label(darker)
        area = np.bincount(label.ravel())[1:] * voxel**2  # nm2
        assert within[0] < np.sqrt(4 / np.pi * np.median(area[area > 50])) < within[1]


def test_thick_sections_show_grains_paler() -> None:
    contrasts = [
        float(np.std(draw_textures((8, 200, 200), (thickness, 4.0, 4.0), ("granules",), seed=5))) for thickness in (4, 20, 60)
    ]
    assert all(thin > thick for thin, thick in pairwise(contrasts))


def test_membranes_run_where_two_kinds_meet_and_nowhere_else() -> None:
    alone = draw_textures((4, 256, 256), CUBIC, ("resin",), seed=6)
    beside = draw_textures((4, 256, 256), CUBIC, ("resin", "resin"), seed=6)  # as if they were two
    assert np.count_nonzero(alone < 120) == 0
    assert 0.005 < np.mean(beside < 120) < 0.1


def test_a_stack_is_written_for_training(tmp_path: Path) -> None:
    output = tmp_path / "textures.tif"
    main([str(output), "--shape", "2,48,40", "--voxel-size", "30,6,6", "--kinds", "chromatin", "--seed", "9"])
    assert np.array_equal(tifffile.imread(output), draw_textures((2, 48, 40), (30.0, 6.0, 6.0), ("chromatin",), 9))
