"""N5 in all its dialects: order of axes, voxel sizes, translations, codecs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_n5 import SHAPE, Json, write_attributes, write_dataset, write_pyramid

from volumetool.errors import InputError
from volumetool.storage.formats.n5 import find_n5
from volumetool.storage.open import open_volume

SIZES = [(30.0, 8.0, 4.0), (60.0, 16.0, 8.0)]
SHIFTS = [(0.0, 0.0, 0.0), (15.0, 4.0, 2.0)]
FACTORS = [[1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize(
    "attributes",
    [
        {"downsamplingFactors": FACTORS, "pixelResolution": {"unit": "nm", "dimensions": [4, 8, 30]}},
        {"scales": FACTORS, "pixelResolution": {"unit": "um", "dimensions": [0.004, 0.008, 0.03]}},
        {"scales": FACTORS, "pixelResolution": [4, 8, 30], "units": ["nm", "nm", "nm"]},
        {"pixelResolution": {"unit": "nm", "dimensions": [4, 8, 30]}},
        {"axes": ["x", "y", "z"], "units": ["nm", "nm", "nm"], "resolution": [4, 8, 30], "scales": FACTORS},
        {"multiScale": True, "resolution": [4, 8, 30], "downsamplingFactors": FACTORS},
    ],
    ids=["n5-viewer", "n5-viewer-scales-um", "bare-list", "factors-from-shapes", "neuroglancer", "paintera"],
)
def test_group_dialects_give_sizes_and_the_shift_of_averaged_levels(tmp_path: Path, attributes: Json) -> None:
    voxels = write_pyramid(tmp_path, attributes)
    volume = open_volume(tmp_path)
    assert [level.path for level in volume.levels] == ["s0", "s1"]
    assert [level.voxel_size for level in volume.levels] == [pytest.approx(size) for size in SIZES]
    assert [level.translation for level in volume.levels] == [pytest.approx(shift) for shift in SHIFTS]
    np.testing.assert_array_equal(volume.open().read().result(), voxels)


def test_factors_may_stand_on_the_levels(tmp_path: Path) -> None:
    one = {"downsamplingFactors": [1, 1, 1], "pixelResolution": {"unit": "nm", "dimensions": [4, 8, 30]}}
    write_pyramid(tmp_path, {}, one, one | {"downsamplingFactors": [2, 2, 2]})
    assert [level.voxel_size for level in open_volume(tmp_path).levels] == SIZES
    alone = open_volume(tmp_path / "s1")
    assert (alone.voxel_size, alone.translation) == (SIZES[1], SHIFTS[1])


def test_a_level_alone_takes_its_size_from_the_group(tmp_path: Path) -> None:
    write_pyramid(tmp_path, {"resolution": [4, 8, 30], "scales": FACTORS})
    alone = open_volume(tmp_path / "s1")
    assert (alone.voxel_size, alone.translation, alone.shape) == (SIZES[1], SHIFTS[1], (2, 3, 4))


def test_paintera_data_are_found_below_and_moved_by_the_offset(tmp_path: Path) -> None:
    write_attributes(tmp_path, {"painteraData": {"type": "raw"}})
    write_pyramid(tmp_path / "data", {"multiScale": True, "resolution": [4, 8, 30], "scales": FACTORS, "offset": [1, 2, 3]})
    volume = open_volume(tmp_path)
    assert volume.url == str(tmp_path / "data")
    assert [level.translation for level in volume.levels] == [(3.0, 2.0, 1.0), (18.0, 6.0, 3.0)]


def test_paintera_labels_are_refused(tmp_path: Path) -> None:
    write_pyramid(tmp_path, {"multiScale": True, "resolution": [4, 8, 30], "isLabelMultiset": True})
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.labels"


def _cosem(scale: list[float], translate: list[float], **more: Any) -> Json:
    return {"axes": ["z", "y", "x"], "scale": scale, "translate": translate, "units": ["nm"] * 3, **more}


def test_cosem_transforms_are_slowest_first(tmp_path: Path) -> None:
    transforms = [_cosem([30, 8, 4], [1, 2, 3]), _cosem([60, 16, 8], [16, 6, 5])]
    datasets = [{"path": f"s{n}", "transform": transform} for n, transform in enumerate(transforms)]
    voxels = write_pyramid(tmp_path, {"multiscales": [{"datasets": datasets}], "pixelResolution": [9, 9, 9]})
    volume = open_volume(tmp_path)
    assert [level.voxel_size for level in volume.levels] == SIZES
    assert [level.translation for level in volume.levels] == [(1.0, 2.0, 3.0), (16.0, 6.0, 5.0)]
    np.testing.assert_array_equal(volume.open().read().result(), voxels)


def test_cosem_transforms_in_fortran_order_mean_the_same(tmp_path: Path) -> None:
    fortran = {"axes": ["x", "y", "z"], "scale": [4, 8, 30], "translate": [3, 2, 1], "units": ["nm"] * 3, "order": "F"}
    voxels = write_dataset(tmp_path, {"transform": fortran})
    volume = open_volume(tmp_path)
    assert (volume.voxel_size, volume.translation) == (SIZES[0], (1.0, 2.0, 3.0))
    np.testing.assert_array_equal(volume.open().read().result(), voxels)


def test_cosem_axes_named_in_another_order_are_transposed(tmp_path: Path) -> None:
    odd = {"axes": ["x", "y", "z"], "scale": [4, 8, 30], "translate": [3, 2, 1], "units": ["nm"] * 3}
    voxels = write_dataset(tmp_path, {"transform": odd})
    volume = open_volume(tmp_path)
    assert volume.voxel_size == SIZES[0]
    np.testing.assert_array_equal(volume.open().read().result(), voxels.transpose())


@pytest.mark.parametrize("more", [{}, {"downsamplingFactors": [2, 2, 1]}])
def test_the_offset_of_a_single_dataset_moves_it(tmp_path: Path, more: Json) -> None:
    write_dataset(tmp_path, {"resolution": [4, 8, 30], "offset": [40, 80, 300], **more})
    volume = open_volume(tmp_path)
    assert volume.translation == ((300.0, 84.0, 42.0) if more else (300.0, 80.0, 40.0))
    assert open_volume(tmp_path, voxel_size=(60.0, 16.0, 8.0) if not more else (60.0, 32.0, 16.0)).translation[0] == 600.0


def test_a_stated_unit_goes_before_an_assumed_one(tmp_path: Path) -> None:
    micrometres = {"resolution": [0.004, 0.008, 0.03]}
    write_dataset(tmp_path / "a", micrometres | {"pixelResolution": {"unit": "um", "dimensions": [0.004, 0.008, 0.03]}})
    assert open_volume(tmp_path / "a").voxel_size == pytest.approx(SIZES[0])
    write_dataset(tmp_path / "b", micrometres)  # no microscope has voxels below the size of an atom
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path / "b")
    assert caught.value.code == "input.no-voxel-size"


def test_an_offset_without_a_resolution_is_in_no_known_unit(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"offset": [40, 80, 300]})
    assert open_volume(tmp_path, voxel_size=(30.0, 8.0, 4.0)).translation == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("names", [("setup0/timepoint0", "setup1/timepoint0"), ("timepoint0", "timepoint1"), ("c0", "c1")])
def test_one_of_several_volumes_must_be_chosen(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write_pyramid(tmp_path / name, {"resolution": [4, 8, 30]})
    with pytest.raises(InputError, match=names[0].split("/", maxsplit=1)[0]) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.not-a-volume"


def test_attributes_of_ancestors_do_not_leak_into_a_dataset(tmp_path: Path) -> None:
    write_attributes(tmp_path, {"n5": "2.0.0", "resolution": [1, 1, 1]})
    write_dataset(tmp_path / "volumes" / "raw")
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path / "volumes" / "raw")
    assert caught.value.code == "input.no-voxel-size"


def test_a_fourth_dimension_is_channels(tmp_path: Path) -> None:
    voxels = write_dataset(tmp_path, shape=(*SHAPE, 2))
    volume = open_volume(tmp_path, voxel_size=(30.0, 8.0, 4.0))
    assert volume.channels == 2
    np.testing.assert_array_equal(volume.open(0, 1).read().result(), voxels[1])


def test_attributes_that_make_no_sense_are_named(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"resolution": [4, 8]})
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"


@pytest.mark.parametrize(
    ("path", "axes", "size", "translation"),
    [
        ("test.n5/n5v_pr", "xyz", (1.5e6, 1.5e6, 1.5e6), (0, 0, 0)),
        ("test.n5/n5v_pr-ds", "xyz", (3e6, 3e6, 3e6), (0.75e6, 0.75e6, 0.75e6)),
        ("test.n5/cosem", "xyz", (64, 64, 64), (28, 28, 28)),
        ("test.n5/cosem_ms", "xyz", (32, 32, 32), (21, 21, 21)),
        ("test.n5/cosem_ms/s2", "xyz", (128, 128, 128), (35, 35, 35)),
        ("canonical.n5/affine", "xyz", (4e3, 3e3, 2e3), (0, 0, 0)),
        ("root_dataset.n5", "xyz", (32, 32, 32), (21, 21, 21)),
    ],
)
def test_datasets_of_n5_universe(
    fixture: Callable[[str], Path], path: str, axes: str, size: tuple[float, ...], translation: tuple[float, ...]
) -> None:
    volume = open_volume(fixture("n5universe_metadata") / path)
    assert "".join(volume.axes) == axes
    assert volume.voxel_size == size
    assert volume.translation == translation


def test_two_sizes_that_disagree_are_shown_and_the_user_decides(fixture: Callable[[str], Path]) -> None:
    place = fixture("n5universe_metadata") / "test.n5" / "c0" / "s0"
    with pytest.raises(
        InputError, match=r"1\.3e\+07 x 1\.1e\+07 x 7e\+06 nm .* transform, 1\.5e\+06 .* pixelResolution"
    ) as caught:
        open_volume(place)
    assert caught.value.code == "input.no-voxel-size"
    assert "--voxel-size" in caught.value.hint
    volume = open_volume(place, voxel_size=(13e6, 11e6, 7e6))
    assert (volume.axes, volume.translation) == (("z", "y", "x"), (5e6, 3e6, 2e6))


def test_size_and_offset_may_stand_on_the_finest_level_alone(tmp_path: Path) -> None:
    write_pyramid(tmp_path, {"scales": FACTORS}, {"resolution": [4, 8, 30], "offset": [1, 2, 3]}, {})
    volume = open_volume(tmp_path)
    assert [level.voxel_size for level in volume.levels] == SIZES
    assert [level.translation for level in volume.levels] == [(3.0, 2.0, 1.0), (18.0, 6.0, 3.0)]


def test_an_offset_is_in_the_unit_of_the_resolution_beside_it(tmp_path: Path) -> None:
    nanometres = {"resolution": [4, 8, 30], "offset": [40, 80, 300]}
    write_dataset(tmp_path, nanometres | {"pixelResolution": {"unit": "um", "dimensions": [0.004, 0.008, 0.03]}})
    volume = open_volume(tmp_path)
    assert volume.voxel_size == pytest.approx(SIZES[0])
    assert volume.translation == pytest.approx((300.0, 80.0, 40.0))


def test_lists_of_funlib_are_in_the_order_of_its_axis_names(tmp_path: Path) -> None:
    lengths = {"voxel_size": [30, 8, 4], "offset": [300, 80, 40], "units": ["nm"] * 3}
    voxels = write_dataset(tmp_path, lengths | {"axis_names": ["z", "y", "x"]})
    volume = open_volume(tmp_path)
    assert (volume.voxel_size, volume.translation) == (SIZES[0], (300.0, 80.0, 40.0))
    np.testing.assert_array_equal(volume.open().read().result(), voxels)


def test_transforms_of_a_sequence_are_applied_in_their_order(tmp_path: Path) -> None:
    steps = [{"type": "translation", "translation": [10, 10, 10]}, {"type": "scale", "scale": [4, 8, 30]}, {"type": "identity"}]
    sequence = {"type": "sequence", "transformations": steps}
    write_dataset(tmp_path / "s0", {"spatialTransform": {"transform": sequence, "unit": "nm"}})
    for place in (tmp_path, tmp_path / "s0"):
        volume = open_volume(place)
        assert (volume.voxel_size, volume.translation) == (SIZES[0], (300.0, 80.0, 40.0))


def test_a_transform_that_shears_is_refused_even_with_a_voxel_size(tmp_path: Path) -> None:
    affine = {"type": "affine", "affine": [4, 0.5, 0, 0, 0, 8, 0, 0, 0, 0, 30, 0]}
    write_dataset(tmp_path, {"spatialTransform": {"transform": affine, "unit": "nm"}})
    with pytest.raises(InputError, match="shears") as caught:
        open_volume(tmp_path, voxel_size=(30.0, 8.0, 4.0))
    assert caught.value.code == "input.axes"


@pytest.mark.parametrize("path", ["test.n5/n5v_pra", "test.n5/n5v_ds", "test.n5/others/resOff"])
def test_datasets_without_a_unit_need_a_voxel_size(fixture: Callable[[str], Path], path: str) -> None:
    place = fixture("n5universe_metadata") / path
    with pytest.raises(InputError) as caught:
        open_volume(place)
    assert caught.value.code == "input.no-voxel-size"
    assert open_volume(place, voxel_size=(3.0, 2.0, 1.0)).voxel_size == (3.0, 2.0, 1.0)


def test_metadata_in_two_dialects_agree_on_axes(fixture: Callable[[str], Path]) -> None:
    found = find_n5(str(fixture("n5universe_metadata") / "ngff.n5" / "ngff_grpAttributes"))
    assert found is not None
    assert found.axes == ("x", "y", "z")
    assert found.levels[0].scale == (5.24, 4.0, 4.0)
    assert found.levels[1].translation == (2.62, 2.0, 2.0)
    assert [level.path for level in found.levels] == [f"s{n}" for n in range(6)]


@pytest.mark.parametrize("group", ["n5_viewer_multiscale_deprecated", "n5_viewer_multiscale_modern"])
def test_two_dimensional_groups_of_neuroglancer_are_one_section(fixture: Callable[[str], Path], group: str) -> None:
    volume = open_volume(fixture("neuroglancer_n5") / "n5" / group, voxel_size=(30.0, 20.0, 10.0))  # y is in seconds there
    assert volume.axes == ("x", "y")
    assert [level.shape for level in volume.levels] == [(1, 20, 10), (1, 10, 5), (1, 5, 3)]
    assert [level.voxel_size for level in volume.levels] == [(30.0, 20.0, 10.0), (30.0, 40.0, 20.0), (30.0, 80.0, 40.0)]
