"""OME-Zarr 0.4 and 0.5 of any origin: axes, units, transformations, layouts, refusals."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from ome_images import Json, Sample, read_voxels

from volumetool.errors import InputError
from volumetool.storage.open import open_volume


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_both_versions_open_with_scale_and_translation(tmp_path: Path, version: str) -> None:
    voxels = Sample(version=version).write(tmp_path)
    volume = open_volume(tmp_path)
    assert volume.format == f"ome-zarr-{version}"
    assert [level.shape for level in volume.levels] == [(4, 6, 8), (2, 3, 4)]
    assert [level.voxel_size for level in volume.levels] == [(30.0, 8.0, 4.0), (60.0, 16.0, 8.0)]
    assert [level.translation for level in volume.levels] == [(0.0, 0.0, 0.0), (15.0, 4.0, 2.0)]
    assert volume.attributes == {}
    np.testing.assert_array_equal(read_voxels(volume), voxels)


@pytest.mark.parametrize(("axes", "order"), [("zyx", (0, 1, 2)), ("xyz", (2, 1, 0)), ("yxz", (2, 0, 1)), ("zxy", (0, 2, 1))])
def test_any_order_of_axes_is_read_as_z_y_x(tmp_path: Path, axes: str, order: tuple[int, int, int]) -> None:
    voxels = Sample(axes=axes).write(tmp_path)
    volume = open_volume(tmp_path)
    sizes = dict(zip(axes, (30.0, 8.0, 4.0), strict=True))
    assert volume.voxel_size == (sizes["z"], sizes["y"], sizes["x"])
    assert volume.shape == tuple(voxels.shape[axis] for axis in order)
    np.testing.assert_array_equal(read_voxels(volume), voxels.transpose(order))


def test_channels_are_counted_and_a_single_time_point_is_dropped(tmp_path: Path) -> None:
    voxels = Sample(axes="tczyx", shapes=((1, 2, 4, 6, 8),), scale=(1, 1, 30, 8, 4)).write(tmp_path)
    volume = open_volume(tmp_path)
    assert (volume.channels, volume.shape) == (2, (4, 6, 8))
    np.testing.assert_array_equal(read_voxels(volume, channel=1), voxels[0, 1])


def test_channels_and_levels_that_are_not_there_are_refused(tmp_path: Path) -> None:
    Sample(axes="czyx", shapes=((2, 4, 6, 8),), scale=(1, 30, 8, 4)).write(tmp_path)
    volume = open_volume(tmp_path)
    for which, code in (({"channel": 2}, "input.channel"), ({"level": 1}, "input.level")):
        with pytest.raises(InputError) as caught:
            volume.open(**which)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("micrometer", 1e3), ("angstrom", 0.1), ("millimeter", 1e6), ("nm", 1.0), ("um", 1e3), ("micrometre", 1e3)],
)
def test_units_become_nanometres(tmp_path: Path, unit: str, factor: float) -> None:
    Sample(unit=unit).write(tmp_path)
    levels = open_volume(tmp_path).levels
    assert levels[0].voxel_size == pytest.approx((30 * factor, 8 * factor, 4 * factor))
    assert levels[1].translation == pytest.approx((15 * factor, 4 * factor, 2 * factor))


def test_transformations_of_the_whole_image_are_applied_after_those_of_the_level(tmp_path: Path) -> None:
    whole = [{"type": "scale", "scale": [1.0, 2.0, 10.0]}, {"type": "translation", "translation": [5.0, 0.0, 0.0]}]
    Sample(extra={"coordinateTransformations": whole}).write(tmp_path)
    first, second = open_volume(tmp_path).levels
    assert (first.voxel_size, first.translation) == ((30.0, 16.0, 40.0), (5.0, 0.0, 0.0))
    assert (second.voxel_size, second.translation) == ((60.0, 32.0, 80.0), (20.0, 8.0, 20.0))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_level_alone_takes_its_scale_from_the_image(tmp_path: Path, version: str) -> None:
    Sample(version=version).write(tmp_path)
    volume = open_volume(tmp_path / "1")
    assert (volume.voxel_size, volume.translation) == ((60.0, 16.0, 8.0), (15.0, 4.0, 2.0))
    assert read_voxels(volume).shape == (2, 3, 4)


def test_a_given_voxel_size_corrects_all_levels_and_translations(tmp_path: Path) -> None:
    Sample().write(tmp_path)
    volume = open_volume(tmp_path, voxel_size=(15.0, 8.0, 8.0))
    assert [level.voxel_size for level in volume.levels] == [(15.0, 8.0, 8.0), (30.0, 16.0, 16.0)]
    assert volume.levels[1].translation == (7.5, 4.0, 4.0)


@pytest.mark.parametrize("unit", [None, "pixel"])
def test_without_a_unit_of_length_the_voxel_size_must_be_given(tmp_path: Path, unit: str | None) -> None:
    Sample(unit=unit).write(tmp_path)
    with pytest.raises(InputError, match="--voxel-size") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"
    assert "30.0" in caught.value.message
    assert open_volume(tmp_path, voxel_size=(3.0, 2.0, 1.0)).levels[1].voxel_size == (6.0, 4.0, 2.0)


def test_identity_follows_voxels_and_sizes_but_not_place_or_notes(tmp_path: Path) -> None:
    Sample().write(tmp_path / "a")
    Sample(extra={"name": "another name"}).write(tmp_path / "b")
    Sample(shapes=((4, 6, 9), (2, 3, 5))).write(tmp_path / "c")
    Sample(dtype="int8").write(tmp_path / "d")
    first = open_volume(tmp_path / "a").identity
    assert len(first) == 64
    assert open_volume(tmp_path / "b").identity == first
    assert open_volume(tmp_path / "a", voxel_size=(30.0, 8.0, 5.0)).identity != first
    assert open_volume(tmp_path / "c").identity != first
    assert open_volume(tmp_path / "d").identity != first


def test_an_image_written_by_java_opens_and_has_its_known_sum(fixture: Callable[[str], Path]) -> None:
    path = fixture("mobie_mri_stack.ome.zarr") / "mri-stack.ome.zarr"
    volume = open_volume(path, voxel_size=(2.0, 1.0, 1.0))
    assert [int(read_voxels(volume, level=n).sum(dtype=np.int64)) for n in (0, 1)] == [40784917, 4994371]
    assert volume.levels[1].translation == (1.0, 0.5, 0.5)


def _bioformats(tmp_path: Path, names: Sequence[str], *, series: bool) -> None:
    for name in names:
        Sample(version="0.4").write(tmp_path / name)
    Sample(version="0.4").describe(tmp_path, {"bioformats2raw.layout": 3})
    if series:
        Sample(version="0.4").describe(tmp_path / "OME", {"series": list(names)})


@pytest.mark.parametrize("series", [False, True])
def test_the_only_image_of_a_bioformats2raw_container_is_opened(tmp_path: Path, series: bool) -> None:  # noqa: FBT001
    _bioformats(tmp_path, ["0"], series=series)
    assert open_volume(tmp_path).url == str(tmp_path / "0")


@pytest.mark.parametrize("series", [False, True])
def test_several_images_of_a_bioformats2raw_container_are_named(tmp_path: Path, series: bool) -> None:  # noqa: FBT001
    _bioformats(tmp_path, ["0", "1"], series=series)
    with pytest.raises(InputError, match="0, 1") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.not-a-volume"


@pytest.mark.parametrize(
    ("ome", "code"),
    [
        ({"plate": {}}, "input.not-a-volume"),
        ({"well": {}}, "input.not-a-volume"),
        ({"labels": ["cells"]}, "input.not-a-volume"),
        ({"series": ["0", "1"]}, "input.not-a-volume"),
        ({"scene": {}}, "input.not-a-volume"),
        ({"multiscales": [Sample().multiscale()], "image-label": {}}, "input.labels"),
        ({"multiscales": [Sample().multiscale()], "version": "0.7"}, "input.version"),
        ({"multiscales": []}, "input.broken-metadata"),
        ({"multiscales": [{"axes": []}]}, "input.axes"),
        ({"multiscales": [{"datasets": []}]}, "input.broken-metadata"),
        ({"multiscales": [Sample(axes="yx", scale=(1, 1)).multiscale()]}, "input.axes"),
        ({"multiscales": [Sample(axes="qzyx", scale=(1, 1, 1, 1)).multiscale()]}, "input.axes"),
        ({"multiscales": [Sample(scale=(0.0, 1.0, 1.0)).multiscale()]}, "input.broken-metadata"),
    ],
)
def test_what_is_not_one_volume_is_refused_by_its_cause(tmp_path: Path, ome: Json, code: str) -> None:
    Sample().write(tmp_path)
    Sample().describe(tmp_path, ome)
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == code
    assert caught.value.hint
    assert caught.value.where


def test_an_affine_transformation_is_refused_rather_than_ignored(tmp_path: Path) -> None:
    Sample(extra={"coordinateTransformations": [{"type": "affine", "affine": [[1]]}]}).write(tmp_path)
    with pytest.raises(InputError, match="affine") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"


def test_several_time_points_are_refused_with_their_number(tmp_path: Path) -> None:
    Sample(axes="tzyx", shapes=((3, 4, 6, 8),), scale=(1, 30, 8, 4)).write(tmp_path)
    with pytest.raises(InputError, match="3 time points") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.axes"


def test_a_level_that_is_listed_but_missing_is_named(tmp_path: Path) -> None:
    Sample().write(tmp_path)
    (tmp_path / "1" / "zarr.json").unlink()
    with pytest.raises(InputError, match="'1'") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.level-missing"


def test_metadata_that_are_not_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "zarr.json").write_text("{")
    with pytest.raises(InputError, match=r"zarr\.json") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"


@pytest.mark.parametrize("suite", ["image_suite", "strict_image_suite"])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_every_valid_volume_of_the_official_suites_is_understood(tmp_path: Path, data: Path, version: str, suite: str) -> None:
    cases = json.loads((data / "ngff-spec-suites" / version / "tests" / f"{suite}.json").read_text())["tests"]
    valid = [case["data"] for case in cases if case["valid"]]
    assert valid
    for number, document in enumerate(valid):
        document = document.get("attributes", document)
        ome = {key: value for key, value in document.get("ome", document).items() if key != "version"}
        names = {axis["name"] for axis in ome["multiscales"][0]["axes"]}
        Sample(version=version).describe(tmp_path / str(number), ome)
        with pytest.raises(InputError) as caught:
            open_volume(tmp_path / str(number))
        # The documents come without arrays, which is found out after the metadata are understood.
        scales = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"]
        code = "input.broken-metadata" if len(scales) != len(names) else "input.level-missing"
        assert caught.value.code == (code if names <= set("tczyx") else "input.axes")
