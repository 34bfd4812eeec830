"""OME-Zarr of old or hasty writers: without axes, scales or units, or with metadata in odd places."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ome_images import Json, Sample, read_voxels

from volumetool.errors import InputError
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume


def _old(tmp_path: Path, version: str, shapes: Sequence[tuple[int, ...]], **image: Any) -> np.ndarray[Any, Any]:
    """Write an image as versions before 0.4 do: without axes, scales and units."""
    voxels = Sample("tczyx"[-len(shapes[0]) :], version="0.4", shapes=shapes, scale=(1.0,) * len(shapes[0])).write(tmp_path)
    datasets = [{"path": str(level)} for level in range(len(shapes))]
    Sample(version="0.4").describe(tmp_path, {"multiscales": [{"version": version, "datasets": datasets, **image}]})
    return voxels


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_versions_without_axes_mean_t_c_z_y_x_and_their_levels_are_told_by_shape(tmp_path: Path, version: str) -> None:
    voxels = _old(tmp_path, version, ((1, 2, 5, 30, 41), (1, 2, 5, 15, 21), (1, 2, 5, 8, 10)))
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"
    volume = open_volume(tmp_path, voxel_size=(30.0, 9.0, 8.0))
    assert (volume.axes, volume.channels, volume.shape) == (("t", "c", "z", "y", "x"), 2, (5, 30, 41))
    assert [level.voxel_size for level in volume.levels] == [(30.0, 9.0, 8.0), (30.0, 18.0, 16.0), (30.0, 36.0, 32.0)]
    assert volume.levels[2].translation == (0.0, 13.5, 12.0)
    for channel in range(2):
        np.testing.assert_array_equal(read_voxels(volume, channel=channel), voxels[0, channel])
    assert open_volume(tmp_path / "1", voxel_size=(30.0, 18.0, 16.0)).axes == volume.axes


@pytest.mark.parametrize("axes", ["zyx", "cyx", "yx"])
def test_version_3_names_axes_and_nothing_else(tmp_path: Path, axes: str) -> None:
    shape = {"c": 2, "z": 5, "y": 30, "x": 41}
    voxels = _old(tmp_path, "0.3", (tuple(shape[axis] for axis in axes),), axes=list(axes))
    volume = open_volume(tmp_path, voxel_size=(30.0, 9.0, 8.0))
    assert (volume.axes, volume.voxel_size) == (tuple(axes), (30.0, 9.0, 8.0))
    np.testing.assert_array_equal(np.squeeze(read_voxels(volume)), voxels[0] if "c" in axes else voxels)


def _placed_oddly(where: str) -> Callable[[Path], None]:
    """Put sound metadata of 0.4 or 0.5 where the other version has them."""
    image = Sample().multiscale()
    group = {"zarr_format": 3, "node_type": "group"}
    plain, nested = {"multiscales": [{"version": "0.4", **image}]}, {"ome": {"version": "0.4", "multiscales": [image]}}
    attributes = plain if where == "root of zarr.json" else nested

    def put(path: Path) -> None:
        Sample(version="0.4" if where == "ome in .zattrs" else "0.5").write(path)
        if where == "ome in .zattrs":
            (path / ".zattrs").write_text(json.dumps({"ome": {"version": "0.5", "multiscales": [image]}}))
        else:
            (path / "zarr.json").write_text(json.dumps({**group, "attributes": attributes}))

    return put


@pytest.mark.parametrize("where", ["root of zarr.json", "ome of 0.4 in zarr.json", "ome in .zattrs"])
def test_metadata_where_the_other_version_has_them_are_read(tmp_path: Path, where: str) -> None:
    _placed_oddly(where)(tmp_path)
    volume = open_volume(tmp_path)
    assert volume.format == "ome-zarr-0.4"  # nothing that volumetool would write levels into
    assert [level.voxel_size for level in volume.levels] == [(30.0, 8.0, 4.0), (60.0, 16.0, 8.0)]
    np.testing.assert_array_equal(read_voxels(volume), np.arange(192).reshape(4, 6, 8))
    assert open_volume(tmp_path / "1").voxel_size == (60.0, 16.0, 8.0)
    assert any(finding.code == "validate.ome-zarr" for finding in validate_volume(str(tmp_path)))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "tcyx", "xy"])
def test_an_image_without_z_is_a_volume_of_one_section(tmp_path: Path, axes: str, version: str) -> None:
    lengths, scales = {"t": 1, "c": 2, "y": 30, "x": 41}, {"t": 1.0, "c": 1.0, "y": 9.0, "x": 8.0}
    shapes = tuple(tuple(-(-lengths[a] // f) if a in "yx" else lengths[a] for a in axes) for f in (1, 2))
    voxels = Sample(axes, version=version, shapes=shapes, scale=tuple(scales[a] for a in axes)).write(tmp_path)
    volume = open_volume(tmp_path)
    assert (volume.shape, volume.channels) == ((1, 30, 41), 2 if "c" in axes else None)
    assert [level.voxel_size for level in volume.levels] == [(9.0, 9.0, 8.0), (9.0, 18.0, 16.0)]  # as thick as high
    assert volume.levels[1].translation == (0.0, 4.5, 4.0)
    (section,) = read_voxels(volume, channel=1 if "c" in axes else 0)
    kept = tuple({"t": 0, "c": 1}.get(axis, slice(None)) for axis in axes)
    np.testing.assert_array_equal(section, voxels[kept].T if axes == "xy" else voxels[kept])
    corrected = open_volume(tmp_path, voxel_size=(30.0, 9.0, 8.0))
    assert [level.voxel_size[0] for level in corrected.levels] == [30.0, 30.0]


def _units(*units: str | None, scale: tuple[float, ...] = (30.0, 8.0, 4.0)) -> Json:
    image = Sample(scale=scale).multiscale()
    named = zip("zyx", units, strict=True)
    return image | {"axes": [{"name": a, "type": "space"} | ({} if unit is None else {"unit": unit}) for a, unit in named]}


def test_an_axis_without_unit_has_that_of_the_others(tmp_path: Path) -> None:
    Sample().write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [_units(None, "micrometer", "micrometer")]})
    volume = open_volume(tmp_path)
    assert volume.voxel_size == (30e3, 8e3, 4e3)
    assert volume.levels[1].translation == (15e3, 4e3, 2e3)


@pytest.mark.parametrize(
    "image",
    [
        _units(None, "nanometer", "nanometer", scale=(1.0, 8.0, 4.0)),  # 1 stands where nothing is known
        _units(None, "nanometer", "micrometer"),
        _units("pixel", "nanometer", "nanometer"),
    ],
    ids=["size 1", "units differ", "unit unknown"],
)
def test_a_voxel_size_that_is_half_known_is_asked_for_with_the_known_half(tmp_path: Path, image: Json) -> None:
    Sample().write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [image]})
    with pytest.raises(InputError, match=r"8 nm along y.* not along z") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"
    assert "--voxel-size z,8,4" in caught.value.hint
    assert open_volume(tmp_path, voxel_size=(30.0, 8.0, 4.0)).voxel_size == (30.0, 8.0, 4.0)


def test_units_without_any_scale_say_no_size(tmp_path: Path) -> None:
    image = Sample(shapes=((4, 6, 8),)).multiscale()
    del image["datasets"][0]["coordinateTransformations"]
    Sample(shapes=((4, 6, 8),)).write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [image]})
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.no-voxel-size"


def test_levels_of_which_some_have_a_scale_are_refused(tmp_path: Path) -> None:
    image = Sample().multiscale()
    del image["datasets"][1]["coordinateTransformations"]
    Sample().write(tmp_path)
    Sample().describe(tmp_path, {"multiscales": [image]})
    with pytest.raises(InputError, match="not 1") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"
