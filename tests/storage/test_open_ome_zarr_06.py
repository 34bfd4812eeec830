"""OME-Zarr 0.6: images lie in coordinate systems, to which scale and translation lead, or they are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ome_images import Json, Sample, read_voxels

from volumetool.errors import InputError, VolumetoolError
from volumetool.storage.convert_volume import convert
from volumetool.storage.info import describe_volume
from volumetool.storage.open import open_volume
from volumetool.storage.validate import validate_volume

SPACE = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
VOXELS = [{"name": f"dim_{n}", "type": "array"} for n in range(3)]
SCALE = {"type": "scale", "scale": [0.03, 0.008, 0.004]}
SHIFT = {"type": "translation", "translation": [0.06, -0.024, 0.1]}
AFFINE = {"type": "affine", "affine": [[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]}
ROTATION = {"type": "rotation", "rotation": [[0, 1, 0], [-1, 0, 0], [0, 0, 1]]}
FIELD = {"type": "displacements", "path": "coordinateTransformations/field"}


def _step(step: Json, start: Any, end: Any) -> Json:
    return {**step, "input": start, "output": end}


def _sequence(*steps: Json) -> Json:
    return {"type": "sequence", "transformations": list(steps)}


def _image(step: Json, *further: Json, systems: dict[str, Any] | None = None) -> Json:
    described = [{"name": name, "axes": axes} for name, axes in (systems or {"physical": SPACE}).items()]
    image = {"coordinateSystems": described, "datasets": [{"path": "0", "coordinateTransformations": [step]}]}
    return {"multiscales": [image | ({"coordinateTransformations": list(further)} if further else {})]}


def _write(place: Path, ome: Json, version: str = "0.6") -> np.ndarray[Any, Any]:
    sample = Sample(version=version, shapes=((4, 6, 8),))
    voxels = sample.write(place)
    sample.describe(place, ome)
    return voxels


@pytest.mark.parametrize("version", ["0.6", "0.6rc0", "0.6.dev3", "0.6-dev1"])
@pytest.mark.parametrize("ends", [({"path": "0"}, {"name": "physical"}), ("0", "physical")], ids=["objects", "names"])
def test_scale_and_translation_place_an_image_exactly(tmp_path: Path, version: str, ends: tuple[Any, Any]) -> None:
    voxels = _write(tmp_path, _image(_step(_sequence(SCALE, SHIFT), *ends)), version)
    volume = open_volume(tmp_path)
    assert (volume.format, volume.axes) == ("ome-zarr-0.6", ("z", "y", "x"))
    assert volume.voxel_size == pytest.approx((30.0, 8.0, 4.0))
    assert volume.translation == pytest.approx((60.0, -24.0, 100.0))
    np.testing.assert_array_equal(read_voxels(volume), voxels)
    made = convert(tmp_path, tmp_path.parent / f"{tmp_path.name}.zarr")
    assert (made.voxel_size, made.translation) == (volume.voxel_size, volume.translation)


def test_an_image_that_counts_voxels_lies_where_the_next_system_has_it(tmp_path: Path) -> None:
    step = _step({"type": "identity"}, {"path": "0"}, {"name": "array"})
    leads = _step(_sequence(SCALE, SHIFT), {"name": "array"}, {"name": "physical"})
    _write(tmp_path, _image(step, leads, systems={"physical": SPACE, "array": VOXELS}))
    volume = open_volume(tmp_path)
    assert volume.voxel_size == pytest.approx((30.0, 8.0, 4.0))
    assert volume.translation == pytest.approx((60.0, -24.0, 100.0))


def test_systems_further_on_are_named_and_not_gone_by(tmp_path: Path) -> None:
    step = _step(SCALE, {"path": "0"}, {"name": "physical"})
    leads = [_step(each, {"name": "physical"}, {"name": name}) for each, name in ((AFFINE, "atlas"), (SHIFT, "stage"))]
    _write(tmp_path, _image(step, *leads, systems={"physical": SPACE, "atlas": SPACE, "stage": SPACE}))
    volume = open_volume(tmp_path)
    assert volume.voxel_size == pytest.approx((30.0, 8.0, 4.0))
    assert volume.translation == (0.0, 0.0, 0.0)
    note = "taken as it lies in 'physical'; not gone by: 'atlas' (affine), 'stage' (translation)"
    assert describe_volume(volume)["note"] == note


@pytest.mark.parametrize("step", [AFFINE, ROTATION, FIELD, _sequence(SCALE, ROTATION), {"type": "scale", "path": "scales"}])
@pytest.mark.parametrize("array", [False, True], ids=["of a level", "of the image"])
def test_what_no_voxel_size_can_say_is_refused_by_name(tmp_path: Path, step: Json, array: bool) -> None:  # noqa: FBT001
    kind = "rotation" if step["type"] == "sequence" else step["type"]
    ends = {"path": "0"}, {"name": "array" if array else "physical"}
    first = _step({"type": "identity"} if array else step, *ends)
    further = [_step(step, {"name": "array"}, {"name": "physical"})] if array else []
    _write(tmp_path, _image(first, *further, systems={"array": VOXELS, "physical": SPACE}))
    with pytest.raises(InputError, match=f"'{kind}'.*a voxel size and a position along each axis") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.unsupported"


@pytest.mark.parametrize(
    "ome",
    [
        _image(_step(SCALE, {"path": "0"}, {"name": "nowhere"})),
        _image(SCALE),
        _image({"input": "0", "output": "physical"}),
        _image(_step({"type": "scale", "scale": [1, 2]}, "0", "physical")),
        _image(_step(SCALE, "0", "array"), _step(SCALE, "array", "nowhere"), systems={"array": VOXELS}),
        {"multiscales": [{"coordinateSystems": 3, "datasets": []}]},
    ],
)
def test_metadata_that_make_no_sense_are_said_to_be_broken(tmp_path: Path, ome: Json) -> None:
    _write(tmp_path, ome)
    with pytest.raises(InputError) as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.broken-metadata"


def test_a_scene_names_its_images(tmp_path: Path) -> None:
    steps = [_step(SHIFT, {"path": f"tile_{n}", "name": "physical"}, {"name": "world"}) for n in (1, 2)]
    _write(tmp_path, {"scene": {"coordinateSystems": [{"name": "world", "axes": SPACE}], "coordinateTransformations": steps}})
    with pytest.raises(InputError, match="tile_1, tile_2") as caught:
        open_volume(tmp_path)
    assert caught.value.code == "input.not-a-volume"


def test_it_is_said_that_0_6_cannot_be_validated(tmp_path: Path) -> None:
    _write(tmp_path, _image(_step(SCALE, {"path": "0"}, {"name": "physical"})))
    with pytest.raises(VolumetoolError, match=r"up to 0\.5") as caught:
        validate_volume(str(tmp_path))
    assert caught.value.code == "input.version"
