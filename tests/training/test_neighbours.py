"""Neighbouring sections are displaced and spoilt; the section in the middle, whose truth is asked for, never is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from small import small_options, small_training

from volumetool.training.config import make_config
from volumetool.training.data.neighbours import NeighbourConfig, displace, spoil
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import open_sources

ALWAYS = NeighbourConfig(displaced=1, spoilt=1)
SHAPE = (5, 30, 42)


def sections(seed: int, *more: int) -> np.ndarray:
    return np.random.default_rng(seed).random((*more, *SHAPE), np.float32)


@given(seed=st.integers(0, 2**32), count=st.sampled_from([3, 5, 9]))
def test_displacing_leaves_the_middle_where_and_as_it_is(seed: int, count: int) -> None:
    margin = ALWAYS.margin(32, 2)
    fine = np.random.default_rng(seed).random((count, 24 + 2 * margin, 32 + 2 * margin), np.float32)
    cut = displace(fine, ALWAYS, margin, 2, np.random.default_rng(seed))
    assert cut.shape == (count, 24, 32)
    np.testing.assert_allclose(cut[count // 2], fine[count // 2, margin:-margin, margin:-margin], atol=1e-6)
    assert cut.min() >= 0
    assert cut.max() <= 1


def test_neighbours_are_shifted_as_far_as_asked_and_no_farther() -> None:
    config = NeighbourConfig(displaced=1, shift=3, shear=0, tone=0)
    margin, scale = config.margin(16, 4), 4
    columns = (np.arange(16 + 2 * margin) / 256).astype(np.float32)
    fine = np.broadcast_to(columns, (7, len(columns), len(columns)))
    found = [
        (displace(fine, config, margin, scale, np.random.default_rng(seed))[:, 0, 0] * 256 - margin).round()
        for seed in range(200)
    ]
    assert np.abs(found).max() == 3 * scale
    assert len(np.unique(found)) > scale


def test_well_aligned_neighbours_stay_as_they_are() -> None:
    config = NeighbourConfig(displaced=0, tone=0)
    fine = sections(1)
    np.testing.assert_allclose(displace(fine, config, 3, 2, np.random.default_rng(0)), fine[:, 3:-3, 3:-3], atol=1e-6)


@given(seed=st.integers(0, 2**32))
def test_spoiling_never_touches_the_middle(seed: int) -> None:
    coarse = sections(seed, 4)
    middle = coarse[:, 2].copy()
    spoilt = spoil(coarse, ALWAYS, np.random.default_rng(seed))
    assert np.array_equal(spoilt[:, 2], middle)
    assert spoilt.min() >= 0
    assert spoilt.max() <= 1


def test_all_kinds_of_trouble_occur_and_few_crops_are_spared() -> None:
    found = set()
    for seed in range(300):
        before = sections(seed, 1)
        after = spoil(before.copy(), ALWAYS, np.random.default_rng(seed))[0]
        same = [bool(np.array_equal(a, b)) for a, b in zip(after, before[0], strict=True)]
        alone = all(np.array_equal(section, after[2]) for section in after)
        face = np.array_equal(after[1], after[3]) and not alone
        blank = any(section.std() == 0 for section in after)
        found |= {("alone", alone), ("face", face), ("blank", blank), ("all", sum(same) == 1)}
    assert {("alone", True), ("face", True), ("blank", True), ("all", True)} <= found


def test_sections_of_single_images_have_no_neighbours(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "tiles.tif", np.random.default_rng(0).integers(0, 255, (3, 80, 80), np.uint8), photometric="minisblack"
    )
    source = {"path": str(tmp_path / "tiles.tif"), "voxel_size": [8, 8, 8], "stack": False}
    config = small_training(
        tmp_path, architecture={"width": 4, "pools": [[1, 2, 2]], "z_context": 2, "gate": True}, sources=[source]
    )
    coarse, fine = Sampler(open_sources(config), config).draw("training", 0)
    assert coarse.shape == (4, 5, 16, 16)
    assert fine.shape == (4, 1, 64, 64)
    assert np.array_equal(coarse, np.broadcast_to(coarse[:, 2:3], coarse.shape))


def test_truth_and_middle_section_show_the_same_place(tmp_path: Path) -> None:
    """Were the middle displaced, its mean over blocks would not follow the truth's."""
    architecture = {"width": 4, "pools": [[1, 2, 2]], "z_context": 2}
    options = small_options(tmp_path, architecture=architecture, neighbours={"displaced": 1, "spoilt": 1})
    options |= {"degradation": {"recipes": ["pssr2-poisson"], "noise": [0.1, 0.1]}}
    config = make_config(options)
    coarse, fine = Sampler(open_sources(config), config).draw("training", 3)
    blocks = fine[:, 0].reshape(4, 16, 4, 16, 4).mean(axis=(2, 4))
    for ours, truth in zip(coarse[:, 2], blocks, strict=True):
        assert np.corrcoef(ours.ravel(), truth.ravel())[0, 1] > 0.97


def test_with_nothing_to_spoil_no_chance_is_taken_so_that_older_trainings_draw_what_they_drew() -> None:
    nothing = NeighbourConfig(displaced=0, tone=0, spoilt=0)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    assert nothing.margin(240, 4) == 0
    assert np.array_equal(displace(sections(1), nothing, 0, 4, rng), sections(1))
    assert np.array_equal(spoil(sections(2, 3), nothing, rng), sections(2, 3))
    assert rng.bit_generator.state == before


@pytest.mark.parametrize("field", [{"displaced": 1.5}, {"spoilt": -0.1}, {"shift": -1}, {"shear": 1}])
def test_impossible_values_are_refused(field: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(field))):
        NeighbourConfig.model_validate(field)
