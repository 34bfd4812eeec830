"""Sources give the voxels asked for, and never one of the validation part to training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from small import small_options, small_training

from volumetool.errors import ConfigError, VolumetoolError
from volumetool.geometry import Box
from volumetool.storage.conversion import plan_conversion
from volumetool.storage.convert_volume import convert_volume
from volumetool.training.config import make_config
from volumetool.training.data.held_out import held_out
from volumetool.training.data.pairs import Sampler
from volumetool.training.data.sources import TrainingSource, find_shortcomings, open_sources, split_box, weights

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))


@given(SIZES, st.floats(0, 0.8), st.integers(0, 20))
def test_the_parts_are_apart_by_the_gap(shape: tuple[int, int, int], share: float, gap: int) -> None:
    whole = Box((3, 2, 1), (3 + shape[0], 2 + shape[1], 1 + shape[2]))
    training, validation = split_box(whole, share, gap)
    assert training.intersection(whole) == training
    if validation is None:
        assert training == whole
        return
    assert validation.intersection(whole) == validation
    axis = int(np.argmax(shape))
    assert validation.start[axis] - training.stop[axis] == gap
    assert training.voxels
    assert validation.voxels


def open_one(folder: Path, **changes: object) -> TrainingSource:
    source = small_options(folder)["sources"][0] | changes
    return open_sources(small_training(folder, sources=[source]))[0]


def write_ramp(folder: Path, dtype: str = "uint8") -> np.ndarray:
    ramp = np.random.default_rng(0).integers(0, 250, (12, 20, 24)).astype(dtype)
    tifffile.imwrite(folder / "ramp.tif", ramp)
    return ramp


def test_a_crop_holds_the_stored_voxels_and_is_mirrored_at_its_box(tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path)
    source = open_one(tmp_path, path=str(tmp_path / "ramp.tif"))
    box = Box((0, 0, 4), (12, 20, 20))
    crop = source.read(box, (2, 3, -2), (4, 5, 6))
    assert np.array_equal(np.rint(crop * 255), ramp[2:6, 3:8, [6, 5, 4, 5, 6, 7]])


def test_blocks_are_meaned(tmp_path: Path) -> None:
    ramp = write_ramp(tmp_path).astype(float)
    source = open_one(tmp_path, path=str(tmp_path / "ramp.tif"), mean="2,2,2")
    assert source.shape == (6, 10, 12)
    assert source.voxel_size == (16, 16, 16)
    crop = source.read(Box.whole(source.shape), (1, 2, 3), (2, 2, 2))
    assert crop[0, 0, 0] * 255 == pytest.approx(ramp[2:4, 4:6, 6:8].mean(), abs=1e-3)


def test_an_ome_zarr_volume_reads_as_the_stack_it_came_from(tmp_path: Path) -> None:
    write_ramp(tmp_path)
    convert_volume(plan_conversion(str(tmp_path / "ramp.tif"), str(tmp_path / "ramp.zarr"), voxel_size=(8, 8, 8)))
    stack, volume = (open_one(tmp_path, path=str(tmp_path / name)) for name in ("ramp.tif", "ramp.zarr"))
    box = Box.whole(stack.shape)
    assert np.array_equal(stack.read(box, (1, -3, 5), (4, 9, 9)), volume.read(box, (1, -3, 5), (4, 9, 9)))


def test_wide_data_are_scaled_by_their_own_percentiles(tmp_path: Path) -> None:
    wide = (write_ramp(tmp_path).astype(np.uint16)) * 200 + 3000
    tifffile.imwrite(tmp_path / "wide.tif", wide)
    source = open_one(tmp_path, path=str(tmp_path / "wide.tif"))
    low, high = np.percentile(source.read(Box.whole(source.shape), (6, 0, 0), (1, 20, 24)), (1, 99))
    assert (low, high) == (pytest.approx(0.1, abs=1e-3), pytest.approx(0.9, abs=1e-3))


def test_the_weights_decide_the_shares(tmp_path: Path) -> None:
    one = small_options(tmp_path)["sources"][0]
    sources = open_sources(small_training(tmp_path, sources=[one | {"weight": 3}, one]))
    assert weights(sources, "training").tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"path": "/nowhere/at.tif"}, "input.not-found"),
        ({"boxes": ["100:200,:,:"]}, "config.source"),
        ({"mean": "100,1,1"}, "config.source"),
        ({"limits": [5, 5]}, "config.source"),
    ],
)
def test_a_source_that_cannot_be_used_is_named(tmp_path: Path, changes: dict[str, object], code: str) -> None:
    with pytest.raises(VolumetoolError) as caught:
        open_one(tmp_path, **changes)
    assert caught.value.code == code


def test_real_pairs_are_registered_and_the_unlike_ones_dropped(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    section = tifffile.imread(small_options(tmp_path)["sources"][0]["path"])[10].astype(float)
    clean = np.stack([section, section.T, rng.normal(120, 40, section.shape)])
    noisy = np.stack([np.roll(clean[0], 3, 1), clean[1], rng.normal(120, 40, section.shape)])
    noisy[:2] += rng.normal(0, 8, noisy[:2].shape)
    for name, stack in (("clean", clean), ("noisy", noisy)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.clip(stack, 0, 255).astype(np.uint8), photometric="minisblack")
    source = {"path": str(tmp_path / "clean.tif"), "noisy": str(tmp_path / "noisy.tif"), "voxel_size": [8, 8, 8]}
    config = small_training(tmp_path, sources=[source], architecture={"width": 4, "pools": [[1, 2, 2]], "scale": [1, 1, 1]})
    (opened,) = open_sources(config)
    assert opened.dropped == 1
    assert opened.noisy is not None
    assert opened.shape == opened.noisy.shape
    # Once the drift is undone, the two agree but for the noise.
    assert np.corrcoef(opened.noisy[0].ravel(), opened.array[0].ravel())[0, 1] > 0.9


def test_a_pair_whose_stacks_do_not_match_is_refused(tmp_path: Path) -> None:
    path = small_options(tmp_path)["sources"][0]["path"]
    write_ramp(tmp_path)
    with pytest.raises(ConfigError, match="64 clean sections against 12 noisy ones"):
        open_one(tmp_path, path=path, noisy=str(tmp_path / "ramp.tif"), planes="z")


def test_boxes_that_let_training_see_what_validates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is to validate"):
        open_one(tmp_path, boxes=["0:64,0:40,0:30", "40:64,:,:"])


def test_values_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).normal(size=(8, 20, 24)).astype(np.float32)
    volume[3, 4, 5] = np.nan
    tifffile.imwrite(tmp_path / "nan.tif", volume, photometric="minisblack")
    source = open_one(tmp_path, path=str(tmp_path / "nan.tif"), limits=[-3, 3])
    assert source.read(Box.whole(source.shape), (4, 0, 0), (2, 20, 24)).shape == (2, 20, 24)
    with pytest.raises(VolumetoolError) as caught:
        source.read(Box.whole(source.shape), (2, 0, 0), (4, 20, 24))
    assert caught.value.code == "input.not-finite"


def test_a_real_pair_smaller_than_a_crop_is_refused(tmp_path: Path) -> None:
    path = small_options(tmp_path)["sources"][0]["path"]
    architecture = {"width": 4, "pools": [[1, 2, 2]], "scale": [1, 1, 1]}
    source = {"path": path, "noisy": path, "voxel_size": [8, 8, 8]}
    sampling = {"crop": [1, 128, 128]}
    with pytest.raises(ConfigError, match="smaller than a crop"):
        open_sources(small_training(tmp_path, sources=[source], architecture=architecture, sampling=sampling))


def test_crops_that_exceed_their_source_are_said_to_be_mirrored(tmp_path: Path) -> None:
    large = small_options(tmp_path)
    assert find_shortcomings(make_config(large)) == []
    large["sampling"] = large["sampling"] | {"crop": [1, 20, 20]}  # 80 fine voxels a side, the source has 64
    notes = find_shortcomings(make_config(large))
    assert len(notes) == 2  # its training part and its validation part
    assert all("1 x 80 x 80" in note and "mirrored" in note for note in notes)
    config = make_config(large)
    assert all("partly mirrored" in volume.protocol for volume in held_out(Sampler(open_sources(config), config)))


def test_a_box_of_a_source_that_reaches_beyond_it_is_said(tmp_path: Path) -> None:
    options = small_options(tmp_path)
    options["sources"][0]["boxes"] = ["0:64,0:64,0:99"]
    (note,) = find_shortcomings(make_config(options))
    assert "0:64,0:64,0:99" in note
    assert "0:64,0:64,0:64" in note
